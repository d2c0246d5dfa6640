"""The page of a sweep: the best points, what each searched option does, and what became of every trial."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from deploy.machine import describe_machine
from deploy.plots import BLUE, GREY, RED, axes, png
from deploy.report import number, page, plot, table
from deploy.sweeps.journal import Trial
from deploy.sweeps.plan import Sweep
from deploy.sweeps.results import STATUSES, Found, found, named, said, shown
from deploy.sweeps.spec import SweepSpec, tree_of
from deploy.telemetry import write_atomic

MOST_ROWS = 500
"""Trials in the table of the page; results.json has all."""


def write_page(sweep: Sweep, path: Path, status: str) -> None:
    """Write the page of what the journal holds; it needs nothing outside itself."""
    trials = list(sweep.journal.trials.values())
    rows = found(sweep.spec, trials)
    name = f"surefoot · sweep of {sweep.spec.verb} {escape(sweep.spec.preset)}"
    about = f"{sweep.spec.metric} of each trial in the order of the search; the line is the best so far."
    what = f"One dot per trial, and the mean of each value; {sweep.spec.metric}."
    body = [
        f"<header><h1>{name}</h1><p>{escape(headline(sweep.spec, trials, rows, status))}</p></header>",
        _tiles(trials, rows),
        plot("Search", about, search_plot(sweep.spec, trials)),
        plot("Options", what, options_plot(sweep.spec, trials)),
        _points(sweep.spec, rows),
        _trials(sweep, trials),
        _details(sweep, status),
    ]
    write_atomic(path, page(name, body))


def headline(spec: SweepSpec, trials: list[Trial], rows: list[Found], status: str) -> str:
    """Return the sweep in a sentence or two."""
    counts = Counter(trial.status for trial in trials)
    ended = ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])
    told = f"{len(trials)} trials: {ended}."
    if status != "ok":
        told = f"{status.upper()}. {told}"
    if not rows:
        return f"{told} No trial gave a result."
    best = rows[0]
    among = (
        f" The best of {len(rows)} points looks better than it is: run it again with other seeds."
        if len(rows) > 1
        else ""
    )
    return f"{told} Best: {best.name}, with {spec.metric} {_spread(best)}.{among}"


def _spread(row: Found) -> str:
    return shown(row.mean) if row.lo is None else f"{shown(row.mean)} [{shown(row.lo)}, {shown(row.hi)}]"


def _tiles(trials: list[Trial], rows: list[Found]) -> str:
    tries = [one for trial in trials for one in trial.tries]
    tiles = [
        (shown(rows[0].mean if rows else None), "best mean"),
        (f"{sum(trial.over for trial in trials)} of {len(trials)}", "trials ended"),
        (str(len(tries)), "tries"),
        (str(len({one.node for one in tries if one.node})), "nodes"),
        (number(sum(one.seconds for one in tries) / 3600, 2, " h"), "spent in trials"),
    ]
    return '<div class="numbers">' + "".join(f"<div><b>{a}</b><span>{b}</span></div>" for a, b in tiles) + "</div>"


def search_plot(spec: SweepSpec, trials: list[Trial]) -> bytes | None:
    """Return the metric of every trial that is done, in order, with the best so far; None before there is one."""
    done = [(trial.number + 1, trial.metric) for trial in trials if trial.status == "done" and trial.metric is not None]
    if not done:
        return None
    x, y = np.array(done, dtype=float).T
    figure, axis = axes(2.8)
    axis.plot(x, y, "o", color=GREY, markersize=5)
    best = np.maximum.accumulate(y) if spec.direction == "max" else np.minimum.accumulate(y)
    axis.plot(x, best, color=BLUE, linewidth=1.6, drawstyle="steps-post")
    axis.set_xlabel("trial")
    axis.set_ylabel(spec.metric)
    axis.xaxis.get_major_locator().set_params(integer=True)
    return png(figure)


def options_plot(spec: SweepSpec, trials: list[Trial]) -> bytes | None:
    """Return a panel per searched option with the metric over its values; None where nothing was searched or found."""
    done = [trial for trial in trials if trial.status == "done" and trial.metric is not None]
    names = [name for name in spec.searched if len({json.dumps(trial.point.get(name)) for trial in done}) > 1]
    if not names:
        return None
    columns = min(3, len(names))
    figure, grid = axes(3.0 * -(-len(names) // columns), columns, -(-len(names) // columns))
    panels = list(np.ravel(grid))
    for name, axis in zip(names, panels, strict=False):
        _panel(axis, name, [(trial.point[name], float(trial.metric or 0.0)) for trial in done])
        if name in spec.random and spec.random[name].kind.startswith("log"):
            axis.set_xscale("log")
            axis.tick_params(axis="x", which="both", labelrotation=30, labelsize=8)
    for axis in panels[len(names) :]:
        axis.set_visible(False)
    panels[0].set_ylabel(spec.metric)
    return png(figure)


def _panel(axis: Any, name: str, dots: list[tuple[Any, float]]) -> None:
    numbers = all(type(value) in (int, float) for value, _ in dots)
    labels = [] if numbers else list(dict.fromkeys(said(value) for value, _ in dots))
    at = [float(value) if numbers else labels.index(said(value)) for value, _ in dots]
    axis.plot(at, [metric for _, metric in dots], "o", color=GREY, markersize=5, alpha=0.7)
    means = {
        x: np.mean([metric for here, (_, metric) in zip(at, dots, strict=True) if here == x]) for x in sorted(set(at))
    }
    if len(means) < len(dots):
        axis.plot(list(means), list(means.values()), "o-", color=RED, markersize=4, linewidth=1.2)
    if labels:
        axis.set_xticks(range(len(labels)), labels)
    axis.set_xlabel(name)


def _points(spec: SweepSpec, rows: list[Found]) -> str:
    head = ("", *spec.searched, f"{spec.metric} [95 %]", "seeds", "without result")
    cells = [
        [str(rank), *_at(spec, row), _spread(row), str(len(row.values)), str(row.missing)]
        for rank, row in enumerate(rows[:MOST_ROWS], 1)
    ]
    return f"<section><h2>Points, best first</h2>{table(head, cells)}</section>" if rows else ""


def _trials(sweep: Sweep, trials: list[Trial]) -> str:
    head = ("trial", "options", "status", sweep.spec.metric, "s", "node", "tries")
    cells = [
        [trial.id, escape(named(trial)), trial.status, *_what(trial), "<br>".join(_tried(trial))]
        for trial in trials[:MOST_ROWS]
    ]
    more = f"<p>{len(trials) - MOST_ROWS} more are in results.json.</p>" if len(trials) > MOST_ROWS else ""
    return f"<section><h2>Trials</h2>{table(head, cells, frozenset({1, 2, 5, 6}))}{more}</section>"


def _at(spec: SweepSpec, row: Found) -> list[str]:
    return [escape(said(row.point.get(name, ""))) for name in spec.searched]


def _what(trial: Trial) -> tuple[str, str, str]:
    return shown(trial.metric), number(trial.seconds, 1), escape(trial.node)


def _tried(trial: Trial) -> list[str]:
    return [escape(f"{t.number}: {t.ended or 'running'}" + (f" ({t.reason})" if t.reason else "")) for t in trial.tries]


def _details(sweep: Sweep, status: str) -> str:
    machine = describe_machine()
    facts = (
        ("status", status),
        ("commit", sweep.commit),
        ("files", sweep.storage),
        ("swept from", f"{machine['cpu']}, {machine['cores']} cores"),
    )
    spec = json.dumps(tree_of(sweep.spec), indent=1)
    folded = f"<details><summary>What was asked for</summary><pre>{escape(spec)}</pre></details>"
    rows = [[escape(name), escape(str(value))] for name, value in facts]
    return f"<section><h2>About this sweep</h2>{table(('', ''), rows)}{folded}</section>"
