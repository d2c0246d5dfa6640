"""Plan, and nothing else: the same search over whatever model is in use, from the state at which the plan will take effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from agents.types import AgentEvent
from envs.types import Belief, Observation
from planners.base import Dynamics
from planners.types import ActionPlan
from planners.warm import Planner, WarmStart


def belief_of(state_O: np.ndarray, action_size: int) -> Belief:
    """Return the belief of a robot whose latent is its state (B = 1, T = 1)."""
    z_BTD = torch.as_tensor(state_O, dtype=torch.float32)[None, None]
    return Belief(z_BTD, torch.zeros(1, 0, action_size))


def look_ahead(
    dynamics: Dynamics, belief: Belief, committed_BKA: np.ndarray, block: int, generators: Sequence[Generator]
) -> Belief:
    """Return the belief after the actions that are already due; `block` is the smallest horizon the dynamics accepts."""
    steps = committed_BKA.shape[1]
    if steps == 0:
        return belief
    padded = math.ceil(steps / block) * block
    rows_BHA = np.concatenate([committed_BKA, np.repeat(committed_BKA[:, -1:], padded - steps, axis=1)], axis=1)
    actions_BSHA = torch.as_tensor(rows_BHA, dtype=torch.float32)[:, None]
    z_BSHD: Tensor = dynamics.rollout(belief, actions_BSHA, generators)
    return Belief(z_BSHD[:, 0, steps - 1 : steps].float(), belief.actions_BTA)


@dataclass
class MpcAgent:
    """An agent that never doubts: `planner` and `dynamics` change only when somebody calls `use`."""

    planner: Planner
    dynamics: Dynamics
    dt_s: float
    action_size: int
    block: int = 1
    """The dynamics predicts multiples of this many steps."""
    generator: Generator = field(default_factory=Generator)

    def use(self, planner: Planner, dynamics: Dynamics) -> None:
        """Plan with another model from now on: the swap between two plans."""
        self.planner, self.dynamics = planner, dynamics

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Forget the last plan; the same episode and seed give the same random numbers."""
        if isinstance(self.planner, WarmStart):
            self.planner.forget()
        self.generator.manual_seed(seed * 1_000_003 + episode)

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return the plan that follows the K actions of `committed_KA` (K, A); t0_s = t_s + K dt_s."""
        generators = [self.generator]
        now = belief_of(observation.state_O, self.action_size)
        then = look_ahead(self.dynamics, now, committed_KA[None], self.block, generators)
        start_s = observation.t_s + len(committed_KA) * self.dt_s
        return self.planner.plan(then, start_s, generators=generators, observed_s=observation.t_s)

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Take no notice."""
        return ()

    def end_episode(self, terminated: bool, /) -> Sequence[AgentEvent]:
        """Take no notice."""
        return ()

    def take_job(self) -> Callable[[], Any] | None:
        """Return None: there is nothing to learn."""
        return None

    def receive(self, result: Any, t_s: float, /) -> Sequence[AgentEvent]:
        """Raise: no job was given out."""
        raise ValueError("an MpcAgent gives out no jobs, so it cannot receive a result")
