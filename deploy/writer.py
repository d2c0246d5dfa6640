"""The recorder's other process: messages of the control loop become frames of a data set."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.shards import Form, Shards, alone

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from deploy.ring import Ring

HELD_S = -1.0
"""Age in the column `plan_age_s` where no plan was followed."""
TASK_BYTES = 512
NICE = 10

Frame = dict[str, Any]


class Kind(IntEnum):
    """What a message says."""

    BEGIN, STEP, END = range(3)


def message_type(form: Form) -> np.dtype:
    """Return the record that travels from the loop to the writer."""
    states, actions = (len(form.layout.state_names),), (len(form.layout.action_names),)
    fields: list[Any] = [("kind", "u1"), ("t_s", "f8"), ("age_s", "f8"), ("reward", "f8"), ("seed", "i8")]
    fields += [(name, "?") for name in ("operator", "keep", "terminated", "final", "behind")]
    fields += [("state", "f8", states), ("requested", "f8", actions), ("sent", "f8", actions)]
    fields += [("flags", "?", (len(form.flags),)), ("task", f"S{TASK_BYTES}")]
    for name, size in form.cameras.items():
        fields += [(f"new {name}", "?"), (f"image {name}", "u1", (*size, 3))]
    return np.dtype(fields)


class Rows:
    """Turns one message after another into frames: a step becomes one when the next state is known."""

    def __init__(self, shards: Shards, form: Form) -> None:
        self._shards, self._form = shards, form
        self._seed, self._count = -1, 0
        self._step: np.void | None = None  # its outcome is not known yet
        self._frame: Frame | None = None  # whether it is the last is not known yet
        self._cut: str | None = None
        self._shown = {name: np.zeros((*size, 3), np.uint8) for name, size in form.cameras.items()}

    def begin(self, message: np.void) -> None:
        """Begin an episode."""
        self._shards.begin()
        self._seed, self._count, self._step, self._frame, self._cut = int(message["seed"]), 0, None, None, None

    def step(self, message: np.void) -> None:
        """Take in one control step."""
        readings = *message["state"], *message["sent"], message["reward"], message["t_s"]
        if self._cut is None and not np.isfinite(readings).all():
            self._cut = f"a reading that was not finite at step {self._count + (self._step is not None)}"
        if self._cut is None:
            self._follow(message["state"])
            self._step = message

    def end(self, message: np.void) -> dict[str, Any]:
        """Save the episode, or drop it; return what there is to say about it."""
        if message["behind"]:
            self._cut = self._cut or "the next one did not reach the writer"
        final = bool(message["final"]) and np.isfinite(message["state"]).all() and self._cut is None
        if final:
            self._follow(message["state"])
        if not message["keep"] or self._frame is None:
            self._shards.drop()
            return {"lost": 1, "reason": self._cut or "no step had an outcome"} if message["keep"] else {}
        terminated = final and bool(message["terminated"])
        self._frame["next.done"] = np.array([True])
        self._frame["next.terminated" if terminated else "next.truncated"] = np.array([True])
        self._shards.add(self._frame)
        self._shards.keep()
        cut = {"cut": 1, "reason": f"an episode ends after {self._count} steps: {self._cut}"} if self._cut else {}
        return {"saved": 1, **cut}

    def _follow(self, after_O: np.ndarray) -> None:
        """The step before has led to `after_O`."""
        if self._step is None:
            return
        if self._frame is not None:
            self._shards.add(self._frame)
        self._frame, self._count = self._as_frame(self._step, after_O), self._count + 1
        self._step = None

    def _as_frame(self, step: np.void, after_O: np.ndarray) -> Frame:
        requested_A = step["requested"] if np.isfinite(step["requested"]).all() else step["sent"]
        age_s = step["age_s"] if math.isfinite(step["age_s"]) else HELD_S
        for name in self._shown:
            if step[f"new {name}"]:
                self._shown[name] = step[f"image {name}"].copy()
        return {
            "observation.state": step["state"].copy(),  # a view would keep the whole message, pictures included
            "next.state": after_O.copy(),
            "action": step["sent"].copy(),
            "action_requested": requested_A.copy(),
            "limiter": step["flags"].copy(),
            "plan_age_s": np.array([age_s], np.float32),
            "measured_time_s": np.array([step["t_s"]], np.float64),
            "intervention": np.array([step["operator"]], np.bool_),
            "episode_seed": np.array([self._seed], np.int64),
            "next.reward": np.array([step["reward"]], np.float32),
            **{f"next.{name}": np.array([False]) for name in ("done", "terminated", "truncated")},
            **{f"observation.images.{name}": image for name, image in self._shown.items()},
            "task": bytes(step["task"]).decode(errors="ignore") or self._form.layout.robot,
        }


def write(root: Path, form: Form, notes: Mapping[str, str], ring: Ring, says: Connection, failed: Any) -> None:
    """Save what comes through the ring until it is empty and nobody will fill it: after a SIGTERM, or the loop's end."""
    stop = _settle()

    def say(**words: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the loop may be gone; its episodes are saved all the same
            says.send_bytes(json.dumps(words).encode())

    shards: Shards | None = None
    try:
        with alone(root):
            shards = Shards(root, form, notes)
            say()  # it is ready
            rows = Rows(shards, form)
            for message in _messages(ring, stop):
                if message["kind"] == Kind.BEGIN:
                    rows.begin(message)
                elif message["kind"] == Kind.STEP:
                    rows.step(message)
                else:
                    say(done=1, **rows.end(message))
            shards.drop()
    except (OSError, RuntimeError, ValueError) as error:
        failed.value = 1
        say(ended=" ".join(str(error).split()) or type(error).__name__, lost=int(shards is not None))
        if shards is not None:
            shards.drop()


def _settle() -> threading.Event:
    """Let this process outlive signals to the loop's group, and stay out of its way; return what a SIGTERM sets."""
    import datasets
    import torch
    from lerobot.datasets import dataset_writer  # noqa: F401  loaded before the first step comes

    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    os.setsid()
    os.nice(NICE)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    return stop


def _messages(ring: Ring, stop: threading.Event) -> Iterator[np.void]:
    """Yield messages until the ring is empty with nobody left to fill it."""
    loop = multiprocessing.parent_process()
    while True:
        message = ring.take(0.2)
        if message is not None:
            yield message
        elif stop.is_set() or loop is None or not loop.is_alive():
            return
