"""Diffusion MPC on its published ground: fixed reward on six data sets, and what comes back after an ankle breaks.

With them: goals at run time, and which part of the model limits the planner. Needs the data sets (`surefoot collect`) and a model
of each (`surefoot train DATASET --out runs/offline/DATASET`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Options, Result, Table, command
from benchmarks.walker_ankle import ARMS, METHOD, Life, lived, nested_bootstrap
from benchmarks.walker_diagnosis import CORRELATION, ERROR, ERROR_TITLE, RANK_TITLE, ladder
from benchmarks.walker_goals import COLUMNS, TITLE, goal_rows, picture
from benchmarks.walker_reward import PLANNERS, PUBLISHED, measured, normalised
from deploy.machine import ROOT

PICTURE = ROOT / "docs" / "goals.png"
DEFECTS = (("left", 0.5), ("left", 0.25), ("right", 0.0))


@dataclass(frozen=True)
class WalkerOptions(Options):
    """What this benchmark can be told."""

    sets: int = 8
    """Play sets of the method on the canonical defect."""
    others: int = 5
    """Play sets of each other arm there."""
    judged: int = 10
    """Episodes that every arm is judged on."""
    datasets: tuple[str, ...] = tuple(PUBLISHED)
    """Of the fixed reward; those whose models are trained."""
    episodes: int = 50
    """Seeds of the fixed reward."""
    data: Path = Path("data")
    """Folder with the data sets."""
    asked: int = 20
    """Seeds of each goal."""
    states: int = 40
    """Of healthy walking, from which the diagnosis compares scores."""
    workers: int = 2


def plan(options: WalkerOptions) -> list[Life]:
    """Return the units of work: for each arm what it is worth healthy, broken and after play."""
    if options.quick:
        return [Life(METHOD, "left", limit, n, 20, 4) for limit, n in ((None, None), (0.5, None), (0.5, 0))]
    lives = [Life(name, "left", None, None, 0, options.judged) for name in ARMS]
    for name, arm in ARMS.items():
        for side, limit in DEFECTS if name == METHOD else DEFECTS[:1]:
            most = options.sets if name == METHOD else options.others
            sets = range(most if (side, limit) == DEFECTS[0] else 1)
            lives.append(Life(name, side, limit, None, 0, options.judged))
            lives += [Life(name, side, limit, n, arm.budget, options.judged) for n in sets if arm.budget]
    return lives


def row(arm: str, side: str, limit: float, budget: str, rows: Sequence[Sequence[float]], share: Any) -> dict[str, Any]:
    """Return one row: an arm after so much play, over its play sets; `share` is None where nothing was lost."""
    scores = [[normalised("walker2d", value) for value in found] for found in rows]
    judged = len(scores[0])
    score = nested_bootstrap(scores, [0.0] * judged, [1.0] * judged)
    about = {"side": side, "limit": limit, "budget": int(budget), "arm": arm, "method": arm == METHOD}
    about |= dict(zip(("normalised", "lo", "hi"), score or (None,) * 3, strict=True))
    about |= {"n": judged * len(scores), "sets": len(scores) if int(budget) else 0}
    return about | dict(zip(("regained", "regained_lo", "regained_hi"), share or (None,) * 3, strict=True))


def ankle_rows(lives: Sequence[Life], found: Sequence[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return the rows of the broken ankle."""
    by_life = dict(zip(lives, found, strict=True))
    rows = []
    for arm, side, limit in dict.fromkeys((x.arm, x.side, x.limit) for x in lives if x.limit is not None):
        (healthy,) = (f["0"] for x, f in by_life.items() if x.arm == arm and x.limit is None)
        mine = [(x, f) for x, f in by_life.items() if (x.arm, x.side, x.limit) == (arm, side, limit)]
        (broken,) = (f["0"] for x, f in mine if x.play_set is None)
        share: Any = (0.0, 0.0, 0.0)
        if not ARMS[arm].budget:  # the ceiling: it has nothing to learn, and is held against the method
            base = [(x, f["0"]) for x, f in by_life.items() if x.arm == METHOD and x.play_set is None]
            lost = {x.limit: f for x, f in base if x.limit is None or (x.side, x.limit) == (side, limit)}
            share = nested_bootstrap([broken], lost[limit], lost[None])
        rows.append(row(arm, side, limit, "0", [broken], share))
        sets = [f for x, f in mine if x.play_set is not None]
        for budget in [key for key in (sets[0] if sets else ()) if key.isdigit()]:
            after = [f[budget] for f in sets]
            rows.append(row(arm, side, limit, budget, after, nested_bootstrap(after, broken, healthy)))
    return rows


ANKLE = (
    "side",
    "limit",
    "budget",
    "arm",
    "normalised",
    "lo",
    "hi",
    "n",
    "sets",
    "regained",
    "regained_lo",
    "regained_hi",
)
ANKLE_TITLE = (
    "broken ankle; budget = episodes of play, fits take none of them, up to seven rounds (a run has "
    "`agent.adapt.rounds`); regained = (arm - broken) / (healthy - broken), interval over sets of play and episodes"
)
REWARD = ("dataset", "arm", "normalised", "lo", "hi", "n", "return_mean", "behaviour_mean", "ratio", "published_ratio")


def table(title: str, columns: tuple[str, ...], rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table."""
    return Table(title, columns, tuple(tuple(r[c] for c in columns) for r in rows))


def measure(options: WalkerOptions) -> Result:
    """Return the tables: fixed reward; arms, defects and budgets of the broken ankle; goals at run time."""
    datasets, episodes = ((), 0) if options.quick else (options.datasets, options.episodes)
    reward = measured(datasets, episodes, options.data, options.workers)
    lives = plan(options)
    ankle = ankle_rows(lives, lived(lives, options.data, options.workers))
    method = [r for r in ankle if r["method"] and (r["side"], r["limit"]) == DEFECTS[0] and r["budget"]]
    figures = {f"regained after {r['budget']} episodes": r["regained"] for r in method}
    searches = [name for name, agent in PLANNERS.items() if agent.samples > 1]
    ratios = {f"return / behaviour, {r['dataset']}, {r['arm']}": r["ratio"] for r in reward if r["arm"] in searches}
    goals, seen = goal_rows(options.asked, options.workers) if not options.quick else ([], {})
    if goals:
        PICTURE.write_bytes(picture(seen))
    ranks, errors = ladder(options.states) if not options.quick else ([], [])
    tables = (
        table("fixed reward; ratio = return / mean return of the data", REWARD, reward),
        table(ANKLE_TITLE, ANKLE, ankle),
        table(TITLE, COLUMNS, goals),
        table(RANK_TITLE, CORRELATION, ranks),
        table(ERROR_TITLE, ERROR, errors),
    )
    claim = f"After the left ankle breaks, a good part of what was lost comes back online; the method: {METHOD}."
    return Result(
        "walker",
        claim,
        figures | ratios,
        tuple(t for t in tables if t.rows),
        seeds=tuple(range(options.sets)),
        n=sum(r["n"] for r in [*reward, *ankle]),
        results={"fixed_reward": reward, "broken_ankle": ankle, "goals": goals},
    )


main = command(WalkerOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
