"""What a hand on a stick or a key means to each actuator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from envs.types import POSITIONS

if TYPE_CHECKING:
    from deploy.safety import RobotLimits
    from envs.types import ActionSpec


@dataclass(frozen=True)
class Joints:
    """A robot's actuators as an operator knows them; all arrays (A,), in the units of its ActionSpec."""

    names: tuple[str, ...]
    low_A: np.ndarray
    high_A: np.ndarray
    rate_A: np.ndarray
    """Fastest change [unit/s]."""
    rest_A: np.ndarray
    """What is sent to one that should not push."""
    position_A: np.ndarray
    """Whether it is told where to be."""
    dt_s: float

    @classmethod
    def of(cls, action: ActionSpec, limits: RobotLimits, dt_s: float) -> Joints:
        """Return the actuators of a robot with these limits and control step [s]."""
        low_A, high_A, rate_A = (np.asarray(row, np.float64) for row in (limits.low, limits.high, limits.max_rate))
        position_A = np.array([unit in POSITIONS for unit in action.unit_A])
        return cls(action.names, low_A, high_A, rate_A, limits.hold_A, position_A, dt_s)

    def moved(self, push_A: np.ndarray, last_A: np.ndarray) -> np.ndarray:
        """Return the action that a push in [-1, 1] asks for, (A,), after `last_A`.

        Positions go on from there, at 1 as fast as they may; efforts are that share of what there is, and none at 0.
        """
        room_A = np.where(push_A > 0, self.high_A - self.rest_A, self.rest_A - self.low_A)
        there_A = np.where(self.position_A, last_A + push_A * self.rate_A * self.dt_s, self.rest_A + push_A * room_A)
        return np.clip(there_A, self.low_A, self.high_A)

    def held(self, last_A: np.ndarray) -> np.ndarray:
        """Return the action that holds still after `last_A`, (A,)."""
        return self.moved(np.zeros(len(self.names)), last_A)


class Stick:
    """An Operator that is pushed: a push is followed until it is replaced or expires, then the robot is held.

    Whoever pushes has to go on pushing. Nothing waits: the newest push is one immutable value.
    """

    def __init__(self, joints: Joints, now_s: Callable[[], float] = time.monotonic) -> None:
        self.joints, self._now_s = joints, now_s
        self._push: tuple[np.ndarray, float] = np.zeros(len(joints.names)), -np.inf

    def push(self, push_A: np.ndarray, for_s: float) -> None:
        """Push each actuator, -1 .. 1, from now on for so long."""
        self._push = np.clip(push_A, -1.0, 1.0), self._now_s() + for_s

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return what is asked for now, (A,)."""
        push_A, until_s = self._push
        return self.joints.moved(push_A, last_A) if self._now_s() < until_s else self.joints.held(last_A)
