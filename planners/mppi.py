"""Model predictive path integral control around proposals: the next mean is a softmax-weighted mean of candidates.

w_s is proportional to exp(-(J_s - min J) / (temperature * spread)), spread = median J - min J over the candidates that
were not rejected. So temperature has no unit, and neither the scale of the cost nor a few catastrophic candidates
change what it means; the lambda of Williams et al. (ICRA 2017) is temperature * spread. The standard deviation follows
the same weights (TD-MPC2, Hansen et al., arXiv 2310.16828).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from planners.sampling import Incumbent, Region, smooth_noise


@dataclass(frozen=True)
class MppiState:
    """All of the memory of the method: the last population, and what was best."""

    actions_BSHA: Tensor
    cost_BS: Tensor | None  # None until the first population has been evaluated
    region: Region
    best: Incumbent
    centre: Incumbent  # the last mean that was evaluated


@dataclass(frozen=True)
class Mppi:
    """All lengths are in standard deviations of the proposal, so one configuration serves every robot."""

    temperature: float = 0.1  # in units of the cost's spread: lower is greedier
    iterations: int = 4  # populations per plan, the proposals being the first
    min_std: float = 0.02  # the search never becomes narrower than this
    correlation: float = 0.7  # of the noise of neighbouring control steps, 0 .. 1
    trust: float = 1.0  # candidates stay this close to a proposal in every coordinate; inf: anywhere
    returns: Literal["best", "centre"] = "best"  # the best candidate ever, or the last mean that was evaluated

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if self.iterations < (2 if self.returns == "centre" else 1):
            raise ValueError(f"iterations must be >= 1, and >= 2 to return the centre, got {self.iterations}")
        if not 0 <= self.correlation < 1:
            raise ValueError(f"need 0 <= correlation < 1, got {self.correlation}")
        if not (self.min_std > 0 and self.trust > 0):
            raise ValueError(f"min_std and trust must be > 0, got {self.min_std} and {self.trust}")

    @property
    def least_samples(self) -> int:
        """A weighted mean needs two candidates."""
        return 2

    def init(self, first_BSHA: Tensor, region: Region, /) -> MppiState:
        """Return the state before the first population (B, S, H, A)."""
        none = Incumbent.none(first_BSHA)
        return MppiState(first_BSHA, None, region, none, none)

    def ask(self, state: MppiState, samples: int, generators: Sequence[Generator], /) -> Tensor:
        """Return candidates (B, S, H, A) inside the trust region; from the second time on, candidate 0 is the mean."""
        if state.cost_BS is None:
            return state.actions_BSHA
        mean_BHA, std_BHA = self.moments(state, state.cost_BS)
        std_BHA = torch.maximum(std_BHA, self.min_std * state.region.scale_BHA)
        eps_BSHA = smooth_noise(generators, samples - 1, mean_BHA, self.correlation)
        drawn_BSHA = mean_BHA[:, None] + std_BHA[:, None] * eps_BSHA
        return state.region.clamp(torch.cat([mean_BHA[:, None], drawn_BSHA], 1), self.trust)

    def tell(self, state: MppiState, actions_BSHA: Tensor, cost_BS: Tensor, /) -> MppiState:
        """Return the state that remembers this population; the best of it may become the incumbent."""
        centre = state.centre if state.cost_BS is None else Incumbent(actions_BSHA[:, 0], cost_BS[:, 0])
        return MppiState(actions_BSHA, cost_BS, state.region, state.best.challenge(actions_BSHA, cost_BS), centre)

    def weights(self, cost_BS: Tensor) -> Tensor:
        """Return one weight per candidate, (B, S), that sum to 1; all 0 where no cost is finite."""
        above_BS = torch.where(cost_BS.isfinite(), cost_BS - cost_BS.amin(1, keepdim=True), math.nan)
        unit_B1 = self.temperature * above_BS.nanmedian(1, keepdim=True).values
        raw_BS = torch.exp(-above_BS / unit_B1.clamp_min(torch.finfo(cost_BS.dtype).tiny)).nan_to_num(0.0)
        return raw_BS / raw_BS.sum(1, keepdim=True).clamp_min(1.0)  # the best has weight 1, so the sum is 0 or >= 1

    def moments(self, state: MppiState, cost_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean and standard deviation of the last population, each (B, H, A).

        Rejected candidates have no weight; where all were rejected, the search starts anew around the incumbent.
        """
        weight_B1S = self.weights(cost_BS)[:, None]
        shape = state.best.actions_BHA.shape
        mean_BHA = (weight_B1S @ state.actions_BSHA.flatten(2)).view(shape)
        square_BSHA = (state.actions_BSHA - mean_BHA[:, None]).square_()
        std_BHA = (weight_B1S @ square_BSHA.flatten(2)).view(shape).sqrt_()
        some_B11 = weight_B1S.any(2, keepdim=True)
        return (
            torch.where(some_B11, mean_BHA, state.best.actions_BHA),
            torch.where(some_B11, std_BHA, state.region.scale_BHA),
        )

    def spread(self, state: MppiState, /) -> Tensor:
        """Return the largest weighted standard deviation, in those of the proposal, (B,)."""
        assert state.cost_BS is not None
        return (self.moments(state, state.cost_BS)[1] / state.region.scale_BHA).flatten(1).amax(1)

    def answer(self, state: MppiState, /) -> Incumbent:
        """Return the best candidate ever, or, with `returns="centre"`, the last mean if its cost is finite."""
        if self.returns == "centre":
            return state.best.unless_finite(state.centre.actions_BHA, state.centre.cost_B)
        return state.best
