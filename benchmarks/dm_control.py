"""The walker of dm_control's suite, planned with a simulation of its own as the model: what it earns of 1000.

In lockstep, with no simulated time charged to a plan. Beside the preset stand cheaper searches, fewer seeds each.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.build import OracleConfig
from benchmarks.common import QUICK_RESULTS, Options, Result, Table, command, keep, mean_interval
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import made_with
from planners.mppi import Mppi

PRESET = PRESETS["dm-walker-oracle"][1]
EVERYTHING = "the preset"
WANTED = 900.0
"""Of 1000."""


@dataclass(frozen=True)
class DmOptions(Options):
    """What this benchmark can be told besides."""

    seeds: int = 10
    """Episodes of the preset."""
    others: int = 3
    """Episodes of each other search."""
    workers: int = 2

    def __post_init__(self) -> None:
        if min(self.seeds, self.others) < 2 or self.workers < 1:
            raise ValueError(f"need seeds and others >= 2 and workers >= 1, got {self}")


def searches() -> dict[str, RunConfig]:
    """Return the preset and, by what distinguishes them, other searches."""
    agent = PRESET.agent
    assert isinstance(agent, OracleConfig)

    def other(**changes: Any) -> RunConfig:
        return replace(PRESET, agent=replace(agent, **changes))

    half = agent.samples // 2
    mppi = Mppi(iterations=agent.planner.iterations, correlation=agent.planner.correlation, trust=float("inf"))
    return {
        EVERYTHING: PRESET,
        "half the candidates": other(samples=half),
        "half the candidates, every 2": replace(other(samples=half), plan_every=2),
        "half the horizon": other(horizon=agent.horizon // 2),
        "one iteration": other(planner=replace(agent.planner, iterations=1)),
        "plans for twice as long": replace(PRESET, plan_every=2 * PRESET.plan_every),
        "white noise": other(planner=replace(agent.planner, correlation=0.0)),
        "MPPI": other(planner=mppi),
    }


@dataclass(frozen=True)
class Unit:
    """One episode."""

    search: str
    seed: int

    @property
    def config(self) -> RunConfig:
        """The run it is the only episode of."""
        return replace(searches()[self.search], seed=self.seed)

    @property
    def path(self) -> Path:
        """Where its result is kept, so that an interrupted benchmark goes on where it was."""
        name = f"{self.search}-{self.seed}-{made_with(self.config):08x}.json"
        return QUICK_RESULTS / "dm_control" / name.replace(" ", "-")


def run(unit: Unit) -> None:
    """Run the episode, and write down what it earned and what it cost."""
    import torch

    from deploy.arms import build, unlogged

    torch.set_num_threads(1)
    cfg, began_s = unit.config, time.process_time()
    history = unlogged(cfg, build(cfg), lambda history, _: not history.episodes).history
    (done,) = history.episodes
    found = {
        "return": done.episode_return,
        "first 100": float(done.reward_T[:100].sum()),
        "steps": done.steps,
        "plan_ms": float(np.median(history.plan_ms.values)),
        "core_s": time.process_time() - began_s,
    }
    keep(unit.path, found)


def row(search: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the table."""
    cfg = searches()[search]
    assert isinstance(cfg.agent, OracleConfig)
    return {
        "search": search,
        "horizon": cfg.agent.horizon,
        "candidates": cfg.agent.samples * cfg.agent.planner.iterations,
        "replanned every": cfg.plan_every,
        "return": mean_interval([f["return"] for f in found]),
        "least": min(f["return"] for f in found),
        "in the first 100 steps": float(np.mean([f["first 100"] for f in found])),
        "core-seconds per episode": float(np.mean([f["core_s"] for f in found])),
        "n": len(found),
    }


def measure(options: DmOptions) -> Result:
    """Return the table of searches."""
    names = [EVERYTHING] if options.quick else list(searches())
    many = {name: 2 if options.quick else options.seeds if name == EVERYTHING else options.others for name in names}
    units = [Unit(name, options.seed + i) for name in names for i in range(many[name])]
    missing = [unit for unit in units if not unit.path.exists()]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(run, missing), 1):
            print(f"{done} of {len(missing)} episodes", file=sys.stderr)
    found = {unit: json.loads(unit.path.read_text()) for unit in units}
    rows = [row(name, [found[unit] for unit in units if unit.search == name]) for name in names]
    preset = rows[0]
    return Result(
        "dm_control",
        f"walker-walk of dm_control's suite, planned with a simulation of its own, returns at least {WANTED:g} of 1000.",
        {"return": preset["return"], "least return": preset["least"], "at least 900": preset["return"].lo >= WANTED},
        (Table("walker-walk, 1000 steps of 25 ms", tuple(preset), tuple(tuple(r.values()) for r in rows)),),
        seeds=tuple(options.seed + i for i in range(many[EVERYTHING])),
        n=preset["n"],
        notes=("candidates = those of all iterations of one plan; core-seconds include starting the simulation",),
        extra={name: [asdict(u) | found[u] for u in units if u.search == name] for name in names},
        results={"searches": rows},
    )


main = command(DmOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
