"""What an ensemble knows, in one network: a fresh student learns from the data, and from a teacher's word on inputs beside them.

Extra inputs are rows of data with noise; who labels them is an option, for the noise alone may be what helps: the teacher, the
nearest row, or the row that the noise was put on. A teacher of one member is self-distillation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from world_models.ensemble import Recipe, Rows, learn
from world_models.step import LOG_SCALE, StepModel

Labels = Literal["teacher", "nearest", "source"]


@dataclass(frozen=True)
class DistilConfig:
    """What the student is shown."""

    jitter: float = 0.3
    """Noise on the extra inputs, in standard deviations of each."""
    extra: float = 3.0
    """Extra rows per row of data."""
    labels: Labels = "teacher"
    """Who labels the extra rows; `nearest` and `source` are for comparison."""
    relabel: bool = False
    """Whether the teacher labels the rows of data as well, once more beside what was observed."""
    longer: float = 2.0
    """Steps, in those of one model on the data alone: there is more to learn."""

    def __post_init__(self) -> None:
        if self.jitter < 0.0 or self.extra < 0.0:
            raise ValueError(f"jitter and extra must be >= 0, got {self.jitter} and {self.extra}")
        if not 0.0 < self.longer < float("inf"):
            raise ValueError(f"longer must be > 0, got {self.longer}")


def extra_inputs(rows: Rows, cfg: DistilConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs beside the data, (M, inputs), and the row that each was made of, (M,)."""
    generator = Generator().manual_seed(seed)
    source_M = torch.randint(0, len(rows), (round(cfg.extra * len(rows)),), generator=generator)
    x_MI = rows.inputs_NI[source_M]
    noise_MI = cfg.jitter * torch.randn(x_MI.shape, generator=generator)
    noise_MI[:, -1] = 0.0  # whether the past is known
    return x_MI + noise_MI, source_M


def nearest(x_MI: Tensor, among_NI: Tensor, at_once: int = 1024) -> Tensor:
    """Return the row of `among_NI` that is nearest to each input, (M,)."""
    return torch.cat([torch.cdist(some, among_NI).argmin(1) for some in x_MI.split(at_once)])


@torch.no_grad()
def told(teacher: StepModel, x_NI: Tensor) -> Rows:
    """Return inputs with what the teacher says of them, and how sure it is."""
    mean_NO, log_NO = (part.float() for part in teacher.net(x_NI).chunk(2, -1))
    return Rows(x_NI, mean_NO, log_NO.clamp(*LOG_SCALE).exp())


def lesson(rows: Rows, teacher: StepModel, cfg: DistilConfig, seed: int) -> Rows:
    """Return all that the student learns from: the data and what is added to them."""
    x_MI, source_M = extra_inputs(rows, cfg, seed)
    if cfg.labels == "teacher":
        more = [told(teacher, x_MI)] + ([told(teacher, rows.inputs_NI)] if cfg.relabel else [])
    else:
        label_M = source_M if cfg.labels == "source" else nearest(x_MI, rows.inputs_NI)
        more = [Rows(x_MI, rows.change_NO[label_M], rows.spread_NO[label_M])]
    return Rows.join([rows, *more])


def distil(
    rows: Rows,
    teacher: StepModel,
    recipe: Recipe,
    cfg: DistilConfig,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda *_: None,
) -> StepModel:
    """Return a student of the teacher's member size, learned from scratch; `recipe` is how one model is trained on the data alone.

    Its batches grow with the rows, so that step by step it sees as much of the data as that one. Raises FloatingPointError as
    `learn` does.
    """
    shown, one = lesson(rows, teacher, cfg, seed), recipe.training(len(rows))
    batch, steps = round(one.batch * len(shown) / len(rows)), math.ceil(one.steps * cfg.longer)
    own = Recipe(replace(one, batch=batch, steps=steps))
    return learn(teacher, shown, own, seed, report).member(0)


def made(recipe: Recipe, like: StepModel, rows: Rows, seed: int = 0, cfg: DistilConfig | None = None) -> StepModel:
    """Return what a recipe makes of rows: one model, an ensemble, or its student (`cfg`: what that is shown)."""
    ensemble = learn(like, rows, recipe, seed)
    if recipe.distilled:
        return distil(rows, ensemble, recipe, cfg or DistilConfig(), seed + recipe.members)
    return ensemble if recipe.members > 1 else ensemble.member(0)
