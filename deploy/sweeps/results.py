"""What a sweep has found: points with the mean of their seeds, best first, as `results.json` holds it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.summary import interval
from deploy.sweeps.journal import Trial
from deploy.sweeps.plan import Sweep
from deploy.sweeps.spec import SweepSpec, tree_of

STATUSES = ("done", "stopped", "failed", "running", "waiting")


@dataclass(frozen=True)
class Found:
    """One point: the metric's mean over its seeds, with its 95 % interval where there are several."""

    name: str
    point: dict[str, Any]
    values: tuple[float, ...]
    mean: float
    lo: float | None
    hi: float | None
    missing: int
    """Seeds that gave no result."""


def found(spec: SweepSpec, trials: Sequence[Trial]) -> list[Found]:
    """Return the points of which at least one seed is done; those with all seeds first, the best of them first."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(json.dumps(trial.point), []).append(trial)
    rows = []
    for group in groups.values():
        values = tuple(trial.metric for trial in group if trial.status == "done" and trial.metric is not None)
        mean, lo, hi = interval(values)
        if mean is not None:
            point = group[0].point
            rows.append(Found(named(group[0], seed=False), point, values, mean, lo, hi, len(group) - len(values)))
    sign = -1 if spec.direction == "max" else 1
    return sorted(rows, key=lambda row: (row.missing, sign * row.mean))


def best_of(spec: SweepSpec, trials: Sequence[Trial]) -> Found | None:
    """Return the best point; None before there is a result."""
    return next(iter(found(spec, trials)), None)


def named(trial: Trial, seed: bool = True) -> str:
    """Return the searched options of a trial as text."""
    parts = [f"{name} {said(value)}" for name, value in trial.point.items()]
    return ", ".join([*parts, f"seed {trial.seed}"] if seed else parts) or "as the preset"


def said(value: Any) -> str:
    """Return the value of an option as text."""
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def shown(value: float | None) -> str:
    """Return a metric for people; a dash where there is none."""
    return "–" if value is None else f"{value:.5g}"


def results(sweep: Sweep, status: str) -> dict[str, Any]:
    """Return what is written to `results.json`."""
    trials = list(sweep.journal.trials.values())
    counts = Counter(trial.status for trial in trials)
    points = [asdict(row) for row in found(sweep.spec, trials)]
    return {
        "status": status,
        "commit": sweep.commit,
        "metric": sweep.spec.metric,
        "direction": sweep.spec.direction,
        "counts": {name: counts[name] for name in STATUSES},
        "tries": dict(Counter(one.ended or "running" for trial in trials for one in trial.tries)),
        "best": points[0] if points else None,
        "points": points,
        "trials": [{key: value for key, value in asdict(trial).items() if key != "config"} for trial in trials],
        "spec": tree_of(sweep.spec),
        "storage": sweep.storage,
    }
