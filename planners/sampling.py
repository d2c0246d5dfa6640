"""What all methods share: seeded smooth noise, the region that the proposals cover, and the best candidate so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from envs.types import ActionSpec


def smooth_noise(generators: Sequence[Generator], samples: int, like_BHA: Tensor, correlation: float) -> Tensor:
    """Return unit normal noise (B, S, H, A), an AR(1) process along H: neighbouring steps share `correlation`.

    Row b is drawn from `generators[b]` alone. Size, device and dtype are those of `like_BHA`.
    """
    shape = (samples, *like_BHA.shape[1:])
    rows = [torch.randn(shape, generator=g, device=g.device, dtype=like_BHA.dtype) for g in generators]
    noise_BSHA = (rows[0][None] if len(rows) == 1 else torch.stack(rows)).to(like_BHA.device)
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
    return x_BSHA.sum((2, 3)).isfinite()  # a sum with a non-finite term is not finite


def repaired(x_BSHA: Tensor, ok_BS: Tensor) -> Tensor:
    """Return candidates of which those that are not `ok` are replaced by one that is, or by zeros if none is.

    A simulator may not survive NaN, nor does a standard deviation.
    """
    spare_B1HA = take(x_BSHA, ok_BS.int().argmax(1, keepdim=True))
    return torch.where(ok_BS[:, :, None, None], x_BSHA, spare_B1HA.nan_to_num(0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Bounds:
    """The legal actions as tensors."""

    low_A: Tensor
    high_A: Tensor

    @classmethod
    def of(cls, action: ActionSpec, device: torch.device) -> Bounds:
        """Return the bounds of a robot, float32."""
        low_A, high_A = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (action.low_A, action.high_A))
        return cls(low_A, high_A)

    @property
    def half_A(self) -> Tensor:
        """Half of each actuator's range [action units]; 1 where it is not bounded."""
        half_A = (self.high_A - self.low_A) / 2
        return torch.where(half_A.isfinite(), half_A, 1.0)

    def clip(self, actions: Tensor) -> Tensor:
        """Return actions (..., A) inside the bounds."""
        return actions.clamp(self.low_A, self.high_A)


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
        near_BSHA = take(self.centres_BPHA, distance_BSP.argmin(2))
        reach_B1HA = trust * unit_B1HA
        return actions_BSHA.clamp(near_BSHA - reach_B1HA, near_BSHA + reach_B1HA)

    @classmethod
    def around(cls, proposals_BPHA: Tensor, floor_A: Tensor) -> Region:
        """Return the region of a population; `floor_A` [action units] bounds its standard deviation from below."""
        std_BHA = proposals_BPHA.std(1, correction=0)
        return cls(torch.maximum(std_BHA, floor_A), proposals_BPHA)


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

    def spread(self, state: Any, /) -> Tensor:
        """Return how wide the next draw would be, (B,): its largest standard deviation, in those of the proposal; without floors."""
        ...

    def answer(self, state: Any, /) -> Incumbent:
        """Return the block to execute and its cost; it was evaluated, unless the cost is inf."""
        ...
