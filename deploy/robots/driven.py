"""A simulated robot that somebody else's loop drives: read and commanded at any time, at any rate, through the same door."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.clock import MonotonicClock
from deploy.records import plain
from deploy.safety import Command
from envs.shapes import check

if TYPE_CHECKING:
    from deploy.clock import Clock
    from deploy.loop import Outcome
    from deploy.robots.sim import SimRobot
    from envs.types import Observation

CLOCKS: Mapping[str, Callable[[], Clock | None]] = {"realtime": MonotonicClock, "stepped": lambda: None}
"""How time passes: between two commands the last one is repeated; or a command is one control step and nothing else is."""

HOLD_AFTER_S = 0.5
"""A command is repeated for so long; then the robot is held, as nobody seems to be there."""


class DrivenRobot:
    """A robot that falls is put back at its next start: that of `seed`, then `seed + 1` ...

    Without a clock it is stepped. `journal` gets one line of JSON per control step: state, requested, sent and applied action
    and the limits that made a difference; what was not finite is null.
    """

    def __init__(self, robot: SimRobot, clock: Clock | None, seed: int = 0, journal: Path | None = None) -> None:
        self._robot, self._clock, self._next_seed = robot, clock, seed
        self._steps, self._start_s = 0, clock.now_s() if clock else 0.0
        self._asked_A, self._asked_step = robot.hold_A, 0
        self._journal = journal.open("x", buffering=1, encoding="utf-8") if journal else None
        self._seen = self._start()

    def observe(self) -> Observation:
        """Return what the robot sees now."""
        self._catch_up()
        return self._seen

    def command(self, action_A: np.ndarray) -> Command:
        """Ask for an action, (A,); return what was sent last and why it differs.

        In real time a command that comes within a control step that already has one waits for the next. Raises ValueError for
        another shape.
        """
        check("action_A", action_A, "A", A=len(self._robot.hold_A))
        self._catch_up()
        self._asked_A, self._asked_step = np.array(action_A, dtype=np.float64), self._steps
        if self._steps <= self._due():
            return self._step(self._asked_A)
        return Command(self._robot.last_A)

    def pose(self) -> np.ndarray:
        """Return the configuration for drawing, (P,)."""
        return self._robot.pose()

    def close(self) -> None:
        """Close the journal and the simulation."""
        if self._journal:
            self._journal.close()
        self._robot.env.close()

    def _due(self) -> int:
        """Return how many control steps should be over; stepped: as many as are."""
        if self._clock is None:
            return self._steps
        return math.floor((self._clock.now_s() - self._start_s) / self._robot.dt_s + 1e-6)

    def _catch_up(self) -> None:
        patience = HOLD_AFTER_S / self._robot.dt_s
        for step in range(self._steps, self._due()):
            self._step(self._asked_A if step - self._asked_step < patience else self._robot.hold_A)

    def _start(self) -> Observation:
        seen = self._robot.reset(self._next_seed, self._steps * self._robot.dt_s)
        self._next_seed += 1
        return seen

    def _step(self, action_A: np.ndarray) -> Command:
        command = self._robot.send(action_A)
        self._steps += 1
        outcome = self._robot.read(self._steps * self._robot.dt_s)
        self._note(action_A, command, outcome)
        fallen = outcome.terminated or not np.isfinite(outcome.observation.state_O).all()
        self._seen = self._start() if fallen else outcome.observation
        return command

    def _note(self, requested_A: np.ndarray, command: Command, outcome: Outcome) -> None:
        if self._journal is None:
            return
        row = {
            "t_s": self._seen.t_s,
            "state": self._seen.state_O,
            "requested": requested_A,
            "sent": command.action_A,
            "applied": outcome.applied_A,
            "altered_by": command.altered_by,
            "fallen": outcome.terminated,
        }
        self._journal.write(json.dumps(plain(row), allow_nan=False) + "\n")
