"""The truth about a sweep, on disk: one JSON per trial, replaced in one piece, written by one process at a time.

A trial's id is made of what it is (resolved settings and commit). Each try has a number, which is on disk before the try
is handed out: what a try of another number says later, or says of a trial that has ended, changes nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from envs.episodes import write_atomically

Status = Literal["waiting", "running", "done", "failed", "stopped"]
OVER: tuple[Status, ...] = ("done", "failed", "stopped")
LOST = ("lost", "interrupted")
"""Ends of a try that are no fault of the trial."""
MOST_LOST = 10
"""So many tries of one trial may be lost with their nodes: perhaps it is what ends them."""


@dataclass
class Try:
    """One attempt at a trial."""

    number: int
    began: str
    """Wall time, ISO 8601, when it was handed out."""
    ended: str = ""
    """ok, failed, time-out, memory, stopped, lost (with its node) or interrupted (with the sweep); empty: it has not."""
    reason: str = ""
    node: str = ""
    seconds: float = 0.0


@dataclass
class Trial:
    """One trial: what it is, and what became of it."""

    id: str
    number: int
    point: dict[str, Any]
    """The searched options, by name."""
    seed: int
    words: list[str]
    """Its command line, up to where things go."""
    config: dict[str, Any]
    """What that comes to."""
    commit: str
    status: Status = "waiting"
    metric: float | None = None
    reports: list[list[float]] = field(default_factory=list)
    """(steps or episodes, value) on the way, where the sweep may stop trials."""
    seconds: float = 0.0
    node: str = ""
    artefacts: str = ""
    """Where the files of the try are that counted."""
    tries: list[Try] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.status in OVER


@dataclass(frozen=True)
class Outcome:
    """What a try came to, as the node that ran it says."""

    ended: str
    reason: str = ""
    metric: float | None = None
    reports: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    node: str = ""


def plain(value: Any) -> Any:
    """Return settings as JSON can say them, two that differ never alike: non-finite numbers, paths and such as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    fits = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if fits else str(value)


def identity(config: Mapping[str, Any], commit: str) -> str:
    """Return the id of what a trial is: twelve hexadecimal digits, the same wherever it is asked for."""
    text = json.dumps({"config": config, "commit": commit}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Journal:
    """The trials of a sweep, by id, in the order of their numbers; `folder` holds a folder for each."""

    def __init__(self, folder: Path, retries: int) -> None:
        self._folder, self._retries = folder, retries
        self.trials: dict[str, Trial] = {}

    def path(self, trial: str) -> Path:
        """Where the record of a trial is."""
        return self._folder / trial / "trial.json"

    def add(self, trial: Trial) -> None:
        """Write down a trial that is to be run."""
        self.trials[trial.id] = trial
        self._write(trial)

    def load(self) -> None:
        """Read what is on disk. Raises ValueError for a record that is none."""
        read = [_read(path) for path in self._folder.glob("*/trial.json")]
        self.trials = {trial.id: trial for trial in sorted(read, key=lambda trial: trial.number)}

    def start(self, trial: Trial) -> int:
        """Write down that a try is handed out; return its number. Raises ValueError for a trial that is not waiting."""
        if trial.status != "waiting":
            raise ValueError(f"trial {trial.id} is {trial.status}, not waiting")
        number = len(trial.tries) + 1
        trial.tries.append(Try(number, time.strftime("%Y-%m-%dT%H:%M:%S%z")))
        trial.status = "running"
        self._write(trial)
        return number

    def end(self, trial: Trial, number: int, outcome: Outcome, artefacts: str) -> bool:
        """Write down what a try came to; return False, and change nothing, unless it is the trial's running one."""
        if trial.status != "running" or trial.tries[-1].number != number:
            return False
        last = trial.tries[-1]
        last.ended, last.reason, last.node, last.seconds = outcome.ended, outcome.reason, outcome.node, outcome.seconds
        trial.status = self._next(trial)
        trial.reports = outcome.reports
        if trial.over:
            trial.metric, trial.seconds, trial.node = outcome.metric, outcome.seconds, outcome.node
            trial.artefacts = artefacts
        self._write(trial)
        return True

    def _next(self, trial: Trial) -> Status:
        ended = trial.tries[-1].ended
        if ended in ("ok", "stopped"):
            return "done" if ended == "ok" else "stopped"
        lost = sum(t.ended == "lost" for t in trial.tries)
        failed = sum(t.ended not in LOST for t in trial.tries)
        return "waiting" if failed <= self._retries and lost < MOST_LOST else "failed"

    def _write(self, trial: Trial) -> None:
        text = json.dumps(asdict(trial), indent=1, allow_nan=False) + "\n"
        write_atomically(self.path(trial.id), text.encode())


def _read(path: Path) -> Trial:
    try:
        tree = json.loads(path.read_text())
        return Trial(**tree | {"tries": [Try(**one) for one in tree["tries"]]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a trial: {error}") from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process that sweeps into `folder`. Raises ValueError where another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{folder} is being swept by another process") from None
        yield
