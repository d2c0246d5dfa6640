"""A walker that is told in sentences what to do, one after another: does it do each, and does the monitor take that for a new body?

The sentences go through `--goals`, so through the grammar of commands and what was pursued before ("faster" than what?); the robot is
healthy, so that every alarm is false. Goals that are asked for as numbers, for longer: benchmarks/walker.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import PLAN_LATENCY_S, Options, Result, Table, command, mean_interval, rate_interval
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.watch import made_with
from envs.robots import readings, robot_spec

if TYPE_CHECKING:
    from deploy.config import RunConfig

EVERY_S, JUDGED_S = 8.0, 4.0
"""From one sentence to the next, and the last seconds of that, which are judged."""
TOLD = {
    "walk at 1 m/s": ("speed", 1.0),
    "faster": ("speed", 1.5),
    "slow down a bit": ("speed", 1.25),
    "walk backwards slowly": ("speed", -0.5),
    "crouch": ("height", 1.0),
    "stand tall": ("height", 1.3),
    "stop": ("speed", 0.0),
}
"""Sentence -> what is to be read then."""
ALLOWED = {"speed": 0.2, "height": 0.03}


@dataclass(frozen=True)
class WalkOptions(Options):
    """What this benchmark can be told."""

    seeds: int = 20
    workers: int = 2


@dataclass(frozen=True)
class Run:
    """The unit of work: all sentences, one after another."""

    seed: int

    @property
    def config(self) -> RunConfig:
        """The run."""
        goals = tuple(f"{sentence}@{EVERY_S * i:g}" for i, sentence in enumerate(TOLD))
        base = replace(PRESETS["walker"][1], goals=goals, seed=self.seed, adapt=False, plan_latency_s=PLAN_LATENCY_S)
        return replace(base, max_s=EVERY_S * len(TOLD), max_episodes=10_000, episode_steps=100_000)

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return f"goal_walk/{self.seed}-{made_with(self.config, judged=True):08x}"


def walk(run: Run) -> dict[str, Any]:
    """Return, of each sentence, the mean of what is to be read over the last seconds, None after a fall in them; and alarms."""
    import torch

    from deploy.arms import build, unlogged

    torch.set_num_threads(1)
    cfg = run.config
    history = unlogged(cfg, build(cfg), lambda _, __: True).history
    states = np.concatenate([e.states_TO[1:] for e in history.episodes])
    seen = readings(robot_spec(cfg.robot), torch.as_tensor(states))
    falls_s = [e.end_s for e in history.episodes if e.ended == "terminated"]
    means = []
    for i, (name, _) in enumerate(TOLD.values(), 1):
        until_s = EVERY_S * i
        fell = any(until_s - JUDGED_S < fall_s <= until_s for fall_s in falls_s)
        rows = slice(*(round(s / history.dt_s) for s in (until_s - JUDGED_S, until_s)))
        means.append(None if fell else float(seen[name][rows].mean()))
    return {"means": means, "falls_s": falls_s, "alarms_s": [r.t_s for _, r in history.alarms]}


def measure(options: WalkOptions) -> Result:
    """Return a row per sentence."""
    runs = [Run(9_500_000 + options.seed + i) for i in range(2 if options.quick else options.seeds)]
    found = done(runs, walk, options.workers, "runs")
    rows = []
    for i, (sentence, (name, target)) in enumerate(TOLD.items()):
        means = np.array([f["means"][i] for f in found], float)
        off = np.abs(means[np.isfinite(means)] - target)
        within = float(np.sum(off <= ALLOWED[name]))
        reached = float(np.nanmean(means)) if len(off) else None
        error = mean_interval(off) if len(off) > 1 else None
        rows.append(
            (sentence, f"{name} {target:g}", reached, error, rate_interval(int(within), len(means)), len(means))
        )
    after = [{int(t_s // EVERY_S) for t_s in f["alarms_s"]} for f in found]
    alarms, changes = sum(map(len, after)), len(found) * len(TOLD)
    rate = PRESETS["walker"][1].agent.surprise.false_alarm_rate  # pyright: ignore
    columns = ("sentence", "to be read", "read", "error", "share within what is allowed", "n")
    return Result(
        "goal_walk",
        "A walker that is told in sentences what to do does it, and the monitor does not take a new goal for a new body.",
        {
            **{row[0]: row[4] for row in rows},
            "sentences after which an alarm came": rate_interval(alarms, changes),
            "set rate": rate,
            "falls": sum(len(f["falls_s"]) for f in found),
        },
        (Table(f"means of the last {JUDGED_S:g} of {EVERY_S:g} s after a sentence", columns, tuple(rows)),),
        seeds=tuple(run.seed for run in runs),
        n=len(runs),
        notes=(f"Allowed: {ALLOWED['speed']} m/s, {ALLOWED['height']} m. A fall in the judged seconds is no success.",),
    )


main = command(WalkOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
