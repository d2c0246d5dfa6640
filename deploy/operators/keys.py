"""Keys as a terminal sends them, and what each means. Terminals send no key-up: a key that is held is one that repeats."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deploy.operators.helm import Helm
    from deploy.operators.joints import Stick
    from deploy.realtime.asks import SharedGoals

TAP_S = 0.12
"""How long a key that was pressed once moves a joint ..."""
HELD_S = 0.25
"""... and how long after its last repetition one that repeats does."""
REPEAT_S = 0.8
"""The same key again within this is a repetition; terminals begin to repeat after 0.25 to 0.66 s."""
SPEEDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
"""Shares of what the robot's limits allow."""
NAMES = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}
MOVES = "1-9 or up/down: joint   left/right: move   +/-: speed"
ORDERS = "SPACE: STOP   r: reset   a: arm   h: hold   p: planner   q: quit"
TYPING = "ENTER: pursue it   ESC: back   SPACE twice: STOP"
ESCAPE = "escape"
# an arrow or the like; an Escape that begins nothing, but for one at the very end; any other byte
_KEY = re.compile(rb"\x1b(?:\[[0-9;]*|O)([@-~])|\x1b(?![\[O]?[0-9;]*\Z)|[^\x1b]", re.DOTALL)


def split(data: bytes) -> tuple[list[str], bytes]:
    """Return the keys in what a terminal sent, and the beginning of one that is still to come."""
    keys, end = [], 0
    for found in _KEY.finditer(data):
        if found.start() != end:
            break
        end = found.end()
        keys.append(NAMES.get(found[1], "") if found[1] else found[0].lower().decode("latin-1"))
    return [key for key in keys if key not in ("", "\x1b")], data[end:]


class Console:
    """What a person at the keys does to the helm and, with a stick, to the joints."""

    def __init__(
        self, helm: Helm, stick: Stick | None, speed: float, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._helm, self._stick, self._now_s = helm, stick, now_s
        self._joint, self._speed = 0, int(np.abs(np.array(SPEEDS) - speed).argmin())
        self._last = "", -np.inf
        self.goals: SharedGoals | None = None
        """Where goals are asked for, once there is a planner to pursue them."""
        self.line: str | None = None
        """A goal that is being typed."""

    @property
    def help(self) -> str:
        """The keys, on one or two lines."""
        if self.line is not None:
            return TYPING
        more = ("   g: goal" if self.goals is not None else "") + ("   t: device" if self._stick is None else "")
        return ORDERS + more + ("" if self._stick is None else f"\n{MOVES}")

    @property
    def goal(self) -> str:
        """The goal that is being typed, else what became of the last one."""
        if self.line is not None:
            return f"> {_text(self.line)}_"
        return "" if self.goals is None else self.goals.answer

    @property
    def chosen(self) -> str:
        """Which joint is moved, and how fast."""
        if self._stick is None:
            return ""
        return f"joint {self._joint + 1} {self._stick.joints.names[self._joint]}, speed {SPEEDS[self._speed]:g}"

    def press(self, key: str) -> None:
        """Take in one key; one that means nothing does nothing."""
        if self.line is not None:
            self._type(key, self.line)
            return
        helm = self._helm
        orders: dict[str, Callable[[], None]] = {
            " ": lambda: helm.stop("keyboard"),
            "r": lambda: helm.reset("keyboard"),
            "a": lambda: helm.arm("keyboard"),
            "h": helm.hold,
            "p": helm.hand_back,
            "t": helm.take,
            "q": helm.quit,
        }
        if key in orders:
            orders[key]()
        elif key == "g" and self.goals is not None:
            self.line = ""
        elif self._stick is not None:
            self._move(key, self._stick)
        self._last = key, self._now_s()

    def _type(self, key: str, line: str) -> None:
        """Take in one key of a goal, which may have spaces: two in a row are none of it, they stop the robot."""
        if key == ESCAPE:
            self.line = None
        elif key == " " and line[-1:] in ("", " "):
            self.line = None
            self._helm.stop("keyboard")
        elif key in ("\r", "\n"):
            self.line = None
            if line.strip() and self.goals is not None:
                self.goals.ask(_text(line).strip())
        elif key in ("\x7f", "\b"):
            self.line = _text(line)[:-1].encode().decode("latin-1")
        elif len(key) == 1 and key >= " ":
            self.line = line + key

    def _move(self, key: str, stick: Stick) -> None:
        joints = len(stick.joints.names)
        if key in ("left", "right"):
            repeats = self._last[0] == key and self._now_s() - self._last[1] < REPEAT_S
            push_A = np.zeros(joints)
            push_A[self._joint] = SPEEDS[self._speed] * (1 if key == "right" else -1)
            stick.push(push_A, HELD_S if repeats else TAP_S)
            self._helm.take()
        elif key in ("up", "down"):
            self._joint = (self._joint + (1 if key == "down" else -1)) % joints
        elif key.isdecimal() and 1 <= int(key) <= joints:
            self._joint = int(key) - 1
        elif key in ("+", "=", "-"):
            self._speed = min(max(self._speed + (-1 if key == "-" else 1), 0), len(SPEEDS) - 1)


def _text(line: str) -> str:
    """Return what was typed: keys are bytes, and letters may be several."""
    return line.encode("latin-1").decode(errors="replace")
