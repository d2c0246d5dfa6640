"""Model predictive path integral control around proposals: the next mean is a softmax-weighted mean of candidates.

w_s is proportional to exp(-(J_s - min J) / (temperature * spread)), spread = median J - min J over the candidates that
were not rejected. So temperature has no unit, and neither the scale of the cost nor a few catastrophic candidates
change what it means; the lambda of Williams et al. (ICRA 2017) is temperature * spread. The standard deviation follows
the same weights (TD-MPC2, Hansen et al., arXiv 2310.16828).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from planners.sampling import Incumbent, Region, smooth_noise


@dataclass(frozen=True)
class MppiState:
    """All of the memory of the method."""

    first_BSHA: Tensor | None  # None once it has been evaluated
    region: Region
    mean_BHA: Tensor
    std_BHA: Tensor
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
        return MppiState(first_BSHA, region, none.actions_BHA, region.scale_BHA, none, none)

    def ask(self, state: MppiState, samples: int, generators: Sequence[Generator], /) -> Tensor:
        """Return candidates (B, S, H, A) inside the trust region; from the second time on, candidate 0 is the mean."""
        if state.first_BSHA is not None:
            return state.first_BSHA
        mean_B1HA = state.mean_BHA[:, None]
        eps_BSHA = smooth_noise(generators, samples - 1, state.mean_BHA, self.correlation)
        drawn_BSHA = mean_B1HA + state.std_BHA[:, None] * eps_BSHA
        return state.region.clamp(torch.cat([mean_B1HA, drawn_BSHA], 1), self.trust)

    def weights(self, cost_BS: Tensor) -> Tensor:
        """Return one weight per candidate, (B, S), that sum to 1; all 0 where no cost is finite."""
        ok_BS = cost_BS.isfinite()
        above_BS = torch.where(ok_BS, cost_BS - cost_BS.amin(1, keepdim=True), math.nan)
        unit_B1 = self.temperature * above_BS.nanmedian(1, keepdim=True).values
        raw_BS = torch.where(ok_BS, torch.exp(-above_BS / unit_B1.clamp_min(torch.finfo(cost_BS.dtype).tiny)), 0.0)
        return raw_BS / raw_BS.sum(1, keepdim=True).clamp_min(1.0)  # the best has weight 1, so the sum is 0 or >= 1

    def tell(self, state: MppiState, actions_BSHA: Tensor, cost_BS: Tensor, /) -> MppiState:
        """Return the state with the weighted mean and standard deviation; a rejected candidate has no weight."""
        weight_B1S = self.weights(cost_BS)[:, None]
        some_B11 = cost_BS.isfinite().any(1)[:, None, None]
        shape = state.mean_BHA.shape
        mean_BHA = (weight_B1S @ actions_BSHA.flatten(2)).view(shape)
        apart_BSHA = actions_BSHA - mean_BHA[:, None]
        std_BHA = (weight_B1S @ apart_BSHA.square_().flatten(2)).view(shape).sqrt_()
        narrow_BHA = self.min_std * state.region.scale_BHA
        centre = state.centre
        if state.first_BSHA is None:
            centre = Incumbent(actions_BSHA[:, 0], cost_BS[:, 0])
        return replace(
            state,
            first_BSHA=None,
            mean_BHA=torch.where(some_B11, mean_BHA, state.mean_BHA),
            std_BHA=torch.where(some_B11, torch.maximum(std_BHA, narrow_BHA), state.std_BHA),
            best=state.best.challenge(actions_BSHA, cost_BS),
            centre=centre,
        )

    def answer(self, state: MppiState, /) -> Incumbent:
        """Return the best candidate ever, or, with `returns="centre"`, the last mean if its cost is finite."""
        if self.returns == "centre":
            return state.best.unless_finite(state.centre.actions_BHA, state.centre.cost_B)
        return state.best
