"""What a search in latents is made of: a dynamics over blocks of actions, distances from a goal, and proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from envs.types import ActionSpec, Belief
from world_models.inverse import InverseDynamics
from world_models.jepa import Jepa
from world_models.latent_ensemble import disagreement

if TYPE_CHECKING:
    from planners.base import Readings


@dataclass(frozen=True)
class LatentDynamics:
    """A latent model whose actions are blocks, the first of which begin with what is committed, (B, K * A)."""

    model: Jepa
    committed_BX: Tensor
    others: tuple[Jepa, ...] = ()
    """Further members of an ensemble: with them, the last column of a latent is their disagreement."""

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the latent after each block, (B, S, H, D), or with an ensemble (B, S, H, D + 1)."""
        B, S, H, A = actions_BSHA.shape
        due_BSX = self.committed_BX[:, None, : H * A].expand(B, S, -1)
        rows_BSX = torch.cat([due_BSX, actions_BSHA.flatten(2)[:, :, due_BSX.shape[2] :]], 2)
        z_NTD = belief.z_BTD.repeat_interleave(S, 0)
        past_NPA = belief.actions_BTA.repeat_interleave(S, 0)
        rows_NHA = rows_BSX.reshape(B * S, H, A)
        found = [model.rollout(z_NTD, past_NPA, rows_NHA) for model in (self.model, *self.others)]
        whole = torch.cat([found[0], disagreement(found)[..., None]], -1) if self.others else found[0]
        return whole.view(B, S, H, -1)


@dataclass(frozen=True)
class Distance:
    """Least of the distances from the goal's latent that are read: the cost of a candidate (squared, the last: Maes et al. 2026)."""

    reads: tuple[str, ...] = ("goal_distance",)
    caution: float = 0.0
    """Price of the members' disagreement, summed over the plan."""
    delay: float = 0.0
    """Price of each further block until the least distance. Without one, who may arrive after any block puts it off."""

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the cost per candidate, (B, S)."""
        distance_BSH = readings["goal_distance"]
        cost_BS = (distance_BSH + self.delay * torch.arange(distance_BSH.shape[-1])).amin(-1)
        return cost_BS + self.caution * readings["disagreement"].sum(-1) if self.caution else cost_BS


Arrive = Literal["any", "end"]
"""Whether a plan may come to its goal after any of its blocks, or is to be there at its end."""
Metric = Callable[[Tensor, Tensor], Tensor]
"""Distances (...) of latents (..., D) from others that broadcast to them."""


def squared(z: Tensor, goal: Tensor) -> Tensor:
    """Return the squared distance."""
    return (z - goal).square().sum(-1)


def toward(goal_BD: Tensor, metric: Metric = squared, arrive: Arrive = "end") -> Callable[[Tensor], Readings]:
    """Return a readout of latents' distances from a goal for each environment, (B, S, 1 or H), and of disagreement, (B, S, H)."""
    size, first = goal_BD.shape[1], 0 if arrive == "any" else -1

    def read(z_BSHD: Tensor) -> Readings:
        found = {"goal_distance": metric(z_BSHD[:, :, first:, :size], goal_BD[:, None, None])}
        return found | {"disagreement": z_BSHD[..., size]} if z_BSHD.shape[-1] > size else found

    return read


@dataclass(frozen=True)
class Amortised:
    """Proposes plans without a search: block after block what leads to the goal, where the model says the last one ended.

    The first candidate is the mean; the others are drawn around it.
    """

    inverse: InverseDynamics
    dynamics: LatentDynamics
    goal_BD: Tensor
    horizon: int

    def sample(self, belief: Belief, n: int, generators: Sequence[Generator], /) -> Tensor:
        """Return n plans for each environment, (B, S = n, H, block * A)."""
        B, size = len(belief.z_BTD), len(self.inverse.std)  # pyright: ignore
        drawn = [torch.randn(n, self.horizon, size, generator=generator) for generator in generators]
        noise_BSHX = torch.stack(drawn)
        noise_BSHX[:, 0] = 0
        here_BSD = belief.z_BTD[:, None, -1].expand(B, n, -1)
        rows_BSHX = noise_BSHX.new_zeros(B, n, 0, size)
        for ahead in range(self.horizon):
            block_BSX = self.inverse(here_BSD, self.goal_BD[:, None], noise_BSHX[:, :, ahead])
            rows_BSHX = torch.cat([rows_BSHX, block_BSX[:, :, None]], 2)
            if ahead + 1 < self.horizon:
                here_BSD = self.dynamics.rollout(belief, rows_BSHX, generators)[:, :, -1, : here_BSD.shape[-1]]
        return rows_BSHX


def blocks_of(action: ActionSpec, block: int) -> ActionSpec:
    """Return the actions of a block of control steps as one."""
    names = tuple(f"{name}_{step}" for step in range(block) for name in action.names)
    return ActionSpec(np.tile(action.low_A, block), np.tile(action.high_A, block), action.unit_A * block, names)
