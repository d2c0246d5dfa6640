"""Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020).

The variant that stops: at each rung first * factor**k a trial goes on if it is among the best 1/factor of those that came
there so far. Nothing is remembered but what the trials have reported, so that a sweep that is resumed judges as before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from deploy.sweeps.spec import Asha

Told = Sequence[Sequence[float]]
"""(steps or episodes, value), in order."""


def at_rung(reports: Told, rung: float) -> float | None:
    """Return the first value reported at `rung` or later; None before it."""
    return next((value for done, value in reports if done >= rung), None)


def last_rung(reports: Told, asha: Asha) -> int | None:
    """Return the highest rung that was reached; None before the first."""
    done = int(max((done for done, _ in reports), default=0))
    rung = None
    step = asha.first
    while step <= done:
        rung, step = step, step * asha.factor
    return rung


def falls_behind(reports: Told, others: Iterable[Told], asha: Asha, direction: str) -> bool:
    """Return whether a trial is to be stopped at the highest rung that it has reached, given what others have reported."""
    rung = last_rung(reports, asha)
    if rung is None:
        return False
    mine = at_rung(reports, rung)
    there = [value for value in (at_rung(told, rung) for told in others) if value is not None]
    if mine is None or len(there) + 1 < asha.factor:
        return False
    sign = -1 if direction == "max" else 1
    better = sum(sign * value < sign * mine for value in there)
    return better >= math.ceil((len(there) + 1) / asha.factor)
