"""The one door to the motors: small named limits, applied in order; the result says what was sent and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.shapes import check


@dataclass(frozen=True, slots=True)
class Command:
    """What was sent, and the names of the limits that changed it."""

    action_A: np.ndarray
    altered_by: tuple[str, ...] = ()


class Limit(Protocol):
    """One reason to change an action."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, dt_s: float, /) -> np.ndarray:
        """Return the nearest action that this limit allows, (A,)."""
        ...


@dataclass(frozen=True)
class Slew:
    """No actuator changes faster than `max_rate_A` [unit/s]."""

    max_rate_A: np.ndarray
    name: str = "slew"

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, dt_s: float, /) -> np.ndarray:
        """Return `action_A` moved towards `last_A` as far as the rate demands."""
        step_A = self.max_rate_A * dt_s
        return np.clip(action_A, last_A - step_A, last_A + step_A)


@dataclass(frozen=True)
class Bounds:
    """No actuator leaves [low_A, high_A]."""

    low_A: np.ndarray
    high_A: np.ndarray
    name: str = "bounds"

    def __call__(self, action_A: np.ndarray, _last_A: np.ndarray, _dt_s: float, /) -> np.ndarray:
        """Return `action_A` clipped to the bounds."""
        return np.clip(action_A, self.low_A, self.high_A)


@dataclass(frozen=True)
class RobotLimits:
    """One robot's limits as data, one entry per actuator, in the units of its ActionSpec."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    max_rate: tuple[float, ...]
    """Largest change per second."""
    hold: tuple[float, ...]
    """What is sent when there is no plan to follow."""

    def __post_init__(self) -> None:
        sizes = {len(self.low), len(self.high), len(self.max_rate), len(self.hold)}
        if len(sizes) != 1:
            raise ValueError(f"limits need as many low, high, max_rate and hold entries, got {self}")
        if not np.isfinite([self.low, self.high, self.hold]).all():
            raise ValueError(f"limits must be finite, got {self}")
        if not all(lo <= at <= hi for lo, at, hi in zip(self.low, self.hold, self.high, strict=True)):
            raise ValueError(f"hold must lie between low and high, got {self}")
        if not all(rate > 0 for rate in self.max_rate):
            raise ValueError(f"max_rate must be > 0, got {self.max_rate}")

    @property
    def hold_A(self) -> np.ndarray:
        """What is sent when there is no plan to follow, (A,)."""
        return np.asarray(self.hold, dtype=np.float64)

    def build(self) -> tuple[Limit, ...]:
        """Return the limits in the order they apply; bounds come last, so that nothing can undo them."""
        as_A = [np.asarray(x, dtype=np.float64) for x in (self.max_rate, self.low, self.high)]
        return Slew(as_A[0]), Bounds(as_A[1], as_A[2])


def make_safe(action_A: np.ndarray, last_A: np.ndarray, dt_s: float, limits: Sequence[Limit]) -> Command:
    """Return the command to send. A non-finite action becomes the last one sent; another shape raises ValueError."""
    check("action_A", action_A, "A", A=len(last_A))
    if not np.isfinite(action_A).all():
        return Command(np.array(last_A), ("nonfinite",))
    out_A, changed = np.asarray(action_A, dtype=np.float64), []
    for limit in limits:
        new_A = limit(out_A, last_A, dt_s)
        if not np.array_equal(new_A, out_A):
            changed.append(limit.name)
        out_A = new_A
    return Command(np.array(out_A), tuple(changed))
