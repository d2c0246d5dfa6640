"""What thinking is worth: success of latent planning over the time that a plan takes, from a reflex to many times the preset's search.

Starts and goals as in benchmarks/lewm.py, the nearest of its offsets. Nothing is charged for thinking, so that only what was found
counts; the time of a plan is measured by itself, on one thread, all searches taking turns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.latent import LatentConfig
from benchmarks.common import Options, Result, Table, command
from benchmarks.lewm import EACH, REFLEX, WORLDS, Trial, clustered, shipped, work
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.machine import ROOT
from deploy.plots import axes, png
from deploy.throughput import plan_s
from planners.cem import Cem

SEARCHES = ((15, 2), (30, 3), (60, 5), (120, 5), (300, 10), (300, 30))
"""Candidates of an iteration, and iterations."""
TURNS = 5
PICTURE = ROOT / "docs" / "latent-budget.png"


@dataclass(frozen=True)
class BudgetOptions(Options):
    """What this benchmark can be told."""

    worlds: tuple[str, ...] = field(default_factory=lambda: shipped(WORLDS))
    """Presets whose checkpoint and held-out data are there."""
    episodes: int = 200
    data: Path = Path("data")
    workers: int = 2


def searches(preset: str) -> dict[str, LatentConfig]:
    """Return the searches that are compared, by name: the preset's with other numbers, and what is done without one."""
    agent = PRESETS[preset][1].agent
    assert isinstance(agent, LatentConfig)
    assert isinstance(agent.method, Cem)
    found = {"no search": replace(agent, **REFLEX)} if (agent.folder / "inverse.safetensors").exists() else {}
    for samples, iterations in SEARCHES:
        method = replace(agent.method, iterations=iterations, elites=max(2, samples // 10))
        found[f"{samples} x {iterations}"] = replace(agent, samples=samples, method=method)
    return found


def times_ms(preset: str) -> dict[str, float]:
    """Return the median time of a plan by each search [ms]."""
    base = PRESETS[preset][1]
    turns = [{name: plan_s(replace(base, agent=a), 3) for name, a in searches(preset).items()} for _ in range(TURNS)]
    return {name: 1e3 * float(np.median([turn[name] for turn in turns])) for name in turns[0]}


def draw(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return a picture of success over time, one line for each world."""
    figure, axis = axes(3.0)
    for world in dict.fromkeys(r["world"] for r in rows):
        mine = sorted((r for r in rows if r["world"] == world), key=lambda r: r["ms per plan"])
        x, rates = [r["ms per plan"] for r in mine], [r["success"] for r in mine]
        off = np.abs([[rate.mean - rate.lo, rate.hi - rate.mean] for rate in rates]).T
        axis.errorbar(x, [rate.mean for rate in rates], off, marker="o", markersize=3, capsize=2, label=world)
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="ms per plan, one thread", ylabel="success")
    axis.legend(fontsize=7)
    return png(figure)


def measure(options: BudgetOptions) -> Result:
    """Return the table, and draw it."""
    episodes = EACH if options.quick else options.episodes
    trials = {
        (preset, name): [
            Trial(preset, name, *WORLDS[preset][1][0], first, options.data, agent) for first in range(0, episodes, EACH)
        ]
        for preset in options.worlds
        for name, agent in searches(preset).items()
    }
    took = {preset: times_ms(preset) for preset in options.worlds}
    flat = [trial for some in trials.values() for trial in some]
    found = dict(zip(flat, done(flat, work, options.workers, "sets of episodes"), strict=True))
    rows = []
    for (preset, name), some in trials.items():
        each = [f for trial in some for f in found[trial]]
        success = clustered([f["success"] for f in each], [f["recording"] for f in each])
        own = {"world": preset, "search": name, "ms per plan": took[preset][name]}
        rows.append(own | {"success": success, "n": len(each)})
    if not options.quick:
        PICTURE.write_bytes(draw(rows))
    headline = {f"{r['world']}, {r['search']}, {r['ms per plan']:.0f} ms": r["success"] for r in rows}
    table = Table("success over the time of a plan", tuple(rows[0]), tuple(tuple(r.values()) for r in rows))
    claim = "How much success the time of a plan buys, from none to many times the search of the preset."
    return Result("latent_budget", claim, headline, (table,), (0,), sum(r["n"] for r in rows), results={"rows": rows})


main = command(BudgetOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
