"""Which token comes next: the distribution that a request asks for, and draws from it that depend on nothing but seed and place.

Each draw takes the largest of log-probability + Gumbel noise, and the noise is a function of (seed, position, purpose). A drafter that
uses the target's own noise proposes what the target would draw, so far as the two agree, and the text is the same with every
drafter and without one (Daliri, Musco and Suresh 2024, "Coupling without communication and drafter-invariant speculative
decoding"). The published rule, acceptance with min(1, p / q) and a draw from what is left, is here too.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from deploy.goal_service.requests import Sampling

Rule = Literal["coupled", "ratio"]
COLDEST = 1e-6
"""Temperatures below are as good as this one; by theirs, logits would become infinite."""
TOKEN, DRAFT, ACCEPT, RESIDUAL = range(4)
"""Purposes of a draw."""
KEPT = 64
"""Places whose noise is remembered: the verifier and the forks of a draft look at the same ones."""
FIRST = 512
"""Candidates that are sorted first for top-p; nearly always they are enough."""


def scores(logits_V: Tensor, sampling: Sampling, allowed_V: Tensor | None = None) -> Tensor:
    """Return log-weights (V,) of the tokens that may come; minus infinity where none may. Greedy: 0 for the one token."""
    z_V = logits_V if allowed_V is None else logits_V.masked_fill(~allowed_V, -torch.inf)
    if sampling.temperature == 0:
        return one_hot(int(z_V.argmax()), len(z_V))
    z_V = z_V / max(sampling.temperature, COLDEST)
    if sampling.top_k and sampling.top_k < len(z_V):
        z_V = z_V.masked_fill(z_V < z_V.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        z_V = z_V.masked_fill(z_V < _nucleus(z_V, sampling.top_p), -torch.inf)
    return z_V


def _nucleus(z_V: Tensor, share: float) -> Tensor:
    """Return the smallest log-weight of the fewest likeliest tokens that hold this share."""
    total = z_V.double().logsumexp(0)
    for count in (min(FIRST, len(z_V)), len(z_V)):
        best = z_V.topk(count).values
        held = (best.double() - total).exp().cumsum(0)
        if held[-1] >= share or count == len(z_V):
            return best[min(int((held < share).sum()), count - 1)]
    raise AssertionError


def one_hot(token: int, size: int) -> Tensor:
    """Return the log-weights of a token that is certain."""
    z_V = torch.full((size,), -torch.inf)
    z_V[token] = 0.0
    return z_V


def choose(logits_V: Tensor, sampling: Sampling, allowed_V: Tensor | None, dice: Dice, position: int) -> int:
    """Return the target's token at this place of an answer."""
    if sampling.temperature == 0:
        return int((logits_V if allowed_V is None else logits_V.masked_fill(~allowed_V, -torch.inf)).argmax())
    return dice.draw(scores(logits_V, sampling, allowed_V), position, TOKEN)


class Dice(Protocol):
    """Draws: the same arguments, the same result."""

    def draw(self, scores_V: Tensor, position: int, purpose: int) -> int:
        """Return an index, drawn with probabilities softmax(scores_V)."""
        ...


@dataclass
class SeededDice:
    """Draws of one request: `position` counts the tokens of its answer."""

    seed: int
    _kept: OrderedDict[tuple[int, int], Tensor] = field(default_factory=OrderedDict)

    def noise(self, position: int, purpose: int, size: int) -> Tensor:
        """Return standard Gumbel noise (size,), float32."""
        key = (position, purpose)
        if key not in self._kept or len(self._kept[key]) < size:
            source = np.random.Generator(np.random.SFC64(np.random.SeedSequence((self.seed, position, purpose))))
            wait = source.standard_exponential(size, np.float32)
            self._kept[key] = torch.from_numpy(-np.log(np.maximum(wait, np.float32(1e-38))))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key][:size]

    def draw(self, scores_V: Tensor, position: int, purpose: int) -> int:
        """Return an index, drawn with probabilities softmax(scores_V)."""
        return int((scores_V + self.noise(position, purpose, len(scores_V))).argmax())


def acceptance(target_V: Tensor, draft_V: Tensor, token: int) -> float:
    """Return the chance to accept a token that was drawn from `draft_V`: min(1, p / q); both are log-weights."""
    return float((target_V.log_softmax(0)[token] - draft_V.log_softmax(0)[token]).clamp(max=0.0).exp())


def residual(target_V: Tensor, draft_V: Tensor) -> Tensor:
    """Return the log-weights to draw from after a rejection: those of max(p - q, 0).

    Where both are the same, only rounding can have rejected, and nothing is left: then those of the target.
    """
    left_V = (target_V.softmax(0) - draft_V.softmax(0)).clamp(min=0.0)
    return left_V.log() if bool(left_V.any()) else target_V


def saguaro(scores_V: Tensor, fan_out: int, factor: float) -> Tensor:
    """Return a draft's log-weights with its likeliest tokens made less likely by a factor in (0, 1].

    What the target then draws after a rejection is more often among just these, which the cache holds (arXiv 2603.03251,
    definition 14).
    """
    if factor == 1.0:
        return scores_V
    best = scores_V.topk(min(fan_out, len(scores_V))).indices
    lowered_V = scores_V.clone()
    lowered_V[best] += float(np.log(factor))
    return lowered_V
