"""How likely texts are after a prompt, in looks so short that whoever is written meanwhile hardly waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from deploy.goal_service.llama import Cache, Llama, Span
from deploy.goal_service.rounds import CHUNK
from deploy.goal_service.waiting import Scoring


def scoring(target: Llama, cache: Cache, row: int, asked: Scoring) -> Iterator[None]:
    """Write into one row of the cache, and pause after each look; the prompt is read once. Ends where nobody waits any more."""
    found: list[list[float]] = []
    begun_V = torch.empty(0)
    for logprobs_TV in _looks(target, cache, row, asked.prompt, 0, last=True):
        begun_V = logprobs_TV[-1]
        yield
        if (reason := asked.over()) is not None:
            asked.tell(reason, "")
            return
    for candidate in asked.candidates:
        known = [float(begun_V[token]) for token in candidate[:1]]
        for logprobs_TV in _looks(target, cache, row, candidate[:-1], len(asked.prompt)):
            following = candidate[len(known) : len(known) + len(logprobs_TV)]
            known += logprobs_TV[range(len(following)), following].tolist()
            yield
            if (reason := asked.over()) is not None:
                asked.tell(reason, "")
                return
        found.append(known)
    asked.done.set_result(found)


def _looks(
    target: Llama, cache: Cache, row: int, tokens: Sequence[int], first: int, last: bool = False
) -> Iterator[Tensor]:
    """Yield the log-probabilities (T, V) of what follows each token, or the last of each look, a look at a time."""
    for at in range(0, len(tokens), CHUNK):
        some = torch.tensor(tokens[at : at + CHUNK])
        slots = torch.arange(first + at, first + at + len(some))
        wanted = torch.tensor([len(some) - 1]) if last else None
        yield target.forward(some, [Span(row, slots, slots)], cache, wanted).log_softmax(-1)
