"""Surprise on the walker: the false-alarm rate over fresh healthy episodes, and how soon a broken left ankle is noticed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents.calibration import false_alarms
from agents.learned import LearnedConfig, load_calibration
from agents.monitor import WINDOW, episode_errors
from benchmarks.common import (
    QUICK_RESULTS,
    Options,
    Result,
    Table,
    command,
    mean_interval,
    quantiles,
    rate_interval,
)
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import watch_and_keep
from envs.episodes import Episode
from world_models.checkpoint import load_model

FAULT_S = 4.0
LEFT_LEG = ("thigh_left_joint", "leg_left_joint", "foot_left_joint")
FAULTS = {
    "left ankle limited to 0.5": (f"actuator_limit:foot_left_joint:0.5@{FAULT_S:g}",),
    "all friction x 0.1": (f"friction:all:0.1@{FAULT_S:g}",),
    "left leg's gain x 0.6": tuple(f"actuator_gain:{joint}:0.6@{FAULT_S:g}" for joint in LEFT_LEG),
    "actions 2 steps late": (f"action_delay:all:2@{FAULT_S:g}",),
    "right knee locked": (f"joint_lock:leg_joint:-@{FAULT_S:g}",),
    "torso's mass x 1.5": (f"mass:torso:1.5@{FAULT_S:g}",),
}
MAIN = next(iter(FAULTS))
DT_S = 0.008
RATES = (0.05, 0.01)
FIRST = 2_000_000
"""Number of the first episode: neither a run nor the calibration uses these."""


@dataclass(frozen=True)
class SurpriseOptions(Options):
    """What this benchmark can be told."""

    healthy: int = 400
    broken: int = 100
    """Episodes with the broken ankle."""
    other: int = 32
    """Episodes with each other fault."""
    workers: int = 2


def preset(latency_s: float) -> RunConfig:
    """Return the walker's preset, at the plan latency of its calibration, without adaptation."""
    return replace(PRESETS["walker"][1], adapt=False, control_arm=False, plan_latency_s=latency_s)


def run(cfg: RunConfig, name: str, episodes: int, options: SurpriseOptions) -> list[Episode]:
    """Return the episodes; each is kept in runs/quick as it ends, so that an interrupted benchmark goes on where it was."""
    folder = QUICK_RESULTS / "surprise" / name
    return list(watch_and_keep(cfg, FIRST + options.seed, episodes, options.workers, folder))


def errors_of(episodes: Sequence[Episode], cfg: LearnedConfig) -> list[np.ndarray]:
    """Return what the monitor folds in each episode."""
    step = load_model(cfg.folder).step
    return [episode_errors(step, e.state_TO, e.action_TA) for e in episodes]


def false_alarm_rows(healthy: Sequence[Episode], cfg: LearnedConfig) -> list[tuple[Any, ...]]:
    """Return one row per set rate: rate, alarms, episodes, measured rate and its interval."""
    calibration, rows, errors = load_calibration(cfg.folder), [], errors_of(healthy, cfg)
    for rate in RATES:
        alarms = false_alarms(errors, calibration, replace(cfg.surprise, false_alarm_rate=rate))
        count = sum(a is not None for a in alarms)
        found = rate_interval(count, len(healthy))
        rows.append((rate, count, len(healthy), found.mean, found.lo, found.hi))
    return rows


def detections(broken: Sequence[Episode], cfg: LearnedConfig, rate: float) -> tuple[list[float], int, int]:
    """Return the delays [s] of the first alarm after the fault, the episodes that reached it, and the early alarms."""
    surprise = replace(cfg.surprise, false_alarm_rate=rate)
    reached = [e for e in broken if e.length * DT_S > FAULT_S]
    first = false_alarms(errors_of(reached, cfg), load_calibration(cfg.folder), surprise)
    times = [None if a is None else (WINDOW + a) * DT_S - FAULT_S for a in first]
    early = sum(t is not None and t <= 0 for t in times)
    return [t for t in times if t is not None and t > 0], len(reached) - early, early


def detection_rows(broken: Mapping[str, Sequence[Episode]], cfg: LearnedConfig) -> list[tuple[Any, ...]]:
    """Return one row per set rate and fault: detected share with its interval, delays."""
    rows = []
    for rate in RATES:
        for fault, episodes in broken.items():
            delays, n, early = detections(episodes, cfg, rate)
            found, in_time = rate_interval(len(delays), n), sum(d <= 1.0 for d in delays)
            median, p95 = quantiles(delays, 0.5, 0.95) if delays else (None, None)
            rows.append((rate, fault, len(delays), n, found.mean, found.lo, found.hi, median, p95, in_time / n, early))
    return rows


def figures_of(
    healthy: Sequence[Episode], alarms: Sequence[tuple[Any, ...]], found: Sequence[tuple[Any, ...]]
) -> dict[str, Any]:
    """Return the figures of the claim."""
    figures: dict[str, Any] = {
        "false_alarms_at_5_percent": alarms[0][3],
        "false_alarms_lo": alarms[0][4],
        "false_alarms_hi": alarms[0][5],
        "healthy_return": mean_interval([e.total_reward for e in healthy]),
        "healthy_falls": sum(e.terminated for e in healthy) / len(healthy),
    }
    for row in found:
        if row[1] == MAIN:
            at = f"at_{100 * row[0]:g}_percent"
            figures |= {f"ankle_detected_{at}": row[4], f"median_delay_s_{at}": row[7], f"p95_delay_s_{at}": row[8]}
    return figures


def measure(options: SurpriseOptions) -> Result:
    """Return both tables."""
    cfg = PRESETS["walker"][1].agent
    assert isinstance(cfg, LearnedConfig)
    latency_s = json.loads((cfg.folder / "surprise.json").read_text())["about"]["plan_latency_s"]
    base = preset(latency_s)
    n_healthy, n_ankle, n_other = (40, 20, 8) if options.quick else (options.healthy, options.broken, options.other)
    healthy = run(base, "healthy", n_healthy, options)
    broken = {
        fault: run(replace(base, faults=parts), "broken", n_ankle if fault == MAIN else n_other, options)
        for fault, parts in FAULTS.items()
    }
    alarms, found = false_alarm_rows(healthy, cfg), detection_rows(broken, cfg)
    columns = (
        "set rate",
        "fault",
        "detected",
        "episodes",
        "share",
        "lo",
        "hi",
        "median s",
        "p95 s",
        "within 1 s",
        "early",
    )
    tables = (
        Table(
            "false alarms over fresh healthy episodes",
            ("set rate", "alarms", "episodes", "rate", "lo", "hi"),
            tuple(alarms),
        ),
        Table(
            f"faults that start at {FAULT_S:g} s of an 8 s episode: noticed before the first fall",
            columns,
            tuple(found),
        ),
    )
    claim = (
        "False alarms come at the set rate, and a broken left ankle is noticed within a second, before the first fall."
    )
    notes = (
        f"Plan latency {latency_s} s of simulated time; early alarms (before the fault) are left out of the detections.",
        "An episode ends with the first fall, or 4 s after the fault; delays are those of the detected.",
    )
    n = len(healthy) + sum(map(len, broken.values()))
    figures = figures_of(healthy, alarms, found)
    return Result("surprise", claim, figures, tables, seeds=(FIRST + options.seed,), n=n, notes=notes)


main = command(SurpriseOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
