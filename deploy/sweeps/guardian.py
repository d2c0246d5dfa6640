"""Runs a command in a process group of its own, and ends all of it once its own standard input is closed.

Whoever started it holds the other end: when that dies, kill -9 included, the command does not outlive it. Run as a file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 5.0
"""Between asking a command to end, which keeps what is done, and ending it."""


def end(group: int, asked: int) -> None:
    """Send a signal to a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, asked)


def watch(group: int) -> None:
    """Wait for the end of standard input, then end the group."""
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read, whose lock would be held at the end
        pass
    end(group, signal.SIGTERM)
    time.sleep(GRACE_S)
    end(group, signal.SIGKILL)


def main() -> int:
    """Return the command's exit code; 128 + N where signal N ended it."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=watch, args=(child.pid,), daemon=True).start()
    code = child.wait()
    end(child.pid, signal.SIGKILL)  # what it may have left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
