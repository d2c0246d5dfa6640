"""Time as an argument: the wall's monotonic clock, and one that a test or a simulation holds in its hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a loop gets its time from [s]; it never goes back."""

    def now_s(self) -> float:
        """Return the time now [s]."""
        ...

    def sleep_until(self, t_s: float, /) -> None:
        """Return once `now_s() >= t_s`; at once if that is past."""
        ...


class MonotonicClock:
    """Real time: a step of the wall clock by NTP does not reach the robot."""

    def now_s(self) -> float:
        """Return `time.monotonic()` [s]."""
        return time.monotonic()

    def sleep_until(self, t_s: float, /) -> None:
        """Sleep until `t_s` [s] of the monotonic clock."""
        while (left_s := t_s - time.monotonic()) > 0:
            time.sleep(left_s)


class SimulatedClock:
    """Time that passes only when somebody sleeps or advances it."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """Return the simulated time [s]."""
        return self._now_s

    def sleep_until(self, t_s: float, /) -> None:
        """Jump to `t_s` [s], never back."""
        self._now_s = max(self._now_s, t_s)

    def advance(self, by_s: float) -> None:
        """Let `by_s` >= 0 seconds pass, as work does."""
        if not by_s >= 0:
            raise ValueError(f"time passes by >= 0 s, got {by_s}")
        self._now_s += by_s
