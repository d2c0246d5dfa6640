"""Goals at run time, part of benchmarks/walker.py: asked for a speed or a height, how near does the walker come?"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.common import PLAN_LATENCY_S, mean_interval
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import TOGETHER, made_with, watch_together
from envs.robots import readings, robot_spec

GOALS = {
    **{f"speed:{v:g}": 0.2 for v in (-1, 0, 1, 2, 3)},
    **{f"height:{v:g}": 0.03 for v in (1.0, 1.2, 1.3, 0.9, 1.4)},
}
"""Objective -> what counts as reached, in its unit. 1.4 m is above what the torso reaches without a jump."""
SETTLED_S = 4.0
"""Seconds at the end of an episode of twice as many that are judged."""
FIRST = 8_500_000


@dataclass(frozen=True)
class Asked:
    """A goal, and so many episodes of it."""

    goal: str
    episodes: int

    @property
    def config(self) -> RunConfig:
        """The run in which it is pursued."""
        base = replace(PRESETS["walker"][1], objective=self.goal, adapt=False, max_s=1e6)
        return replace(base, plan_latency_s=PLAN_LATENCY_S, episode_steps=round(2 * SETTLED_S / 0.008))

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return f"walker/goal-{self.goal}-{self.episodes}-{made_with(self.config):08x}"


def pursue(asked: Asked) -> list[list[float | None]]:
    """Run the episodes and return the reading that was asked for, (episodes, steps), null after a fall."""
    import torch

    cfg, name = asked.config, asked.goal.partition(":")[0]
    steps, rows = round(2 * SETTLED_S / 0.008), []
    for i in range(0, asked.episodes, TOGETHER):
        for e in watch_together(cfg, range(FIRST + i, FIRST + min(i + TOGETHER, asked.episodes))):
            found = readings(robot_spec(cfg.robot), torch.as_tensor(e.state_TO[1:]))[name].tolist()
            rows.append([round(x, 4) for x in found] + [None] * (steps - len(found)))
    return rows


def goal_rows(episodes: int, workers: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return one row per goal, and the readings (episodes, steps), NaN after a fall."""
    asked = [Asked(goal, episodes) for goal in GOALS]
    rows = done(asked, pursue, workers, "goals")
    found = {a.goal: np.array(seen, float) for a, seen in zip(asked, rows, strict=True)}
    return [row(goal, seen) for goal, seen in found.items()], found


def row(goal: str, seen: np.ndarray) -> dict[str, Any]:
    """Return one line of the table: the error of the mean over the last seconds, of episodes that did not end in a fall."""
    target = float(goal.partition(":")[2])
    late = seen[:, seen.shape[1] // 2 :]
    stood = np.isfinite(late).all(1)
    means = late[stood].mean(1) if stood.any() else np.array([])
    error = mean_interval(np.abs(means - target)) if len(means) > 1 else None
    return {
        "goal": goal,
        "reached": float(means.mean()) if len(means) else None,
        "error": error,
        "within": float(np.mean(np.abs(means - target) <= GOALS[goal]) * stood.mean()) if len(means) else 0.0,
        "spread": float(late[stood].std(1).mean()) if len(means) else None,
        "falls": float(1 - stood.mean()),
        "allowed": GOALS[goal],
        "n": len(seen),
    }


TITLE = (
    f"goals at run time: error of the mean over the last {SETTLED_S:g} s; within: share of episodes within `allowed`, "
    "falls counted against it; spread: standard deviation within an episode"
)
COLUMNS = ("goal", "reached", "error", "within", "spread", "falls", "allowed", "n")


def picture(found: dict[str, np.ndarray]) -> bytes:
    """Return a PNG: what was asked for and what came, over time, every episode a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, name, unit in zip(figure.subplots(1, 2), ("speed", "height"), ("m/s", "m"), strict=True):
        goals = [goal for goal in found if goal.startswith(name)]
        for goal, colour in zip(goals, ("C0", "C1", "C2", "C3", "C4"), strict=True):
            t_s = 0.008 * np.arange(found[goal].shape[1])
            axis.plot(t_s, found[goal].T, color=colour, linewidth=0.4, alpha=0.5)
            axis.axhline(float(goal.partition(":")[2]), color=colour, linestyle="--", linewidth=1.2, label=goal)
        axis.set_xlabel("s")
        axis.set_ylabel(f"{name} [{unit}]")
        axis.legend(fontsize=7)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    return drawn.getvalue()
