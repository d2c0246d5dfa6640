"""Cross-entropy refinement of proposals: fit mean and standard deviation to the elites, draw around them, repeat.

The first population is the proposal's. Later candidates are  m + sqrt(1 - k^2) (e - m) + k sigma eps  with e an elite,
m and sigma the elites' mean and standard deviation, and eps smooth unit noise. Any `kernel` k keeps mean and variance
(Liu and West, 2001): k = 1 is the classical method, a smaller k keeps what the elites have in common over time and
joints. Elites stay in the race with the cost they got (iCEM, Pinneri et al., arXiv 2008.06389).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    elite_cost_BE: Tensor
    mean_BHA: Tensor
    std_BHA: Tensor
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
        elites_BEHA = torch.zeros_like(first_BSHA[:, : self.elites])
        cost_BE = elites_BEHA.new_full(elites_BEHA.shape[:2], math.inf)
        none = Incumbent.none(first_BSHA)
        return CemState(first_BSHA, region, elites_BEHA, cost_BE, none.actions_BHA, region.scale_BHA, none)

    def ask(self, state: CemState, samples: int, generators: Sequence[Generator], /) -> Tensor:
        """Return candidates (B, S, H, A) inside the trust region; from the second time on, candidate 0 is the mean."""
        if state.first_BSHA is not None:
            return state.first_BSHA
        mean_B1HA, std_B1HA = state.mean_BHA[:, None], state.std_BHA[:, None]
        eps_BSHA = smooth_noise(generators, samples - 1, state.mean_BHA, self.correlation)
        known_B = state.elite_cost_BE.isfinite().sum(1, keepdim=True).clamp_min(1)
        parent_BS = torch.arange(samples - 1, device=known_B.device) % known_B
        offset_BSHA = take(state.elites_BEHA, parent_BS) - mean_B1HA
        drawn_BSHA = mean_B1HA + math.sqrt(1 - self.kernel**2) * offset_BSHA + self.kernel * std_B1HA * eps_BSHA
        return state.region.clamp(torch.cat([mean_B1HA, drawn_BSHA], 1), self.trust)

    def tell(self, state: CemState, actions_BSHA: Tensor, cost_BS: Tensor, /) -> CemState:
        """Return the state with the elites of the old and the new candidates; a rejected one never counts."""
        pool_BSHA = torch.cat([state.elites_BEHA, actions_BSHA], 1)
        cost_BE, index_BE = torch.cat([state.elite_cost_BE, cost_BS], 1).topk(self.elites, largest=False)
        elites_BEHA = take(pool_BSHA, index_BE)
        ok_BE11 = cost_BE.isfinite()[:, :, None, None]
        count_B11 = ok_BE11.sum(1)
        mean_BHA = torch.where(ok_BE11, elites_BEHA, 0.0).sum(1) / count_B11.clamp_min(1)
        square_BEHA = torch.where(ok_BE11, (elites_BEHA - mean_BHA[:, None]) ** 2, 0.0)
        std_BHA = (square_BEHA.sum(1) / count_B11.clamp_min(1)).sqrt()
        narrow_BHA = self.min_std * state.region.scale_BHA
        centre = state.centre
        if state.first_BSHA is None:
            centre = Incumbent(actions_BSHA[:, 0], cost_BS[:, 0])
        return replace(
            state,
            first_BSHA=None,
            elites_BEHA=elites_BEHA,
            elite_cost_BE=cost_BE,
            mean_BHA=torch.where(count_B11 > 0, mean_BHA, state.mean_BHA),
            std_BHA=torch.where(count_B11 > 0, torch.maximum(std_BHA, narrow_BHA), state.std_BHA),
            centre=centre,
        )

    def answer(self, state: CemState, /) -> Incumbent:
        """Return the best candidate ever, or, with `returns="centre"`, the last mean if its cost is finite."""
        best = Incumbent(state.elites_BEHA[:, 0], state.elite_cost_BE[:, 0])
        if self.returns == "centre":
            return best.unless_finite(state.centre.actions_BHA, state.centre.cost_B)
        return best
