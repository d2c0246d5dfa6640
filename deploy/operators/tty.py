"""A terminal that hands over keys one by one, and that is given back as it was whatever happens."""

from __future__ import annotations

import atexit
import os
import signal
import termios
import tty
from contextlib import suppress


class Keys:
    """Key by key without echo, between `open` and `close`; Ctrl-C and Ctrl-Z stay signals, and output stays as it is."""

    def __init__(self, fd: int) -> None:
        self._fd, self._before = fd, termios.tcgetattr(fd)
        self._outputs = [output for output in (1, 2) if os.isatty(output)]  # a terminal that is gone says it is none

    def open(self) -> None:
        """Hand over keys; however the process ends, but by SIGKILL, `close` follows."""
        atexit.register(self.close)
        tty.setcbreak(self._fd, termios.TCSANOW)

    def close(self) -> None:
        """Give the terminal back as it was, without what was typed and not read."""
        atexit.unregister(self.close)
        # a job in the background that sets its terminal up is stopped for it, unless it blocks the signal
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        with suppress(termios.error):  # it hung up: there is nothing to give back
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
            termios.tcflush(self._fd, termios.TCIFLUSH)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)

    def mute(self) -> None:
        """Let nothing more be written to a terminal that has hung up: each write would raise."""
        gone = os.open(os.devnull, os.O_WRONLY)
        for fd in self._outputs:
            os.dup2(gone, fd)
        os.close(gone)
