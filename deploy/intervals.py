"""95 % intervals of means and rates, alone and paired, and p-values corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean (or rate) with its 95 % interval from n independent units."""

    mean: float
    lo: float
    hi: float
    n: int


def mean_interval(values: Sequence[float] | np.ndarray, seed: int = 0, resamples: int = 10_000) -> Interval:
    """Return the mean with its BCa bootstrap interval (Efron 1987); non-finite values raise."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs at least 2 finite values, got {len(x)} with {np.isfinite(x).sum()} finite")
    if np.ptp(x) == 0.0:
        return Interval(float(x[0]), float(x[0]), float(x[0]), len(x))
    rng = np.random.default_rng(seed)
    found = stats.bootstrap((x,), np.mean, n_resamples=resamples, method="BCa", rng=rng).confidence_interval
    return Interval(float(x.mean()), float(found.low), float(found.high), len(x))


def paired_interval(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Return the mean of a - b, paired by position (the same seed in both), with its bootstrap interval."""
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if left.shape != right.shape:
        raise ValueError(f"pairs need equal lengths, got {left.shape} and {right.shape}")
    return mean_interval(left - right, seed)


def rate_interval(successes: int, n: int) -> Interval:
    """Return a success rate with its Wilson score interval (Wilson 1927)."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes must be in 0 .. n with n > 0, got {successes} of {n}")
    found = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number (Holm 1979), in the given order."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected.tolist()
