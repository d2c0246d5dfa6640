"""Plan, and nothing else: the same search over whatever model is in use, from the state at which the plan will take effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator

from agents.types import AgentEvent, GoalChange
from envs.types import Belief, Observation
from planners.base import Dynamics
from planners.types import ActionPlan
from planners.warm import Planner, WarmStart


def look_ahead(
    dynamics: Dynamics, belief: Belief, committed_BKA: np.ndarray, generators: Sequence[Generator]
) -> Belief:
    """Return the belief after the K actions that are already due, (B, K, A)."""
    if committed_BKA.shape[1] == 0:
        return Belief(belief.z_BTD[:, -1:], belief.actions_BTA[:, :0])
    actions_BSHA = torch.as_tensor(committed_BKA, dtype=torch.float32)[:, None]
    z_BSHD = dynamics.rollout(belief, actions_BSHA, generators)
    return Belief(z_BSHD[:, 0, -1:].float(), belief.actions_BTA[:, :0])


@dataclass
class MpcAgent:
    """An agent that never doubts: `planner` and `ahead` change only when somebody calls `use`."""

    planner: Planner
    ahead: Dynamics
    """Says where the robot will be when a plan takes effect; any number of steps."""
    dt_s: float
    action_size: int
    planner_for: Callable[[str], Planner] | None = None
    """Composes the planner of an objective; None: the goal stays as it is."""
    generator: Generator = field(default_factory=Generator)
    last: tuple[Observation, np.ndarray, Observation] | None = None
    """The last control step: what was seen before it, what was sent, what was seen after it."""

    def use(self, planner: Planner, ahead: Dynamics) -> None:
        """Plan with another model from now on: the swap between two plans."""
        self.planner, self.ahead = planner, ahead

    def pursue(self, objective: str, t_s: float, /) -> Sequence[AgentEvent]:
        """Pursue another objective from the next plan on. Raises ValueError, in one line, for one that is not legal here."""
        if self.planner_for is None:
            raise ValueError(f"this agent has one goal, and cannot pursue {objective!r}")
        self.use(self.planner_for(objective), self.ahead)
        return (GoalChange(t_s, objective),)

    def belief(self, observation: Observation) -> Belief:
        """Return the belief of a robot whose latent is its state: with the step that led to the observation, if it was seen (B = 1)."""
        if self.last is None or self.last[2] is not observation:
            z_BTD = torch.as_tensor(observation.state_O, dtype=torch.float32)[None, None]
            return Belief(z_BTD, torch.zeros(1, 0, self.action_size))
        before, action_A, _ = self.last
        z_TD = np.stack([before.state_O, observation.state_O])
        return Belief(
            torch.as_tensor(z_TD, dtype=torch.float32)[None],
            torch.tensor(action_A, dtype=torch.float32).view(1, 1, -1),
        )

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Forget the last plan; the same episode and seed give the same random numbers."""
        if isinstance(self.planner, WarmStart):
            self.planner.forget()
        self.generator.manual_seed(seed * 1_000_003 + episode)
        self.last = None

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return the plan that follows the K actions of `committed_KA` (K, A); t0_s = t_s + K dt_s."""
        generators = [self.generator]
        then = look_ahead(self.ahead, self.belief(observation), committed_KA[None], generators)
        start_s = observation.t_s + len(committed_KA) * self.dt_s
        return self.planner.plan(then, start_s, generators=generators, observed_s=observation.t_s)

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Remember the step."""
        self.last = before, action_A, after
        return ()

    def end_episode(self, terminated: bool, whole: bool, /) -> Sequence[AgentEvent]:
        """Take no notice."""
        return ()

    def take_job(self) -> Callable[[], Any] | None:
        """Return None: there is nothing to learn."""
        return None

    def receive(self, result: Any, t_s: float, /) -> Sequence[AgentEvent]:
        """Raise: no job was given out."""
        raise ValueError("an MpcAgent gives out no jobs, so it cannot receive a result")
