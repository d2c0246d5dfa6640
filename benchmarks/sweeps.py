"""Sweeps: trials per minute on two workers against one, what a trial costs beside a plain Ray task, and kills.

Throughput: the same sweep of real trials (`surefoot evaluate linear-cem`) on one and on two processors of this machine. Cost: trials
whose process does next to nothing, with journal, files and guardian, beside Ray tasks that do nothing and Ray tasks that start
the same process, in turns. Kills: a node of three, then the driver (SIGKILL) at random times; the sweep is resumed, and what it
finds is compared with that of a sweep that was left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Result, Table, command, mean_interval, paired_interval
from deploy.machine import ROOT
from deploy.sweeps.cluster import STORE_BYTES, connected, remote
from deploy.sweeps.driver import Driver
from deploy.sweeps.journal import Trial
from deploy.sweeps.plan import Sweep, new_sweep
from deploy.sweeps.spec import Resources, SweepSpec, tree_of

NODES = 3
REAL = SweepSpec(
    verb="evaluate",
    preset="linear-cem",
    metric="mean",
    options={"episodes": 4, "plan-latency": 0.1, "videos": 0},
    grid={"agent.horizon": (5, 10)},
    time_out_s=600.0,
)
WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1], 'result.json').write_text('{\"mean\": 1.0}')"


@dataclass(frozen=True)
class SweepOptions(Options):
    """Options of this benchmark."""

    seeds: int = 12
    """Seeds of each of the two points: half as many trials of the measured sweep."""
    empty: int = 200
    """Trials that do nothing, and as many tasks of each kind."""
    kills: int = 10
    """Sweeps of which a node and the driver are killed."""


def sweep_words(*args: object) -> list[str]:
    """Return a command of ours."""
    return [sys.executable, "-m", "deploy.cli", "sweep", *map(str, args)]


def trials_per_minute(folder: Path, spec: SweepSpec, cpus: int) -> float:
    """Return how many real trials per minute so many processors finish, from the first start to the last end."""
    path = folder / f"spec-{cpus}.yaml"
    path.write_text(json.dumps(tree_of(spec)))
    out = folder / f"sweep-{cpus}"
    began = time.time()
    subprocess.run(sweep_words(path, "--out", out, "--cpus", cpus), cwd=ROOT, check=True, capture_output=True)
    starts = [json.loads(p.read_text())["began"] for p in out.glob("trials/*/try-*/status.json")]
    ends = [p.stat().st_mtime for p in out.glob("trials/*/try-*/outcome.json")]
    print(f"{len(ends)} trials on {cpus}: {time.time() - began:.0f} s with the start of Ray", file=sys.stderr)
    return 60 * len(ends) / (max(ends) - min(starts))


# --- the cost of a trial


def nothing(_: int) -> None:
    """Do nothing."""


def a_process(_: int) -> None:
    """Start the process that an empty trial is."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-S", "-c", WRITES, folder], check=True)


def empty_command(_spec: SweepSpec, _trial: Trial) -> tuple[str, ...]:
    """Return a command that writes a result and ends."""
    return ("{python}", "-S", "-c", WRITES, "{folder}")


def empty_sweep(folder: Path, trials: int) -> Sweep:
    """Return a sweep of so many trials."""
    return new_sweep(folder, replace(REAL, grid={}, seeds=tuple(range(trials))), [], None)


def timed_ms(work: Callable[[], object], pieces: int) -> float:
    """Return milliseconds per piece."""
    began_s = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began_s) / pieces


def costs(folder: Path, count: int, rounds: int = 5) -> dict[str, list[float]]:
    """Return milliseconds per piece of each kind of work, one value per round, on one processor."""
    share = max(1, count // rounds)
    sweeps = [empty_sweep(folder / f"empty-{n}", share) for n in range(rounds)]
    found: dict[str, list[float]] = {"trial": [], "task": [], "process": []}
    with connected(None, sweeps[0].code, 1):
        import ray

        tasks = {"task": remote(nothing, Resources()), "process": remote(a_process, Resources())}
        ray.get([task.remote(0) for task in tasks.values()])  # the worker is there
        for sweep in sweeps:
            driver = Driver(sweep, nullcontext, lambda _: None, empty_command)
            found["trial"].append(timed_ms(driver.run, share))
            for name, task in tasks.items():
                found[name].append(timed_ms(lambda task=task: ray.get([task.remote(n) for n in range(share)]), share))
        bad = [t.id for sweep in sweeps for t in sweep.journal.trials.values() if t.status != "done"]
    if bad:
        raise RuntimeError(f"empty trials did not end well: {bad[:3]}")
    return found


# --- kills


@dataclass
class Kill:
    """What became of a sweep of which a node and the driver were killed."""

    trials: int
    done_before: int
    ended: int = 0
    more_than_once: int = 0
    """Trials with more than one try that counted."""
    changed: int = 0
    """Records that were final before the driver was killed, and differ afterwards."""
    other_value: int = 0
    """Trials whose metric is not that of the sweep that was left alone."""
    lost: int = 0
    interrupted: int = 0
    failed_resumes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def three_nodes() -> Iterator[Any]:
    """Yield a Ray cluster of three nodes on this machine."""
    from ray.cluster_utils import Cluster

    sizes = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(wait=False, **sizes)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def records(out: Path) -> dict[str, dict[str, Any]]:
    """Return the journal of a sweep."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("trials/*/trial.json"))}


def what(record: dict[str, Any]) -> str:
    """Return the command line of a trial."""
    return " ".join(record["words"])


def killed(folder: Path, spec: Path, alone: dict[str, float], rng: np.random.Generator) -> Kill:
    """Sweep, kill a node and then the driver at random times, resume, and return what is left."""
    out = folder / "sweep"
    with three_nodes() as cluster:
        process = subprocess.Popen(
            sweep_words(spec, "--out", out, "--address", cluster.address),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not any(out.glob("trials/*/try-1/status.json")):
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 5))
        cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0], allow_graceful=False)
        time.sleep(rng.uniform(0, 20))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        final = {
            path: path.read_bytes()
            for path in out.glob("trials/*/trial.json")
            if b'"status": "done"' in path.read_bytes()
        }
        found = Kill(len(records(out)), len(final))
        resumed = subprocess.run(
            sweep_words("resume", out, "--address", cluster.address),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if resumed.returncode:
        found.failed_resumes.append(resumed.stderr[-300:])
    found.changed = sum(path.read_bytes() != before for path, before in final.items())
    for record in records(out).values():
        ends = [one["ended"] for one in record["tries"]]
        found.ended += record["status"] == "done"
        found.more_than_once += ends.count("ok") > 1
        found.other_value += record["metric"] != alone[what(record)]
        found.lost += ends.count("lost")
        found.interrupted += ends.count("interrupted")
    return found


def kills(folder: Path, spec: SweepSpec, count: int, seed: int) -> list[Kill]:
    """Return what became of so many sweeps."""
    path = folder / "kills.yaml"
    path.write_text(json.dumps(tree_of(spec)))
    subprocess.run(sweep_words(path, "--out", folder / "alone"), cwd=ROOT, check=True, capture_output=True)
    alone = {what(record): record["metric"] for record in records(folder / "alone").values()}
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        (folder / f"kill-{number}").mkdir()
        found.append(killed(folder / f"kill-{number}", path, alone, rng))
        print(f"{number + 1} of {count}: {found[-1]}", file=sys.stderr)
    return found


# --- the benchmark


def measure(options: SweepOptions) -> Result:
    """Return throughput, cost and kills."""
    seeds, empty, count = (2, 20, 1) if options.quick else (options.seeds, options.empty, options.kills)
    real = replace(REAL, seeds=tuple(range(options.seed, options.seed + seeds)))
    with tempfile.TemporaryDirectory(prefix="surefoot-") as name:
        folder = Path(name)
        rates = {cpus: trials_per_minute(folder, real, cpus) for cpus in (1, 2)}
        taken = costs(folder, empty)
        ended = kills(folder, replace(real, seeds=real.seeds[:4]), count, options.seed)
    total = sum(kill.trials for kill in ended)
    figures = {
        "trials per minute on one processor": rates[1],
        "trials per minute on two": rates[2],
        "two against one": rates[2] / rates[1],
        "an empty trial, ms": mean_interval(taken["trial"]),
        "a Ray task that starts the same process, ms": mean_interval(taken["process"]),
        "a Ray task that does nothing, ms": mean_interval(taken["task"]),
        "an empty trial more than the process alone, ms": paired_interval(taken["trial"], taken["process"]),
        "trials of killed sweeps": total,
        "that ended, each once": sum(kill.ended - kill.more_than_once for kill in ended),
        "final records that changed afterwards": sum(kill.changed for kill in ended),
        "metrics other than undisturbed": sum(kill.other_value for kill in ended),
        "resumes that failed": sum(len(kill.failed_resumes) for kill in ended),
    }
    columns = ("kill", "trials", "done before", "tries lost with the node", "tries cut off with the driver", "ended")
    rows = [(n + 1, k.trials, k.done_before, k.lost, k.interrupted, k.ended) for n, k in enumerate(ended)]
    claim = "Two processors finish more trials than one; a node and the driver killed cost a sweep no trial, and change no result."
    notes = (
        "Real trials import torch, which is most of their time; empty ones are a Python process without site packages.",
    )
    table = Table("A node killed, then the driver, then resumed", columns, tuple(rows))
    return Result("sweeps", claim, figures, (table,), (options.seed,), total, notes)


main = command(SweepOptions, __doc__, measure)

if __name__ == "__main__":
    sys.exit(main())
