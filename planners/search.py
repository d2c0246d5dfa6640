"""The one loop that all methods share: ask, clip, predict, score, reject what is not finite, tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from envs.shapes import check
from planners.sampling import Bounds, Incumbent, Method, Region, finite_rows, repaired, take
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
    candidates: int  # evaluated for each environment, at most
    futures_BFHD: Tensor  # what was predicted for the best of the last population, the best first


FUTURES = 8
"""Predictions that a plan keeps, for those who want to see what it was chosen from."""


@dataclass(frozen=True)
class First:
    """The first population, the region the method may search, and which candidates were finite as proposed."""

    actions_BSHA: Tensor
    region: Region
    legal_BS: Tensor | None = None  # None: all


@dataclass
class Found:
    """What a search has found so far. An environment that is closed keeps what it has, whatever goes on beside it in the batch."""

    open_B: Tensor
    rejected_B: Tensor
    candidates: int = 0
    best: tuple[Tensor, ...] = ()  # actions, cost, futures
    _left: dict[int, Tensor] = field(default_factory=dict)  # states of the generators of those that are closed

    @classmethod
    def nothing(cls, environments: int, device: torch.device) -> Found:
        """Return it before anything was evaluated."""
        zero_B = torch.zeros(environments, dtype=torch.int64, device=device)
        return cls(zero_B == 0, zero_B)

    def add(self, best: Incumbent, z_BSHD: Tensor, cost_BS: Tensor) -> None:
        """Take in a population and the best so far, where the search goes on."""
        self.rejected_B += cost_BS.isinf().sum(1) * self.open_B
        self.candidates += cost_BS.shape[1]
        futures_BFHD = take(z_BSHD, cost_BS.topk(min(FUTURES, cost_BS.shape[1]), largest=False).indices)
        new = best.actions_BHA, best.cost_B, futures_BFHD
        if self.open_B.all():
            self.best = new
        else:
            rows = [self.open_B.view(-1, *[1] * (t.ndim - 1)) for t in new]
            self.best = tuple(torch.where(row, n, old) for row, n, old in zip(rows, new, self.best, strict=True))

    def close(self, narrow_B: Tensor, generators: Sequence[Generator]) -> bool:
        """Close the environments whose search has become narrow; return whether none is left."""
        for row in (narrow_B & self.open_B).nonzero()[:, 0].tolist():
            self._left[row] = generators[row].get_state()
        self.open_B = self.open_B & ~narrow_B
        return not self.open_B.any()

    def restore(self, generators: Sequence[Generator]) -> None:
        """Leave each generator as the search of its own environment left it."""
        for row, state in self._left.items():
            generators[row].set_state(state)


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
    guess_trust: float = 2.0  # the guess stays this close to a proposal; it is then a centre of the trust region too
    renoise: float = 0.3  # noise on those copies, in standard deviations of the proposal
    correlation: float = 0.7  # of that noise, and of the Gaussian proposal, over neighbouring control steps
    settled: float = 0.0  # a search ends when its next draw would be narrower, in standard deviations of the proposal
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
        if not (0 < self.guess_share <= 1 and self.renoise >= 0 and 0 <= self.correlation < 1):
            raise ValueError(
                "need 0 < guess_share <= 1, renoise >= 0 and 0 <= correlation < 1, got "
                f"{self.guess_share}, {self.renoise} and {self.correlation}"
            )
        if not (min(self.init_std, self.floor_std, self.guess_trust) > 0 and self.settled >= 0):
            raise ValueError(
                "init_std, floor_std and guess_trust must be > 0, settled >= 0, got "
                f"{self.init_std}, {self.floor_std}, {self.guess_trust} and {self.settled}"
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
        bounds = Bounds.of(self.action, belief.z_BTD.device)
        first = self._first(belief, self._usable(guess_BHA, bounds, belief), bounds, generators)
        state = self.method.init(first.actions_BSHA, first.region)
        legal_BS = first.legal_BS
        found = Found.nothing(len(generators), belief.z_BTD.device)
        for _ in range(self.method.iterations):
            actions_BSHA = bounds.clip(self.method.ask(state, self.samples, generators))
            z_BSHD, cost_BS = self._evaluate(belief, actions_BSHA, legal_BS, generators)
            state = self.method.tell(state, actions_BSHA, cost_BS)
            found.add(self.method.answer(state), z_BSHD, cost_BS)
            legal_BS = None  # what a method makes of finite candidates is finite
            if self.settled > 0.0 and found.close(self.method.spread(state) < self.settled, generators):
                break
        found.restore(generators)
        actions_BHA, cost_B, futures_BFHD = found.best
        return SearchResult(bounds.clip(actions_BHA), cost_B, found.rejected_B, found.candidates, futures_BFHD)

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
        return self.as_plan(result, 0, now_s, now_s if observed_s is None else observed_s)

    def as_plan(self, result: SearchResult, row: int, start_s: float, observed_s: float) -> ActionPlan:
        """Return one environment's row of a search as the plan that starts at `start_s` [s]."""
        cost, rejected = float(result.cost_B[row]), int(result.rejected_B[row])
        status = PlanStatus.DEGRADED if rejected else PlanStatus.OK
        if not math.isfinite(cost):
            status = PlanStatus.FAILED
        actions_HA = result.actions_BHA[row].cpu().numpy()
        futures_FHD = result.futures_BFHD[row].cpu().numpy()
        return ActionPlan(
            actions_HA, self.dt_s, start_s, status, cost, self.goal_version, observed_s, rejected, futures_FHD
        )

    def _first(
        self, belief: Belief, guess_BHA: Tensor | None, bounds: Bounds, generators: Sequence[Generator]
    ) -> First:
        """Return the first population, the guess and its noisy copies in front, and the region the proposals cover."""
        if self.proposal is None:
            return self._gaussian(belief, guess_BHA, bounds, generators)
        copies = 0 if guess_BHA is None else max(1, round(self.guess_share * self.first_samples))
        fresh = max(1, self.first_samples - copies)
        sampled_BSHA = self.proposal.sample(belief, fresh, generators).float()
        check(
            "proposal.sample", sampled_BSHA, "B S H A", B=len(generators), S=fresh, H=self.horizon, A=self.action.size
        )
        legal_BS = finite_rows(sampled_BSHA)
        proposals_BSHA = bounds.clip(repaired(sampled_BSHA, legal_BS))
        region = Region.around(proposals_BSHA, self.floor_std * bounds.half_A)
        if guess_BHA is None:
            return First(proposals_BSHA, region, legal_BS)
        # bounded by the proposals, lest plan after plan the lineage of a guess leave what the model knows
        guess_B1HA = region.clamp(guess_BHA[:, None], self.guess_trust)
        region = replace(region, centres_BPHA=torch.cat([guess_B1HA, proposals_BSHA], 1))
        noisy_BSHA = renoised(guess_B1HA[:, 0], copies, self.renoise * region.scale_BHA, self.correlation, generators)
        first_BSHA = torch.cat([region.clamp(bounds.clip(noisy_BSHA), self.method.trust), proposals_BSHA], 1)
        return First(first_BSHA, region, torch.cat([legal_BS.new_ones(len(generators), copies), legal_BS], 1))

    def _gaussian(
        self, belief: Belief, guess_BHA: Tensor | None, bounds: Bounds, generators: Sequence[Generator]
    ) -> First:
        """Return a Gaussian population around the guess, or around rest, and a region without borders."""
        if guess_BHA is None:
            guess_BHA = bounds.clip(bounds.low_A.new_zeros(len(generators), self.horizon, self.action.size))
        std_BHA = (self.init_std * bounds.half_A).expand_as(guess_BHA)
        drawn_BSHA = renoised(guess_BHA, self.first_samples, std_BHA, self.correlation, generators)
        return First(drawn_BSHA, Region(std_BHA))

    def _evaluate(
        self, belief: Belief, actions_BSHA: Tensor, legal_BS: Tensor | None, generators: Sequence[Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return predictions and costs (B, S), float32; inf where anything about a candidate is not finite, or it is not legal."""
        B, S, H, _ = actions_BSHA.shape
        z_BSHD = self.dynamics.rollout(belief, actions_BSHA, generators).float()
        check("dynamics.rollout", z_BSHD, "B S H D", B=B, S=S, H=H)
        cost_BS = self.objective(self.readout(z_BSHD), actions_BSHA).float()
        check("objective", cost_BS, "B S", B=B, S=S)
        ok_BS = (cost_BS + z_BSHD.sum((2, 3))).isfinite()  # a sum with a non-finite term is not finite
        if legal_BS is not None:
            ok_BS &= legal_BS
        return z_BSHD, torch.where(ok_BS, cost_BS, math.inf)

    def _usable(self, guess_BHA: Tensor | None, bounds: Bounds, belief: Belief) -> Tensor | None:
        """Return the guess inside the bounds; rest for an environment whose guess is not finite."""
        if guess_BHA is None:
            return None
        check("guess_BHA", guess_BHA, "B H A", B=len(belief.z_BTD), H=self.horizon, A=self.action.size)
        guess_BHA = guess_BHA.to(bounds.low_A.device, torch.float32)
        ok_B = guess_BHA.isfinite().flatten(1).all(1)
        return bounds.clip(torch.where(ok_B[:, None, None], guess_BHA, 0.0))
