"""Scripted demonstrators for the SO-101, by inverse kinematics: one reaches, one pushes.

Servos without an integral gain sag under load, so a demonstrator aims beyond by the sum of its past misses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from envs.robots import ROBOTS
from envs.so101 import ARM, HOME_A, Kinematics

_TIP = slice(12, 15)
_INTEGRAL = 0.15  # share of a miss that is aimed beyond per step
_MAX_BEYOND_M = 0.04
_BEHIND_M, _HIGH_M, _LOW_M = 0.055, 0.08, 0.015  # of the tip: before it pushes, on its way, while it pushes
_ARRIVED_M, _SLIPPED_M, _DONE_M = 0.012, 0.02, 0.012
_CONVERGED_M = 0.03  # only misses smaller than this are summed up: larger ones are on the way


class Demonstrator(Protocol):
    """From states to actions; `begin` forgets the last episode."""

    def begin(self) -> None:
        """Begin an episode."""
        ...

    def act(self, state_O: np.ndarray, /) -> np.ndarray:
        """Return the joint angles to go to, (6,) [rad]."""
        ...


class _Tip:
    """Moves the tip towards points, no faster than `speed` [m/s]."""

    def __init__(self, speed: float, jaw: float = 0.0) -> None:
        self._kinematics, self._step_m = Kinematics(), speed * ROBOTS["so101"].dt_s
        self._home_A = np.append(HOME_A[:ARM], jaw)
        self.begin()

    def begin(self) -> None:
        self._beyond_3, self._carrot_3, self._guess_A = np.zeros(3), None, self._home_A

    def towards(self, state_O: np.ndarray, goal_3: np.ndarray) -> np.ndarray:
        """Return the angles for the next control step on the way to `goal_3` [m]."""
        tip_3 = state_O[_TIP]
        carrot_3 = tip_3 if self._carrot_3 is None else self._carrot_3
        gap_3 = goal_3 - carrot_3
        self._carrot_3 = carrot_3 + gap_3 * min(1.0, self._step_m / max(float(np.linalg.norm(gap_3)), 1e-9))
        miss_3 = self._carrot_3 - tip_3
        if np.linalg.norm(miss_3) < _CONVERGED_M:
            self._beyond_3 = np.clip(self._beyond_3 + _INTEGRAL * miss_3, -_MAX_BEYOND_M, _MAX_BEYOND_M)
        self._guess_A = self._kinematics.angles(self._carrot_3 + self._beyond_3, self._guess_A, iterations=8)
        return self._guess_A.copy()


class Reacher:
    """Brings the tip of robot `so101` to its target."""

    def __init__(self, speed: float = 0.25) -> None:
        self._tip = _Tip(speed)

    def begin(self) -> None:
        """Begin an episode."""
        self._tip.begin()

    def act(self, state_O: np.ndarray, /) -> np.ndarray:
        """Return the joint angles to go to, (6,) [rad]."""
        return self._tip.towards(state_O, state_O[15:18])


class Pusher:
    """Lowers the closed jaws behind the block of robot `so101_push`, seen from its target, and pushes; again where it slips."""

    def __init__(self, speed: float = 0.15) -> None:
        self._tip = _Tip(speed, jaw=float(ROBOTS["so101"].action.low_A[-1]))
        self.begin()

    def begin(self) -> None:
        """Begin an episode."""
        self._tip.begin()
        self._phase, self._left_at_2 = "over", np.zeros(2)

    def act(self, state_O: np.ndarray, /) -> np.ndarray:
        """Return the joint angles to go to, (6,) [rad]."""
        tip_3, block_2, target_2 = state_O[_TIP], state_O[15:17], state_O[17:19]
        left_m = float(np.linalg.norm(target_2 - block_2))
        ahead_2 = (target_2 - block_2) / max(left_m, 1e-6)
        behind_2 = block_2 - ahead_2 * _BEHIND_M
        goal_3 = {
            "over": [*behind_2, _HIGH_M],
            "down": [*behind_2, _LOW_M],
            "push": [*target_2, _LOW_M],
            "up": [*self._left_at_2, _HIGH_M],
        }[self._phase]
        self._turn(tip_3, goal_3, left_m, ahead_2, tip_3[:2] - block_2)
        return self._tip.towards(state_O, np.array(goal_3))

    def _turn(
        self, tip_3: np.ndarray, goal_3: list[float], left_m: float, ahead_2: np.ndarray, from_block_2: np.ndarray
    ) -> None:
        """Go on to the next phase where this one is done."""
        beside_m = abs(float(ahead_2[0] * from_block_2[1] - ahead_2[1] * from_block_2[0]))
        is_behind = float(ahead_2 @ from_block_2) < 0.0
        arrived = float(np.linalg.norm(tip_3 - goal_3)) < _ARRIVED_M
        if self._phase == "push" and (left_m < _DONE_M or beside_m > _SLIPPED_M or not is_behind):
            self._phase, self._left_at_2 = "up", tip_3[:2] - 0.03 * ahead_2
        elif self._phase == "up" and tip_3[2] > _HIGH_M - _ARRIVED_M and left_m > _DONE_M:
            self._phase = "over"
        elif self._phase in ("over", "down") and arrived:
            self._phase = {"over": "down", "down": "push"}[self._phase]


DEMONSTRATORS: Mapping[str, type[Reacher] | type[Pusher]] = {"so101": Reacher, "so101_push": Pusher}
"""Who shows how, by robot."""
