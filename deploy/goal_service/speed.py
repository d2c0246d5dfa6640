"""How fast each way of decoding is, from what its parts take: the published model and fan-out (arXiv 2603.03251, theorems 7 and 12)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def tokens_per_round(acceptance: float, lookahead: int) -> float:
    """Return the expected tokens per verification of `lookahead` drafted tokens, with the one that the target adds."""
    if acceptance >= 1:
        return lookahead + 1.0
    return (1 - acceptance ** (lookahead + 1)) / (1 - acceptance)


@dataclass(frozen=True)
class Times:
    """Seconds that the parts take."""

    decode: float
    """The target on one token per row."""
    verify: float
    """The target on a draft."""
    draft: float
    """To draft when it is asked for."""
    prepare: float = 0.0
    """To draft ahead, for all outcomes that are kept, while the target verifies."""
    overhead: float = 0.0
    """Of a round with a draft process: messages."""


def ar_rate(times: Times) -> float:
    """Return tokens per second, one by one."""
    return 1 / times.decode


def sd_rate(times: Times, tokens: float) -> float:
    """Return tokens per second when each round waits for its draft."""
    return tokens / (times.draft + times.verify)


def ssd_rate(times: Times, hit_rate: float, on_hit: float, on_miss: float) -> float:
    """Return tokens per second when drafts are prepared during the verification before; tokens of rounds that hit, that missed."""
    ahead = max(times.verify, times.prepare)
    seconds = hit_rate * ahead + (1 - hit_rate) * (ahead + times.draft) + times.overhead
    return (hit_rate * on_hit + (1 - hit_rate) * on_miss) / seconds


def worth_waiting(
    quick: Sequence[float], slow: Sequence[float], others: float, round_s: float, slow_s: float
) -> list[bool]:
    """Return which texts should have their slow draft, for which all of them wait `slow_s`: none where that does not pay.

    `quick`, `slow`: tokens that each is likely to say with its quick draft, and with the slow one; `others`: those of other texts.
    """
    at_once = (others + sum(quick)) / round_s
    later = (others + sum(map(max, quick, slow))) / (round_s + slow_s)
    return [later > at_once and b > a for a, b in zip(quick, slow, strict=True)]


def fan_out(acceptance: float, lookahead: int, budget: int, decay: float = 1.0) -> tuple[int, ...]:
    """Return how many outcomes to prepare after 0 .. `lookahead` accepted tokens, `budget` in all and at least one each.

    With a miss rate F^-decay at each place the best are F_k = F_0 a^(k / (1 + r)), and the last, where nothing can be rejected
    any more, F_0 a^(K / (1 + r)) (1 - a)^(-1 / (1 + r)).
    """
    if budget < lookahead + 1:
        raise ValueError(f"a budget of {budget} is less than one outcome for each of {lookahead + 1} places")
    a, power = min(max(acceptance, 0.01), 0.99), 1 / (1 + decay)
    weights = [a ** (k * power) for k in range(lookahead)] + [(a**lookahead / (1 - a)) ** power]
    exact = [weight * budget / sum(weights) for weight in weights]
    found = [max(1, math.floor(x)) for x in exact]
    while sum(found) != budget:
        step = 1 if sum(found) < budget else -1
        room = [k for k in range(len(found)) if step > 0 or found[k] > 1]
        found[max(room, key=lambda k: step * (exact[k] - found[k]))] += step
    return tuple(found)
