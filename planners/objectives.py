"""What counts as good, chosen at run time: costs on named physical readings, lower is better, summed with `+`.

Squared errors are divided by a natural scale (1 m/s, 0.1 m, 0.2 rad), so that weights near 1 balance unlike quantities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from planners.base import Readings


class Term(Protocol):
    """An objective that says which readings it needs."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the readings it looks at."""
        ...

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return one cost per candidate, (B, S)."""
        ...


@dataclass(frozen=True)
class Track:
    """Mean over the horizon of ((reading - target) / scale)^2."""

    reading: str
    target: float
    scale: float

    @property
    def reads(self) -> tuple[str, ...]:
        """The one reading."""
        return (self.reading,)

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the mean squared, scaled error, (B, S)."""
        return ((readings[self.reading] - self.target) / self.scale).square().mean(-1)


def speed(target: float) -> Track:
    """Return the term that tracks a forward speed [m/s]."""
    return Track("speed", target, 1.0)


def height(target: float) -> Track:
    """Return the term that tracks a torso height [m]."""
    return Track("height", target, 0.1)


def pitch(target: float) -> Track:
    """Return the term that tracks a torso pitch [rad], forward lean positive."""
    return Track("pitch", target, 0.2)


def posture(height_m: float, pitch_rad: float) -> WeightedSum:
    """Return the term that tracks a torso height [m] and pitch [rad]."""
    return WeightedSum(((1.0, height(height_m)), (1.0, pitch(pitch_rad))))


@dataclass(frozen=True)
class Effort:
    """Mean over the horizon of the squared norm of the action."""

    reads: tuple[str, ...] = field(default=(), init=False)

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the mean squared action, summed over actuators, (B, S)."""
        return actions_BSHA.square().sum(-1).mean(-1)


@dataclass(frozen=True)
class HeightReward:
    """The published novel reward, negated: -sum_h 5 exp(-(height_h - target)^2 / (2 sigma2)) (arXiv 2410.05364)."""

    target: float  # [m]
    sigma2: float = 5e-4  # [m^2]
    reads: tuple[str, ...] = field(default=("height",), init=False)

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return minus the summed reward, (B, S)."""
        return -5.0 * (-(readings["height"] - self.target).square() / (2 * self.sigma2)).exp().sum(-1)


@dataclass(frozen=True)
class Alive:
    """`penalty` times the share of the horizon spent fallen; whoever has fallen once stays fallen."""

    penalty: float = 100.0
    reads: tuple[str, ...] = field(default=("alive",), init=False)

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the penalty, (B, S)."""
        return self.penalty * (1.0 - readings["alive"].cumprod(-1)).mean(-1)


@dataclass(frozen=True)
class WeightedSum:
    """Sum of weight * term."""

    terms: tuple[tuple[float, Term], ...]

    def __post_init__(self) -> None:
        if not self.terms or not all(math.isfinite(weight) and weight >= 0 for weight, _ in self.terms):
            raise ValueError(f"need at least one term and finite weights >= 0, got {self.terms}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all readings, each once."""
        return tuple(dict.fromkeys(name for _, term in self.terms for name in term.reads))

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the weighted sum, (B, S)."""
        (weight, term), *rest = self.terms
        cost_BS = weight * term(readings, actions_BSHA)
        for weight, term in rest:
            cost_BS = cost_BS + weight * term(readings, actions_BSHA)
        return cost_BS


@dataclass(frozen=True)
class ReturnToGo:
    """The task itself: minus the expected discounted return, as a lambda-weighted mixture of bootstrapped returns.

    With c_h = prod_{i<=h} alive_i (alive after every action so far), c_{-1} = 1, and V_h = `value` at prediction h,

        G_h = sum_{i<=h} d^i (c_i r_i - (c_{i-1} - c_i) fall_penalty) + d^(h+1) c_h V_h,    cost = -sum_h w_h G_h,

    w_h = (1 - lam) lam^h but for the last h, which takes the rest: TD(lambda), Sutton and Barto, equation 12.3. Where
    `value` is given at `value_steps` only, each of them takes the weights of the steps skipped before it.
    """

    discount: float = 0.99
    lam: float = 0.95
    fall_penalty: float = 100.0
    value_steps: tuple[int, ...] | None = None  # horizon indices of readings["value"], increasing; None: every step
    reads: tuple[str, ...] = field(default=("reward", "alive", "value"), init=False)

    def __post_init__(self) -> None:
        if not (0 < self.discount <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"need 0 < discount <= 1 and 0 <= lam <= 1, got {self.discount} and {self.lam}")
        steps = self.value_steps
        if steps is not None and (not steps or steps[0] < 0 or list(steps) != sorted(set(steps))):
            raise ValueError(f"value_steps must be increasing indices >= 0, got {steps}")

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return minus the return, (B, S)."""
        reward_BSH, value_BSK = readings["reward"], readings["value"]
        horizon = reward_BSH.shape[-1]
        steps = tuple(range(horizon)) if self.value_steps is None else self.value_steps
        if value_BSK.shape[-1] != len(steps) or steps[-1] >= horizon:
            raise ValueError(f"values at {value_BSK.shape[-1]} steps of {horizon}, expected them at {steps}")
        alive_BSH = readings["alive"].cumprod(-1)
        survived_BSH = alive_BSH.roll(1, -1)
        survived_BSH[..., 0] = 1.0
        discount_H = reward_BSH.new_tensor([self.discount**h for h in range(horizon)])
        gained_BSH = alive_BSH * reward_BSH - (survived_BSH - alive_BSH) * self.fall_penalty
        return_BSH = (discount_H * gained_BSH).cumsum(-1)
        weight_K = reward_BSH.new_tensor(self.mixture(steps))
        boot_K = weight_K * discount_H[list(steps)] * self.discount
        return -(return_BSH[..., list(steps)] @ weight_K + (alive_BSH[..., list(steps)] * value_BSK) @ boot_K)

    def mixture(self, steps: tuple[int, ...]) -> list[float]:
        """Return the weight of the return that ends at each of `steps`; they sum to 1."""
        left = [1.0, *(self.lam ** (step + 1) for step in steps[:-1]), 0.0]
        return [before - after for before, after in pairwise(left)]


KINDS: dict[str, tuple[str, tuple[tuple[float, float], ...]]] = {
    "speed": ("m/s", ((-2.0, 6.0),)),
    # 1.35 is the highest a standing walker can hold; 1.4 is the published target that only a jump reaches
    "height": ("m", ((0.85, 1.4),)),
    "pitch": ("rad", ((-0.6, 0.6),)),
    "posture": ("m,rad", ((0.85, 1.4), (-0.6, 0.6))),
    "height_reward": ("m", ((0.85, 1.4),)),
    "effort": ("", ()),
    "run": ("", ()),
}
"""Kind -> unit and the legal range of each of its values."""


MAKERS: dict[str, Callable[..., Term]] = {
    "speed": speed,
    "height": height,
    "pitch": pitch,
    "posture": posture,
    "height_reward": HeightReward,
}


def legal_kinds(shown: Collection[str] | None = None) -> str:
    """Return one line that lists every kind with its range and unit, for error messages and help.

    `shown`: what the robot can be read, where only kinds that need no more are meant.
    """
    ranges = {k: ",".join(f"{low:g}..{high:g}" for low, high in limits) for k, (_, limits) in KINDS.items()}
    fit = [kind for kind in KINDS if shown is None or set(needs(kind)) <= set(shown)]
    return ", ".join(f"{kind}:{ranges[kind]} [{KINDS[kind][0]}]" if KINDS[kind][0] else kind for kind in fit)


def needs(kind: str) -> tuple[str, ...]:
    """Return the readings that a kind needs; the task's own and effort are there for every robot."""
    return MAKERS[kind](*(low for low, _ in KINDS[kind][1])).reads if kind in MAKERS else ()


def parse_objective(
    text: str, run: Term | None = None, fall_penalty: float = 100.0, shown: Collection[str] | None = None
) -> WeightedSum:
    """Return the objective that `text` names: `[WEIGHT*]KIND[:VALUE[,VALUE]]`, joined by `+`: `speed:1.5+0.1*effort`.

    `run` is the task's own objective. Tracked quantities bring `Alive(fall_penalty)` along, so that falling is never a
    way to reach them; `run` has a price for falling, and `height_reward` is scored as published, without. Raises
    ValueError in one line with the legal kinds and ranges, also for what the robot does not show (`shown`; None: any).
    """
    terms = tuple(_term(part.strip(), run or ReturnToGo(), shown) for part in text.split("+"))
    if any(isinstance(term, Track | WeightedSum) for _, term in terms):
        terms = (*terms, (1.0, Alive(fall_penalty)))
    return WeightedSum(terms)


def _term(part: str, run: Term, shown: Collection[str] | None) -> tuple[float, Term]:
    head, star, tail = part.partition("*")
    kind, _, arguments = (tail if star else part).partition(":")
    try:
        weight = float(head) if star else 1.0
        values = tuple(float(value) for value in arguments.split(",")) if arguments else ()
    except ValueError:
        raise ValueError(f"no objective {part!r}; legal: {legal_kinds(shown)}") from None
    limits = KINDS[kind][1] if kind in KINDS else None
    if limits is None or len(values) != len(limits) or not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"no objective {part!r}; legal: {legal_kinds(shown)}")
    if not all(low <= value <= high for value, (low, high) in zip(values, limits, strict=True)):
        raise ValueError(f"objective {part!r} is out of range; legal: {legal_kinds(shown)}")
    if unseen := set(needs(kind)) - set(needs(kind) if shown is None else shown):
        raise ValueError(f"objective {part!r} needs {sorted(unseen)}, not to be read here; legal: {legal_kinds(shown)}")
    if kind in MAKERS:
        return weight, MAKERS[kind](*values)
    return weight, run if kind == "run" else Effort()
