"""The canonical run in real time: alarm, adaptation and recovery as in simulated time; and half an hour without growth.

Everything runs as a user starts it: `surefoot run` with loop, planner and adapter in processes of their own and the web view
open, on a machine that should have nothing else to do. In simulated time the same latencies are charged that real time showed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from benchmarks.common import QUICK_RESULTS, Interval, Options, Result, Table, command, keep, mean_interval
from configs.presets import PRESETS
from deploy.machine import ROOT
from deploy.watch import made_with

BREAK_S, END_S, LAST_S = 12.0, 180.0, 68.0
"""When the ankle breaks, when a run ends, and how much of its end is compared [s]."""
EVERY_S = 10.0
"""Between two looks at what the processes hold."""
WARM_S = 300.0
"""By then everything has been used once: an adaptation, a recall, the view."""
SOAK_FAULTS = ("60-300", "600-900", "1200-1500")
"""When the ankle is broken in the long run [s]."""
Mode = Literal["realtime", "lockstep"]


@dataclass(frozen=True)
class RealtimeOptions(Options):
    """What this benchmark can be told."""

    runs: int = 10
    """Seeds, the same in both modes."""
    soak_s: float = 1800.0
    """Length of the long run [s]; 0: none."""


def run_command(
    seed: int, faults: Sequence[str], end_s: float, mode: Mode, out: Path, latency: Sequence[str] = ()
) -> list[str]:
    """Return the command that a user would give."""
    base = [sys.executable, "-m", "deploy.cli", "run", "walker-broken-ankle", "--seed", str(seed), "--time", mode]
    broken = ["--faults", *(f"actuator_limit:foot_left_joint:0.5@{when}" for when in faults)]
    ends = ["--max-s", f"{end_s:g}", "--max-episodes", "100000", "--adapted-episodes", "100000"]
    others = ["--no-control-arm", "--pictures", "none", "--out", str(out), *latency]
    return [*base, *broken, *ends, *others, *(["--view", "web", "--view-port", "0"] if mode == "realtime" else [])]


def path_of(name: str) -> Path:
    """Where a run's result is kept, so that an interrupted benchmark goes on where it was."""
    return QUICK_RESULTS / "realtime" / f"{name}-{made_with(PRESETS['walker-broken-ankle'][1], judged=True):08x}.json"


def mean_return(summary: dict[str, Any], begin_s: float, end_s: float) -> float:
    """Return the mean return of the episodes that began in a span and came to their own end."""
    whole = [e for e in summary["episodes"] if e["ended"] in ("terminated", "truncated")]
    return float(np.mean([e["return"] for e in whole if begin_s <= e["start_s"] < end_s]))


def seen_in(folder: Path) -> dict[str, Any]:
    """Return what is kept of a run: when what happened, and what it earned."""
    summary = json.loads((folder / "summary.json").read_text())
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    after = [a["after_fault_s"] for a in summary["alarms"] if a["after_fault_s"] is not None]
    return {
        "status": summary["status"],
        "healthy": mean_return(summary, 0.0, BREAK_S - 8.0),
        "alarm_s": min(after, default=None),
        "false_alarms": summary["false_alarms"],
        "adapted_s": None if summary["adapted_s"] is None else summary["adapted_s"] - BREAK_S,
        "broken": mean_return(summary, BREAK_S, summary["adapted_s"] or END_S),
        "last": mean_return(summary, END_S - LAST_S, END_S),
        "job_s": [t["job_s"] for t in timings if t["kind"] == "job"],
        **{
            key: summary[key]
            for key in ("plan_ms", "plan_age_ms", "late_ms", "missed_steps", "held_steps", "scheduling")
        },
    }


def lived(seed: int, mode: Mode, latency: Sequence[str] = ()) -> dict[str, Any]:
    """Return what came of a run; read where it is on disk already."""
    path = path_of("-".join([mode, str(seed), f"{END_S:g}", *latency[1::2]]))
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
            out = Path(folder) / "run"
            asked = run_command(seed, (f"{BREAK_S:g}",), END_S, mode, out, latency)
            subprocess.run(asked, cwd=ROOT, check=True, capture_output=True)
            keep(path, seen_in(out))
    return json.loads(path.read_text())


@dataclass(frozen=True)
class Held:
    """What the processes of a run hold at a moment."""

    t_s: float
    processes: int
    memory_mb: float
    """Unique to them: what would be free without them."""
    threads: int
    files: int


def held(root: psutil.Process, began_s: float) -> Held | None:
    """Return what a process and its children hold; None while one of them ends."""
    try:
        everyone = [root, *root.children(recursive=True)]
        memory = sum(p.memory_full_info().uss for p in everyone)
        threads, files = sum(p.num_threads() for p in everyone), sum(p.num_fds() for p in everyone)
    except psutil.NoSuchProcess:
        return None
    return Held(time.monotonic() - began_s, len(everyone), memory / 1e6, threads, files)


def soaked(seed: int, soak_s: float) -> dict[str, Any]:
    """Return what a long run held over time, and how late its steps were; read where it is on disk already."""
    path = path_of(f"soak-{seed}-{soak_s:g}")
    if path.exists():
        return json.loads(path.read_text())
    rows: list[Held] = []
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        out, began_s = Path(folder) / "run", time.monotonic()
        asked = run_command(seed, SOAK_FAULTS, soak_s, "realtime", out)
        with subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            root = psutil.Process(run.pid)
            while run.poll() is None:
                row = held(root, began_s)
                rows += [] if row is None else [row]
                print(f"\rsoak: {time.monotonic() - began_s:.0f} s of {soak_s:g}", end="", file=sys.stderr)
                time.sleep(EVERY_S)
        late_s = np.concatenate([
            np.array(t["late_T"], dtype=float)
            for t in map(json.loads, (out / "timings.jsonl").read_text().splitlines())
            if t["kind"] == "episode"
        ])  # fmt: skip
        edges_s = np.array([0, *1e-3 * 2.0 ** np.arange(-5, 9), np.inf])
        counts = np.histogram(late_s, edges_s)[0]
        keep(path, seen_in(out) | {"held": [vars(r) for r in rows], "late_edges_ms": (1e3 * edges_s).tolist(),
                                   "late_counts": counts.tolist()})  # fmt: skip
    return json.loads(path.read_text())


def growth(found: dict[str, Any]) -> dict[str, float]:
    """Return by how much each kind grows per hour once all is warm: the slope of a line through what was seen."""
    rows = [r for r in found["held"] if r["t_s"] >= WARM_S][:-2]  # the last looks see the report being written
    if len(rows) < 3:
        return {}
    hours = np.array([r["t_s"] for r in rows]) / 3600
    return {key: float(np.polyfit(hours, [r[key] for r in rows], 1)[0]) for key in ("memory_mb", "threads", "files")}


def soak_tables(found: dict[str, Any]) -> tuple[Table, Table]:
    """Return what was held, minute by minute, and the histogram of lateness."""
    rows = found["held"][:: max(1, round(60 / EVERY_S))]
    columns = ("t [s]", "processes", "memory [MB]", "threads", "open files")
    kept = Table("what the processes of the long run hold", columns, tuple(tuple(r.values()) for r in rows))
    edges, counts = found["late_edges_ms"], found["late_counts"]
    bins = tuple(
        (f"{lo:g} .. {'' if hi is None else format(hi, 'g')}", n)
        for lo, hi, n in zip(edges, edges[1:], counts, strict=False)
    )
    return kept, Table("how late its control steps of 8 ms began [ms]", ("between", "steps"), bins)


def measure(options: RealtimeOptions) -> Result:
    """Return the tables."""
    runs, soak_s = (1, 60.0) if options.quick else (options.runs, options.soak_s)
    seeds = range(options.seed, options.seed + runs)
    live = [lived(seed, "realtime") for seed in seeds]
    plan_s = 1e-3 * float(np.mean([f["plan_ms"]["p50"] for f in live]))
    job_s = float(np.mean([s for f in live for s in f["job_s"]] or [60.0]))
    charged = ["--plan-latency", f"{0.008 * round(plan_s / 0.008):g}", "--adapt-latency", f"{5 * round(job_s / 5):g}"]
    slow = [lived(seed, "lockstep", charged) for seed in seeds]
    keys = ("alarm_s", "adapted_s", "broken", "last")
    tables = [
        Table(
            f"mean return of episodes while broken (from {BREAK_S:g} s on), and of those begun in the last {LAST_S:g} of {END_S:g} s",
            ("mode", "seed", *(f"{k.removesuffix('_s')} [s]" if k.endswith("_s") else k for k in keys)),
            tuple((mode, s, *(f[k] for k in keys)) for mode, some in (("realtime", live), ("lockstep", slow))
                  for s, f in zip(seeds, some, strict=True)),
        )
    ]  # fmt: skip
    figures: dict[str, Any] = {"charged in lockstep": " ".join(charged)}
    for mode, some in (("realtime", live), ("lockstep", slow)):
        figures[f"recovered: last - broken, {mode}"] = _interval([f["last"] - f["broken"] for f in some])
        figures[f"return at the end, {mode}"] = _interval([f["last"] for f in some])
    figures["realtime - lockstep, return at the end, paired"] = _interval(
        [a["last"] - b["last"] for a, b in zip(live, slow, strict=True)]
    )
    figures["runs with alarm and an adaptation in use"] = sum(f["adapted_s"] is not None for f in live)
    figures["lateness p99 [ms], mean of runs"] = float(np.mean([f["late_ms"]["p99"] for f in live]))
    figures["scheduling"] = live[0]["scheduling"]
    if soak_s:
        found = soaked(options.seed, soak_s)
        tables += soak_tables(found)
        figures |= {f"growth per hour, {key}": value for key, value in growth(found).items()}
    claim = "In real time the broken ankle is noticed, adapted to and recovered from as in simulated time, and nothing grows."
    return Result("realtime", claim, figures, tuple(tables), tuple(seeds), len(live) + len(slow))


def _interval(values: Sequence[float]) -> Interval | float:
    return mean_interval(values) if len(values) > 1 else values[0]


main = command(RealtimeOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
