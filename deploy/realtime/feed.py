"""What others may see of a running session, and the little that they may do: throw the emergency stop, and ask."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.guard import Mode
from deploy.realtime.asks import SharedGoals, SharedHand
from deploy.realtime.channel import Latest, shared_bytes

if TYPE_CHECKING:
    from deploy.loop import Outcome
    from deploy.safety import Command
    from deploy.session import View
    from deploy.streamer import Setpoint
    from planners.types import ActionPlan

SOURCES = ("plan", "hold", "late", "operator")
MODES = tuple(mode.value for mode in Mode)
FLAGS = 16
"""Limits that have a bit of their own."""
FORESEEN = 4096
"""Predicted states that there is room for."""
_FORESEEN = struct.Struct("<ddqqq")


class SharedSwitch:
    """An emergency stop that any process may throw, and that nobody but a person with the guard's reset releases."""

    def __init__(self) -> None:
        self._memory = shared_bytes(200)

    def throw(self, who: str) -> None:
        """Stop the robot; `who` says who did it and why."""
        text = who.encode()[:199] or b"somebody"
        np.frombuffer(self._memory, np.uint8)[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
        self._memory[0] = len(text)

    def release(self) -> None:
        """Let the guard be reset; by itself it moves nothing."""
        self._memory[0] = 0

    @property
    def thrown(self) -> str:
        """Who threw it; empty while nobody has."""
        size = int(self._memory[0])
        return bytes(self._memory[1 : 1 + size]).decode(errors="replace") if size else ""


def seen_dtype(pose: int, states: int, actions: int) -> np.dtype:
    """Return the type of one frame, for poses (P,), states (O,) and actions (A,)."""
    numbers = ("t_s", "age_s", "late_s", "reward", "score", "threshold", "plan_ms", "return")
    return np.dtype(
        [
            *((name, "<f8") for name in numbers),
            ("step", "<i8"),
            ("episode", "<i8"),
            ("mode", "u1"),  # of MODES
            ("source", "u1"),  # of SOURCES
            ("alarm", "u1"),
            ("flags", "<u2"),  # bit n: limit n of the robot changed the action; the highest: it was not finite
            ("pose_P", "<f8", (pose,)),
            ("state_O", "<f8", (states,)),
            ("requested_A", "<f8", (actions,)),
            ("sent_A", "<f8", (actions,)),
            ("reason", "u1", (120,)),
        ]
    )


@dataclass(frozen=True)
class Foreseen:
    """What the newest plan was chosen from: predicted states of a few candidates, the best first; row h is due at `t0_s` + h `dt_s`."""

    t0_s: float
    dt_s: float
    states_FHO: np.ndarray

    def over(self, t_s: float) -> bool:
        """Return whether all of it is past."""
        return t_s > self.t0_s + self.dt_s * self.states_FHO.shape[1]


@dataclass(frozen=True)
class Feed:
    """The newest frame of a session: written at every control step, read by whoever looks, as often as they like."""

    dtype: np.dtype
    limits: tuple[str, ...]
    frame: Latest
    foreseen: Latest
    switch: SharedSwitch
    hand: SharedHand
    goals: SharedGoals

    @property
    def operator(self) -> SharedHand:
        """Who may move the robot through it."""
        return self.hand

    @classmethod
    def of(cls, pose: int, states: int, actions: int, limits: tuple[str, ...]) -> Feed:
        """Return a feed for a robot whose limits have these names."""
        dtype, room = seen_dtype(pose, states, actions), _FORESEEN.size + 4 * FORESEEN * states
        channels = Latest(dtype.itemsize), Latest(room)
        return cls(dtype, limits[: FLAGS - 1], *channels, SharedSwitch(), SharedHand(actions), SharedGoals())

    def show(
        self, step: int, pose_P: np.ndarray, setpoint: Setpoint, command: Command, outcome: Outcome, late_s: float,
        view: View, mode: tuple[Mode, str], total: float,
    ) -> None:  # fmt: skip
        """Publish the frame of one control step."""
        frame: Any = np.zeros((), self.dtype)
        frame["t_s"], frame["step"], frame["episode"] = outcome.observation.t_s, step, view.episode
        frame["age_s"], frame["late_s"], frame["plan_ms"] = setpoint.age_s, late_s, view.plan_ms
        frame["reward"], frame["return"] = outcome.reward, total
        if view.reading is not None:
            frame["score"], frame["threshold"] = view.reading.score, view.reading.threshold
            frame["alarm"] = view.reading.alarm
        frame["mode"], frame["source"] = MODES.index(mode[0].value), SOURCES.index(setpoint.source)
        frame["flags"] = self.bits(command.altered_by)
        frame["pose_P"], frame["state_O"] = pose_P, outcome.observation.state_O
        frame["requested_A"], frame["sent_A"] = setpoint.action_A, command.action_A
        text = np.frombuffer(mode[1].encode()[:120], np.uint8)
        frame["reason"][: len(text)] = text
        self.frame.write(frame.tobytes())

    def bits(self, altered_by: tuple[str, ...]) -> int:
        """Return the flags of the limits that changed an action."""
        names = (*self.limits, *[""] * (FLAGS - 1 - len(self.limits)), "nonfinite")
        return sum(1 << n for n, name in enumerate(names) if name in altered_by)

    def names(self, flags: int) -> tuple[str, ...]:
        """Return the limits of some flags."""
        names = (*self.limits, *[""] * (FLAGS - 1 - len(self.limits)), "nonfinite")
        return tuple(name for n, name in enumerate(names) if name and flags >> n & 1)

    def look(self, after: int = 0) -> tuple[int, Any] | None:
        """Return the number and the newest frame, None where there is none newer than number `after`."""
        found = self.frame.read(after)
        return None if found is None else (found[0], np.frombuffer(found[1], self.dtype, 1)[0])

    def foresee(self, plan: ActionPlan) -> None:
        """Publish the futures of a plan, where they are states and there is room for them."""
        futures = plan.futures_FHD
        if futures is None or futures.shape[2:] != self.dtype["state_O"].shape or futures[..., 0].size > FORESEEN:
            return
        head = _FORESEEN.pack(plan.t0_s, plan.dt_s, *futures.shape)
        self.foreseen.write(head + np.ascontiguousarray(futures, "<f4").tobytes())

    def look_ahead(self, after: int = 0) -> tuple[int, Foreseen] | None:
        """Return the number and the futures of the newest plan, None where there are none newer than number `after`."""
        found = self.foreseen.read(after)
        if found is None:
            return None
        t0_s, dt_s, *shape = _FORESEEN.unpack_from(found[1])
        states_FHO = np.frombuffer(found[1], "<f4", offset=_FORESEEN.size).reshape(shape)
        return found[0], Foreseen(t0_s, dt_s, states_FHO)
