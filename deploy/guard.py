"""Whether the robot may move: a state machine that only a person moves back, and the watchdogs that move it on.

DISARMED --arm--> ARMED --start--> RUNNING --a watchdog--> HOLD     anywhere --stop--> ESTOP
HOLD --arm--> ARMED     ESTOP --reset--> DISARMED     anywhere but ESTOP --disarm--> DISARMED

Only arm, reset and disarm go back, and only people call them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deploy.streamer import Setpoint

if TYPE_CHECKING:
    from envs.types import Observation


class Mode(Enum):
    """What the robot may do."""

    DISARMED = "disarmed"  # it holds
    ARMED = "armed"  # it holds, and may be started
    RUNNING = "running"  # it follows plans
    HOLD = "hold"  # it holds; a watchdog barked
    ESTOP = "estop"  # it holds until a person has reset it and armed it again


NEXT: Mapping[tuple[Mode, str], Mode] = {
    (Mode.DISARMED, "arm"): Mode.ARMED,
    (Mode.HOLD, "arm"): Mode.ARMED,
    (Mode.ARMED, "start"): Mode.RUNNING,
    (Mode.ARMED, "hold"): Mode.HOLD,
    (Mode.RUNNING, "hold"): Mode.HOLD,
    (Mode.ESTOP, "reset"): Mode.DISARMED,
    **{(mode, "disarm"): Mode.DISARMED for mode in Mode if mode is not Mode.ESTOP},
    **{(mode, "stop"): Mode.ESTOP for mode in Mode},
}
"""Every legal transition."""


@dataclass(frozen=True, slots=True)
class ModeChange:
    """From `t_s` [s] on the robot is in another mode, and why."""

    t_s: float
    mode: str
    reason: str


@dataclass(frozen=True)
class GuardConfig:
    """When the watchdogs bark; all in seconds."""

    no_plan_s: float = 0.5
    """Without a plan to follow, or one that is not finite, the robot holds; for so long it may go on by itself ..."""
    plan_age_s: float = 1.0
    """... and no plan is followed that was made from an observation older than this."""
    stale_s: float = 0.25
    """Without a newer reading than this."""
    frozen_s: float = 0.25
    """The same reading, to the last bit, while what was sent changed."""

    def __post_init__(self) -> None:
        for name in ("no_plan_s", "plan_age_s", "stale_s", "frozen_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


class Switch(Protocol):
    """A latched emergency stop that anybody may throw."""

    @property
    def thrown(self) -> str:
        """Who threw it and why; empty while nobody has."""
        ...

    def release(self) -> None:
        """Unlatch it."""
        ...


class Released:
    """A switch that nobody can reach."""

    thrown = ""

    def release(self) -> None:
        """It never was thrown."""


class Guard:
    """The mode of one robot. It never raises within the loop: what is wrong becomes a mode with a reason."""

    def __init__(self, cfg: GuardConfig, switch: Switch | None = None) -> None:
        self.mode, self.reason, self.changes = Mode.DISARMED, "not armed yet", list[ModeChange]()
        self._cfg, self._switch = cfg, switch or Released()
        self.begin_episode(0.0)

    def command(self, word: str, t_s: float, reason: str = "") -> bool:
        """Take a transition of NEXT; return whether it was legal. The same mode again is no change.

        A reset releases the switch; watchdogs count from a start on.
        """
        mode = NEXT.get((self.mode, word))
        if mode is None:
            return False
        if word == "reset":
            self._switch.release()
        elif word == "start":
            self.begin_episode(t_s)
        if mode is not self.mode:
            self.mode, self.reason = mode, reason or word
            self.changes.append(ModeChange(t_s, mode.value, self.reason))
        return True

    def begin_episode(self, t_s: float) -> None:
        """Forget what was seen: the robot was put somewhere else."""
        self._moved_s = self._planned_s = t_s
        self._seen: Observation | None = None
        self._sent_A: np.ndarray | None = None

    def heed(self, now_s: float) -> None:
        """Stop if somebody has thrown the switch."""
        if self._switch.thrown:
            self.command("stop", now_s, self._switch.thrown)

    def admit(
        self, setpoint: Setpoint, seen: Observation, last_A: np.ndarray, hold_A: np.ndarray, now_s: float
    ) -> Setpoint:
        """Return what may be asked of the robot at `now_s`: the setpoint, or to hold."""
        self.heed(now_s)
        if self.mode is Mode.RUNNING:
            wrong = _misfit(setpoint, hold_A) or self._late(setpoint, now_s) or self._blind(seen, last_A, now_s)
            if wrong:
                self.command("hold", now_s, wrong)
        old = setpoint.source == "plan" and setpoint.age_s > self._cfg.plan_age_s
        if self.mode is Mode.RUNNING and not old:
            return setpoint
        return Setpoint(hold_A, "hold", float("inf"))

    def _late(self, setpoint: Setpoint, now_s: float) -> str:
        """Return what is wrong with the plans, if anything is."""
        fresh = setpoint.source != "hold" and setpoint.age_s <= self._cfg.plan_age_s
        if fresh and np.isfinite(setpoint.action_A).all():
            self._planned_s = now_s
        without_s = now_s - self._planned_s
        return f"no plan to follow for {without_s:.2f} s" if without_s > self._cfg.no_plan_s else ""

    def _blind(self, seen: Observation, last_A: np.ndarray, now_s: float) -> str:
        """Return what is wrong with the sensors, if anything is."""
        before, self._seen = self._seen, seen
        if not np.isfinite(seen.state_O).all():
            return "a sensor reads a number that is not finite"
        if before is not None and seen.t_s < before.t_s:
            return f"sensor time went back from {before.t_s:.3f} to {seen.t_s:.3f} s"
        if now_s - seen.t_s > self._cfg.stale_s:
            return f"the newest reading is {now_s - seen.t_s:.2f} s old"
        if seen.image_t_s is not None and now_s - seen.image_t_s > self._cfg.stale_s:
            return f"the newest picture is {now_s - seen.image_t_s:.2f} s old"
        if before is None or self._sent_A is None or not np.array_equal(before.state_O, seen.state_O):
            self._moved_s, self._sent_A = now_s, last_A
        elif not np.array_equal(self._sent_A, last_A) and now_s - self._moved_s > self._cfg.frozen_s:
            return f"sensors have not changed for {now_s - self._moved_s:.2f} s while the command did"
        return ""


def _misfit(setpoint: Setpoint, hold_A: np.ndarray) -> str:
    """Return what is wrong with the size of an action, if anything is."""
    have, want = setpoint.action_A.shape, hold_A.shape
    return f"an action has the shape {want}, got {have}" if have != want else ""
