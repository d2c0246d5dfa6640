"""Surprise and adaptation on the arm behind its driver, part of benchmarks/arm_bus.py.

What surprise looks like is learned from the first half of the healthy goals that the arm pursued through the driver, as `surefoot
calibrate --dataset` does from a recording; the other half says how often it is wrong. Then the weak servo's goals are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agents.adaptation import Play
from agents.calibration import calibrate, false_alarms
from agents.jobs import accepts, job
from agents.learned import LearnedConfig, judge_of, load_replay
from agents.monitor import episode_errors
from envs.robots import robot_spec

if TYPE_CHECKING:
    from agents.adaptation import Candidate
    from world_models.checkpoint import WorldModel

PLAYED = 20
"""Goals of the weak arm that it learns from."""


@dataclass(frozen=True)
class Alarms:
    """Goals in which an alarm came, and how long it took [s] where it came."""

    goals: int
    seconds: tuple[float, ...]


def alarms(
    model: WorldModel, cfg: LearnedConfig, healthy: Sequence[Play], judged: Sequence[Sequence[Play]], dt_s: float
) -> list[Alarms]:
    """Return the alarms in each group of goals, by what surprise looks like in `healthy`."""

    def errors(some: Sequence[Play]) -> list[np.ndarray]:
        return [episode_errors(model.step, p.state_TO, p.action_TA) for p in some]

    known = calibrate(errors(healthy), cfg.surprise)
    found = [false_alarms(errors(some), known, cfg.surprise) for some in judged]
    return [Alarms(len(steps), tuple((s + 1) * dt_s for s in steps if s is not None)) for steps in found]


def adapted(
    model: WorldModel, cfg: LearnedConfig, play: Sequence[Play], robot: str
) -> tuple[WorldModel, list[Candidate]]:
    """Return the model after adaptation to the play, by the agent's own gates, and what was tried."""
    made = job(model, play, len(play), load_replay(cfg.folder), judge_of(robot_spec(robot)), cfg.adapt, 0)
    taken = {c.part: c.model for c in made if accepts(c, cfg.adapt.margin)}
    return replace(model, **taken), made  # pyright: ignore[reportArgumentType]
