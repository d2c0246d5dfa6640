"""Arms that ran the same episodes, compared pair by pair; arms that cannot be told apart are not ranked.

A difference counts where its bootstrap interval leaves 0 out and its test, corrected for all the tests made (Holm), says
so too: with few episodes the one alone would be bold, with many tests the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from deploy.intervals import holm, mean_interval, paired_interval, rate_interval

LEVEL = 0.05
POWER = 0.8
VERBS = {"return": "earns more than", "success": "succeeds more often than"}


@dataclass(frozen=True)
class Scores:
    """What the episodes of one arm gave, by position: n seeds, n returns, n successes."""

    name: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    successes: tuple[bool, ...] | None  # None: success means nothing for this robot

    def first(self, n: int) -> Scores:
        """Return the scores of the first n episodes."""
        successes = None if self.successes is None else self.successes[:n]
        return Scores(self.name, self.seeds[:n], self.returns[:n], successes)


@dataclass(frozen=True)
class Difference:
    """The mean of one arm minus another over n paired episodes, with its 95 % interval and its tests."""

    metric: str  # return | success
    mean: float
    lo: float | None  # None with one pair, which says nothing
    hi: float | None
    n: int
    p_wilcoxon: float
    p_sign: float  # for success this is McNemar's exact test
    p_holm: float  # of Wilcoxon for returns, of the sign test for success
    told_apart: bool
    episodes_needed: int | None
    """About how many pairs would tell with a power of 80 %, if the difference is what it seems; None where it is told, or 0."""


def scores_of(name: str, per_episode: Sequence[Mapping[str, Any]]) -> Scores:
    """Return the scores in the `per_episode` of a result; episodes without `success` have none."""
    found = [e.get("success") for e in per_episode]
    successes = None if all(s is None for s in found) else tuple(bool(s) for s in found)
    seeds, returns = ([e[key] for e in per_episode] for key in ("env_seed", "return"))
    return Scores(name, tuple(seeds), tuple(returns), successes)


def return_interval(returns: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return the mean and its BCa bootstrap interval; None where too few values say nothing."""
    if len(returns) < 2:
        return (returns[0] if returns else None), None, None
    found = mean_interval(returns)
    return found.mean, found.lo, found.hi


def success_rate(scores: Scores) -> dict[str, float] | None:
    """Return the success rate with its Wilson interval; None where there is nothing to count."""
    return asdict(rate_interval(sum(scores.successes), len(scores.successes))) if scores.successes else None


def compare(arm: Scores, others: Sequence[Scores]) -> list[dict[str, Any]]:
    """Return how `arm` differs from each of the others, over the episodes that both have, as JSON values.

    Raises ValueError for arms whose episodes began from different seeds.
    """
    pairs = [(arm.first(len(other.seeds)), other.first(len(arm.seeds))) for other in others]
    tests = [(i, *metric) for i, (mine, other) in enumerate(pairs) for metric in _metrics(mine, other)]
    found = [(i, _difference(metric, a, b, len(tests))) for i, metric, a, b in tests]
    corrected = holm([_tested(d) for _, d in found])
    judged = [(i, _judged(d, p)) for (i, d), p in zip(found, corrected, strict=True)]
    return [
        {
            "against": other.name,
            "differences": {d.metric: asdict(d) for j, d in judged if j == i},
            "verdict": [verdict(arm.name, other.name, d) for j, d in judged if j == i],
        }
        for i, other in enumerate(others)
    ]


def _metrics(a: Scores, b: Scores) -> list[tuple[str, Sequence[float], Sequence[float]]]:
    if a.seeds != b.seeds:
        raise ValueError(f"{a.name} and {b.name} began from different seeds, so that they are no pairs")
    if not a.seeds:
        return []
    both = [("success", a.successes, b.successes)] if a.successes and b.successes else []
    return [("return", a.returns, b.returns), *both]


def _difference(metric: str, a: Sequence[float], b: Sequence[float], tests: int) -> Difference:
    gap = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    found = paired_interval(a, b) if len(gap) > 1 else None
    moved = gap[gap != 0.0]
    p_wilcoxon = float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0  # pyright: ignore[reportAttributeAccessIssue]
    p_sign = float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue) if len(moved) else 1.0
    return Difference(
        metric=metric,
        mean=float(gap.mean()),
        lo=found.lo if found else None,
        hi=found.hi if found else None,
        n=len(gap),
        p_wilcoxon=p_wilcoxon,
        p_sign=p_sign,
        p_holm=1.0,
        told_apart=False,
        episodes_needed=episodes_needed(gap, tests),
    )


def _tested(d: Difference) -> float:
    return d.p_sign if d.metric == "success" else d.p_wilcoxon


def _judged(d: Difference, p_holm: float) -> Difference:
    apart = d.lo is not None and d.hi is not None and not d.lo <= 0.0 <= d.hi and p_holm < LEVEL
    if apart or d.episodes_needed is None:
        return replace(d, p_holm=p_holm, told_apart=apart, episodes_needed=None)
    return replace(d, p_holm=p_holm, episodes_needed=max(d.episodes_needed, d.n + 1))


def episodes_needed(gap: Sequence[float] | np.ndarray, tests: int = 1) -> int | None:
    """Return about how many paired differences one of several two-sided tests, at 5 % together, needs to see their mean.

    With a power of 80 %, from their standard deviation by the normal approximation, and no fewer than with which all
    pointing one way would do; None where the mean is 0, or one pair says nothing.
    """
    x = np.asarray(gap, dtype=float)
    if len(x) < 2 or x.mean() == 0.0:
        return None
    level = LEVEL / tests
    reach = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER)
    least = 1 - math.log2(level)  # 2 ** (1 - n) is the smallest p of a rank test
    return math.ceil(max(least, float((reach * x.std(ddof=1) / x.mean()) ** 2)))


def verdict(name: str, other: str, d: Difference) -> str:
    """Return what may be said of two arms, in one sentence: which is better, or that nothing can be said."""
    size = f"{d.metric} difference {shown(d)}"
    if d.told_apart:
        better, worse = (name, other) if d.mean > 0 else (other, name)
        return f"{better} {VERBS[d.metric]} {worse}: {size}, p = {d.p_holm:.2g}, {d.n} paired episodes."
    count = f"{d.n} episode{'s' if d.n > 1 else ''}"
    said = f"{name} and {other} cannot be told apart by {d.metric} with {count}: {size}, p = {d.p_holm:.2g}"
    if d.episodes_needed is None:
        return f"{said}."
    about = float(f"{d.episodes_needed:.2g}")
    return f"{said}; if it really is so large, about {about:.0f} episodes would tell (power {POWER:.0%})."


def shown(d: Difference) -> str:
    """Return a difference for people, as `+12.3 [4.0, 20.1]`; of success rates in percentage points."""
    scale, unit = (100.0, " points") if d.metric == "success" else (1.0, "")
    values = [None if v is None else scale * v for v in (d.mean, d.lo, d.hi)]
    digits = 0 if d.metric == "success" else decimals(values[0])
    mean, *ends = ("-" if v is None else f"{v:+.{digits}f}" for v in values)
    return f"{mean} [{', '.join(ends)}]{unit}"


def decimals(value: float | None) -> int:
    """Return how many digits after the point show a value to about three digits."""
    if not value:
        return 1
    return int(np.clip(2 - math.floor(math.log10(abs(value))), 0, 6))
