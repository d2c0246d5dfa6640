"""The report's plots, as PNG bytes. matplotlib is imported when the first is drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deploy.history import History
    from deploy.records import EpisodeRecord

GREEN, RED, BLUE, GREY, INK = "#2e7d32", "#c62828", "#1565c0", "#8a929b", "#24292f"
PHASE_COLOURS = {"healthy": GREEN, "broken": RED, "adapted": BLUE}
LEAST_SURPRISE = 0.1


def axes(height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """Return a figure of the report's width and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, height), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns)
    for axis in np.ravel(grid):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(axis="y", color="#e6e9ec", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, grid


def png(figure: Any) -> bytes:
    """Return the figure as a PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def shade_phases(axis: Any, history: History, end_s: float) -> None:
    """Tint the background by phase."""
    for phase, colour in PHASE_COLOURS.items():
        begin, end = history.span(phase)  # pyright: ignore[reportArgumentType]
        if begin < end_s:
            axis.axvspan(begin, min(end, end_s), color=colour, alpha=0.07, linewidth=0)


def surprise_plot(history: History) -> bytes | None:
    """Return the surprise statistic over the run with its threshold and the alarms; None if there was no monitor."""
    if not any(np.isfinite(e.surprise_T).any() for e in history.episodes):
        return None
    figure, axis = axes(3.2)
    end_s = history.episodes[-1].end_s
    shade_phases(axis, history, end_s)
    for n, e in enumerate(e for e in history.episodes if e.full):
        t_T = np.linspace(e.start_s, e.end_s, e.steps, endpoint=False)
        label = ("surprise", "threshold") if n == 0 else (None, None)
        seen_T = np.isfinite(e.surprise_T)
        shown = np.maximum(e.surprise_T[seen_T], LEAST_SURPRISE)
        axis.plot(t_T[seen_T], shown, color=INK, linewidth=0.8, label=label[0])
        axis.plot(t_T[seen_T], e.threshold_T[seen_T], color=RED, linewidth=1.2, linestyle="--", label=label[1])
    _marks(axis, history)
    axis.set_yscale("log")
    axis.set_xlim(0, end_s)
    axis.set_xlabel("simulated time [s]")
    axis.set_ylabel("surprise")
    axis.legend(loc="upper left", frameon=False, ncols=5, fontsize=9, bbox_to_anchor=(0, 1.14))
    return png(figure)


def _marks(axis: Any, history: History) -> None:
    if history.fault_s is not None:
        axis.axvline(history.fault_s, color=RED, linewidth=1.2, label="break")
    for n, (_, reading) in enumerate(history.alarms):
        label = "alarm" if n == 0 else None
        axis.plot(reading.t_s, max(reading.score, LEAST_SURPRISE), "v", color=RED, markersize=8, label=label)
    for n, swap in enumerate(history.swaps):
        axis.axvline(swap.t_s, color=BLUE, linewidth=1.2, linestyle=":", label="model swapped" if n == 0 else None)


def returns_plot(history: History, control: Sequence[EpisodeRecord]) -> bytes | None:
    """Return the return of every episode, of both arms; None before the first whole episode."""
    done = [e for e in history.episodes if e.whole]
    if not done:
        return None
    figure, axis = axes(3.0)
    width = 0.4 if control else 0.7
    shift = width / 2 if control else 0.0
    seen = set()
    for e in done:
        phase = history.phase_at(e.start_s)
        label = None if phase in seen else phase
        seen.add(phase)
        axis.bar(e.episode + 1 - shift, e.episode_return, width, color=PHASE_COLOURS[phase], label=label)
    beside = [c for c in control if c.whole and c.episode <= done[-1].episode]
    if beside:
        x, y = [c.episode + 1 + shift for c in beside], [c.episode_return for c in beside]
        axis.bar(x, y, width, color="#b9c0c7", label="without adaptation")
    axis.set_xlabel("episode")
    axis.set_ylabel("return")
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="upper left", frameon=False, ncols=4, fontsize=9, bbox_to_anchor=(0, 1.14))
    return png(figure)


def adaptation_plot(history: History) -> bytes | None:
    """Return the held-out scores before and after each adaptation; None if there was none."""
    reports = [r for r in history.adaptations if np.isfinite([r.heldout_before, r.heldout_after]).all()]
    if not reports:
        return None
    parts = list(dict.fromkeys(r.part for r in reports))
    figure, grid = axes(2.8, len(parts))
    for axis, part in zip(np.atleast_1d(grid), parts, strict=True):
        mine = [r for r in reports if r.part == part]
        x = np.arange(len(mine))
        axis.bar(x - 0.2, [r.heldout_before for r in mine], 0.38, color="#b9c0c7", label="before")
        colours = [BLUE if r.accepted else RED for r in mine]
        axis.bar(x + 0.2, [r.heldout_after for r in mine], 0.38, color=colours, label="after")
        axis.set_xticks(x, [f"{r.t_s:.0f} s\n{'accepted' if r.accepted else 'refused'}" for r in mine], fontsize=8)
        axis.set_xlim(-0.8, max(len(mine), 2) - 0.2)
        axis.set_title(part, fontsize=10, loc="left", color=INK)
        axis.set_ylabel("held-out error")
    np.atleast_1d(grid)[0].legend(loc="upper right", frameon=False, fontsize=9)
    return png(figure)
