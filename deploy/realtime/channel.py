"""Two ways for one process to tell another something without ever waiting for it: the newest value, and a stream that may overrun.

Both live in anonymous shared memory, which leaves nothing behind whoever is killed. Every value carries its number and a checksum, so
that a torn one is never believed.
"""

from __future__ import annotations

import zlib
from multiprocessing import get_context
from typing import Any

import numpy as np

_HEAD = np.dtype([("number", "<u8"), ("size", "<u8"), ("crc", "<u8")])


def shared_bytes(size: int) -> Any:
    """Return zeroed memory that a spawned process can be given; as a ctypes array."""
    return get_context("spawn").RawArray("B", size)


class Latest:
    """One value of at most `capacity` bytes: written by one process, read by any; the newest wins."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._stride = capacity, _HEAD.itemsize + capacity
        self._memory = shared_bytes(8 + 2 * self._stride)

    def write(self, value: bytes) -> None:
        """Publish `value`. Raises ValueError for one that is too long."""
        if len(value) > self._capacity:
            raise ValueError(f"a value has at most {self._capacity} bytes, got {len(value)}")
        newest = np.frombuffer(self._memory, "<u8", 1)
        number = int(newest[0]) + 1
        head, body = self._buffer(number)
        head["number"] = 0  # whoever reads it now knows that it changes
        body[: len(value)] = np.frombuffer(value, np.uint8)
        head["size"], head["crc"] = len(value), zlib.crc32(value)
        head["number"] = number
        newest[0] = number

    def read(self, after: int = 0) -> tuple[int, bytes] | None:
        """Return the number and the value of the newest, None where there is none newer than number `after`."""
        for _ in range(3):  # a writer that laps the reader twice in a row is another's problem
            number = int(np.frombuffer(self._memory, "<u8", 1)[0])
            if number <= after:
                return None
            head, body = self._buffer(number)
            value = body[: min(int(head["size"]), self._capacity)].tobytes()
            if int(head["number"]) == number and int(head["crc"]) == zlib.crc32(value):
                return number, value
        return None

    def _buffer(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        start = 8 + (number % 2) * self._stride
        head = np.frombuffer(self._memory, _HEAD, 1, start)[0:1].reshape(())
        return head, np.frombuffer(self._memory, np.uint8, self._capacity, start + _HEAD.itemsize)


class Stream:
    """Records of one numpy dtype: written by one process, read by one; who reads too slowly loses the oldest and knows it."""

    def __init__(self, dtype: np.dtype, length: int) -> None:
        self.dtype, self._length = dtype, length
        self._slot = np.dtype([("number", "<u8"), ("crc", "<u8"), ("record", dtype)])
        self._memory = shared_bytes(8 + length * self._slot.itemsize)
        self.read_so_far, self.lost = 0, 0

    def write(self, record: np.ndarray) -> None:
        """Append one record, shape ()."""
        head, slots = self._arrays()
        number = int(head[0]) + 1
        slot = slots[number % self._length : number % self._length + 1]
        slot["number"] = 0
        slot["record"] = record
        slot["crc"] = zlib.crc32(slot["record"].tobytes())
        slot["number"] = number
        head[0] = number

    def read(self) -> list[np.ndarray]:
        """Return the records that this reader has not had yet, in order."""
        head, slots = self._arrays()
        newest, found = int(head[0]), []
        while self.read_so_far < newest:
            number = max(self.read_so_far + 1, newest - self._length + 2)  # one is left to the writer
            self.lost += number - self.read_so_far - 1
            slot = slots[number % self._length : number % self._length + 1].copy()
            self.read_so_far = number
            if int(slot["number"][0]) == number and int(slot["crc"][0]) == zlib.crc32(slot["record"].tobytes()):
                found.append(slot["record"][0])
            else:
                self.lost += 1
        return found

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.frombuffer(self._memory, "<u8", 1), np.frombuffer(self._memory, self._slot, self._length, 8)
