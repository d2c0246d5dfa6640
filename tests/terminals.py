"""A real command on a real pseudo-terminal, as a person at an ssh session has it."""

import fcntl
import os
import re
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUREFOOT = (sys.executable, "-m", "deploy.cli")
PATIENCE_S = 240.0


def _own_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Seat:
    """Somebody at a terminal where a command runs; the terminal outlives the command."""

    def __init__(self, *command: str, program: tuple[str, ...] = SUREFOOT):
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, b"\x32\x00\x78\x00" + bytes(4))  # 50 rows of 120
        self.before = termios.tcgetattr(self.slave)
        self.text, self._changed, self._hung = "", threading.Condition(), False
        self.process = subprocess.Popen(
            [*program, *command],
            cwd=ROOT,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        if not self._hung:
            os.close(self.master)

    def _read(self):
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with self._changed:
                self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode(errors="replace"))
                self._changed.notify_all()

    def type(self, keys: str):
        os.write(self.master, keys.encode())

    def sees(self, pattern: str, after: int = 0) -> int:
        """Wait until the pattern is written after that much text; return how much there is then."""
        with self._changed:
            found = self._changed.wait_for(lambda: re.search(pattern, self.text[after:]), PATIENCE_S)
            assert found, f"{pattern!r} is not in {self.text[after:][-3000:]!r}"
            return len(self.text)

    def holds_down(self, key: str, pattern: str):
        """Let a key repeat, as a terminal does, until the pattern is seen."""
        start, until_s = len(self.text), time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() < until_s, self.text[start:][-3000:]
            self.type(key)
            time.sleep(0.03)

    def hang_up(self):
        self._hung = True
        os.close(self.master)

    def signal(self, number: int):
        os.kill(self.process.pid, number)

    def ends(self) -> int:
        return self.process.wait(PATIENCE_S)

    @property
    def settings(self):
        return termios.tcgetattr(self.slave)

    @property
    def echoes(self) -> bool:
        return bool(self.settings[3] & termios.ECHO)

    def until(self, true, longest_s: float = PATIENCE_S):
        until_s = time.monotonic() + longest_s
        while not true():
            assert time.monotonic() < until_s, self.text[-3000:]
            time.sleep(0.02)
