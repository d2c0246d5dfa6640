"""What the target makes of texts that nobody writes, in looks so short that whoever is written meanwhile hardly waits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from deploy.goal_service.llama import Cache, Llama, Span
from deploy.goal_service.rounds import CHUNK

type Looks[T] = Callable[[Llama, Cache, int], Generator[None, None, T]]
"""Writes into one row of the cache, pauses after each look, and returns what it found."""


def scores(prompt: Sequence[int], candidates: Sequence[Sequence[int]]) -> Looks[list[list[float]]]:
    """Find how likely each token of each candidate is after the prompt, which is read once: log-probabilities."""

    def look(target: Llama, cache: Cache, row: int) -> Generator[None, None, list[list[float]]]:
        found: list[list[float]] = []
        begun_V = torch.empty(0)
        for some, spans, _ in _pieces(prompt, row, 0):
            begun_V = target.forward(some, spans, cache, torch.tensor([len(some) - 1])).log_softmax(-1)[-1]
            yield
        for candidate in candidates:
            known = [float(begun_V[token]) for token in candidate[:1]]
            for some, spans, at in _pieces(candidate[:-1], row, len(prompt)):
                following = candidate[at + 1 : at + 1 + len(some)]
                logprobs_TV = target.forward(some, spans, cache).log_softmax(-1)
                known += logprobs_TV[range(len(following)), following].tolist()
                yield
            found.append(known)
        return found

    return look


def mean_features(tokens: Sequence[int], first: int, depth: int) -> Looks[Tensor]:
    """Find the mean over the tokens from `first` on of what stands behind `depth` layers: float32 (width,)."""

    def look(target: Llama, cache: Cache, row: int) -> Generator[None, None, Tensor]:
        total = torch.zeros(target.config.width)
        for some, spans, at in _pieces(tokens, row, 0):
            total += target.features(some, spans, cache, depth)[max(0, first - at) :].sum(0)
            yield
        return total / (len(tokens) - first)

    return look


def _pieces(tokens: Sequence[int], row: int, before: int) -> Iterator[tuple[Tensor, list[Span], int]]:
    """Yield a look's tokens, where they stand behind `before` others, and how many of them came in looks before."""
    for at in range(0, len(tokens), CHUNK):
        some = torch.tensor(tokens[at : at + CHUNK])
        slots = torch.arange(before + at, before + at + len(some))
        yield some, [Span(row, slots, slots)], at
