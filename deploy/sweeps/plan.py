"""A sweep's folder: what was asked for, the code, and the journal of its trials.

FOLDER/sweep.json       spec, commit, storage, where relative paths begin; written last, when the trials are known
FOLDER/code/            the code that every trial runs
FOLDER/trials/ID/       trial.json, and (unless the storage is elsewhere) try-1/, try-2/, ... with their files
FOLDER/results.json, FOLDER/report.html
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.sweeps import verbs
from deploy.sweeps.journal import Journal, Trial, identity, plain
from deploy.sweeps.snapshot import code_commit, take
from deploy.sweeps.space import Point, points, words
from deploy.sweeps.spec import SweepSpec, spec_of, tree_of
from deploy.sweeps.store import Store
from deploy.sweeps.trial import MARK
from deploy.telemetry import write_json


@dataclass(frozen=True)
class Sweep:
    """A sweep that can be run: new, or as it was left."""

    folder: Path
    spec: SweepSpec
    commit: str
    storage: str
    cwd: str
    journal: Journal

    @property
    def store(self) -> Store:
        """Where the files of trials go."""
        return Store(self.storage)

    @property
    def code(self) -> Path:
        """The code that trials run."""
        return self.folder / "code"


def trial_words(spec: SweepSpec, point: Point, seed: int, more: list[str]) -> list[str]:
    """Return the command line of a trial, without where things go."""
    seeded = [] if spec.seeds == (0,) and spec.verb == "collect" else ["--seed", str(seed)]
    return [spec.preset, *words(dict(spec.options)), *more, *words(point), *seeded]


def trials_of(spec: SweepSpec, more: list[str], commit: str) -> list[Trial]:
    """Return the trials of a spec, each once: points that come to the same settings are one.

    Raises ValueError, in one line, for what the command refuses.
    """
    verbs.check(spec)
    resolved = verbs.VERBS[spec.verb].resolved
    found: dict[str, Trial] = {}
    for point in points(spec):
        for seed in spec.seeds:
            said = trial_words(spec, point, seed, more)
            try:
                config = plain({"verb": spec.verb, **resolved(said)})
            except (ValueError, KeyError) as error:
                raise ValueError(f"surefoot {spec.verb} {' '.join(said)}: {error.args[0]}") from None
            name = identity(config, commit)
            at = {option: list(value) if isinstance(value, tuple) else value for option, value in point.items()}
            found.setdefault(name, Trial(name, len(found), at, seed, said, config, commit))
    return list(found.values())


def new_sweep(folder: Path, spec: SweepSpec, more: list[str], storage: str | None) -> Sweep:
    """Lay out a sweep in `folder`. Raises ValueError, in one line, where one is already or the spec cannot be."""
    if (folder / "sweep.json").exists():
        raise ValueError(
            f"{folder} holds a sweep: surefoot sweep resume {folder} goes on with it; or name another --out"
        )
    commit = code_commit()
    trials = trials_of(spec, more, commit)
    store = Store(storage or str((folder / "trials").absolute()))
    try:
        store.write(MARK, {"commit": commit})
    except OSError as error:
        raise ValueError(f"storage {store.where} cannot be written to: {error}") from None
    take(folder / "code")
    journal = Journal(folder / "trials", spec.retries)
    for trial in trials:
        journal.add(trial)
    about = {"spec": tree_of(spec), "more": more, "commit": commit, "storage": store.where, "cwd": os.getcwd()}
    write_json(folder / "sweep.json", about)
    return Sweep(folder, spec, commit, store.where, os.getcwd(), journal)


def open_sweep(folder: Path) -> Sweep:
    """Return a sweep as it was left. Raises ValueError, in one line, where there is none."""
    path = folder / "sweep.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text())
        spec = spec_of(about["spec"], str(path))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no sweep ({error}): begin one with surefoot sweep SPEC --out {folder}"
        ) from None
    journal = Journal(folder / "trials", spec.retries)
    journal.load()
    return Sweep(folder, spec, about["commit"], about["storage"], about["cwd"], journal)
