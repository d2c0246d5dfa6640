"""The one loop that all methods share: ask, clip, predict, score, reject what is not finite, tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from envs.shapes import check
from planners.sampling import Method, Region, finite_rows
from planners.types import ActionPlan, PlanStatus
from planners.warm import renoised

if TYPE_CHECKING:
    from envs.types import ActionSpec, Belief
    from planners.base import Dynamics, Objective, Proposal, Readout


@dataclass(frozen=True)
class SearchResult:
    """What a search found, one row per environment; where `cost_B` is inf nothing was found: never execute that row."""

    actions_BHA: Tensor  # float32, inside the action bounds
    cost_B: Tensor
    rejected_B: Tensor  # int64: candidates with a non-finite action, prediction or cost
    candidates: int  # evaluated for each environment


@dataclass(frozen=True)
class SearchPlanner:
    """A method, the parts of a model, an objective and the legal actions: everything that one plan needs."""

    method: Method
    dynamics: Dynamics
    readout: Readout
    objective: Objective
    action: ActionSpec
    dt_s: float
    horizon: int
    samples: int
    proposal: Proposal | None = None  # None: Gaussian, around the guess or around rest
    proposals: int | None = None  # size of the first population; None: `samples`
    init_std: float = 0.5  # without a proposal: in half ranges of the actuator (in its unit, where it is unbounded)
    guess_share: float = 0.25  # part of the first population that the guess and its noisy copies get
    renoise: float = 0.3  # noise on those copies, in standard deviations of the proposal
    correlation: float = 0.7  # of that noise, and of the Gaussian proposal, over neighbouring control steps
    floor_std: float = 0.02  # least standard deviation credited to the proposal, in half ranges
    goal_version: int = 0  # which goal the objective stands for

    def __post_init__(self) -> None:
        if min(self.samples, self.first_samples) < self.method.least_samples:
            raise ValueError(
                f"{type(self.method).__name__} needs at least {self.method.least_samples} samples and proposals, "
                f"got {self.samples} and {self.first_samples}"
            )
        if not (self.horizon >= 1 and self.dt_s > 0):
            raise ValueError(f"need horizon >= 1 and dt_s > 0, got {self.horizon} and {self.dt_s}")
        if not (0 < self.guess_share <= 1 and self.renoise >= 0 and self.init_std > 0 and 0 <= self.correlation < 1):
            raise ValueError(
                "need 0 < guess_share <= 1, renoise >= 0, init_std > 0, 0 <= correlation < 1, got "
                f"{self.guess_share}, {self.renoise}, {self.init_std}, {self.correlation}"
            )

    @property
    def first_samples(self) -> int:
        """Size of the first population."""
        return self.samples if self.proposals is None else self.proposals

    @torch.inference_mode()
    def search(self, belief: Belief, guess_BHA: Tensor | None, generators: Sequence[Generator]) -> SearchResult:
        """Return the best block for each of the B environments of the belief. Bad numbers are rejected, never raised.

        `guess_BHA` joins the first population; `generators` has one entry per environment. Raises ValueError where a
        part returns the wrong shape.
        """
        if len(generators) != len(belief.z_BTD):
            raise ValueError(f"{len(belief.z_BTD)} environments need as many generators, got {len(generators)}")
        first_BSHA, region = self._first(belief, guess_BHA, generators)
        state = self.method.init(first_BSHA, region)
        rejected_B = torch.zeros(len(generators), dtype=torch.int64, device=first_BSHA.device)
        candidates = 0
        for _ in range(self.method.iterations):
            actions_BSHA = self._clip(self.method.ask(state, self.samples, generators))
            actions_BSHA, cost_BS = self._evaluate(belief, actions_BSHA, generators)
            rejected_B += cost_BS.isinf().sum(1)
            candidates += cost_BS.shape[1]
            state = self.method.tell(state, actions_BSHA, cost_BS)
        found = self.method.answer(state)
        return SearchResult(self._clip(found.actions_BHA), found.cost_B, rejected_B, candidates)

    def plan(
        self,
        belief: Belief,
        now_s: float,
        guess_BHA: Tensor | None = None,
        *,
        generators: Sequence[Generator],
        observed_s: float | None = None,
    ) -> ActionPlan:
        """Return the plan that starts at `now_s` [s], for one robot (B = 1).

        FAILED: no candidate was finite. DEGRADED: some were rejected. `observed_s` [s] is when the belief was seen.
        """
        check("belief.z_BTD", belief.z_BTD, "B T D", B=1)
        result = self.search(belief, guess_BHA, generators)
        cost, rejected = float(result.cost_B[0]), int(result.rejected_B[0])
        status = PlanStatus.DEGRADED if rejected else PlanStatus.OK
        if not math.isfinite(cost):
            status = PlanStatus.FAILED
        return ActionPlan(
            result.actions_BHA[0].cpu().numpy(),
            self.dt_s,
            now_s,
            status,
            cost,
            self.goal_version,
            now_s if observed_s is None else observed_s,
            rejected,
        )

    def _first(
        self, belief: Belief, guess_BHA: Tensor | None, generators: Sequence[Generator]
    ) -> tuple[Tensor, Region]:
        """Return the first population, the guess and its noisy copies in front, and the region the proposals cover."""
        sizes = {"B": len(generators), "H": self.horizon, "A": self.action.size}
        if guess_BHA is not None:
            check("guess_BHA", guess_BHA, "B H A", **sizes)
            guess_BHA = self._usable(guess_BHA.to(belief.z_BTD.device, torch.float32))
        if self.proposal is None:
            return self._gaussian(belief, guess_BHA, generators)
        copies = 0 if guess_BHA is None else max(1, round(self.guess_share * self.first_samples))
        fresh = max(1, self.first_samples - copies)
        proposals_BSHA = self.proposal.sample(belief, fresh, generators)
        check("proposal.sample", proposals_BSHA, "B S H A", S=fresh, **sizes)
        proposals_BSHA = self._clip(proposals_BSHA.float())
        region = Region.around(proposals_BSHA, self.floor_std * self._half_range(proposals_BSHA))
        if guess_BHA is None:
            return proposals_BSHA, region
        noisy_BSHA = renoised(guess_BHA, copies, self.renoise * region.scale_BHA, self.correlation, generators)
        return torch.cat([region.clamp(self._clip(noisy_BSHA), self.method.trust), proposals_BSHA], 1), region

    def _gaussian(
        self, belief: Belief, guess_BHA: Tensor | None, generators: Sequence[Generator]
    ) -> tuple[Tensor, Region]:
        """Return a Gaussian population around the guess, or around rest, and a region without borders."""
        like = belief.z_BTD.new_empty(0, dtype=torch.float32)
        if guess_BHA is None:
            guess_BHA = self._clip(like.new_zeros(len(generators), self.horizon, self.action.size))
        std_BHA = (self.init_std * self._half_range(like)).expand_as(guess_BHA)
        return renoised(guess_BHA, self.first_samples, std_BHA, self.correlation, generators), Region(std_BHA)

    def _evaluate(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator]) -> tuple[Tensor, Tensor]:
        """Return finite actions and their costs (B, S), float32; inf where anything about a candidate is not finite."""
        sizes = dict(zip("BSH", actions_BSHA.shape, strict=False))
        legal_BS = finite_rows(actions_BSHA)
        # a simulator may not survive NaN: such candidates are predicted as rest, and rejected all the same
        actions_BSHA = self._clip(torch.where(legal_BS[:, :, None, None], actions_BSHA, 0.0))
        z_BSHD = self.dynamics.rollout(belief, actions_BSHA, generators).float()
        check("dynamics.rollout", z_BSHD, "B S H D", **sizes)
        cost_BS = self.objective(self.readout(z_BSHD), actions_BSHA).float()
        check("objective", cost_BS, "B S", B=sizes["B"], S=sizes["S"])
        ok_BS = legal_BS & finite_rows(z_BSHD) & cost_BS.isfinite()
        return actions_BSHA, torch.where(ok_BS, cost_BS, math.inf)

    def _usable(self, guess_BHA: Tensor) -> Tensor:
        """Return the guess, or rest for an environment whose guess is not finite."""
        ok_B = guess_BHA.isfinite().flatten(1).all(1)
        return self._clip(torch.where(ok_B[:, None, None], guess_BHA, 0.0))

    def _clip(self, actions: Tensor) -> Tensor:
        """Return actions (..., A) inside the legal bounds."""
        low_A = torch.as_tensor(self.action.low_A, dtype=actions.dtype, device=actions.device)
        high_A = torch.as_tensor(self.action.high_A, dtype=actions.dtype, device=actions.device)
        return actions.clamp(low_A, high_A)

    def _half_range(self, like: Tensor) -> Tensor:
        """Return half of each actuator's range, (A,) [action units]; 1 where the range is not bounded."""
        half_A = (np.asarray(self.action.high_A, np.float64) - np.asarray(self.action.low_A, np.float64)) / 2
        return torch.as_tensor(np.where(np.isfinite(half_A), half_A, 1.0), dtype=like.dtype, device=like.device)
