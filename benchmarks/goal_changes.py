"""Changes of goal, part of benchmarks/faults.py: does the monitor take a new goal for a new body?

A healthy walker is given one random goal after another, now and then its own task again; nothing breaks, so every alarm is false.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Generator

from agents.goal_numbers import READINGS, random_goals
from benchmarks.common import PLAN_LATENCY_S, rate_interval
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.watch import made_with

if TYPE_CHECKING:
    from deploy.config import RunConfig

FIRST_S = 5.0
"""Of the first change: not where an episode of 8 s begins."""
EVERY_S = 8.0
"""Between the changes: as long as a whole episode, for which the rate of false alarms is set."""
CHANGES = 10
"""Of goal in one run."""
TASK_SHARE = 0.2
"""Share of the changes that go back to the task."""


def goals_of(seed: int) -> list[str]:
    """Return the goals of a run in their order."""
    targets = random_goals(CHANGES, Generator().manual_seed(seed)).tolist()
    texts = ["+".join(f"{name}:{x:.2f}" for name, x in zip(READINGS, row, strict=True) if x == x) for row in targets]
    task = np.random.default_rng(seed).random(CHANGES) < TASK_SHARE
    back = task & np.concatenate([[False], ~task[:-1]])  # it begins with the task, and a change is a change
    return ["run" if own else text for own, text in zip(back, texts, strict=True)]


def config(seed: int) -> RunConfig:
    """Return a healthy run whose goal changes again and again; nothing is adapted."""
    base = PRESETS["walker"][1]
    goals = tuple(f"{text}@{FIRST_S + EVERY_S * i:g}" for i, text in enumerate(goals_of(seed)))
    last_s = FIRST_S + EVERY_S * CHANGES
    cfg = replace(base, goals=goals, seed=seed, adapt=False, plan_latency_s=PLAN_LATENCY_S)
    return replace(cfg, max_s=last_s, max_episodes=10_000)


@dataclass(frozen=True)
class Run:
    """The unit of work."""

    seed: int

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return f"faults/goal-changes-{self.seed}-{made_with(config(self.seed), judged=True):08x}"


def run(unit: Run) -> dict[str, Any]:
    """Return when alarms came and how episodes ended."""
    from deploy.arms import build, unlogged

    cfg = config(unit.seed)
    history = unlogged(cfg, build(cfg), lambda _, __: True).history
    falls = [e.end_s for e in history.episodes if e.ended == "terminated"]
    return {"alarms_s": [r.t_s for _, r in history.alarms], "falls_s": falls, "goals": goals_of(unit.seed)}


def goal_changes(changes: int, workers: int) -> dict[str, Any]:
    """Return the row: changes after which, until the next one, an alarm came."""
    seeds = range(9_000_000, 9_000_000 + max(1, changes // CHANGES))
    found = done([Run(seed) for seed in seeds], run, workers, f"runs of {CHANGES} changes of goal")
    after = [{int((t_s - FIRST_S) // EVERY_S) for t_s in f["alarms_s"] if t_s > FIRST_S} for f in found]
    alarms, n = sum(map(len, after)), CHANGES * len(found)
    rate = PRESETS["walker"][1].agent.surprise.false_alarm_rate  # pyright: ignore
    falls = sum(len(f["falls_s"]) for f in found)
    return {"changes": n, "with an alarm": alarms, "rate": rate_interval(alarms, n), "set rate": rate, "falls": falls}
