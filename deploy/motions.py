"""Actions by the clock alone, for a robot that is to move while nobody is there to move it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from envs.robots import pick
from envs.types import ActionSpec

Wave = Callable[[np.ndarray], np.ndarray]
"""Phase [turns] -> -1 .. 1."""

WAVES: Mapping[str, Wave] = {
    "hold": np.zeros_like,
    "sine": lambda turns: np.sin(2 * np.pi * turns),
    "square": lambda turns: np.where(turns % 1.0 < 0.5, 1.0, -1.0),
}


@dataclass(frozen=True)
class Motion:
    """Every actuator goes through `wave`, around the middle of its range, each a share of a turn after the one before."""

    wave: str = "sine"
    hz: float = 1.0
    amplitude: float = 0.3
    """In half ranges of the actuator."""

    def __post_init__(self) -> None:
        pick(WAVES, self.wave, "motion")
        if not (np.isfinite(self.hz) and self.hz > 0):
            raise ValueError(f"hz must be > 0 and finite, got {self.hz}")
        if not 0 <= self.amplitude <= 1:
            raise ValueError(f"amplitude must be in [0, 1], got {self.amplitude}")

    def at(self, t_s: float, action: ActionSpec) -> np.ndarray:
        """Return the action at `t_s` [s], (A,)."""
        turns_A = self.hz * t_s + np.arange(action.size) / action.size
        low_A, high_A = action.low_A.astype(np.float64), action.high_A.astype(np.float64)
        return (low_A + high_A) / 2 + self.amplitude * (high_A - low_A) / 2 * WAVES[self.wave](turns_A)
