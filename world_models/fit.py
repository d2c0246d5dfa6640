"""From data to a trained part: what each part is made of, which windows it sees, and what its card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from envs.dataset import EpisodeData
from world_models.checkpoint import describe
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.dynamics import DiffusionDynamics
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig, distance
from world_models.proposal import DiffusionProposal
from world_models.step import StepConfig, StepModel
from world_models.training import Loss, TrainConfig
from world_models.value import ValueConfig, ValueEnsemble, unfinished


@dataclass(frozen=True)
class DiffusionPart:
    """One diffusion model, its training and the data sets it learns from."""

    denoiser: DenoiserConfig
    diffusion: DiffusionConfig
    train: TrainConfig
    data: tuple[str, ...]


@dataclass(frozen=True)
class StepPart:
    """The one-step model, its training and the data sets it learns from."""

    step: StepConfig = field(default_factory=StepConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValuePart:
    """The value ensemble, its training and the data sets it learns from."""

    value: ValueConfig = field(default_factory=ValueConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class PolicyPart:
    """The policy that is distilled, its training and the data sets it learns from."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """A whole world model for one robot."""

    robot: str
    proposal: DiffusionPart
    dynamics: DiffusionPart | None
    """None: the planner searches with the one-step model, and nothing else predicts."""
    step: StepPart
    value: ValuePart
    policy: PolicyPart
    horizon: int = 32
    """Control steps that proposal and dynamics look ahead."""


@dataclass(frozen=True)
class Task:
    """A part ready to be trained."""

    model: nn.Module
    train_loss: Loss
    heldout_loss: Loss
    card: dict[str, Any]
    finish: Callable[[nn.Module], dict[str, float]]
    """Measures the trained part on held-out episodes; may fill its buffers; returns figures for the card."""


def present(names: tuple[str, ...], folder: Path) -> list[Path]:
    """Return the folders of the named data sets. Raises ValueError where one is missing."""
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing and Path(missing[0]).parent != Path():
        raise ValueError(f"no data set {missing[0]}: it must be the folder of a LeRobotDataset")
    if missing:
        raise ValueError(f"no data set {missing[0]!r} in {folder}: make it with `surefoot collect {missing[0]}`")
    return [folder / name for name in names]


def load(names: tuple[str, ...], folder: Path) -> EpisodeData:
    """Return the named data sets as one. Raises ValueError where one is missing."""
    return EpisodeData.load(present(names, folder))


def batches(data: EpisodeData, batch: int, horizon: int) -> Callable[[Generator], tuple[Tensor, Tensor]]:
    """Return a sampler of windows: states (B, H + 1, O) and actions (B, H, A). Raises ValueError where none is long enough."""
    starts_W = data.windows(horizon)
    if not len(starts_W):
        raise ValueError(f"no episode of {horizon} steps among {data.episodes}: collect longer ones")

    def draw(generator: Generator) -> tuple[Tensor, Tensor]:
        pick_B = torch.randint(0, len(starts_W), (batch,), generator=generator).numpy()
        states, actions = data.gather(starts_W[pick_B], horizon)
        return torch.from_numpy(states), torch.from_numpy(actions)

    return draw


def base_card(cfg: ModelConfig, part: str, data: EpisodeData, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what every card says."""
    sizes = {"state": data.state_NO.shape[1], "action": data.action_NA.shape[1], "horizon": cfg.horizon}
    return {"part": part, "robot": cfg.robot, "sizes": sizes, "data": list(names), "transitions": len(data.state_NO)}


def proposal_task(cfg: ModelConfig, folder: Path) -> Task:
    """Return the proposal and its losses."""
    part = cfg.proposal
    data = load(part.data, folder)
    train, held = data.split(part.train.heldout_share, part.train.seed)
    state, action = (Normaliser.fit(torch.from_numpy(x)) for x in (train.state_NO, train.action_NA))
    model = DiffusionProposal(part.denoiser, part.diffusion, cfg.horizon, state, action)

    def loss_on(episodes: EpisodeData) -> Loss:
        draw = batches(episodes, part.train.batch, cfg.horizon)

        def loss(model: nn.Module, step: int, generator: Generator) -> Tensor:
            states, actions = draw(generator)
            return model.loss(states[:, 0], actions, generator).mean()  # pyright: ignore

        return loss

    card = base_card(cfg, "proposal", data, part.data)
    card |= describe(denoiser=part.denoiser, diffusion=part.diffusion, train=part.train)
    return Task(model, loss_on(train), loss_on(held), card, lambda _: {})


def change_statistics(data: EpisodeData, horizon: int, rows: int = 20_000) -> Normaliser:
    """Return mean and standard deviation of s_{t+h} - s_t for each lag h and column, (H, O)."""
    starts = data.windows(horizon)
    pick = np.random.default_rng(0).choice(starts, min(rows, len(starts)), replace=False)
    states, _ = data.gather(pick, horizon)
    change = torch.from_numpy(states[:, 1:] - states[:, :1])
    return Normaliser(change.mean(0), change.std(0).clamp_min(1e-4))


def dynamics_task(cfg: ModelConfig, folder: Path) -> Task:
    """Return the dynamics and its losses; finishing it measures the error at each lag."""
    part = cfg.dynamics
    assert part is not None
    data = load(part.data, folder)
    train, held = data.split(part.train.heldout_share, part.train.seed)
    state, action = (Normaliser.fit(torch.from_numpy(x)) for x in (train.state_NO, train.action_NA))
    model = DiffusionDynamics(part.denoiser, part.diffusion, state, action, change_statistics(train, cfg.horizon))

    def loss_on(episodes: EpisodeData) -> Loss:
        draw = batches(episodes, part.train.batch, cfg.horizon)

        def loss(model: nn.Module, step: int, generator: Generator) -> Tensor:
            states, actions = draw(generator)
            return model.loss(states[:, 0], actions, states[:, 1:], generator).mean()  # pyright: ignore

        return loss

    def finish(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DiffusionDynamics)
        return measure_dynamics(model, held, cfg.horizon)

    card = base_card(cfg, "dynamics", data, part.data)
    card |= describe(denoiser=part.denoiser, diffusion=part.diffusion, train=part.train)
    return Task(model, loss_on(train), loss_on(held), card, finish)


@torch.no_grad()
def measure_dynamics(model: DiffusionDynamics, held: EpisodeData, horizon: int, rows: int = 2048) -> dict[str, float]:
    """Return the mean squared error at some lags, in shares of the state variance."""
    starts = held.windows(horizon)
    pick = np.random.default_rng(1).choice(starts, min(rows, len(starts)), replace=False)
    states, actions = (torch.from_numpy(x) for x in held.gather(pick, horizon))
    noise = torch.randn(len(states), 1, horizon, states.shape[-1], generator=Generator().manual_seed(0))
    predicted = model.denoise_block(states[:, 0], actions[:, None], noise)[:, 0]
    error_BHO = predicted - states[:, 1:]
    share_H = (error_BHO / model.state.std).square().mean((0, 2))
    return {f"error_at_{h}": float(share_H[h - 1]) for h in (1, 4, 8, 16, horizon)}


def step_task(cfg: ModelConfig, folder: Path) -> Task:
    """Return the one-step model and its losses; finishing it measures its error in shares of the variance."""
    part = cfg.step
    data = load(part.data, folder)
    train, held = data.split(part.train.heldout_share, part.train.seed)
    state, action = (Normaliser.fit(torch.from_numpy(x)) for x in (train.state_NO, train.action_NA))
    model = StepModel(part.step, state, action, Normaliser.fit(torch.from_numpy(train.next_state_NO - train.state_NO)))
    both = np.stack([train.state_NO, train.next_state_NO])
    model.low, model.high = torch.from_numpy(both.min((0, 1))), torch.from_numpy(both.max((0, 1)))

    fresh, unseen = batches(train, part.train.batch, 2), batches(held, part.train.batch, 2)

    def loss(model: nn.Module, step: int, generator: Generator) -> Tensor:
        return model.loss(*fresh(generator), generator).mean()  # pyright: ignore

    def heldout(model: nn.Module, step: int, generator: Generator) -> Tensor:
        return model.crps(*unseen(generator)).mean()  # pyright: ignore  (the loss is weighted by its own scale: no yardstick)

    def finish(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, StepModel)
        windows = batches(held, 20_000, 2)(Generator().manual_seed(1))
        with torch.no_grad():
            error_NO, _ = model.residuals(*windows)
        share = float((error_NO * model.change.std / model.state.std).square().mean())
        return {
            "error_at_1": share,
            "error": float(error_NO.square().mean()),
            "crps": float(model.crps(*windows).mean()),
        }

    card = base_card(cfg, "step", data, part.data) | describe(step=part.step, train=part.train)
    return Task(model, loss, heldout, card, finish)


def value_rows(data: EpisodeData, cfg: ValueConfig) -> tuple[Tensor, Tensor]:
    """Return states and their discounted return-to-go, without the last steps before a time limit."""
    returns_N = data.returns_to_go(cfg.discount, cfg.fall_penalty)
    keep_N = np.ones(len(returns_N), bool)
    for end in np.flatnonzero(data.truncated_N & ~data.terminated_N):
        keep_N[max(0, end - unfinished(cfg.discount) + 1) : end + 1] = False
    return torch.from_numpy(data.state_NO[keep_N]), torch.from_numpy(returns_N[keep_N]).float()


def value_task(cfg: ModelConfig, folder: Path) -> Task:
    """Return the value ensemble and its losses; finishing it measures R2 on held-out episodes."""
    part = cfg.value
    data = load(part.data, folder)
    train, held = (value_rows(d, part.value) for d in data.split(part.train.heldout_share, part.train.seed))
    model = ValueEnsemble(part.value, Normaliser.fit(train[0]), Normaliser.fit(train[1][:, None]))

    def loss_on(rows: tuple[Tensor, Tensor]) -> Loss:
        def loss(model: nn.Module, step: int, generator: Generator) -> Tensor:
            pick = torch.randint(0, len(rows[0]), (part.train.batch,), generator=generator)
            return model.loss(rows[0][pick], rows[1][pick], generator).mean()  # pyright: ignore

        return loss

    def finish(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, ValueEnsemble)
        with torch.no_grad():
            estimate = model.returns.inverse(model.members(held[0]).mean(0)[:, None])[:, 0]
        left = (estimate - held[1]).square().sum() / (held[1] - held[1].mean()).square().sum()
        return {"heldout_r2": float(1 - left)}

    card = base_card(cfg, "value", data, part.data) | {"value": asdict(part.value), "train": asdict(part.train)}
    return Task(model, loss_on(train), loss_on(held), card, finish)


def policy_task(cfg: ModelConfig, folder: Path) -> Task:
    """Return the policy and its losses; finishing it measures its distance from held-out actions."""
    part = cfg.policy
    data = load(part.data, folder)
    train, held = (
        (torch.from_numpy(d.state_NO), torch.from_numpy(d.action_NA))
        for d in data.split(part.train.heldout_share, part.train.seed)
    )
    model = Policy(part.policy, Normaliser.fit(train[0]), Normaliser.fit(train[1]))

    def loss_on(rows: tuple[Tensor, Tensor]) -> Loss:
        def loss(model: nn.Module, step: int, generator: Generator) -> Tensor:
            pick = torch.randint(0, len(rows[0]), (part.train.batch,), generator=generator)
            return model.loss(rows[0][pick], rows[1][pick]).mean()  # pyright: ignore

        return loss

    def finish(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Policy)
        return {"heldout_share": distance(model, *held)}

    card = base_card(cfg, "policy", data, part.data) | describe(policy=part.policy, train=part.train)
    return Task(model, loss_on(train), loss_on(held), card, finish)


def replay_windows(cfg: ModelConfig, folder: Path, count: int = 512) -> dict[str, Tensor]:
    """Return a few training windows that an adaptation replays against forgetting: states (N, H + 1, O), actions (N, H, A)."""
    data = load(cfg.proposal.data, folder)
    starts = data.windows(cfg.horizon)
    states, actions = data.gather(np.random.default_rng(2).choice(starts, count, replace=False), cfg.horizon)
    return {"states": torch.from_numpy(states), "actions": torch.from_numpy(actions)}


TASKS = {
    "proposal": proposal_task,
    "dynamics": dynamics_task,
    "step": step_task,
    "value": value_task,
    "policy": policy_task,
}
