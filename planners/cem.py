"""Cross-entropy refinement of proposals: fit mean and standard deviation to the elites, draw around them, repeat.

The first population is the proposal's. Later candidates are  m + sqrt(1 - k^2) (e - m) + k sigma eps  with e an elite,
m and sigma the elites' mean and standard deviation, and eps smooth unit noise. Any `kernel` k keeps mean and variance
(Liu and West, 2001): k = 1 is the classical method, a smaller k keeps what the elites have in common over time and
joints. Elites stay in the race with the cost they got (iCEM, Pinneri et al., arXiv 2008.06389).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from planners.sampling import Incumbent, Region, smooth_noise, take


@dataclass(frozen=True)
class CemState:
    """All of the memory of the method. Elites are sorted, the best first."""

    first_BSHA: Tensor | None  # None once it has been evaluated
    region: Region
    elites_BEHA: Tensor
    elite_cost_BE: Tensor  # inf where there are fewer elites
    centre: Incumbent  # the last mean that was evaluated


@dataclass(frozen=True)
class Cem:
    """All lengths are in standard deviations of the proposal, so one configuration serves every robot."""

    elites: int = 16  # candidates that survive an iteration
    iterations: int = 4  # populations per plan, the proposals being the first
    min_std: float = 0.02  # the search never becomes narrower than this
    kernel: float = 0.7  # 1: draw around the elites' mean; towards 0: around single elites
    correlation: float = 0.7  # of the noise of neighbouring control steps, 0 .. 1
    trust: float = 1.0  # candidates stay this close to a proposal in every coordinate; inf: anywhere
    returns: Literal["best", "centre"] = "best"  # the best candidate ever, or the last mean that was evaluated

    def __post_init__(self) -> None:
        if self.elites < 2:
            raise ValueError(f"elites must be >= 2, got {self.elites}")
        if self.iterations < (2 if self.returns == "centre" else 1):
            raise ValueError(f"iterations must be >= 1, and >= 2 to return the centre, got {self.iterations}")
        if not (0 < self.kernel <= 1 and 0 <= self.correlation < 1):
            raise ValueError(f"need 0 < kernel <= 1, 0 <= correlation < 1, got {self.kernel} and {self.correlation}")
        if not (self.min_std > 0 and self.trust > 0):
            raise ValueError(f"min_std and trust must be > 0, got {self.min_std} and {self.trust}")

    @property
    def least_samples(self) -> int:
        """There must be as many candidates as elites."""
        return self.elites

    def init(self, first_BSHA: Tensor, region: Region, /) -> CemState:
        """Return the state before the first population (B, S, H, A); no elite has a finite cost yet."""
        none_BEHA = torch.zeros_like(first_BSHA[:, : self.elites])
        cost_BE = none_BEHA.new_full(none_BEHA.shape[:2], math.inf)
        return CemState(first_BSHA, region, none_BEHA, cost_BE, Incumbent.none(first_BSHA))

    def ask(self, state: CemState, samples: int, generators: Sequence[Generator], /) -> Tensor:
        """Return candidates (B, S, H, A) inside the trust region; from the second time on, candidate 0 is the mean."""
        if state.first_BSHA is not None:
            return state.first_BSHA
        mean_BHA, std_BHA = self.fit(state)
        std_BHA = torch.maximum(std_BHA, self.min_std * state.region.scale_BHA)
        eps_BSHA = smooth_noise(generators, samples - 1, mean_BHA, self.correlation)
        elites_B1 = state.elite_cost_BE.isfinite().sum(1, keepdim=True).clamp_min(1)
        parent_BS = torch.arange(samples - 1, device=elites_B1.device) % elites_B1
        offset_BSHA = take(state.elites_BEHA, parent_BS) - mean_BHA[:, None]
        step_BSHA = math.sqrt(1 - self.kernel**2) * offset_BSHA + self.kernel * std_BHA[:, None] * eps_BSHA
        mean_B1HA = mean_BHA[:, None]
        return state.region.clamp(torch.cat([mean_B1HA, mean_B1HA + step_BSHA], 1), self.trust)

    def tell(self, state: CemState, actions_BSHA: Tensor, cost_BS: Tensor, /) -> CemState:
        """Return the state with the elites of the old and the new candidates."""
        pool_BSHA = torch.cat([state.elites_BEHA, actions_BSHA], 1)
        cost_BE, index_BE = torch.cat([state.elite_cost_BE, cost_BS], 1).topk(self.elites, largest=False)
        centre = state.centre if state.first_BSHA is not None else Incumbent(actions_BSHA[:, 0], cost_BS[:, 0])
        return CemState(None, state.region, take(pool_BSHA, index_BE), cost_BE, centre)

    def fit(self, state: CemState) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the elites, each (B, H, A); rejected candidates never count.

        Where there is no elite at all, the mean is 0 and the standard deviation the proposal's.
        """
        ok_BE11 = state.elite_cost_BE.isfinite()[:, :, None, None]
        count_B11 = ok_BE11.sum(1)
        weight_BE11 = ok_BE11 / count_B11[:, None].clamp_min(1)
        mean_BHA = (weight_BE11 * state.elites_BEHA).sum(1)
        std_BHA = (weight_BE11 * (state.elites_BEHA - mean_BHA[:, None]).square()).sum(1).sqrt()
        return mean_BHA, torch.where(count_B11 > 0, std_BHA, state.region.scale_BHA)

    def spread(self, state: CemState, /) -> Tensor:
        """Return the largest standard deviation of the elites, in those of the proposal, (B,)."""
        return (self.fit(state)[1] / state.region.scale_BHA).flatten(1).amax(1)

    def answer(self, state: CemState, /) -> Incumbent:
        """Return the best candidate ever, or, with `returns="centre"`, the last mean if its cost is finite."""
        best = Incumbent(state.elites_BEHA[:, 0], state.elite_cost_BE[:, 0])
        if self.returns == "centre":
            return best.unless_finite(state.centre.actions_BHA, state.centre.cost_B)
        return best
