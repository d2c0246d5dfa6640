"""A bounded hand-over of fixed-size messages from one process to another, whose sender never waits unless it asks to.

There is no lock: if one of the two is killed, the other is not left waiting for it. The memory has no name and vanishes
with the two processes, however these end; the two semaphores are cleared away by multiprocessing's own tracker.
"""

from __future__ import annotations

import multiprocessing

import numpy as np

RESERVE = 2
"""Slots that only messages marked urgent may take."""


class Ring:
    """Slots for messages of a numpy record type; made by the sender, handed to the receiver as it is started."""

    def __init__(self, kind: np.dtype, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        context = multiprocessing.get_context("spawn")
        self.kind, self._size = kind, capacity + RESERVE
        self._memory = context.RawArray("b", self._size * kind.itemsize)
        self._free, self._filled = context.Semaphore(self._size), context.Semaphore(0)
        self._at = 0

    @property
    def room(self) -> int:
        """How many messages fit now, the reserve included."""
        return self._free.get_value()

    def put(self, message: np.ndarray, leave: int = RESERVE, wait_s: float = 0.0) -> bool:
        """Hand over a copy of `message`; return False where it would leave fewer than `leave` slots after `wait_s`."""
        if self.room <= leave and not (wait_s and self._wait(leave, wait_s)):
            return False
        self._free.acquire()
        self._slots()[self._at] = message
        self._at = (self._at + 1) % self._size
        self._filled.release()
        return True

    def _wait(self, leave: int, wait_s: float) -> bool:
        """Wait until more than `leave` slots are free, which takes as many permits at once."""
        taken = 0
        while taken <= leave and self._free.acquire(timeout=wait_s):
            taken += 1
        for _ in range(taken):
            self._free.release()
        return taken > leave

    def take(self, timeout_s: float) -> np.void | None:
        """Return the oldest message, or None where none comes in time."""
        if not self._filled.acquire(timeout=timeout_s):
            return None
        message = self._slots()[self._at].copy()
        self._at = (self._at + 1) % self._size
        self._free.release()
        return message

    def _slots(self) -> np.ndarray:
        return np.frombuffer(self._memory, self.kind)
