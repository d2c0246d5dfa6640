"""Online adaptation against the same robot without it: paired seeds, the canonical ankle and faults of other kinds."""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    QUICK_RESULTS,
    Options,
    Result,
    Table,
    paired_interval,
    parse,
    publish,
    quantiles,
    rate_interval,
)
from configs.presets import PRESETS
from deploy.config import RunConfig

START = "@12"
LEFT_LEG = ("thigh_left_joint", "leg_left_joint", "foot_left_joint")
CASES: dict[str, tuple[str, ...]] = {
    "left ankle limited to 0.5": (f"actuator_limit:foot_left_joint:0.5{START}",),
    "all friction x 0.1": (f"friction:all:0.1{START}",),
    "left leg's gain x 0.6": tuple(f"actuator_gain:{joint}:0.6{START}" for joint in LEFT_LEG),
    "actions 2 steps late": (f"action_delay:all:2{START}",),
}
MAIN = next(iter(CASES))
PLAN_LATENCY_S, ADAPT_LATENCY_S = 0.024, 20.0


@dataclass(frozen=True)
class AdaptationOptions(Options):
    """What this benchmark can be told."""

    seeds: int = 20
    """Paired seeds of the canonical case."""
    other_seeds: int = 5
    """Paired seeds of each other fault."""
    workers: int = 2


def config(faults: tuple[str, ...], seed: int, adapt: bool) -> RunConfig:
    """Return one arm's config: the preset of `make run` with an earlier fault and given latencies."""
    base = PRESETS["walker-broken-ankle"][1]
    return replace(
        base,
        faults=faults,
        seed=seed,
        adapt=adapt,
        control_arm=False,
        plan_latency_s=PLAN_LATENCY_S,
        adapt_latency_s=ADAPT_LATENCY_S,
        adapted_episodes=12,
        max_episodes=40,
        max_s=200.0,
    )


def arm(cfg: RunConfig, episodes: int | None) -> Any:
    """Return the history of one arm: to its own end, or for so many episodes."""
    import torch

    from deploy.arms import build, finished, open_session
    from deploy.interrupt import Interrupts

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        session = open_session(cfg, build(cfg), Path(folder), Interrupts())
        session.run(lambda e: e < episodes if episodes is not None else not finished(session, cfg, e))
        session.log.close()
    return session.history


def pair(case: str, seed: int) -> dict[str, Any]:
    """Return what one seed shows: the robot that adapts and the same robot that does not."""
    own = arm(config(CASES[case], seed, True), None)
    # a control arm that falls sooner needs less time: its clock must not end it before the same episodes are done
    control = arm(replace(config(CASES[case], seed, False), max_s=1e6), len(own.episodes))
    adapted, partial_phase = own.episodes_in("adapted")
    wanted = {e.episode for e in adapted}
    broken, _ = own.episodes_in("broken")
    healthy, _ = own.episodes_in("healthy")
    fault_s = float(own.fault_s)
    after = [r.t_s - fault_s for _, r in own.alarms if r.t_s >= fault_s]
    return {
        "case": case,
        "seed": seed,
        "adapted": mean([e.episode_return for e in adapted]) if not partial_phase else None,
        "control": mean([e.episode_return for e in control.episodes if e.episode in wanted])
        if not partial_phase
        else None,
        "broken": mean([e.episode_return for e in broken]),
        "healthy": mean([e.episode_return for e in healthy]),
        "adapted_episodes": len(adapted),
        "delay_s": min(after) if after else None,
        "early_alarms": sum(r.t_s < fault_s for _, r in own.alarms),
        "healthy_episodes": len(healthy),
        "reports": [{"part": a.part, "accepted": a.accepted, "reason": a.reason} for a in own.adaptations],
        "rolled_back": sum(s.reason.startswith("rolled back") for s in own.swaps),
    }


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None of nothing."""
    return float(np.mean(values)) if values else None


def one(job: tuple[str, int]) -> dict[str, Any]:
    """Return a pair, from disk if it was measured before."""
    case, seed = job
    made_with = zlib.crc32(repr(config(CASES[case], seed, True)).encode())
    path = QUICK_RESULTS / "adaptation" / f"{case.replace(' ', '-')}-{seed}-{made_with:08x}.json"
    if path.exists():
        return json.loads(path.read_text())
    row = pair(case, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row))
    part.rename(path)
    return row


def run(jobs: Sequence[tuple[str, int]], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the pairs in order."""
    if workers == 1:
        yield from map(one, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(partial(one), jobs)


def row_of(case: str, found: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """Return one line of the table."""
    both = [r for r in found if r["adapted"] is not None and r["control"] is not None]
    delays = [r["delay_s"] for r in found if r["delay_s"] is not None]
    accepted = sum(any(a["accepted"] for a in r["reports"]) for r in found)
    median = quantiles(delays, 0.5)[0] if delays else None
    head = (case, len(found), len(delays), median, accepted)
    if len(both) < 2:
        return (*head, mean([r["healthy"] for r in found]), None, None, None, None, None)
    gain = paired_interval([r["adapted"] for r in both], [r["control"] for r in both])
    means = [mean([r[name] for r in both]) for name in ("healthy", "control", "adapted")]
    return (*head, *means, gain.mean, gain.lo, gain.hi)


def measure(options: AdaptationOptions) -> Result:
    """Return the table over cases and, for the canonical one, the figures."""
    many, few = (2, 0) if options.quick else (options.seeds, options.other_seeds)
    seeds = {case: range(options.seed, options.seed + (many if case == MAIN else few)) for case in CASES}
    jobs = [(case, seed) for case, numbers in seeds.items() for seed in numbers]
    found = list(run(jobs, options.workers))
    by_case = {case: [r for r in found if r["case"] == case] for case in CASES}
    rows = [row_of(case, rows) for case, rows in by_case.items() if rows]
    ankle = by_case[MAIN]
    healthy = sum(r["healthy_episodes"] for r in ankle)
    early = rate_interval(sum(r["early_alarms"] > 0 for r in ankle), len(ankle))
    figures = {
        "paired_gain": rows[0][8],
        "paired_gain_lo": rows[0][9],
        "paired_gain_hi": rows[0][10],
        "seeds_with_an_alarm_before_the_break": early,
        "healthy_episodes_before_the_break": healthy,
        "alarm_within_1_s": sum(r["delay_s"] is not None and r["delay_s"] <= 1 for r in ankle) / len(ankle),
    }
    columns = (
        "fault",
        "seeds",
        "alarms",
        "median delay s",
        "accepted",
        "healthy",
        "control",
        "adapted",
        "gain",
        "lo",
        "hi",
    )
    reasons = tuple((r["case"], r["seed"], a["part"], a["accepted"], a["reason"]) for r in found for a in r["reports"])
    tables = (
        Table("mean return per episode; gain = adapted - control, paired by seed", columns, tuple(rows)),
        Table("what the gate said", ("fault", "seed", "part", "accepted", "reason"), reasons),
    )
    notes = (
        f"Plan latency {PLAN_LATENCY_S} s and adaptation {ADAPT_LATENCY_S} s of simulated time, the same in every pair.",
    )
    claim = (
        "After the left ankle breaks, the robot that adapts online earns more than the same robot without adaptation."
    )
    return Result("adaptation", claim, figures, tables, seeds=tuple(seeds[MAIN]), n=len(found), notes=notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and publish."""
    options = parse(AdaptationOptions, __doc__, argv)
    publish(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
