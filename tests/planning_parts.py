"""A small world for planner tests: dynamics that drift, break or have holes, a proposal, and a spy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from envs.types import ActionSpec, Belief
from planners.search import SearchPlanner

H, S = 12, 32
ACTION = ActionSpec(np.full(2, -1.0), np.full(2, 1.0), ("N", "N"), ("left", "right"))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def belief(*rows: list[float]) -> Belief:
    z_BTD = torch.tensor(rows)[:, None]
    return Belief(z_BTD, torch.zeros(len(rows), 0, 2))


class Drift:
    """z' = z + 0.2 tanh(a): two coordinates, two actions, no matrix products."""

    def rollout(self, belief, actions_BSHA, generators, /):
        return belief.z_BD[:, None, None] + 0.2 * torch.tanh(actions_BSHA).cumsum(2)


class Noisy:
    """A proposal whose mean follows the state and whose spread differs by step and actuator."""

    std_HA = 0.05 + 0.2 * torch.rand(H, 2, generator=torch.Generator().manual_seed(0))

    def sample(self, belief, n, generators, /):
        eps = torch.stack([torch.randn(n, H, 2, generator=g) for g in generators])
        return -0.3 * belief.z_BD[:, None, None] + self.std_HA * eps


class Broken(Drift):
    def rollout(self, belief, actions_BSHA, generators, /):
        return super().rollout(belief, actions_BSHA, generators) * math.nan


class Hole(Drift):
    """Predicts NaN, at one step only, for whoever moves well in the first second: the model's favourites."""

    def rollout(self, belief, actions_BSHA, generators, /):
        z_BSHD = super().rollout(belief, actions_BSHA, generators)
        z_BSHD[..., 3, 0] = torch.where(self.inside(actions_BSHA), math.nan, z_BSHD[..., 3, 0])
        return z_BSHD

    @staticmethod
    def inside(actions_BSHA):
        return actions_BSHA[..., :4, 0].sum(-1) < -1.1


@dataclass
class Spy:
    """Dynamics that remember every candidate they were asked about."""

    inner: Drift = field(default_factory=Drift)
    seen: list[torch.Tensor] = field(default_factory=list)

    def rollout(self, belief, actions_BSHA, generators, /):
        self.seen.append(actions_BSHA.clone())
        return self.inner.rollout(belief, actions_BSHA, generators)

    @property
    def all_BSHA(self):
        return torch.cat(self.seen, 1)


def reach_origin(readings, actions_BSHA):
    return readings["z"].square().sum((-1, -2)) + 0.1 * actions_BSHA.square().sum((-1, -2))


def planner(method, **changes) -> SearchPlanner:
    base = SearchPlanner(
        method=method,
        dynamics=Drift(),
        readout=lambda z_BSHD: {"z": z_BSHD},
        objective=reach_origin,
        action=ACTION,
        dt_s=0.1,
        horizon=H,
        samples=S,
        proposal=Noisy(),
    )
    return replace(base, **changes)
