"""What to ask for so that what is wanted comes: a pursuit that falls short by rule is asked for more, by rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trim:
    """What was asked for and what came of it in the end, both of one reading, in its unit, rising."""

    asked: tuple[float, ...]
    came: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.asked) != len(self.came) or len(self.asked) < 2:
            raise ValueError(f"a trim needs as many results as requests, at least 2, got {self}")
        if not np.isfinite([self.asked, self.came]).all():
            raise ValueError(f"a trim must be finite, got {self}")
        if not (np.diff(self.asked) > 0).all():
            raise ValueError(f"what was asked for must rise, got {self.asked}")

    def ask_for(self, wanted: float) -> float:
        """Return what to ask for; within what was tried, and unchanged where that gave what was wanted."""
        rising = np.maximum.accumulate(self.came) + 1e-9 * np.arange(len(self.came))
        return float(np.interp(wanted, rising, self.asked))
