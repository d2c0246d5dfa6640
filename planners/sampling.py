"""What all methods share: seeded smooth noise, the region that the proposals cover, and the best candidate so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor


def smooth_noise(generators: Sequence[Generator], samples: int, like_BHA: Tensor, correlation: float) -> Tensor:
    """Return unit normal noise (B, S, H, A), an AR(1) process along H: neighbouring steps share `correlation`.

    Row b is drawn from `generators[b]` alone. Size, device and dtype are those of `like_BHA`.
    """
    shape = (samples, *like_BHA.shape[1:])
    noise_BSHA = torch.stack(
        [torch.randn(shape, generator=g, device=g.device, dtype=like_BHA.dtype) for g in generators]
    ).to(like_BHA.device)
    if correlation == 0.0:
        return noise_BSHA
    return ar1_matrix(shape[1], correlation, like_BHA) @ noise_BSHA


def ar1_matrix(horizon: int, correlation: float, like: Tensor) -> Tensor:
    """Return L (H, H): L @ white noise is stationary AR(1) of unit variance, e_h = c e_(h-1) + sqrt(1 - c^2) n_h."""
    steps_H = torch.arange(horizon, device=like.device, dtype=like.dtype)
    powers_HH = (correlation ** (steps_H[:, None] - steps_H).clamp_min(0.0)).tril()
    powers_HH[:, 1:] *= math.sqrt(1.0 - correlation**2)
    return powers_HH


def finite_rows(x_BSHA: Tensor) -> Tensor:
    """Return (B, S) bool: True where a candidate holds no NaN and no infinity."""
    # one pass: a sum is non-finite when an entry is (or when the sum itself overflows, which is no better)
    return x_BSHA.sum((2, 3), dtype=torch.float32).isfinite()


@dataclass(frozen=True)
class Region:
    """Where the model has been: proposal centres (None: anywhere) and the proposals' standard deviation."""

    scale_BHA: Tensor
    centres_BPHA: Tensor | None = None

    def clamp(self, actions_BSHA: Tensor, trust: float) -> Tensor:
        """Return actions moved into the box of +-`trust` standard deviations around their nearest centre."""
        if self.centres_BPHA is None or math.isinf(trust):
            return actions_BSHA
        unit_B1HA = self.scale_BHA[:, None]
        distance_BSP = torch.cdist((actions_BSHA / unit_B1HA).flatten(2), (self.centres_BPHA / unit_B1HA).flatten(2))
        near_BSHA = take(self.centres_BPHA, distance_BSP.nan_to_num(nan=math.inf).argmin(2))
        reach_B1HA = trust * unit_B1HA
        return actions_BSHA.clamp(near_BSHA - reach_B1HA, near_BSHA + reach_B1HA)

    @classmethod
    def around(cls, proposals_BPHA: Tensor, floor_A: Tensor) -> Region:
        """Return the region of a population; `floor_A` [action units] bounds its standard deviation from below."""
        ok_BP11 = finite_rows(proposals_BPHA)[:, :, None, None]
        count_B11 = ok_BP11.sum(1).clamp_min(1)
        known_BPHA = torch.where(ok_BP11, proposals_BPHA, 0.0)
        mean_BHA = known_BPHA.sum(1) / count_B11
        square_BHA = torch.where(ok_BP11, (known_BPHA - mean_BHA[:, None]) ** 2, 0.0).sum(1) / count_B11
        return cls(square_BHA.sqrt().clamp_min(floor_A), proposals_BPHA)


def take(x_BSHA: Tensor, index_BE: Tensor) -> Tensor:
    """Return the candidates that `index_BE` names, (B, E, H, A)."""
    rows_B1 = torch.arange(len(x_BSHA), device=x_BSHA.device)[:, None]
    return x_BSHA[rows_B1, index_BE]


@dataclass(frozen=True)
class Incumbent:
    """The best candidate that was ever evaluated, (B, H, A), and its cost, (B,); the cost is inf until there is one."""

    actions_BHA: Tensor
    cost_B: Tensor

    @classmethod
    def none(cls, like_BSHA: Tensor) -> Incumbent:
        """Return the incumbent of a search that has evaluated nothing."""
        return cls(torch.zeros_like(like_BSHA[:, 0]), like_BSHA.new_full((len(like_BSHA),), math.inf))

    def challenge(self, actions_BSHA: Tensor, cost_BS: Tensor) -> Incumbent:
        """Return the better, for each environment, of the incumbent and the best candidate; ties stay."""
        cost_B, index_B = cost_BS.min(1)
        better_B = cost_B < self.cost_B
        found_BHA = take(actions_BSHA, index_B[:, None])[:, 0]
        return Incumbent(
            torch.where(better_B[:, None, None], found_BHA, self.actions_BHA),
            torch.where(better_B, cost_B, self.cost_B),
        )

    def unless_finite(self, actions_BHA: Tensor, cost_B: Tensor) -> Incumbent:
        """Return the given, evaluated block where its cost is finite, and this one elsewhere."""
        ok_B = cost_B.isfinite()
        return Incumbent(
            torch.where(ok_B[:, None, None], actions_BHA, self.actions_BHA), torch.where(ok_B, cost_B, self.cost_B)
        )


class Method(Protocol):
    """One search method: pure functions over an explicit state. Costs are finite or inf, actions always finite."""

    @property
    def iterations(self) -> int:
        """Populations that are evaluated for one plan."""
        ...

    @property
    def least_samples(self) -> int:
        """The smallest population the method can work with."""
        ...

    @property
    def trust(self) -> float:
        """Radius of the trust region, in standard deviations of the proposal; inf: none."""
        ...

    def init(self, first_BSHA: Tensor, region: Region, /) -> Any:
        """Return the state before anything was evaluated; `first_BSHA` is what the first `ask` gives."""
        ...

    def ask(self, state: Any, samples: int, generators: Sequence[Generator], /) -> Tensor:
        """Return the next candidates, (B, S, H, A); the first population may differ from `samples` in size."""
        ...

    def tell(self, state: Any, actions_BSHA: Tensor, cost_BS: Tensor, /) -> Any:
        """Return the state after these candidates cost that much, (B, S); inf means rejected."""
        ...

    def answer(self, state: Any, /) -> Incumbent:
        """Return the block to execute and its cost; it was evaluated, unless the cost is inf."""
        ...
