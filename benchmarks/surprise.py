"""Surprise on the walker: the false-alarm rate over fresh healthy episodes, and how soon a broken left ankle is noticed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
    mean_interval,
    parse,
    publish,
    quantiles,
    rate_interval,
)
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import watch_and_keep
from envs.episodes import Episode
from world_models.checkpoint import load_model

FAULT_S = 4.0
ANKLE = f"actuator_limit:foot_left_joint:0.5@{FAULT_S:g}"
DT_S = 0.008
RATES = (0.05, 0.01)
FIRST = 2_000_000
"""Number of the first episode: neither a run nor the calibration uses these."""


@dataclass(frozen=True)
class SurpriseOptions(Options):
    """What this benchmark can be told."""

    healthy: int = 400
    broken: int = 100
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


def detection_rows(broken: Sequence[Episode], cfg: LearnedConfig) -> list[tuple[Any, ...]]:
    """Return one row per set rate: detected share with its interval, delays."""
    rows = []
    for rate in RATES:
        delays, n, early = detections(broken, cfg, rate)
        found, in_time = rate_interval(len(delays), n), sum(d <= 1.0 for d in delays)
        median, p95 = quantiles(delays, 0.5, 0.95)
        rows.append((rate, len(delays), n, found.mean, found.lo, found.hi, median, p95, in_time / n, early))
    return rows


def measure(options: SurpriseOptions) -> Result:
    """Return both tables."""
    cfg = PRESETS["walker"][1].agent
    assert isinstance(cfg, LearnedConfig)
    latency_s = json.loads((cfg.folder / "surprise.json").read_text())["about"]["plan_latency_s"]
    n_healthy, n_broken = (40, 20) if options.quick else (options.healthy, options.broken)
    healthy = run(preset(latency_s), "healthy", n_healthy, options)
    broken = run(replace(preset(latency_s), faults=(ANKLE,), max_s=20.0), "broken", n_broken, options)
    alarms, found = false_alarm_rows(healthy, cfg), detection_rows(broken, cfg)
    returns = mean_interval([e.total_reward for e in healthy])
    figures = {
        "false_alarms_at_5_percent": alarms[0][3],
        "false_alarms_lo": alarms[0][4],
        "false_alarms_hi": alarms[0][5],
        "detected_at_1_percent": found[1][3],
        "median_delay_s_at_1_percent": found[1][6],
        "p95_delay_s_at_1_percent": found[1][7],
        "healthy_return": returns,
        "healthy_falls": sum(e.terminated for e in healthy) / len(healthy),
    }
    tables = (
        Table(
            "false alarms over fresh healthy episodes",
            ("set rate", "alarms", "episodes", "rate", "lo", "hi"),
            tuple(alarms),
        ),
        Table(
            f"left ankle limited to 0.5 at {FAULT_S:g} s",
            ("set rate", "detected", "episodes", "share", "lo", "hi", "median s", "p95 s", "within 1 s", "early"),
            tuple(found),
        ),
    )
    claim = (
        "False alarms stay within the interval of the set rate; a broken left ankle that is noticed before the first fall is "
        "noticed within about a second, but many are not."
    )
    notes = (
        f"Plan latency {latency_s} s of simulated time; early alarms (before the fault) are left out of the detections.",
    )
    return Result(
        "surprise", claim, figures, tables, seeds=(FIRST + options.seed,), n=len(healthy) + len(broken), notes=notes
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and publish."""
    options = parse(SurpriseOptions, __doc__, argv)
    publish(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
