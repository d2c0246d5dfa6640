"""From pictures to a trained latent world model: its windows, its losses, and what its card says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from envs.frames import FrameData
from envs.robots import ROBOTS
from world_models.fit import Task
from world_models.jepa import Jepa, JepaConfig, batch_norms, losses, settle
from world_models.latent_heads import (
    DecoderPart,
    EnsemblePart,
    InversePart,
    TemporalPart,
    decoder_task,
    ensemble_task,
    frames_of,
    inverse_task,
    latents,
    temporal_task,
)
from world_models.normaliser import Normaliser
from world_models.probes import explained, readable, ridge
from world_models.sigreg import directions
from world_models.training import TrainConfig

if TYPE_CHECKING:
    from world_models.training import Loss


@dataclass(frozen=True)
class JepaPart:
    """The latent model, its training and the data sets it learns from."""

    jepa: JepaConfig = field(default_factory=JepaConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=250_000, batch=128, learning_rate=5e-5, warmup=2500, weight_decay=1e-3, clip=1.0
        )
    )
    data: tuple[str, ...] = ()
    weight: float = 0.09
    """Of SIGReg, whose statistic grows with the batch: the published one belongs to batches of 128."""
    directions: int = 1024
    settled: int = 64
    """Batches that the statistics of the batch norms are taken from."""


@dataclass(frozen=True)
class LatentModelConfig:
    """A latent world model of one robot."""

    robot: str
    jepa: JepaPart
    temporal: TemporalPart | None = None
    """How far a latent is from a goal; None: their squared distance must do."""
    inverse: InversePart | None = None
    """What leads to a goal; None: plans are searched for from rest."""
    decoder: DecoderPart | None = None
    """What a latent looks like, for people; None: they see none."""
    ensemble: EnsemblePart | None = None
    """Where the model does not know; None: it is believed everywhere."""


Draw = Callable[[Generator], tuple[Tensor, Tensor]]
"""A batch of windows: pictures (B, T, S, S, 3) uint8, and the blocks of actions between them (B, T - 1, block * A)."""


def sampler(data: FrameData, episodes: np.ndarray, cfg: JepaConfig, batch: int) -> Draw:
    """Return a sampler of windows of history + 1 frames. Raises ValueError where no episode is long enough."""
    frames = cfg.history + 1
    starts_W = data.starts(cfg.block * cfg.history, episodes)

    def draw(generator: Generator) -> tuple[Tensor, Tensor]:
        pick_B = torch.randint(0, len(starts_W), (batch,), generator=generator).numpy()
        pictures, actions = data.gather(starts_W[pick_B], frames, cfg.block)
        return torch.from_numpy(pictures), torch.from_numpy(actions)

    return draw


def jepa_task(cfg: LatentModelConfig, folder: Path) -> Task:
    """Return the latent model and its losses; finishing it settles its batch norms and measures it."""
    part = cfg.jepa
    data = frames_of(part.data, folder, part.jepa.image)
    train, held = data.split(part.train.heldout_share, part.train.seed)
    known = np.concatenate([np.arange(data.first_E[e], data.first_E[e + 1] - 1) for e in train])
    model = Jepa(part.jepa, Normaliser.fit(torch.from_numpy(data.action_NA[known])))
    fresh, unseen = (sampler(data, chosen, part.jepa, part.train.batch) for chosen in (train, held))

    def loss_on(draw: Draw, dropout: bool) -> Loss:
        def loss(model: nn.Module, step: int, generator: Generator) -> Tensor:
            assert isinstance(model, Jepa)
            along_DM = directions(part.jepa.latent, part.directions, generator, model.mean_rgb)  # pyright: ignore
            with learning(model, dropout, generator):
                error, spread = losses(model, *draw(generator), along_DM)
            return error + part.weight * spread

        return loss

    def finish(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Jepa)
        generator = Generator().manual_seed(part.train.seed)
        settle(model, [fresh(generator) for _ in range(part.settled)])
        figures = measure(model, [unseen(generator) for _ in range(8)], part.directions)
        return figures | known_states(model, cfg.robot, data, (train, held))

    card: dict[str, Any] = {"part": "jepa", "robot": cfg.robot, "data": list(part.data)}
    card |= {"transitions": len(known), "jepa": asdict(part.jepa), "train": asdict(part.train)}
    card |= {"weight": part.weight, "directions": part.directions}
    return Task(model, loss_on(fresh, True), loss_on(unseen, False), card, finish)


@contextmanager
def learning(model: nn.Module, dropout: bool, generator: Generator) -> Iterator[None]:
    """Let batch norms use the statistics of their batch, and dropout, if at all, random numbers of the generator."""
    model.train(dropout)
    for norm in batch_norms(model):
        norm.train()
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def measure(model: Jepa, batches: list[tuple[Tensor, Tensor]], count: int) -> dict[str, float]:
    """Return, in evaluation mode, the error of prediction, that of standing still, and SIGReg."""
    rows = []
    for pictures, actions in batches:
        along_DM = directions(model.cfg.latent, count, Generator().manual_seed(0), torch.zeros(1))
        error, spread = losses(model, pictures, actions, along_DM)
        z_BTD = model.encode(pictures.flatten(0, 1)).view(*pictures.shape[:2], -1)
        still = (z_BTD[:, 1:] - z_BTD[:, :-1]).square().mean()
        rows.append((float(error), float(still), float(spread)))
    return dict(zip(("error", "error_standing_still", "sigreg"), np.mean(rows, 0).tolist(), strict=True))


PROBED = 4000
"""Frames that a probe is fitted on, and as many that it is tried on."""


def known_states(model: Jepa, robot: str, data: FrameData, split: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Return what a linear probe reads off single latents of held-out episodes, R2 by what is asked; empty for states of others."""
    spec = ROBOTS[robot]
    if data.state_NO.shape[1] != spec.state_size:
        return {}
    z, states, rng = [], [], np.random.default_rng(0)
    for episodes in split:
        frames = data.windows(0, episodes)
        rows = np.sort(rng.choice(frames, min(PROBED, len(frames)), replace=False))
        z.append(latents(model, data.frame_NHWC[rows]))
        states.append(torch.from_numpy(data.state_NO[rows]))
    names, both = readable(spec, torch.cat(states))
    known, true = both[: len(z[0])], both[len(z[0]) :]
    return {
        f"linear R2 of {name}": r2 for name, r2 in zip(names, explained(ridge(z[0], known, z[1]), true), strict=True)
    }


LATENT_TASKS = {"jepa": jepa_task}
HEAD_TASKS = {"temporal": temporal_task, "inverse": inverse_task, "decoder": decoder_task, "ensemble": ensemble_task}
"""Of parts that learn from the latents of a model that is trained already."""
