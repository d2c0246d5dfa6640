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
from agents.monitor import STRIDE
from agents.surprise import SurpriseConfig
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
from deploy.watch import Watched, watch

FAULT_S = 4.0
ANKLE = f"actuator_limit:foot_left_joint:0.5@{FAULT_S:g}"
DT_S = 0.008
HORIZON = 32
"""Control steps before the first update of an episode."""
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


def run(cfg: RunConfig, name: str, episodes: int, options: SurpriseOptions) -> list[Watched]:
    """Return the episodes; each is kept in runs/quick as it ends, so that an interrupted benchmark goes on where it was."""
    folder = QUICK_RESULTS / "surprise" / name
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [FIRST + options.seed + i for i in range(episodes)]
    missing = [n for n in numbers if not (folder / f"{n}.json").exists()]
    for w in watch(cfg, missing, options.workers):
        row = {**vars_of(w), "errors": w.errors.tolist()}
        part = folder / f"{w.episode}.part"
        part.write_text(json.dumps(row))
        part.rename(folder / f"{w.episode}.json")
    return [read(json.loads((folder / f"{n}.json").read_text())) for n in numbers]


def vars_of(w: Watched) -> dict[str, Any]:
    """Return the plain fields of an episode."""
    return {"episode": w.episode, "episode_return": w.episode_return, "steps": w.steps, "ended": w.ended}


def read(row: dict[str, Any]) -> Watched:
    """Return the episode that was kept, without the errors behind what the monitor folded."""
    nothing = np.zeros((0, 0))
    plain = (row["episode"], row["episode_return"], row["steps"], row["ended"])
    return Watched(*plain, np.array(row["errors"]), nothing, nothing)


def false_alarm_rows(healthy: Sequence[Watched], cfg: LearnedConfig) -> list[tuple[Any, ...]]:
    """Return one row per set rate: rate, alarms, episodes, measured rate and its interval."""
    (calibration, _), rows = load_calibration(cfg.folder), []
    for rate in RATES:
        alarms = false_alarms([w.errors for w in healthy], calibration, replace(cfg.surprise, false_alarm_rate=rate))
        count = sum(a is not None for a in alarms)
        found = rate_interval(count, len(healthy))
        rows.append((rate, count, len(healthy), found.mean, found.lo, found.hi))
    return rows


def detections(broken: Sequence[Watched], cfg: LearnedConfig, rate: float) -> tuple[list[float], int, int]:
    """Return the delays [s] of the first alarm after the fault, the episodes that reached it, and the early alarms."""
    calibration, _ = load_calibration(cfg.folder)
    surprise: SurpriseConfig = replace(cfg.surprise, false_alarm_rate=rate)
    reached = [w for w in broken if w.steps * DT_S > FAULT_S + HORIZON * DT_S]
    first = false_alarms([w.errors for w in reached], calibration, surprise)
    times = [None if a is None else (HORIZON + STRIDE * a) * DT_S - FAULT_S for a in first]
    early = sum(t is not None and t <= 0 for t in times)
    return [t for t in times if t is not None and t > 0], len(reached) - early, early


def detection_rows(broken: Sequence[Watched], cfg: LearnedConfig) -> list[tuple[Any, ...]]:
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
    returns = mean_interval([w.episode_return for w in healthy])
    figures = {
        "false_alarms_at_5_percent": alarms[0][3],
        "false_alarms_lo": alarms[0][4],
        "false_alarms_hi": alarms[0][5],
        "detected_at_1_percent": found[1][3],
        "median_delay_s_at_1_percent": found[1][6],
        "p95_delay_s_at_1_percent": found[1][7],
        "healthy_return": returns,
        "healthy_falls": sum(w.ended == "terminated" for w in healthy) / len(healthy),
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
    claim = "False alarms come at the set rate, and a broken left ankle is noticed within a second."
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
