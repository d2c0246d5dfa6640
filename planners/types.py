"""The result of planning: an immutable object that refuses nonsense."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from envs.shapes import check


class PlanStatus(Enum):
    """The verdict on a plan."""

    OK = "ok"  # finite cost, inside limits
    DEGRADED = "degraded"  # usable, but some candidates were rejected
    FAILED = "failed"  # do not execute; the streamer falls back


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """Actions for the control steps from `t0_s` on; row h is due in [t0_s + h dt_s, t0_s + (h + 1) dt_s)."""

    actions_HA: np.ndarray  # in the units of the robot's ActionSpec
    dt_s: float
    t0_s: float
    status: PlanStatus = PlanStatus.OK
    cost: float = float("nan")
    goal_version: int = 0  # which goal this plan was made for
    observed_s: float = float("nan")  # time of the observation it was made from: now - observed_s is the plan's age
    rejected: int = 0  # candidates with a non-finite prediction or cost
    futures_FHD: np.ndarray | None = None  # what was predicted for a few of the candidates, the best first; for display

    def __post_init__(self) -> None:
        sizes = check("actions_HA", self.actions_HA, "H A")
        if sizes["H"] == 0:
            raise ValueError("a plan needs at least one row, got none")
        if not self.dt_s > 0:
            raise ValueError(f"dt_s must be > 0, got {self.dt_s}")
        if not np.isfinite(self.t0_s):
            raise ValueError(f"t0_s must be finite, got {self.t0_s}")
        if self.status is not PlanStatus.FAILED and not np.isfinite(self.actions_HA).all():
            raise ValueError("a plan that is not FAILED must be finite")
        frozen_HA = np.array(self.actions_HA)
        frozen_HA.setflags(write=False)
        object.__setattr__(self, "actions_HA", frozen_HA)

    @property
    def expires_s(self) -> float:
        """The first instant for which the plan has no action."""
        return self.t0_s + self.dt_s * len(self.actions_HA)
