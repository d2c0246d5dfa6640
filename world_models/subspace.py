"""Few numbers that stand for a network: a base, which is known, and a seeded map from the numbers to a change of its weights.

The map is fixed before the numbers are learned (Li et al. 2018, arXiv 1804.08838); these are learned on a few levels, so that they can
be coded (Lotfi et al. 2022, arXiv 2211.13609).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from world_models.coding import Form
from world_models.step import StepConfig, StepModel

SEED = 20_260_101
"""Of all maps and untrained bases; chosen before any data."""


@dataclass(frozen=True)
class Plan:
    """Which weights are learned, and how they are written down."""

    size: int
    """Numbers in the code; at least as many as weights are changed: one for each of them, without a map."""
    levels: int = 5
    rank: int = 0
    """0 changes all weights; r > 0 adds B A to every matrix, A of rank r being given (Hu et al. 2022, after Lotfi et al. 2024)."""
    student: StepConfig | None = None
    """The base is an untrained network of this size; None: the given one."""
    effort: float = 1.0
    """Share of the steps of learning that it takes: a base that is nearly right needs few."""


def untrained(like: StepModel, cfg: StepConfig) -> StepModel:
    """Return a one-step model with the statistics of another and weights that follow from SEED alone."""
    made = StepModel(cfg, like.state, like.action, like.change)
    made.low, made.high, made.body = like.low, like.high, like.body
    rng = np.random.default_rng(SEED)
    for layer in _layers(made):
        bound = 1 / math.sqrt(layer.in_features)
        layer.weight.data = torch.from_numpy(rng.uniform(-bound, bound, layer.weight.shape).astype(np.float32))
        layer.bias.data.zero_()
    last = _layers(made)[-1]
    last.weight.data[last.out_features // 2 :] = 0.0  # how sure it is: nothing is said of that
    return made.eval().requires_grad_(False)


def _layers(model: StepModel) -> list[nn.Linear]:
    return [layer for layer in model.net if isinstance(layer, nn.Linear)]


@dataclass(frozen=True)
class Piece:
    """One tensor of the network, and how numbers change it."""

    name: str
    shape: tuple[int, int]
    """Of what the numbers give: (rows, columns); rows beyond are not changed."""
    scale: float
    right: Tensor | None
    """(rank, inputs), where the change is a product."""

    def apply(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Return the changed tensor."""
        left = numbers.view(self.shape) * self.scale
        change = left if self.right is None else left @ self.right
        rest = weight.shape[0] - self.shape[0]
        change = nn.functional.pad(change, (0, 0, 0, rest))
        return weight + change.view(weight.shape)


class Subspace:
    """The one-step models that a plan can describe."""

    def __init__(self, given: StepModel, plan: Plan) -> None:
        self.base = given if plan.student is None else untrained(given, plan.student)
        self.weights = {name: p.detach() for name, p in self.base.net.named_parameters()}
        rng = np.random.default_rng([SEED, 1])
        self.pieces = [piece for layer in _named(self.base.net) for piece in _pieces(*layer, plan.rank, rng)]
        self.lengths = [math.prod(piece.shape) for piece in self.pieces]
        self.form = Form(min(plan.size, sum(self.lengths)), plan.levels)
        self.map: Tensor | None = None
        if self.form.size < sum(self.lengths):
            signs = rng.integers(0, 2, (sum(self.lengths), self.form.size), dtype=np.int8) * 2 - 1
            self.map = torch.from_numpy(signs.astype(np.float32)) / math.sqrt(max(1, self.form.size))

    def changed(self, numbers_D: Tensor) -> dict[str, Tensor]:
        """Return the weights that the numbers stand for; gradients pass."""
        numbers = numbers_D if self.map is None else self.map @ numbers_D
        weights = dict(self.weights)
        if self.form.size:
            for piece, part in zip(self.pieces, numbers.split(self.lengths), strict=True):
                weights[piece.name] = piece.apply(weights[piece.name], part)
        return weights

    def mean(self, numbers_D: Tensor, x: Tensor) -> Tensor:
        """Return the mean change at unit scale, (N, O), that the model of these numbers predicts for inputs (N, inputs)."""
        return functional_call(self.base.net, self.changed(numbers_D), (x,)).chunk(2, -1)[0]

    def model(self, numbers_D: np.ndarray) -> StepModel:
        """Return the model itself."""
        made = copy.deepcopy(self.base)
        made.net.load_state_dict(self.changed(torch.from_numpy(numbers_D)))
        return made.eval().requires_grad_(False)


def _named(net: nn.Sequential) -> list[tuple[str, nn.Linear, bool]]:
    """Return the matrices with their names, and whether each is the last."""
    found = [(name, layer) for name, layer in net.named_children() if isinstance(layer, nn.Linear)]
    return [(name, layer, layer is found[-1][1]) for name, layer in found]


def _pieces(name: str, layer: nn.Linear, last: bool, rank: int, rng: np.random.Generator) -> list[Piece]:
    rows = layer.out_features // 2 if last else layer.out_features  # the rest says how sure it is
    inputs = layer.in_features
    if rank:
        right = rng.integers(0, 2, (rank, inputs)) * 2 - 1
        scale = 1 / math.sqrt(rank * inputs)
        return [Piece(f"{name}.weight", (rows, rank), scale, torch.from_numpy(right.astype(np.float32)))]
    scale = 1 / math.sqrt(inputs)
    return [
        Piece(f"{name}.weight", (rows, inputs), scale, None),
        Piece(f"{name}.bias", (rows, 1), scale, None),
    ]


@dataclass(frozen=True)
class CompressConfig:
    """How the numbers are learned."""

    steps: int = 6_000
    quantised: int = 4_000
    """Steps after the levels were set, on which the numbers and the levels are learned together."""
    batch: int = 512
    learning_rate: float = 1e-2
    square: float = 0.1
    """Weight of the squared error beside the smoothed share of wrong steps."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.quantised < 1 or self.batch < 1:
            raise ValueError(f"need steps, quantised and batch >= 1, got {self}")

    @property
    def total(self) -> int:
        """Steps of one plan."""
        return self.steps + self.quantised

    def share(self, effort: float) -> CompressConfig:
        """Return the same with a share of the steps."""
        return replace(self, steps=math.ceil(self.steps * effort), quantised=math.ceil(self.quantised * effort))


Rows = tuple[Tensor, Tensor]
"""Inputs of the network (N, inputs) and changes at unit scale (N, O)."""


def smoothed(mean_NO: Tensor, target_NO: Tensor, tolerance: float, square: float) -> Tensor:
    """Return a loss whose first part is nearly the share of steps that are off by more than the tolerance."""
    error_NO = mean_NO - target_NO
    wrong = torch.sigmoid((error_NO.abs().amax(1) / tolerance - 1) * 5).mean()
    return wrong + square * error_NO.square().mean()


def levels_of(numbers_D: Tensor, levels: int, rounds: int = 30) -> Tensor:
    """Return the centres of a k-means of numbers, ascending, (levels,)."""
    centre_L = torch.quantile(numbers_D, (torch.arange(levels) + 0.5) / levels)
    spread = numbers_D.abs().amax().clamp_min(1e-3)
    centre_L = 0.5 * centre_L + 0.5 * torch.linspace(-1, 1, levels) * spread
    for _ in range(rounds):
        near_D = (numbers_D[:, None] - centre_L).abs().argmin(1)
        for level in near_D.unique():
            centre_L[level] = numbers_D[near_D == level].mean()
    return centre_L


def learn(
    space: Subspace, rows: Rows, tolerance: float, cfg: CompressConfig, report: Callable[[int], None] = lambda _: None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the codebook (levels,) float16 and the symbols (size,) of the numbers that are seldom wrong on the rows.

    First any numbers, then numbers on levels: each is the nearest level, whose gradient passes to the number as it is, and
    summed to the level (as Lotfi et al. 2022 do). A plan without numbers needs none. `report` hears the steps done.
    """
    if not space.form.size:
        return np.zeros(0, np.float16), np.zeros(0, np.int32)
    generator = Generator().manual_seed(cfg.seed)
    numbers_D = torch.zeros(space.form.size, requires_grad=True)

    def descend(params: list[Tensor], steps: int, rate: float, read: Callable[[], Tensor], begun: int) -> None:
        optimiser = torch.optim.Adam(params, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(steps):
            pick = torch.randint(0, len(rows[0]), (cfg.batch,), generator=generator)
            value = smoothed(space.mean(read(), rows[0][pick]), rows[1][pick], tolerance, cfg.square)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            schedule.step()
            report(begun + step + 1)

    descend([numbers_D], cfg.steps, cfg.learning_rate, lambda: numbers_D, 0)
    centre_L = levels_of(numbers_D.detach(), space.form.levels).requires_grad_()

    def nearest() -> Tensor:
        return (numbers_D.detach()[:, None] - centre_L.detach()).abs().argmin(1)

    def quantised() -> Tensor:
        return centre_L[nearest()] + numbers_D - numbers_D.detach()

    descend([numbers_D, centre_L], cfg.quantised, cfg.learning_rate / 5, quantised, cfg.steps)
    return centre_L.detach().numpy().astype(np.float16), nearest().numpy().astype(np.int32)
