"""When to pursue what: `OBJECTIVE@START` or `SENTENCE@START`, seconds of the run's simulated clock, as faults have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploy.goal_client import GoalClient
from deploy.wishes import Wishes, is_sentence
from planners.objectives import parse_objective

if TYPE_CHECKING:
    from deploy.config import RunConfig


def check_goals(cfg: RunConfig) -> None:
    """Raise ValueError, in one line, for what a run is to pursue and cannot; what only a service may understand is let through."""
    wishes = Wishes(cfg.robot, cfg.objective)
    if cfg.goal_service:
        GoalClient(cfg.goal_service)
    for t_s, text in [(0.0, cfg.goal)] * bool(cfg.goal) + parse_goals(cfg.goals):
        if not is_sentence(text):
            parse_objective(text)
        try:
            wishes.hear(text, t_s)
        except ValueError as error:
            if not cfg.goal_service:
                raise ValueError(f"goal {text!r}: {error}") from None


def parse_goals(texts: Sequence[str]) -> list[tuple[float, str]]:
    """Return (start [s], objective or sentence) in order of time. Raises ValueError, in one line, for what is neither."""
    return sorted((_goal(text) for text in texts), key=lambda goal: goal[0])


def _goal(text: str) -> tuple[float, str]:
    wanted, at, start = text.rpartition("@")
    try:
        start_s = float(start)
    except ValueError:
        start_s = math.nan
    if not at or not (math.isfinite(start_s) and start_s >= 0):
        raise ValueError(
            f"goal {text!r} needs OBJECTIVE@START or SENTENCE@START with START in seconds, >= 0: e.g. speed:1@10"
        )
    if not is_sentence(wanted):
        parse_objective(wanted)
    return start_s, wanted
