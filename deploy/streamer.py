"""What is due now: a pure function of the newest plan and the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from planners.types import PlanStatus

if TYPE_CHECKING:
    from planners.types import ActionPlan


@dataclass(frozen=True, slots=True)
class Setpoint:
    """The action due now, where it comes from, and how old the observation behind it is [s] (infinite when held)."""

    action_A: np.ndarray
    source: Literal["plan", "hold"]
    age_s: float


def setpoint_at(plan: ActionPlan | None, now_s: float, hold_A: np.ndarray) -> Setpoint:
    """Sample the plan at `now_s`; hold when there is no plan, it failed, has not begun or ran out."""
    if plan is None or plan.status is PlanStatus.FAILED or not plan.t0_s <= now_s < plan.expires_s:
        return Setpoint(hold_A, "hold", float("inf"))
    # 1e-9 of a step, as k * dt_s / dt_s may fall just below k; the last instant before expiry may then round to H
    row = min(int((now_s - plan.t0_s) / plan.dt_s + 1e-9), len(plan.actions_HA) - 1)
    return Setpoint(plan.actions_HA[row], "plan", now_s - plan.observed_s)
