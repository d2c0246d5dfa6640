"""Recording that a control loop cannot feel: every step is handed to a writer in a process of its own, without waiting.

The data set is a LeRobotDataset v3 that grows by whole episodes (`deploy/shards.py`). A row is a step whose outcome is
known: the state, what was asked for and sent in it, and the next state. If the writer falls behind, the episode is kept
up to there; if it fails (disk full), recording ends; either is counted and said, and control goes on. The writer outlives
a killed loop: it saves the episodes that had ended.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploy.interrupt import ignored_by_children
from deploy.ring import RESERVE, Ring
from deploy.shards import Form, check_folder
from deploy.writer import TASK_BYTES, Kind, message_type, write

if TYPE_CHECKING:
    from envs.types import Observation

Start = Literal["forkserver", "spawn", "fork"]
REASONS = 5
LOADED = "lerobot.datasets.dataset_writer"
"""What takes the writer seconds to load: once for all writers of a process. Were the name stale, each would load it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One control step as the loop knows it; its arrays are copied when it is recorded."""

    observation: Observation
    """What was seen before the action, with its measured time; an image goes to the only camera."""
    requested_A: np.ndarray
    sent_A: np.ndarray
    altered_by: tuple[str, ...] = ()
    plan_age_s: float = math.inf
    """Age of the observation behind the action; not finite where no plan was followed."""
    reward: float = 0.0
    by: Literal["planner", "operator"] = "planner"
    task: str = ""
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Camera -> (height, width, 3) uint8; one without a new picture is left out and shows its last."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """How recording goes. An episode is safe, whatever is killed, once it is among `saved`."""

    saved: int = 0
    cut: int = 0
    """Episodes among them that end early: the writer fell behind, or a reading was not finite."""
    lost: int = 0
    """Episodes that were to be kept and could not be."""
    dropped: int = 0
    """Steps that were not recorded."""
    reasons: tuple[str, ...] = ()
    """Why, the last few."""
    ended: str | None = None
    """Why nothing is recorded any more."""


class Recorder:
    """Records into the folder `root`, which may hold a data set of the same form already; used by one thread.

    `notes` (name -> text) become files in the meta folder of a new data set. `capacity` steps may wait for the writer. A
    `patient` recorder waits for the writer instead of cutting an episode: for lockstep, where waiting delays nothing.
    Construction takes the seconds that the writer needs to be ready, a moment for the next one of the same process.
    Raises ValueError for a folder with something else.
    """

    def __init__(
        self,
        root: Path,
        form: Form,
        notes: Mapping[str, str] | None = None,
        capacity: int = 512,
        patient: bool = False,
        start: Start = "forkserver",
    ) -> None:
        check_folder(root, form)
        self.root, self.form, self._patient = root, form, patient
        kind = message_type(form)
        self._ring, self._box = Ring(kind, capacity), np.zeros((), kind)
        self._status, self._ends, self._done = Recorded(), 0, 0
        self._open = self._behind = self._closing = False
        context: Any = multiprocessing.get_context(start)
        multiprocessing.set_forkserver_preload([LOADED])
        self._failed = context.RawValue("b", 0)
        self._hears, says = context.Pipe(duplex=False)
        work = (root, form, dict(notes or {}), self._ring, says, self._failed)
        self._writer = context.Process(target=write, args=work, daemon=True, name="surefoot recorder")
        with ignored_by_children():
            self._writer.start()
        says.close()
        self._hears.poll(None)
        if ended := self.status.ended:
            raise ValueError(ended)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def status(self) -> Recorded:
        """How recording goes, as far as the writer has said."""
        self._listen()
        return self._status

    @property
    def writer_pid(self) -> int:
        """The process that writes."""
        assert self._writer.pid is not None
        return self._writer.pid

    def begin(self, seed: int = -1) -> bool:
        """Begin an episode whose start was drawn from `seed`; return whether it is recorded. Drops one still open."""
        if self._open:
            self.end(keep=False)
        self._open = self.status.ended is None and self._put(RESERVE - 1, kind=Kind.BEGIN, seed=seed)
        self._behind = False
        if not self._open:
            self._note(lost=1, reason=self._status.ended or "an episode was not begun: the writer has fallen behind")
        return self._open

    def record(self, step: Step) -> bool:
        """Record one step; return whether it was taken. Takes microseconds, whatever the writer does, and never raises."""
        if self._open and not self._behind:
            try:
                self._fill(step)
                self._behind = not self._put(RESERVE, kind=Kind.STEP)
                reason = "the writer has fallen behind"
            except (ValueError, TypeError) as error:
                self._behind, reason = True, f"a step does not fit: {error}"
            if self._behind:
                self._note(reason=reason)
        taken = self._open and not self._behind
        if not taken:
            self._note(dropped=1)
        return taken

    def end(self, keep: bool = True, final_O: np.ndarray | None = None, terminated: bool = False) -> bool:
        """End the episode, to be saved or, if not `keep`, dropped; return whether all of it was handed over.

        `final_O` is the state after the last step; without it the last step has no outcome and is left out.
        """
        if not self._open:
            return False
        final = final_O is not None and not self._behind and final_O.shape == self._box["state"].shape
        if final:
            self._box["state"] = final_O
        self._open = False
        put = self._put(0, kind=Kind.END, keep=keep, terminated=terminated, final=final, behind=self._behind)
        self._ends += put
        return put and not self._behind

    def wait(self, timeout_s: float = 60.0) -> Recorded:
        """Wait until every episode that has ended is saved, dropped or lost; return how recording goes."""
        until_s = time.monotonic() + timeout_s
        while self._ends > self._done and not self.status.ended and time.monotonic() < until_s:
            self._hears.poll(0.1)
        return self.status

    def close(self, timeout_s: float = 60.0) -> Recorded:
        """Drop an episode still open, let the writer finish, and return how it went."""
        if self._open:
            self.end(keep=False)
        self._listen()
        self._closing = True  # from here on, that the writer is gone is no news
        if self._writer.is_alive():
            self._writer.terminate()  # which it takes as: save what has been handed over, then go
        self._writer.join(timeout_s)
        if self._writer.is_alive():
            self._writer.kill()
            self._note(ended=f"the writer did not finish within {timeout_s:g} s and was killed")
        return self.status

    def _fill(self, step: Step) -> None:
        box, seen = self._box, step.observation
        box["t_s"], box["age_s"], box["reward"] = seen.t_s, step.plan_age_s, step.reward
        box["state"], box["requested"], box["sent"] = seen.state_O, step.requested_A, step.sent_A
        box["operator"], box["task"] = step.by == "operator", step.task.encode()[:TASK_BYTES]
        box["flags"] = False
        for name in step.altered_by:
            box["flags"][self.form.flags.index(name if name in self.form.flags else "other")] = True
        only = list(self.form.cameras)[:1]
        images = step.images or ({only[0]: seen.image} if only and seen.image is not None else {})
        for name in self.form.cameras:
            box[f"new {name}"] = name in images
            if name in images:
                box[f"image {name}"] = images[name]

    def _put(self, leave: int, **values: Any) -> bool:
        """Fill the message in and hand it over; False where there is no room, or nobody to read it."""
        for name, value in values.items():
            self._box[name] = value
        while not self._failed.value:
            if self._ring.put(self._box, leave, wait_s=0.2 if self._patient else 0.0):
                return True
            if not self._patient or self.status.ended:
                return False
        return False

    def _listen(self) -> None:
        try:
            while self._hears.poll():
                words = json.loads(self._hears.recv_bytes())
                self._done += words.pop("done", 0)
                self._note(**words)
        except EOFError:
            if not self._closing and not self._status.ended:
                self._writer.join(1.0)
                self._failed.value = 1
                self._note(ended=f"the writer's process ended with code {self._writer.exitcode}")

    def _note(self, reason: str | None = None, ended: str | None = None, **counts: int) -> None:
        now = self._status
        more = {name: getattr(now, name) + count for name, count in counts.items()}
        if reason and reason not in now.reasons:
            more["reasons"] = (*now.reasons, reason)[-REASONS:]
        self._status = replace(now, ended=now.ended or ended, **more)
