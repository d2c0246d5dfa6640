"""What is due now: a pure function of the newest plan and the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from planners.types import PlanStatus

if TYPE_CHECKING:
    from planners.types import ActionPlan


@dataclass(frozen=True, slots=True)
class Setpoint:
    """The action due now, where it comes from, and how old the observation behind it is [s] (infinite without one).

    Late: the step was missed, and what had been sent before stayed in force. Operator: a person asked for it.
    """

    action_A: np.ndarray
    source: Literal["plan", "hold", "late", "operator"]
    age_s: float


def setpoint_at(plan: ActionPlan | None, now_s: float, hold_A: np.ndarray) -> Setpoint:
    """Sample the plan at `now_s`; hold when there is no plan, it failed, has not begun or ran out."""
    if plan is None or plan.status is PlanStatus.FAILED:
        return Setpoint(hold_A, "hold", float("inf"))
    # times are sums of many steps: within a millionth of a step before a row is due, it is due
    row = math.floor((now_s - plan.t0_s) / plan.dt_s + 1e-6)
    if not 0 <= row < len(plan.actions_HA):
        return Setpoint(hold_A, "hold", float("inf"))
    return Setpoint(plan.actions_HA[row], "plan", now_s - plan.observed_s)
