"""The plots of an evaluation, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.plots import BLUE, GREY, INK, RED, axes, png


def returns_plot(returns: Mapping[str, Sequence[float]]) -> bytes | None:
    """Return the returns of each arm in a row of dots, with the interval of their mean; None without episodes."""
    from deploy.comparison import return_interval

    if not any(returns.values()):
        return None
    figure, axis = axes(1.0 + 0.5 * len(returns))
    for row, values in enumerate(returns.values()):
        _row(axis, row, values, return_interval(values), [GREY] * len(values))
    _label(axis, list(returns), "return")
    return png(figure)


def pairs_plot(name: str, mine: Sequence[float], others: Mapping[str, Sequence[float]]) -> bytes | None:
    """Return a panel per other arm in which a line joins the two returns of each seed; None without other arms."""
    if not others or not mine:
        return None
    figure, grid = axes(3.6, len(others))
    for axis in np.atleast_1d(grid)[1:]:  # before anything is drawn: later, it would take over the limits of the first
        axis.sharey(np.atleast_1d(grid)[0])
    for axis, (other, theirs) in zip(np.atleast_1d(grid), others.items(), strict=True):
        for a, b in zip(mine, theirs, strict=False):
            axis.plot((0, 1), (a, b), "o-", color=_colour(a - b), linewidth=0.9, markersize=4, alpha=0.6)
        axis.set_xticks((0, 1), (name, other))
        axis.set_xlim(-0.3, 1.3)
    np.atleast_1d(grid)[0].set_ylabel("return")
    return png(figure)


def differences_plot(
    comparisons: Sequence[Mapping[str, Any]], mine: Sequence[float], others: Mapping[str, Sequence[float]]
) -> bytes | None:
    """Return the paired differences against each other arm, with the interval of their mean; None without any."""
    found = {c["against"]: c["differences"]["return"] for c in comparisons if "return" in c["differences"]}
    if not found:
        return None
    figure, axis = axes(1.0 + 0.5 * len(found))
    axis.axvline(0, color=INK, linewidth=0.8)
    for row, (other, d) in enumerate(found.items()):
        gaps = [a - b for a, b in zip(mine, others[other], strict=False)]
        _row(axis, row, gaps, (d["mean"], d["lo"], d["hi"]), [_colour(gap) for gap in gaps])
    _label(axis, list(found), "difference of returns")
    return png(figure)


def _colour(gap: float) -> str:
    return BLUE if gap > 0 else RED if gap < 0 else GREY


def _row(
    axis: Any,
    row: int,
    values: Sequence[float],
    mean_lo_hi: tuple[float | None, float | None, float | None],
    colours: Sequence[str],
) -> None:
    """Draw dots above a line with the mean and its interval."""
    spread = np.random.default_rng(0).uniform(-0.32, -0.08, len(values))
    axis.scatter(values, row + spread, c=colours, s=14, alpha=0.6, linewidths=0)
    mean, lo, hi = mean_lo_hi
    if lo is not None and hi is not None:
        axis.plot((lo, hi), (row + 0.1, row + 0.1), color=INK, linewidth=3, solid_capstyle="round")
    if mean is not None:
        axis.plot(mean, row + 0.1, "o", color="white", markeredgecolor=INK, markersize=6)


def _label(axis: Any, names: Sequence[str], quantity: str) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.6, -0.5)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#e6e9ec", linewidth=0.8)
    axis.set_xlabel(quantity)
