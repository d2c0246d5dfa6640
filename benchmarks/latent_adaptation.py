"""A latent world model in a changed world: does success come back once its dynamics has been refitted to what was seen?

A life is ten episodes in a row in a world that was changed from the start on, each with a start and a goal of its own; with and without
adaptation they are the same ones. The first two are left out of the comparison: that is when it is noticed and learned.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Result, Table, command, paired_interval, rate_interval
from benchmarks.lewm import LATENCY_S, WORLDS, shipped
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import made_with

EPISODES, LEARNING = 10, 2
FIRST = 9_500
"""Seed of the first life."""
ADAPT_S = 2.0
"""Simulated seconds that a fit takes."""
FAULTS: dict[str, tuple[str, ...]] = {
    "lewm-tworoom-small": ("gain:disc:0.6",),
    "lewm-pusht-small": ("gain:pusher:0.6", "sticky:block:1"),
    "lewm-cube-small": ("gain:arm:0.6",),
}


@dataclass(frozen=True)
class AdaptOptions(Options):
    """What this benchmark can be told."""

    worlds: tuple[str, ...] = field(default_factory=lambda: shipped(FAULTS))
    lives: int = 15
    data: Path = Path("data")
    workers: int = 2


@dataclass(frozen=True)
class Life:
    """Ten episodes in a row."""

    preset: str
    fault: str
    adapt: bool
    seed: int
    data: Path

    @property
    def config(self) -> RunConfig:
        """The run."""
        faults = (f"{self.fault}@0",) if self.fault else ()
        folder, ((offset, budget), *_) = WORLDS[self.preset]
        base = replace(PRESETS[self.preset][1], faults=faults, seed=self.seed, adapt=self.adapt, pictures="none")
        base = replace(base, plan_latency_s=LATENCY_S, adapt_latency_s=ADAPT_S, max_s=1e6, max_episodes=EPISODES)
        return replace(base, goals_from=self.data / folder, offset=offset, episode_steps=budget)

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        kind = "adapts" if self.adapt else "does-not"
        mark = made_with(self.config, judged=True)
        return f"latent_adaptation/{self.preset}-{self.fault or 'sound'}-{kind}-{self.seed}-{mark:08x}"


def work(life: Life) -> dict[str, Any]:
    """Return which episodes came to their goal, when alarms came, and what was adapted."""
    from deploy.arms import build, unlogged

    cfg = life.config
    history = unlogged(cfg, build(cfg), lambda _, episode: episode < EPISODES).history
    return {
        "success": [e.ended == "terminated" for e in history.episodes],
        "steps": [e.steps for e in history.episodes],
        "alarms": len(history.alarms),
        "swaps": len(history.swaps),
    }


def row(preset: str, fault: str, found: dict[bool, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Return one line of the table."""
    after = {adapt: [f["success"][LEARNING:] for f in lives] for adapt, lives in found.items()}
    shares = {adapt: [float(np.mean(s)) for s in some] for adapt, some in after.items()}
    flat = {adapt: [s for some in each for s in some] for adapt, each in after.items()}
    return {
        "world": preset,
        "change": fault or "none",
        "without": rate_interval(sum(flat[False]), len(flat[False])),
        "with adaptation": rate_interval(sum(flat[True]), len(flat[True])),
        "gain, paired by life": paired_interval(shares[True], shares[False]),
        "lives with an alarm": sum(f["alarms"] > 0 for f in found[True]),
        "lives with another model": sum(f["swaps"] > 0 for f in found[True]),
        "lives": len(found[True]),
        "n": len(flat[True]),
    }


def measure(options: AdaptOptions) -> Result:
    """Return the table."""
    seeds = range(FIRST, FIRST + (3 if options.quick else options.lives))
    cases = [(preset, fault) for preset in options.worlds for fault in ("", *FAULTS[preset])]
    units = {
        (*case, adapt): [Life(*case, adapt, seed, options.data) for seed in seeds]
        for case in cases
        for adapt in (False, True)
    }
    flat = [unit for some in units.values() for unit in some]
    found = dict(zip(flat, done(flat, work, options.workers, "lives"), strict=True))
    rows = [row(*case, {adapt: [found[u] for u in units[(*case, adapt)]] for adapt in (False, True)}) for case in cases]
    title = f"success in episodes {LEARNING + 1} to {EPISODES} of a life in a changed world"
    table = Table(title, tuple(rows[0]), tuple(tuple(r.values()) for r in rows))
    figures = {f"gained by adaptation, {r['change']}, {r['world']}": r["gain, paired by life"] for r in rows}
    claim = "What a changed world costs a latent planner comes back when its dynamics is refitted to what it saw."
    return Result("latent_adaptation", claim, figures, (table,), tuple(seeds), sum(r["n"] for r in rows))


main = command(AdaptOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
