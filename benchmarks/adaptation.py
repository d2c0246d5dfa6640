"""Online adaptation against the same robot without it: paired seeds, the canonical ankle and faults of other kinds."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.mpc import MpcAgent
from benchmarks.common import (
    QUICK_RESULTS,
    Options,
    Result,
    Table,
    command,
    keep,
    paired_interval,
    quantiles,
    rate_interval,
)
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import TOGETHER, made_with

FAULT_S = 12.0
REPAIRED_S = 100.0


@dataclass(frozen=True)
class Case:
    """A fault, and when its runs end."""

    faults: tuple[str, ...]
    adapted_episodes: int = 12
    max_s: float = 200.0


LEFT_LEG = ("thigh_left_joint", "leg_left_joint", "foot_left_joint")
ANKLE = f"actuator_limit:foot_left_joint:0.5@{FAULT_S:g}"
REPAIRED = "left ankle, repaired"
CASES = {
    "left ankle limited to 0.5": Case((ANKLE,)),
    "all friction x 0.1": Case((f"friction:all:0.1@{FAULT_S:g}",)),
    "left leg's gain x 0.6": Case(tuple(f"actuator_gain:{joint}:0.6@{FAULT_S:g}" for joint in LEFT_LEG)),
    "actions 2 steps late": Case((f"action_delay:all:2@{FAULT_S:g}",)),
    "one push, the body stays as it was": Case((f"push:torso:400@{FAULT_S:g}",)),
    REPAIRED: Case((f"{ANKLE}-{REPAIRED_S:g}",), adapted_episodes=1000, max_s=REPAIRED_S + 40),
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


def config(name: str, seed: int, adapt: bool) -> RunConfig:
    """Return one arm's config: the preset of `make run` with an earlier fault and given latencies."""
    base, case = PRESETS["walker-broken-ankle"][1], CASES[name]
    return replace(
        base,
        faults=case.faults,
        seed=seed,
        adapt=adapt,
        control_arm=False,
        plan_latency_s=PLAN_LATENCY_S,
        adapt_latency_s=ADAPT_LATENCY_S,
        adapted_episodes=case.adapted_episodes,
        max_episodes=1000,
        max_s=case.max_s,
    )


def adapting(job: tuple[str, int]) -> dict[str, Any]:
    """Return what the robot that adapts shows with one seed."""
    import torch

    from deploy.arms import build, finished, unlogged

    torch.set_num_threads(1)
    case, seed = job
    cfg = config(case, seed, True)
    own = unlogged(cfg, build(cfg), lambda history, episode: not finished(history, cfg, episode)).history
    adapted, partial_phase = own.episodes_in("adapted")
    broken, healthy = own.episodes_in("broken")[0], own.episodes_in("healthy")[0]
    fault_s = float(own.fault_s)  # pyright: ignore[reportArgumentType]
    after = [r.t_s - fault_s for _, r in own.alarms if r.t_s > fault_s]
    return {
        "episodes": len(own.episodes),
        "adapted": [] if partial_phase else [(e.episode, e.episode_return) for e in adapted],
        "broken": mean([e.episode_return for e in broken]),
        "healthy": mean([e.episode_return for e in healthy]),
        "delay_s": min(after) if after else None,
        "early_alarms": sum(r.t_s <= fault_s for _, r in own.alarms),
        "healthy_episodes": len(healthy),
        "reports": [{"part": a.part, "accepted": a.accepted, "reason": a.reason} for a in own.adaptations],
        "swaps": [(s.t_s - fault_s, s.model, s.reason) for s in own.swaps],
    }


def controls(jobs: Sequence[tuple[str, int, int]]) -> list[list[float]]:
    """Return the episode returns of the robots that do not adapt, each (case, seed, episodes); they plan in one batch."""
    from deploy.arms import Parts, unlogged
    from deploy.robots.sim import make_robot
    from deploy.watch import together

    def lived(cfg: RunConfig, episodes: int, agent: MpcAgent) -> list[float]:
        robot, fault_s = make_robot(cfg)
        session = unlogged(cfg, Parts(robot, agent, fault_s), lambda _, episode: episode < episodes)
        return [e.episode_return for e in session.history.episodes]

    # a robot that falls sooner needs less time: its clock must not end it before the same episodes are done
    cfgs = [replace(config(case, seed, False), max_s=1e6) for case, seed, _ in jobs]
    return together(cfgs[0], [partial(lived, cfg, n) for cfg, (_, _, n) in zip(cfgs, jobs, strict=True)])


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None of nothing."""
    return float(np.mean(values)) if values else None


def path_of(case: str, seed: int, arm: str) -> Path:
    """Where an arm is kept, so that an interrupted benchmark goes on where it was."""
    mark = made_with(config(case, seed, True), judged=True)
    return QUICK_RESULTS / "adaptation" / f"{case.replace(' ', '-')}-{seed}-{arm}-{mark:08x}.json"


def run(jobs: Sequence[tuple[str, int]], workers: int) -> list[dict[str, Any]]:
    """Return the pairs in order: first the arms that adapt, then their controls, for as many episodes."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        missing = [job for job in jobs if not path_of(*job, "own").exists()]
        for job, row in zip(missing, pool.imap(adapting, missing), strict=True):
            keep(path_of(*job, "own"), row)
            print(f"{job[0]}, seed {job[1]}: alarm after {row['delay_s']} s", file=sys.stderr)
        own = {job: json.loads(path_of(*job, "own").read_text()) for job in jobs}
        left = [(*job, own[job]["episodes"]) for job in jobs if not path_of(*job, "control").exists()]
        groups = [left[i : i + TOGETHER] for i in range(0, len(left), TOGETHER)]
        for group, found in zip(groups, pool.imap(controls, groups), strict=True):
            for (case, seed, _), returns in zip(group, found, strict=True):
                keep(path_of(case, seed, "control"), returns)
    return [paired(job, own[job], json.loads(path_of(*job, "control").read_text())) for job in jobs]


def paired(job: tuple[str, int], own: dict[str, Any], control: Sequence[float]) -> dict[str, Any]:
    """Return both arms of a seed, over the episodes that began after the adaptation."""
    adapted = mean([found for _, found in own["adapted"]])
    same = mean([control[episode] for episode, _ in own["adapted"]])
    return own | {"case": job[0], "seed": job[1], "adapted": adapted, "control": same}


def row_of(case: str, found: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """Return one line of the table."""
    both = [r for r in found if r["adapted"] is not None and r["control"] is not None and case != REPAIRED]
    delays = [r["delay_s"] for r in found if r["delay_s"] is not None]
    accepted = sum(any(a["accepted"] for a in r["reports"]) for r in found)
    median = quantiles(delays, 0.5)[0] if delays else None
    head = (case, len(found), len(delays), median, accepted, len(both))
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
    found = run(jobs, options.workers)
    by_case = {case: [r for r in found if r["case"] == case] for case in CASES}
    rows = [row_of(case, rows) for case, rows in by_case.items() if rows]
    ankle = by_case[MAIN]
    healthy = sum(r["healthy_episodes"] for r in ankle)
    early = rate_interval(sum(r["early_alarms"] > 0 for r in ankle), len(ankle))
    figures = {
        "paired_gain": rows[0][9],
        "paired_gain_lo": rows[0][10],
        "paired_gain_hi": rows[0][11],
        "pairs": rows[0][5],
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
        "pairs",
        "healthy",
        "control",
        "adapted",
        "gain",
        "lo",
        "hi",
    )
    reasons = tuple((r["case"], r["seed"], a["part"], a["accepted"], a["reason"]) for r in found for a in r["reports"])
    swaps = tuple((r["case"], r["seed"], *swap) for r in found for swap in r["swaps"])
    tables = (
        Table("mean return per episode; gain = adapted - control, paired by seed", columns, tuple(rows)),
        Table("what the gate said", ("fault", "seed", "part", "accepted", "reason"), reasons),
        Table("models that came into use", ("fault", "seed", "s after the fault", "model", "reason"), swaps),
    )
    notes = (
        f"The ankle that is repaired is so after {REPAIRED_S - FAULT_S:g} s; its arms are then not in step, so no gain is given.",
        "pairs: seeds with a whole episode after an accepted adaptation; where none was accepted there is nothing to compare.",
        f"Plan latency {PLAN_LATENCY_S} s and adaptation {ADAPT_LATENCY_S} s of simulated time, the same in every pair.",
    )
    claim = (
        "After the left ankle breaks, the robot that adapts online earns more than the same robot without adaptation."
    )
    return Result("adaptation", claim, figures, tables, seeds=tuple(seeds[MAIN]), n=len(found), notes=notes)


main = command(AdaptationOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
