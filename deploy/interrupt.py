"""Ctrl-C at any time, but never in the middle of a line of a file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """While open, the given signals raise KeyboardInterrupt, put off to the end of any `shield()`."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers or (signal.SIGINT, signal.SIGTERM)
        self._depth = 0
        self._pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in self._numbers:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._depth:
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Put an interrupt off until the block is done."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._pending and not self._depth:
                self._pending = False
                raise KeyboardInterrupt


@contextmanager
def ignored_by_children() -> Iterator[None]:
    """A process started in this block ignores SIGINT: its parent tells it when to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
