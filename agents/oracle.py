"""Plan with the simulator itself as the model: the ceiling of what any learned model can do, and a teacher that needs no data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator

from agents.mpc import MpcAgent
from envs.oracle import SimulatorDynamics, TaskDynamics
from planners.warm import WarmStart

if TYPE_CHECKING:
    from collections.abc import Sequence

    import gymnasium
    from torch import Tensor

    from envs.types import Belief, Observation
    from planners.base import Dynamics
    from planners.search import SearchPlanner
    from planners.types import ActionPlan


@dataclass(frozen=True)
class After:
    """A simulator that begins now, asked about what follows the actions that are already due (K, A)."""

    simulator: Dynamics
    due_KA: Tensor

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the states after each of the actions, (B, S, H, O)."""
        due_BSKA = self.due_KA.expand(*actions_BSHA.shape[:2], -1, -1)
        return self.simulator.rollout(belief, torch.cat([due_BSKA, actions_BSHA], 2), generators)[
            :, :, len(self.due_KA) :
        ]


class OracleAgent(MpcAgent):
    """The given planner's search, with the running environment in place of its dynamics."""

    def __init__(self, planner: SearchPlanner, env: gymnasium.Env, warm: bool = False, quick: bool = False) -> None:
        simulator = SimulatorDynamics(env, quick=quick)
        super().__init__(WarmStart(planner) if warm else planner, simulator, planner.dt_s, planner.action.size)
        self._search = planner

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return the plan that follows the committed actions; the environment must be in the state that was observed."""
        due_KA = torch.as_tensor(committed_KA, dtype=torch.float32)
        search = replace(self._search, dynamics=After(self.ahead, due_KA))
        if isinstance(self.planner, WarmStart):
            self.planner.inner = search
        else:
            self.planner = search
        return super().plan(observation, committed_KA)


class TaskAgent(MpcAgent):
    """Plans a dm_control task with a simulation of its own, never the running one."""

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Forget the last plan, and begin the same episode in the model."""
        super().begin_episode(episode, seed)
        if isinstance(self.ahead, TaskDynamics):
            self.ahead.begin_episode(seed)
