"""A goal under way: when the next of its sequence begins, and when it is over. A fold over time and readings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents.goals import KINDS, Goal, Term

HELD_S = 1.0
"""A goal whose terms all held so long is reached."""
SMOOTH_S = 0.5
"""Readings are looked at through a mean that forgets this fast: a gait sways about the speed that it keeps."""
SLACK_S = 1e-9


def rest(robot: str) -> Goal | None:
    """Return what a robot does whose goal has expired: it keeps still; None where that is no goal."""
    kinds = KINDS[robot]
    if "hold" in kinds:
        return Goal(robot, (Term.of(robot, "hold"),))
    return Goal(robot, (Term.of(robot, "speed", 0.0),)) if "speed" in kinds else None


@dataclass(frozen=True)
class Pursuit:
    """All that is remembered of a goal under way: hand it back in."""

    goal: Goal
    since_s: float
    seen_s: float | None = None
    """When readings were last looked at."""
    smooth: Mapping[str, float] | None = None
    held_s: float | None = None
    """Since when all terms hold."""


def advance(now: Pursuit, t_s: float, readings: Mapping[str, float]) -> Pursuit:
    """Return what is pursued at `t_s` [s], given the readings then: the same goal, its `then`, or rest once it has expired."""
    goal = now.goal
    if goal.duration_s is not None:
        over_s = now.since_s + goal.duration_s
        if t_s < over_s - SLACK_S:
            return now
        return Pursuit(goal.then or rest(goal.robot) or replace(goal, duration_s=None), over_s)
    if goal.then is None:
        return now
    smooth = _smooth(now, t_s, readings)
    held_s = (t_s if now.held_s is None else now.held_s) if _holds(goal, smooth) else None
    if held_s is not None and t_s - held_s >= HELD_S - SLACK_S:
        return Pursuit(goal.then, t_s)
    return Pursuit(goal, now.since_s, t_s, smooth, held_s)


def _smooth(now: Pursuit, t_s: float, readings: Mapping[str, float]) -> Mapping[str, float]:
    if now.smooth is None or now.seen_s is None:
        return dict(readings)
    keep = math.exp(-max(0.0, t_s - now.seen_s) / SMOOTH_S)
    return {name: keep * now.smooth.get(name, x) + (1 - keep) * x for name, x in readings.items()}


def _holds(goal: Goal, readings: Mapping[str, float]) -> bool:
    """Return whether every term that has a reading is there; one that is not read at all never is."""
    for term in goal.terms:
        kind = KINDS[goal.robot][term.kind]
        if math.isfinite(kind.tolerance):
            assert isinstance(term.value, float)
            if not abs(readings.get(term.kind, math.nan) - term.value) <= kind.tolerance:
                return False
    return True
