"""Several one-step models trained side by side on the same data: together they predict better, and where they disagree nobody knows.

Members differ in their first weights and in the order of the data, not in the data (Lakshminarayanan et al. 2017; Kim et al. 2025,
arXiv 2509.14786). Each is, to rounding, what the plain training of its seed gives. All weigh the same in their mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from world_models.latent_ensemble import disagreement
from world_models.step import BETA, FORGOTTEN, LOG_SCALE, StepModel
from world_models.training import TrainConfig, seeded


@dataclass(frozen=True)
class Recipe:
    """How a one-step model is made of data."""

    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=40_000, batch=1024, bf16=False, learning_rate=1e-3, clip=1.0)
    )
    """Decay is decoupled: a step shrinks the weights by rate * decay, whatever their gradient (Loshchilov & Hutter 2019)."""
    epochs: float | None = None
    """Passes over the data; None: `train.steps`, however much data there is."""
    members: int = 1
    bootstrap: bool = False
    """Whether each member has rows of its own, drawn with replacement, instead of all."""
    distilled: bool = False
    """Whether the members teach one network of their size, which is then all that is left (world_models/distil.py)."""

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"an ensemble needs members >= 1, got {self.members}")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be > 0, got {self.epochs}")

    def training(self, rows: int) -> TrainConfig:
        """Return the training on so many rows; a short one warms up for a tenth of its steps."""
        steps = self.train.steps if self.epochs is None else math.ceil(self.epochs * rows / self.train.batch)
        return replace(self.train, steps=steps, warmup=min(self.train.warmup, steps // 10))


STANDARD = Recipe()
"""The one-step model as it is trained where data abound (configs/models.py)."""
FULL = Recipe(
    replace(STANDARD.train, batch=128, weight_decay=0.3, learning_rate=1e-2), epochs=64, members=8, distilled=True
)
"""For scarce data and small networks: rate times decay is what benchmarks/data_efficiency.py found for a walker's 24 short trials."""
RECIPES = {"standard": STANDARD, "full": FULL}


@dataclass(frozen=True)
class Rows:
    """Steps as the network sees them, one after another."""

    inputs_NI: Tensor
    change_NO: Tensor
    """What changed, at unit scale."""
    spread_NO: Tensor
    """Standard deviation of that, as far as a teacher told it; 0: it was observed."""

    def __len__(self) -> int:
        return len(self.inputs_NI)

    @staticmethod
    def join(parts: Sequence[Rows]) -> Rows:
        """Return all rows, one part after the other."""
        names = ("inputs_NI", "change_NO", "spread_NO")
        return Rows(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@torch.no_grad()
def rows_of(model: StepModel, states_N3O: Tensor, actions_N2A: Tensor) -> Rows:
    """Return windows of two steps as rows, by the statistics of `model`."""
    before, now, then = states_N3O.unbind(1)
    known_N1 = torch.ones_like(now[:, :1])
    x_NI = model.inputs(now, actions_N2A[:, 1], before, actions_N2A[:, 0], known_N1)
    change_NO = (then - now - model.change.mean) / model.change.std
    return Rows(x_NI, change_NO, torch.zeros_like(change_NO))


class Members(nn.Module):
    """K networks of one size, computed together by batched matrix products; called, they give their mixture as one would."""

    def __init__(self, nets: Sequence[nn.Sequential]) -> None:
        super().__init__()
        layers = zip(*[[layer for layer in net if isinstance(layer, nn.Linear)] for net in nets], strict=True)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for same in layers:
            self.weights.append(torch.stack([layer.weight.detach() for layer in same]))
            self.biases.append(torch.stack([layer.bias.detach() for layer in same])[:, None])

    def __len__(self) -> int:
        return len(self.weights[0])

    def each(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log scale by each member, (K, N, O), of inputs (N, inputs), or (K, N, inputs): each its own."""
        last = len(self.weights) - 1
        x = x.expand(len(self), -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.mT)
            x = F.silu(x) if index < last else x
        mean_KNO, log_KNO = x.float().chunk(2, -1)
        return mean_KNO, log_KNO.clamp(*LOG_SCALE)

    def forward(self, x_NI: Tensor) -> Tensor:
        """Return mean and log scale of the mixture side by side, (N, 2 O): its variance is the members' own and that of their means."""
        mean_KNO, log_KNO = self.each(x_NI)
        variance_NO = torch.exp(2 * log_KNO).mean(0) + mean_KNO.var(0, correction=0)
        return torch.cat([mean_KNO.mean(0), 0.5 * variance_NO.log()], -1)

    def copy_into(self, net: nn.Sequential, member: int) -> None:
        """Give a network of the same size the weights of a member."""
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
            layer.weight.data.copy_(weight[member])
            layer.bias.data.copy_(bias[member, 0])


class StepEnsemble(StepModel):
    """A one-step model whose network is a mixture: whatever takes a StepModel takes it."""

    def __init__(self, like: StepModel, members: Members) -> None:
        super().__init__(like.cfg, like.state, like.action, like.change)
        self.net = members  # pyright: ignore[reportIncompatibleVariableOverride, reportAttributeAccessIssue]
        self.low, self.high, self.body = like.low, like.high, like.body

    @torch.inference_mode()
    def disagreement(self, states_N3O: Tensor, actions_N2A: Tensor) -> Tensor:
        """Return how far apart the members' means of the third state are, (N,): root mean square over its columns, at unit scale."""
        return disagreement(list(self.net.each(rows_of(self, states_N3O, actions_N2A).inputs_NI)[0]))  # pyright: ignore

    def member(self, index: int) -> StepModel:
        """Return one of the members alone. Raises IndexError where there is none of that number."""
        alone = untrained(self, 0)
        self.net.copy_into(alone.net, index)  # pyright: ignore
        return alone.eval().requires_grad_(False)


def untrained(like: StepModel, seed: int) -> StepModel:
    """Return a model of the same size and statistics with the first weights of a seed, those of a training from that seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        made = StepModel(like.cfg, like.state, like.action, like.change)
    made.low, made.high, made.body = like.low, like.high, like.body
    return made


def losses(members: Members, rows: Rows, pick_KB: Tensor, known_KB1: Tensor) -> Tensor:
    """Return the loss of each member on its own batch, (K,): that of StepModel, in expectation over what a teacher left open."""
    x_KBI = rows.inputs_NI[pick_KB]
    past = (x_KBI.shape[-1] - 1) // 2  # state and action now; then change and action before, and whether they are known
    x_KBI = torch.cat([x_KBI[..., :past], x_KBI[..., past:] * known_KB1], -1)
    mean_KBO, log_KBO = members.each(x_KBI)
    square_KBO = (rows.change_NO[pick_KB] - mean_KBO).square() + rows.spread_NO[pick_KB].square()
    nll_KBO = 0.5 * square_KBO * torch.exp(-2 * log_KBO) + log_KBO
    return (nll_KBO * torch.exp(2 * BETA * log_KBO).detach()).mean((1, 2))


def clip(params: Sequence[nn.Parameter], limit: float) -> None:
    """Shorten the gradient of each member, (K, ...), to a norm of at most `limit`."""
    grads = [p.grad for p in params if p.grad is not None]
    norm_K = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    share_K = (limit / (norm_K + 1e-6)).clamp_max(1.0)
    for grad in grads:
        grad.mul_(share_K.view(-1, *[1] * (grad.dim() - 1)))


def _drawn(
    cfg: TrainConfig, count: int, seeds: Sequence[int], pool_KN: Tensor | None, step: int
) -> tuple[Tensor, Tensor]:
    """Return rows (K, B) and whether their past is known (K, B, 1): each member's come from its own seed and the step."""
    picks, known = list[Tensor](), list[Tensor]()
    for member, seed in enumerate(seeds):
        generator = seeded(seed, step)
        pick_B = torch.randint(0, count, (cfg.batch,), generator=generator)
        picks.append(pick_B if pool_KN is None else pool_KN[member, pick_B])
        known.append(torch.rand(cfg.batch, 1, generator=generator) >= FORGOTTEN)
    return torch.stack(picks), torch.stack(known).float()


def learn(
    like: StepModel, rows: Rows, recipe: Recipe, seed: int = 0, report: Callable[[int, int], None] = lambda *_: None
) -> StepEnsemble:
    """Return an ensemble of the size and statistics of `like`, learned from rows; `report` hears steps done and all steps.

    Members have the seeds `seed`, `seed` + 1, ...; all steps are those of world_models/training.py, its moving average
    included. Raises FloatingPointError when a loss is not finite.
    """
    cfg, seeds = recipe.training(len(rows)), range(seed, seed + recipe.members)
    members = Members([untrained(like, one).net for one in seeds])
    params = list(members.parameters())
    average = [p.detach().clone() for p in params]
    optimiser = torch.optim.AdamW(params, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
    pool_KN = None
    if recipe.bootstrap:
        shape = (recipe.members, len(rows))
        pool_KN = torch.randint(0, len(rows), shape, generator=Generator().manual_seed(seed))
    draw = partial(_drawn, cfg, len(rows), seeds, pool_KN)
    for step in range(cfg.steps):
        for group in optimiser.param_groups:
            group["lr"] = cfg.rate(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=cfg.bf16):
            value = losses(members, rows, *draw(step)).sum()
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss {value.item()} at step {step}: lower learning_rate ({cfg.learning_rate})")
        value.backward()
        clip(params, cfg.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        weight = 1 - min(cfg.ema, (1 + step) / (10 + step))
        for mean, param in zip(average, params, strict=True):
            mean.lerp_(param.detach(), weight)
        report(step + 1, cfg.steps)
    for param, mean in zip(params, average, strict=True):
        param.data.copy_(mean)
    return StepEnsemble(like, members).eval().requires_grad_(False)
