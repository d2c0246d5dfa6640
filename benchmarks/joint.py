"""One diffusion model of actions and states together, as Diffuser (Janner et al. 2022): the published counter-example, for comparison.

Same network, same data and same horizon as the proposal; the states that it dreams along with each block of actions are scored by
the same value, and the best block is followed. There is no dynamics to ask about other actions, and none to adapt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from agents.adaptation import FitConfig, Play, Replay, draw, fit, split, windows
from agents.learned import LearnedConfig, planner_of
from planners.ssr import Ssr
from world_models.checkpoint import fast, load_weights, save_tensors
from world_models.fit import ModelConfig, batches, load
from world_models.normaliser import Normaliser
from world_models.proposal import DiffusionProposal
from world_models.training import Run, train

if TYPE_CHECKING:
    from envs.robots import RobotSpec
    from envs.types import Belief
    from planners.search import SearchPlanner
    from world_models.checkpoint import WorldModel

SAMPLES = 48
TUNING = FitConfig(steps=200, learning_rate=1e-3, rank=8)
"""As the diffusion dynamics is adapted."""


def block(states: Tensor, actions: Tensor) -> Tensor:
    """Return what the model generates: each action with the state that follows it, (B, H, A + O)."""
    return torch.cat([actions, states[:, 1:]], -1)


def trained(cfg: ModelConfig, data: Path, work: Path) -> DiffusionProposal:
    """Return the joint model of the proposal's data; trained once, and kept in `work`."""
    part, path = cfg.proposal, work / "joint.safetensors"
    episodes, _ = load(part.data, data).split(part.train.heldout_share, part.train.seed)
    states, actions = episodes.gather(episodes.windows(1), 1)
    both = Normaliser.fit(block(torch.from_numpy(states), torch.from_numpy(actions))[:, 0])
    torch.manual_seed(part.train.seed)
    state = Normaliser.fit(torch.from_numpy(episodes.state_NO))
    model = DiffusionProposal(part.denoiser, part.diffusion, cfg.horizon, state, both)
    if not path.exists():
        fresh = batches(episodes, part.train.batch, cfg.horizon)

        def loss(made: nn.Module, step: int, generator: Generator) -> Tensor:
            return mean_loss(made, fresh(generator), generator)

        run = Run(model, part.train, work / "joint")
        for _ in train(run, loss, loss):
            pass
        save_tensors(path, run.use_ema().state_dict())
    load_weights(model, path)
    return model.eval().requires_grad_(False)


def mean_loss(made: nn.Module, batch: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
    """Return the mean denoising error of windows."""
    states, actions = batch
    return made.loss(states[:, 0], block(states, actions), generator).mean()  # pyright: ignore


def tuned(model: DiffusionProposal, play: Sequence[Play], replay: Replay, seed: int) -> DiffusionProposal:
    """Return the model fine-tuned to play, whole as it is."""
    fit_on, _ = split([p for p in play if len(p.action_TA) >= model.horizon])
    fresh = windows(fit_on, model.horizon)
    made = fit(model, lambda m, g: mean_loss(m, draw(fresh, replay, TUNING, g), g), TUNING, seed)
    assert isinstance(made, DiffusionProposal)
    return made


class Dream:
    """The joint model as proposal and as dynamics: it predicts of its own proposals what it dreamt with them."""

    def __init__(self, model: DiffusionProposal, actions: int, horizon: int) -> None:
        self._model, self._actions, self._horizon = model, actions, horizon
        self._states = torch.zeros(0)

    def sample(self, belief: Belief, n: int, generators: Sequence[Generator], /) -> Tensor:
        """Return n action blocks, (B, S=n, H, A)."""
        found = self._model.sample(belief, n, generators)[:, :, : self._horizon]
        self._states = found[..., self._actions :]
        return found[..., : self._actions]

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the states that were dreamt with the last sample, (B, S, H, O)."""
        return self._states


def joint_planner(cfg: LearnedConfig, spec: RobotSpec, model: WorldModel, joint: DiffusionProposal) -> SearchPlanner:
    """Return the planner that follows the best of its dreams."""
    published = replace(cfg, method=Ssr(), samples=SAMPLES, horizon=joint.horizon)
    dream = Dream(fast(joint) if cfg.bf16 else joint, spec.action.size, joint.horizon)  # pyright: ignore
    return replace(planner_of(published, spec, model, ""), proposal=dream, dynamics=dream)
