"""When to pursue what: `OBJECTIVE@START`, seconds of the run's simulated clock, as faults have it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from planners.objectives import parse_objective


def parse_goals(texts: Sequence[str]) -> list[tuple[float, str]]:
    """Return (start [s], objective) in order of time. Raises ValueError, in one line, for what is neither."""
    return sorted(_goal(text) for text in texts)


def _goal(text: str) -> tuple[float, str]:
    objective, at, start = text.rpartition("@")
    try:
        start_s = float(start)
    except ValueError:
        start_s = math.nan
    if not at or not (math.isfinite(start_s) and start_s >= 0):
        raise ValueError(f"goal {text!r} needs OBJECTIVE@START with START in seconds, >= 0: e.g. speed:1@10")
    parse_objective(objective)
    return start_s, objective
