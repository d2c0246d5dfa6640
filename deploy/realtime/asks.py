"""What people in other processes may ask of a running session: to move the robot by hand, and to pursue another goal.

Nobody waits for anybody: what was asked is there when the session next looks, or is not there any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from deploy.realtime.channel import Latest
from envs.shapes import check

LASTS_S = 0.3
"""What is asked by hand is forgotten so long after it was last said."""
LONGEST = 300
"""Bytes of a goal, and of what is said about it."""


class SharedHand:
    """An `Operator` whose hand is in another process: a dead man's switch, for what is not said again is over."""

    def __init__(self, actions: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._actions, self._clock = actions, clock
        self._asked = Latest(8 * (1 + actions))

    def ask(self, action_A: np.ndarray) -> None:
        """Ask for an action, (A,), from now on and for LASTS_S."""
        check("action_A", action_A, "A", A=self._actions)
        self._asked.write(np.array([self._clock() + LASTS_S, *action_A]).tobytes())

    def let_go(self) -> None:
        """Leave it to the plan at once."""
        self._asked.write(np.full(1 + self._actions, -np.inf).tobytes())

    def wants(self, _t_s: float, _last_A: np.ndarray, /) -> np.ndarray | None:
        """Return what is asked for now, None once nobody does."""
        found = self._asked.read()
        if found is None:
            return None
        until_s, *action_A = np.frombuffer(found[1])
        return np.array(action_A) if self._clock() < until_s else None


class SharedGoals:
    """Objectives, asked for one at a time, and what became of them."""

    def __init__(self) -> None:
        self._asked, self._answer, self._taken = Latest(LONGEST), Latest(LONGEST), 0

    def ask(self, objective: str) -> None:
        """Ask for an objective; one that was not taken yet is forgotten."""
        self._asked.write(_cut(objective))

    def take(self) -> str | None:
        """Return the objective that was asked for since the last call, in the session's process."""
        found = self._asked.read(self._taken)
        if found is None:
            return None
        self._taken = found[0]
        return found[1].decode(errors="replace")

    def say(self, answer: str) -> None:
        """Say what became of it."""
        self._answer.write(_cut(answer))

    @property
    def answer(self) -> str:
        """What became of the last; empty before there was one."""
        found = self._answer.read()
        return "" if found is None else found[1].decode(errors="replace")


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:LONGEST]
