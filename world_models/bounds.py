"""How wrong is it, at worst? Upper bounds on a mean loss in [0, 1] that hold with a chosen probability, exactly as proven.

A price is in nats: a bound that is asked for with `nats` fails with probability at most exp(-nats). To fail with probability delta P(h)
for each model h that a code can name, and so with at most delta for all of them together, costs `price(bits, delta)` (a union bound).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from envs.shapes import check

BETS = 4.0 ** -np.arange(5)
"""Stakes of the capital process of `mean_bound`; none may exceed 1."""
RATES = 2.0 ** np.arange(-8.0, 4.5, 0.5)
"""Rates of the exponential of `martingale_bound`; that one of them is chosen is paid for."""
KRAFT = math.log2(math.pi**2 / 6)
"""Of the length of a code: 1 / (C + 1)^2 sums to pi^2 / 6 over C = 0, 1, ..."""


def price(bits: float, delta: float) -> float:
    """Return ln 1/P(h) + ln 1/delta for a model whose code has `bits` bits, from a prior P that is fixed before the data.

    P(h) = 2^-C (6 / pi^2) / (C + 1)^2 sums to at most 1 over all binary strings of all lengths C, so no end of the code has to be
    marked: the prefix of 2 log2 bits of Lotfi et al. 2022 (arXiv 2211.13609, after Langford and Caruana 2001) with its constant.
    """
    if bits < 0 or not 0.0 < delta < 1.0:
        raise ValueError(f"need bits >= 0 and delta in (0, 1), got {bits} and {delta}")
    return math.log(2) * (bits + 2 * math.log2(bits + 1) + KRAFT) - math.log(delta)


def any_length(n: int) -> float:
    """Return the nats for a bound to hold at every n at once: delta / (n (n + 1)) sums to delta."""
    return math.log(n) + math.log(n + 1)


def clopper_pearson(wrong: int, n: int, delta: float) -> float:
    """Return the exact upper limit of a rate, `wrong` of `n` independent trials seen (Clopper and Pearson 1934, one side)."""
    if not 0 <= wrong <= n or n < 1:
        raise ValueError(f"need 0 <= wrong <= n and n >= 1, got {wrong} of {n}")
    return 1.0 if wrong == n else float(stats.beta.ppf(1 - delta, wrong + 1, n - wrong))


def kl(p: float, q: float) -> float:
    """Return the divergence of a coin of chance p from one of chance q, in nats."""
    return float(stats.entropy([p, 1 - p], [q, 1 - q]))


def kl_inverse(observed: float, nats: float) -> float:
    """Return the largest r with kl(observed || r) <= nats."""
    top = 1 - 1e-15
    if nats <= 0 or observed >= top:
        return min(1.0, observed)
    return _crossing(lambda r: kl(observed, r) - nats, observed, top)


def _crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that is not above 0 at `low` rises above it; 1 where it does not, up to `high`."""
    if rising(high) <= 0:
        return 1.0
    return float(optimize.brentq(rising, low, high, xtol=1e-12))  # pyright: ignore[reportArgumentType]


def kl_bound(values_N: np.ndarray, nats: float) -> float:
    """Return the bound on the mean of n independent values in [0, 1]: kl(observed || mean) <= nats / n.

    Chernoff's bound for coins holds in all of [0, 1], as exp is convex (Hoeffding 1963); with `price`: Occam's razor (Langford 2005).
    """
    return kl_inverse(float(_losses(values_N).mean()), nats / len(values_N))


def mean_bound(values_N: np.ndarray, nats: float) -> float:
    """Return a bound on the common mean of n independent values in [0, 1] that gains from their small variance.

    If the mean is m, each product of 1 + b (m - x_i), 0 <= b <= 1, has expectation 1, and so has their average over stakes b: it
    exceeds exp(nats) with probability at most exp(-nats) (Markov). It rises with m: the bound is where it does so (by betting:
    Waudby-Smith and Ramdas 2024, arXiv 2010.09686).
    """
    values_N = _losses(values_N)

    def short(m: float) -> float:
        wealth_B = np.log1p(BETS[:, None] * (m - values_N)).sum(1)
        return float(np.logaddexp.reduce(wealth_B)) - math.log(len(BETS)) - nats

    return _crossing(short, float(values_N.mean()), 1.0)


def episode_bound(values_N: np.ndarray, nats: float) -> float:
    """Return the smaller of `kl_bound` and `mean_bound`, each allowed half of the chance to fail."""
    each = nats + math.log(2)
    return min(kl_bound(values_N, each), mean_bound(values_N, each))


def azuma_bound(observed: float, n: int, nats: float) -> float:
    """Return the bound on the mean of n conditional expectations of values in [0, 1] (Azuma 1967, Hoeffding 1963): the gap is
    sqrt(nats / 2n), as for independent values."""
    return min(1.0, observed + math.sqrt(nats / (2 * n)))


def martingale_bound(observed: float, n: int, nats: float) -> float:
    """Return a bound on the mean of n conditional expectations p_t = E[x_t | past], x_t in [0, 1] of mean `observed`.

    For each rate a: E[exp(-a x_t) | past] <= 1 - c p_t with c = 1 - exp(-a), as exp is convex; so exp(-a sum x_t - sum ln(1 - c p_t))
    has expectation at most 1, and -sum ln(1 - c p_t) >= -n ln(1 - c mean p_t), as -ln(1 - c p) is convex. With probability
    1 - exp(-nats), mean p_t <= (1 - exp(-a observed - nats / n)) / c: the form of Catoni 2007, here for martingales. The best of RATES
    is taken, at ln of their number; for small losses it is far below Azuma's.
    """
    budget = (nats + math.log(len(RATES))) / n
    return float(min(1.0, (-np.expm1(-RATES * observed - budget) / -np.expm1(-RATES)).min()))


def _losses(values_N: np.ndarray) -> np.ndarray:
    """Return the values as float64. Raises ValueError where there are none, or one is outside [0, 1]."""
    check("values_N", values_N, "N")
    if not len(values_N) or not ((values_N >= 0) & (values_N <= 1)).all():
        raise ValueError(f"losses must be in [0, 1], and at least one, got {len(values_N)}")
    return values_N.astype(float)
