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

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, rate_A: np.ndarray, dt_s: float, /) -> np.ndarray:
        """Return the nearest action that this limit allows, (A,), after `last_A`, which changed by `rate_A` [unit/s]."""
        ...


@dataclass(frozen=True)
class Acceleration:
    """No actuator changes its rate faster than `max_accel_A` [unit/s^2]."""

    max_accel_A: np.ndarray
    name: str = "acceleration"

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, rate_A: np.ndarray, dt_s: float, /) -> np.ndarray:
        """Return `action_A` moved towards where the last rate leads, as far as the acceleration demands."""
        ahead_A, step_A = last_A + rate_A * dt_s, self.max_accel_A * dt_s**2
        return np.clip(action_A, ahead_A - step_A, ahead_A + step_A)


@dataclass(frozen=True)
class Braking:
    """No actuator comes so near to [low_A, high_A] that it could not stop there without breaking its acceleration limit.

    From a rate v it takes v^2 / 2a + v dt / 2 to stop in steps of dt, and up to a dt^2 / 8 more if v is not a multiple of a dt.
    """

    low_A: np.ndarray
    high_A: np.ndarray
    max_accel_A: np.ndarray
    name: str = "braking"

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, rate_A: np.ndarray, dt_s: float, /) -> np.ndarray:
        """Return `action_A` slowed down where a bound is near."""
        up_A, down_A = (self.fastest(d_A, dt_s) * dt_s for d_A in (self.high_A - last_A, last_A - self.low_A))
        return np.clip(action_A, last_A - down_A, last_A + up_A)

    def fastest(self, distance_A: np.ndarray, dt_s: float) -> np.ndarray:
        """Return the largest rates from which the distances suffice to stop, (A,)."""
        half_A, accel_A = self.max_accel_A * dt_s / 2, self.max_accel_A
        far_A = np.maximum(0.0, distance_A - accel_A * dt_s**2 / 8)
        near_A = np.clip(distance_A / dt_s, 0.0, accel_A * dt_s)  # and then to stand
        return np.maximum(np.sqrt(half_A**2 + 2 * accel_A * far_A) - half_A, near_A)


@dataclass(frozen=True)
class Slew:
    """No actuator changes faster than `max_rate_A` [unit/s]."""

    max_rate_A: np.ndarray
    name: str = "slew"

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, rate_A: np.ndarray, dt_s: float, /) -> np.ndarray:
        """Return `action_A` moved towards `last_A` as far as the rate demands."""
        step_A = self.max_rate_A * dt_s
        return np.clip(action_A, last_A - step_A, last_A + step_A)


@dataclass(frozen=True)
class Bounds:
    """No actuator leaves [low_A, high_A]."""

    low_A: np.ndarray
    high_A: np.ndarray
    name: str = "bounds"

    def __call__(self, action_A: np.ndarray, last_A: np.ndarray, rate_A: np.ndarray, dt_s: float, /) -> np.ndarray:
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
    max_accel: tuple[float, ...] | None = None
    """Largest change of the rate per second; None: any."""

    def __post_init__(self) -> None:
        sizes = {len(x) for x in (self.low, self.high, self.max_rate, self.hold, self.max_accel or self.low)}
        if len(sizes) != 1:
            raise ValueError(f"limits need as many low, high, max_rate, hold and max_accel entries, got {self}")
        if not np.isfinite([self.low, self.high, self.hold]).all():
            raise ValueError(f"limits must be finite, got {self}")
        if not all(lo <= at <= hi for lo, at, hi in zip(self.low, self.hold, self.high, strict=True)):
            raise ValueError(f"hold must lie between low and high, got {self}")
        if not all(rate > 0 for rate in self.max_rate):
            raise ValueError(f"max_rate must be > 0, got {self.max_rate}")
        if self.max_accel is not None and not all(0 < a < np.inf for a in self.max_accel):
            raise ValueError(f"max_accel must be > 0 and finite, got {self.max_accel}")

    @property
    def hold_A(self) -> np.ndarray:
        """What is sent when there is no plan to follow, (A,)."""
        return np.asarray(self.hold, dtype=np.float64)

    def build(self) -> tuple[Limit, ...]:
        """Return the limits in the order they apply; bounds come last, so that nothing can undo them."""
        rate_A, low_A, high_A = (np.asarray(x, dtype=np.float64) for x in (self.max_rate, self.low, self.high))
        slew, bounds = Slew(rate_A), Bounds(low_A, high_A)
        if self.max_accel is None:
            return slew, bounds
        accel_A = np.asarray(self.max_accel, dtype=np.float64)
        return Acceleration(accel_A), slew, Braking(low_A, high_A, accel_A), bounds


def make_safe(
    action_A: np.ndarray,
    last_A: np.ndarray,
    dt_s: float,
    limits: Sequence[Limit],
    rate_A: np.ndarray | None = None,
) -> Command:
    """Return the command to send after `last_A`, which changed by `rate_A` [unit/s] (None: not at all).

    A non-finite action is taken for the last one sent; another shape raises ValueError.
    """
    check("action_A", action_A, "A", A=len(last_A))
    finite = bool(np.isfinite(action_A).all())
    out_A, changed = np.asarray(action_A if finite else last_A, dtype=np.float64), [] if finite else ["nonfinite"]
    rate_A = np.zeros(len(last_A)) if rate_A is None else rate_A
    for limit in limits:
        new_A = limit(out_A, last_A, rate_A, dt_s)
        if not np.array_equal(new_A, out_A):
            changed.append(limit.name)
        out_A = new_A
    return Command(np.array(out_A), tuple(changed))
