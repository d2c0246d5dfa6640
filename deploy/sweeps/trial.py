"""One try of a trial, on the node that runs it: a process in a folder of its own, watched, and judged by what it wrote."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy.sweeps import guardian
from deploy.sweeps.journal import Outcome
from deploy.sweeps.spec import SweepSpec
from deploy.sweeps.store import Store
from deploy.sweeps.verbs import VERBS, Reports, number_in, result_of

MARK = "sweep.mark"
"""A file in the store: who does not see it does not see the store."""
CODE = Path(__file__).resolve().parents[2]
"""Where this code is: on a node, where Ray has unpacked it."""
LOOK_S = 0.1
TELL_S = 1.0
TAIL = 2000
"""Characters at the end of what a failed command said."""


@dataclass(frozen=True)
class Order:
    """What a node is asked to do."""

    spec: SweepSpec
    command: tuple[str, ...]
    """Words of the whole command; {python} and {folder} in them are the node's Python and the folder of the try."""
    store: str
    place: str
    """Folder of the try, in the store."""
    after: str | None = None
    """Folder of the try that this one goes on from."""
    cwd: str = "."
    """Where relative paths begin, on nodes that have it."""
    commit: str = ""


def carry_out(order: Order, node: str = "") -> Outcome:
    """Run one try and return what it came to; its files are in the store then, and so is the outcome, written last.

    Raises ValueError where the node cannot reach the store, OSError where writing there fails.
    """
    store = Store(order.store)
    node = node or socket.gethostname()
    if not store.has(MARK):
        raise ValueError(
            f"node {node} does not see {order.store}: give --storage a folder or a URL that all nodes reach"
        )
    with _workspace(store, order) as folder:
        _say(store, order, {"node": node, "began": time.time(), "reports": []})
        outcome = _attempt(order, store, folder, node)
        if store.folder is None:
            store.upload(folder, order.place)
    store.write(f"{order.place}/outcome.json", asdict(outcome))
    return outcome


@contextmanager
def _workspace(store: Store, order: Order) -> Iterator[Path]:
    """Yield the folder to work in: that in the store, or one of this machine, with what the try before it has left."""
    if store.folder is not None:
        folder = store.folder / order.place
        if order.after is not None:
            part = folder.with_name(f".{folder.name}.part")
            shutil.copytree(store.folder / order.after, part, ignore=_left_out, dirs_exist_ok=True)
            part.rename(folder)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="surefoot-trial-") as name:
        if order.after is not None:
            store.download(order.after, Path(name))
            (Path(name) / "outcome.json").unlink(missing_ok=True)
        yield Path(name)


def _left_out(_folder: str, names: list[str]) -> set[str]:
    return {*names} & {"outcome.json", "status.json", "stop", "log.txt"}


def _say(store: Store, order: Order, status: dict[str, Any]) -> None:
    store.write(f"{order.place}/status.json", status)


def _attempt(order: Order, store: Store, folder: Path, node: str) -> Outcome:
    began_s = time.monotonic()
    with (folder / "log.txt").open("ab") as log, _running(order, folder, log.fileno()) as process:
        ended, reason, reports = _watched(order, store, folder, node, process, began_s)
    seconds = time.monotonic() - began_s
    metric = None
    if not ended:
        code = process.returncode
        ended, reason = ("ok", "") if code == 0 else ("failed", f"{_code(code)}: {_tail(folder / 'log.txt')}")
    if ended == "ok":
        try:
            metric = _metric(order.spec, folder)
        except ValueError as error:
            ended, reason = "failed", str(error)
    return Outcome(ended, reason, metric, [[float(a), b] for a, b in reports], round(seconds, 3), node)


@contextmanager
def _running(order: Order, folder: Path, log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command under its guardian; at the end of the block nothing of it is left."""
    words = [w.replace("{python}", sys.executable).replace("{folder}", str(folder)) for w in order.command]
    guarded = [sys.executable, "-ISs", guardian.__file__, *words]
    threads = str(max(1, int(order.spec.resources.num_cpus)))
    said = {"PYTHONPATH": str(CODE), "OMP_NUM_THREADS": threads, "SUREFOOT_COMMIT": order.commit}
    cwd = order.cwd if Path(order.cwd).is_dir() else CODE
    process = subprocess.Popen(
        guarded,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=cwd,
        env={**os.environ, **said},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(guardian.GRACE_S + 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _watched(
    order: Order, store: Store, folder: Path, node: str, process: subprocess.Popen[bytes], began_s: float
) -> tuple[str, str, Reports]:
    """Wait until the command ends or has to; return how ("" where by itself), why, and what it has reported."""
    spec, reports, told_s = order.spec, [], -math.inf
    limit_s, began = spec.time_out_s or math.inf, time.time()
    often_s = TELL_S if store.folder is not None else 5 * TELL_S  # a request is not free
    while True:
        try:
            process.wait(LOOK_S)
            return "", "", _reports(spec, folder, reports)
        except subprocess.TimeoutExpired:
            pass
        now_s = time.monotonic()
        if now_s - began_s > limit_s:
            return "time-out", f"took longer than {limit_s:g} s", reports
        if now_s - told_s < often_s:
            continue
        told_s = now_s
        if (said := _too_large(spec.resources.memory_gb, process.pid)) is not None:
            return "memory", said, reports
        if spec.asha is not None:
            new = _reports(spec, folder, reports)
            if new != reports:
                reports = new
                _say(store, order, {"node": node, "began": began, "reports": reports})
            if store.has(f"{order.place}/stop"):
                return "stopped", f"not among the best at {reports[-1][0] if reports else 0}", reports


def _reports(spec: SweepSpec, folder: Path, before: Reports) -> Reports:
    told_by = VERBS[spec.verb].told_by
    if spec.asha is None or told_by is None:
        return before
    try:
        return told_by(spec, folder)
    except (OSError, ValueError, KeyError):  # a file that is being replaced
        return before


def _too_large(limit_gb: float | None, pid: int) -> str | None:
    """Return what to say of a command that takes more memory than it may; None where it does not."""
    if limit_gb is None:
        return None
    used = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += child.memory_info().rss
    return f"took {used / 1e9:.2f} GB of {limit_gb:g} GB" if used > limit_gb * 1e9 else None


def _code(code: int) -> str:
    if code == 128 + 9:
        return "killed (SIGKILL; by the system, for want of memory?)"
    return f"killed by signal {code - 128}" if code > 128 and code != 130 else f"exit code {code}"


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace")[-TAIL:].strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _metric(spec: SweepSpec, folder: Path) -> float:
    """Return the number that the trial is judged by. Raises ValueError, in one line, where there is none."""
    pattern, name = result_of(spec)
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"it wrote no {pattern}")
    try:
        value = number_in(json.loads(found[0].read_text()), name)
    except json.JSONDecodeError as error:
        raise ValueError(f"{pattern} is not JSON: {error}") from None
    if not math.isfinite(value):
        raise ValueError(f"metric {name!r} is {value}")
    return value
