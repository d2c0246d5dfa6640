"""What a real robot's joint readings mean to an agent: the state vector, and how well the task goes."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from envs.arm import REACH_BOX, arm_state
from envs.so101 import Kinematics


class Task(Protocol):
    """Turns angles and rates into the state that the model was trained on. It moves nothing."""

    def begin(self, seed: int, /) -> None:
        """Draw the task of an episode."""
        ...

    def state(self, q_A: np.ndarray, rate_A: np.ndarray, /) -> np.ndarray:
        """Return the state vector, (O,)."""
        ...

    def reward(self, state_O: np.ndarray, /) -> float:
        """Return the reward of a control step that led to the state."""
        ...


class JointTask:
    """No task: the state is angles [rad] and rates [rad/s], the reward 0."""

    def begin(self, seed: int, /) -> None:
        """Nothing to draw."""

    def state(self, q_A: np.ndarray, rate_A: np.ndarray, /) -> np.ndarray:
        """Return angles and rates, (2 A,)."""
        return np.concatenate([q_A, rate_A])

    def reward(self, state_O: np.ndarray, /) -> float:
        """Return 0."""
        return 0.0


class ReachTask:
    """`so101` on a real arm: the tip follows from the angles, the target is drawn as in simulation, or given."""

    def __init__(self, target_3: np.ndarray | None = None) -> None:
        self._kinematics, self._given = Kinematics(), target_3
        self.begin(0)

    def begin(self, seed: int, /) -> None:
        """Draw the target [m], unless it was given."""
        drawn_3 = np.random.default_rng(seed).uniform(*REACH_BOX)
        self.target_3 = drawn_3 if self._given is None else np.asarray(self._given, np.float64)

    def state(self, q_A: np.ndarray, rate_A: np.ndarray, /) -> np.ndarray:
        """Return the state of robot `so101`, (18,)."""
        return arm_state(q_A, rate_A, self._kinematics.tip(q_A), self.target_3)

    def reward(self, state_O: np.ndarray, /) -> float:
        """Return minus the distance from tip to target [m]."""
        return -float(np.linalg.norm(state_O[12:15] - state_O[15:18]))
