"""Plans in simulated time: computed at once, known only after the time they took, executed only from their start.

A plan observed at step i is made for the actions from step i + K on, K the expected latency in steps; it is visible
once the latency charged to it (given, or measured) has passed, and the newest plan that is visible and has begun wins.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planners.types import PlanStatus

if TYPE_CHECKING:
    from planners.types import ActionPlan

Think = Callable[[int], "ActionPlan"]
"""K -> the plan for the step K steps from now on."""


def steps_in(time_s: float, dt_s: float) -> int:
    """Return how many steps of `dt_s` it takes until `time_s` has passed."""
    return math.ceil(time_s / dt_s - 1e-9)


@dataclass(frozen=True, slots=True)
class Published:
    """A plan and the step from which it is executed."""

    from_step: int
    plan: ActionPlan


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan just computed, the steps it is known and followed from, and the wall time it took [s]."""

    plan: ActionPlan
    visible_step: int
    from_step: int
    took_s: float


class PlanQueue:
    """The planner's side of the loop."""

    def __init__(
        self,
        dt_s: float,
        plan_every: int,
        latency_s: float | None,
        timer: Callable[[], float],
        compensate: bool = True,
        least_s: float = 0.0,
    ) -> None:
        """`compensate` False: a plan is made for the step it was observed at, and begins with its first row when it is there.

        `latency_s` None: as long as it took, but `least_s` at least.
        """
        self._least_s = least_s
        self._dt_s, self._plan_every, self._latency_s, self._timer = dt_s, plan_every, latency_s, timer
        self._compensate = compensate
        self._measured_s: deque[float] = deque(maxlen=32)
        self._plans: list[Published] = []
        self._next_start = 0

    @property
    def expected_s(self) -> float:
        """The latency that a plan is made for [s]: the given one, or the 90th percentile of the last 32 measured, if not the least."""
        if self._latency_s is not None:
            return self._latency_s
        return max(self._least_s, float(np.quantile(self._measured_s, 0.9)) if self._measured_s else 0.0)

    def start_episode(self, step: int) -> None:
        """Forget every plan; the next may start at `step`."""
        self._plans, self._next_start = [], step

    def due(self, step: int) -> bool:
        """Return whether the planner is free and the period between plan starts is over."""
        return step >= self._next_start

    def at(self, step: int) -> ActionPlan | None:
        """Return the plan to follow at `step`: the newest that may be executed then."""
        return next((p.plan for p in reversed(self._plans) if p.from_step <= step), None)

    def compute(self, step: int, think: Think, held: bool = False, began_s: float | None = None) -> Planned:
        """Plan from the observation of `step`, made at `began_s` of the timer (None: now).

        `held`: the world waits, so that no latency is charged.
        """
        ahead = 0 if held or not self._compensate else steps_in(self.expected_s, self._dt_s)
        began_s = self._timer() if began_s is None else began_s
        plan = think(ahead)
        took_s = self._timer() - began_s
        self._measured_s.append(took_s)
        charged_s = max(took_s, self._least_s) if self._latency_s is None else self._latency_s
        visible = step if held else step + steps_in(charged_s, self._dt_s)
        self._next_start = max(visible, step + self._plan_every)
        start = step + ahead if self._compensate else visible
        made = Planned(replace(plan, t0_s=start * self._dt_s), visible, max(visible, start), took_s)
        if plan.status is not PlanStatus.FAILED:
            self._publish(step, made.plan, made.from_step)
        return made

    def _publish(self, step: int, plan: ActionPlan, from_step: int) -> None:
        active = max((n for n, p in enumerate(self._plans) if p.from_step <= step), default=0)
        self._plans = [*self._plans[active:], Published(from_step, plan)]
