"""The keyboard of a plain terminal, as over SSH: a thread reads keys, and signals of the terminal become orders."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from deploy.operators.keys import ESCAPE, Console, split
from deploy.operators.tty import Keys

if TYPE_CHECKING:
    from deploy.operators.helm import Helm

GRACE_S = 0.1
"""Before Ctrl-Z stops the process, so long for the loop to hold the robot."""
ESCAPE_S = 0.1
"""A key that sends several bytes has sent them all within this; an Escape that is alone is none."""


def terminal() -> int | None:
    """Return the descriptor of the terminal that standard input is; None where it is none."""
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):
        return None
    return fd if os.isatty(fd) else None


class Keyboard:
    """Reads keys between `with` and its end, which belong to the main thread; a Console does what they mean."""

    def __init__(self, console: Console, helm: Helm, fd: int) -> None:
        self._console, self._helm, self._fd, self._keys = console, helm, fd, Keys(fd)
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="keyboard", daemon=True)
        self._handlers: dict[int, Any] = {}
        self._ready_to_stop, self._resumed, self._closing = False, threading.Event(), False

    def __enter__(self) -> Keyboard:
        for number, handler in ((signal.SIGTSTP, self._on_suspend), (signal.SIGHUP, self._on_hang_up)):
            self._handlers[number] = signal.signal(number, handler)
        self._keys.open()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        os.write(self._wake_w, b"x")
        self._thread.join()
        self._keys.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for fd in (self._wake_r, self._wake_w):
            os.close(fd)

    def _serve(self) -> None:
        """Read keys; where that ends unasked, nobody could stop the robot any more, and it is held."""
        try:
            self._read_keys()
        finally:
            if not self._closing:
                self._helm.lose("the keyboard is not read any more")

    def _read_keys(self) -> None:
        pending = b""
        while True:
            ready, _, _ = select.select([self._fd, self._wake_r], [], [], ESCAPE_S if pending else None)
            if self._wake_r in ready:
                if os.read(self._wake_r, 1) == b"x":
                    return
                self._suspend()
            elif self._fd in ready:
                data = self._read()
                if not data:
                    self._hung_up()
                    return
                keys, pending = split(pending + data)
                for key in keys:
                    self._console.press(key)
            else:
                pending = b""
                self._console.press(ESCAPE)

    def _read(self) -> bytes:
        """Return what was typed; nothing from a terminal that is gone."""
        try:
            return os.read(self._fd, 1024)
        except OSError:
            return b""

    def _on_hang_up(self, _number: int, _frame: FrameType | None) -> None:
        self._hung_up()

    def _hung_up(self) -> None:
        self._keys.mute()
        self._helm.lose("the terminal hung up")
        self._helm.quit()

    def _on_suspend(self, _number: int, _frame: FrameType | None) -> None:
        """On Ctrl-Z let the robot be held and the terminal be given back first; on the second call, by `_suspend`, stop."""
        if not self._ready_to_stop:
            os.write(self._wake_w, b"z")
            return
        self._ready_to_stop = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # goes on from here when the process does
        signal.signal(signal.SIGTSTP, self._on_suspend)
        self._resumed.set()

    def _suspend(self) -> None:
        self._helm.lose("suspended from the keyboard")
        time.sleep(GRACE_S)
        self._keys.close()
        self._ready_to_stop = True
        self._resumed.clear()
        os.kill(os.getpid(), signal.SIGTSTP)
        self._resumed.wait()
        self._keys.open()
