"""Warm start: the last plan, shifted to the new start time, is the guess from which the next search begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from planners.sampling import smooth_noise
from planners.types import ActionPlan, PlanStatus

if TYPE_CHECKING:
    from envs.types import Belief


class Planner(Protocol):
    """Whatever turns a belief into a plan for one robot."""

    def plan(
        self,
        belief: Belief,
        now_s: float,
        guess_BHA: Tensor | None = None,
        *,
        generators: Sequence[Generator],
        observed_s: float | None = None,
    ) -> ActionPlan:
        """Return the plan that starts at `now_s` [s]."""
        ...


def shifted(plan: ActionPlan, now_s: float) -> np.ndarray | None:
    """Return the rows (H, A) of `plan` from the one due at `now_s` [s] on, the last repeated; None if no row is due."""
    if not plan.t0_s - 1e-9 * plan.dt_s <= now_s < plan.expires_s:
        return None
    # times are sums of many steps: without the slack a row that is due right now would count as not yet due
    done = min(int((now_s - plan.t0_s) / plan.dt_s + 1e-6), len(plan.actions_HA) - 1)
    tail_HA = plan.actions_HA[done:]
    return np.concatenate([tail_HA, np.repeat(tail_HA[-1:], done, axis=0)])


def renoised(guess_BHA: Tensor, n: int, std_BHA: Tensor, correlation: float, generators: Sequence[Generator]) -> Tensor:
    """Return the guess itself and n - 1 copies with smooth noise of `std_BHA` added, (B, n, H, A)."""
    eps_BSHA = smooth_noise(generators, n - 1, guess_BHA, correlation)
    return torch.cat([guess_BHA[:, None], guess_BHA[:, None] + std_BHA[:, None] * eps_BSHA], 1)


@dataclass
class WarmStart:
    """A planner that remembers its last usable plan; has the face of the planner it wraps."""

    inner: Planner
    _last: ActionPlan | None = field(default=None, init=False)

    def forget(self) -> None:
        """Drop the memory, as at the start of an episode."""
        self._last = None

    def plan(
        self,
        belief: Belief,
        now_s: float,
        guess_BHA: Tensor | None = None,
        *,
        generators: Sequence[Generator],
        observed_s: float | None = None,
    ) -> ActionPlan:
        """Return the inner planner's plan, given the shifted last one where the caller brings no guess of his own."""
        if guess_BHA is None and self._last is not None:
            guess_HA = shifted(self._last, now_s)
            if guess_HA is not None:
                guess_BHA = torch.as_tensor(guess_HA, dtype=torch.float32, device=belief.z_BTD.device)[None]
        plan = self.inner.plan(belief, now_s, guess_BHA, generators=generators, observed_s=observed_s)
        if plan.status is not PlanStatus.FAILED:
            self._last = plan
        return plan
