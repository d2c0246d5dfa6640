"""The control loop's schedule, and what it needs from a robot and from an agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from deploy.clock import Clock

if TYPE_CHECKING:
    import numpy as np

    from agents.types import AgentEvent
    from deploy.safety import Command, Limit
    from envs.types import Observation
    from planners.types import ActionPlan


class Pace:
    """An absolute schedule of control steps: step n is due n periods after the start, so that lateness never accumulates."""

    def __init__(self, clock: Clock, period_s: float) -> None:
        if not period_s > 0:
            raise ValueError(f"period_s must be > 0, got {period_s}")
        self._clock, self._period_s = clock, period_s
        self.restart(0)

    def restart(self, step: int) -> None:
        """Let `step` be due now: the world has waited."""
        self._start_s = self._clock.now_s() - step * self._period_s

    def wait(self, step: int) -> float:
        """Return, once `step` is due, how late it is [s]; whole periods of lateness are steps that were missed."""
        due_s = self._start_s + step * self._period_s
        self._clock.sleep_until(due_s)
        return max(0.0, self._clock.now_s() - due_s)

    def missed(self, late_s: float) -> int:
        """Return how many further steps were due before one that is so late."""
        return math.floor(late_s / self._period_s + 1e-6)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one control step led to. `applied_A` is known in simulation only; no agent ever sees it."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    applied_A: np.ndarray


class Robot(Protocol):
    """A body whose only way to its motors is `send`, which makes every action safe first."""

    dt_s: float
    hold_A: np.ndarray
    limits: Sequence[Limit]

    @property
    def camera(self) -> Mapping[str, tuple[int, int]]:
        """The camera whose pictures come with observations, and its (height, width); empty if there is none."""
        ...

    @property
    def last_A(self) -> np.ndarray:
        """The action that was sent last, (A,); `hold_A` after a reset."""
        ...

    def reset(self, seed: int, t_s: float, /) -> Observation:
        """Put the robot at a start drawn from `seed`; return what it sees at `t_s`."""
        ...

    def send(self, action_A: np.ndarray, /) -> Command:
        """Make `action_A` safe and send it; return what was sent and which limits changed it."""
        ...

    def read(self, t_s: float, /) -> Outcome:
        """Return what the last command led to, stamped `t_s`."""
        ...

    def pose(self) -> np.ndarray:
        """Return the configuration for drawing, (P,)."""
        ...


class Operator(Protocol):
    """A person who may take over, through whatever device."""

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return the action (A,) that the person asks for at `t_s`, None to leave it to the plan; never waits."""
        ...


class Agent(Protocol):
    """What the loop asks of whoever plans, doubts and learns."""

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Forget what belongs to the last episode and seed the generator."""
        ...

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return a plan that starts K control steps after `observation`, for which `committed_KA` is already due."""
        ...

    def pursue(self, objective: str, t_s: float, /) -> Sequence[AgentEvent]:
        """Pursue another objective from the next plan on; raise ValueError, in one line, where it cannot."""
        ...

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Take in one control step, whose `action_A` is what was sent."""
        ...

    def end_episode(self, terminated: bool, whole: bool, /) -> Sequence[AgentEvent]:
        """Take in how the episode ended: by falling (terminated) or by time; `whole`: none cut it short or took over."""
        ...

    def take_job(self) -> Callable[[], Any] | None:
        """Return a job on copies that should start now, or None."""
        ...

    def receive(self, result: Any, t_s: float, /) -> Sequence[AgentEvent]:
        """Judge what the job returned, and swap it in or keep what is."""
        ...
