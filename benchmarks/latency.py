"""What a slow planner costs a walker that does not wait, with and without compensation; and how punctual the loop is meanwhile.

In real time: loop, planner and adapter are processes of this machine, which should have nothing else to do.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import QUICK_RESULTS, Options, Result, Table, command, keep, mean_interval
from configs.presets import PRESETS
from deploy.arms import build, open_session
from deploy.config import RunConfig
from deploy.interrupt import Interrupts
from deploy.watch import made_with

LATENCIES_S = (0.0, 0.02, 0.06, 0.15)
"""That a plan takes at least; the first: in simulated time, in which it takes none."""
HORIZON = 32
"""Control steps, 256 ms: a plan lasts longer than the slowest takes."""
FIRST = 9_600_000
NAIVE_S = 0.008


@dataclass(frozen=True)
class LatencyOptions(Options):
    """What this benchmark can be told."""

    episodes: int = 20
    """Of each latency, the same seeds."""


@dataclass(frozen=True)
class Cell:
    """A latency, and whether plans are made for the time at which they will be there."""

    latency_s: float
    compensate: bool
    episodes: int

    @property
    def config(self) -> RunConfig:
        """The run."""
        base = PRESETS["walker"][1]
        return replace(
            base,
            agent=replace(base.agent, horizon=HORIZON),  # pyright: ignore
            plan_latency_s=self.latency_s,
            compensate=self.compensate,
            time="realtime" if self.latency_s else "lockstep",
            adapt=False,
            max_episodes=self.episodes,
            max_s=1e6,
            seed=FIRST,
        )

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        name = f"{self.latency_s:g}-{self.compensate}-{self.episodes}-{made_with(self.config):08x}.json"
        return QUICK_RESULTS / "latency" / name


def live(cell: Cell) -> dict[str, Any]:
    """Return what came of the episodes of a cell."""
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        session = open_session(cell.config, build(cell.config), Path(folder), Interrupts())
        session.run(lambda episode: episode < cell.episodes)
        session.log.close()
    found = session.history
    return {
        "returns": [e.episode_return for e in found.episodes],
        "starved": int(sum((e.planned_T == 0).sum() for e in found.episodes)),
        "steps": sum(e.steps for e in found.episodes),
        "age_ms": [1e3 * float(x) for x in np.quantile(found.age_s.values, (0.5, 0.99))],
        "late_ms": [1e3 * float(x) for x in (*np.quantile(found.late_s.values, (0.5, 0.99)), found.late_s.largest)],
        "missed": found.missed,
        "scheduling": found.scheduling,
    }


def busy(stop: Any) -> None:
    """Compute until told to stop: what a planner is to a loop."""
    a = np.random.default_rng(0).standard_normal((256, 256))
    while not stop.value:
        a = np.tanh(a @ a.T / 256)


def naive_lateness_s(seconds: float) -> np.ndarray:
    """Return how late the steps of a loop are that sleeps for a period after each, beside two processes that compute."""
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue("i", 0)
    others = [context.Process(target=busy, args=(stop,), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    time.sleep(1.0)
    began_s, late = time.monotonic(), []
    for step in range(round(seconds / NAIVE_S)):
        late.append(time.monotonic() - (began_s + step * NAIVE_S))
        time.sleep(NAIVE_S)
    stop.value = 1
    for other in others:
        other.join()
    return np.array(late)


def measured(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the results; those that are on disk already are read."""
    for done, cell in enumerate(cells):
        if not cell.path.exists():
            keep(cell.path, live(cell))
        print(f"{done + 1} of {len(cells)} cells of latency", file=sys.stderr)
    return [json.loads(cell.path.read_text()) for cell in cells]


def measure(options: LatencyOptions) -> Result:
    """Return the tables."""
    episodes = 3 if options.quick else options.episodes
    latencies = (0.0, 0.06) if options.quick else LATENCIES_S
    cells = [Cell(s, on, episodes) for s in latencies for on in ((True, False) if s else (True,))]
    found = dict(zip(cells, measured(cells), strict=True))
    whole = np.array(found[cells[0]]["returns"])
    rows, figures = [], {}
    for cell, f in found.items():
        mine = np.array(f["returns"])
        share = mean_interval(mine / whole.mean())
        starved = (f["starved"] - f["missed"]) / f["steps"]  # nobody decides about a step that is missed
        rows.append(
            (1e3 * cell.latency_s, cell.compensate, mean_interval(mine), share, starved, *f["age_ms"], len(mine))
        )
        if cell.latency_s:
            name = f"{1e3 * cell.latency_s:g} ms, {'compensated' if cell.compensate else 'not compensated'}"
            figures[f"return / return without latency, {name}"] = share
    naive = naive_lateness_s(10.0 if options.quick else 60.0)
    late = [
        (1e3 * c.latency_s, c.compensate, *f["late_ms"], f["missed"], f["scheduling"])
        for c, f in found.items()
        if c.latency_s
    ]
    drift = [1e3 * float(x) for x in np.quantile(naive, (0.5, 0.99, 1.0))]
    late.append((float("nan"), False, *drift, 0, "a loop that sleeps for a period after each step"))
    worst = max(f["late_ms"][1] for c, f in found.items() if c.latency_s)
    figures |= {
        "lateness of a step, p99 [ms], worst cell": worst,
        "the same of a loop that sleeps for a period": drift[1],
    }
    columns = (
        "latency [ms]",
        "compensated",
        "return",
        "of that without latency",
        "starved",
        "age p50 [ms]",
        "age p99 [ms]",
        "n",
    )
    punctual = ("latency [ms]", "compensated", "late p50 [ms]", "p99", "max", "missed", "scheduling")
    tables = (
        Table(
            "walker2d in real time; starved: share of steps, missed ones apart, without a plan to follow",
            columns,
            tuple(rows),
        ),
        Table(
            "how late control steps of 8 ms begin, beside a planner that computes all the time", punctual, tuple(late)
        ),
    )
    claim = "A planner that is slower than the control rate costs little if plans are made for the time at which they will be there."
    return Result("latency", claim, figures, tables, (FIRST,), sum(len(f["returns"]) for f in found.values()))


main = command(LatencyOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
