"""The walker: how much of what a broken ankle costs comes back, with how much play, and what each adapted part is worth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Options, Result, Table, mean_interval, parse, publish
from benchmarks.walker_ankle import ARMS, METHOD, Life, lived, nested_bootstrap

MINIMUM, MAXIMUM = 1.629008, 4592.3
"""Returns that D4RL scores 0 and 100 on walker2d."""
DEFECTS = (("left", 0.5), ("left", 0.25), ("right", 0.0))


@dataclass(frozen=True)
class WalkerOptions(Options):
    """What this benchmark can be told."""

    sets: int = 5
    """Play sets of each arm on the canonical defect."""
    judged: int = 10
    """Episodes that every arm is judged on."""
    workers: int = 2


def normalised(value: float) -> float:
    """Return a return as D4RL's score."""
    return 100 * (value - MINIMUM) / (MAXIMUM - MINIMUM)


def plan(options: WalkerOptions) -> list[Life]:
    """Return the units of work: for each arm what it is worth healthy, broken and after play."""
    if options.quick:
        return [Life(METHOD, "left", limit, n, 10, 4) for limit, n in ((None, None), (0.5, None), (0.5, 0))]
    lives = [Life(name, "left", None, None, 0, options.judged) for name in ARMS]
    for name, arm in ARMS.items():
        for side, limit in DEFECTS if name == METHOD else DEFECTS[:1]:
            sets = range(options.sets if (side, limit) == DEFECTS[0] else 1)
            lives.append(Life(name, side, limit, None, 0, options.judged))
            lives += [Life(name, side, limit, n, arm.budget, options.judged) for n in sets]
    return lives


def row(arm: str, side: str, limit: float, budget: str, rows: Sequence[Sequence[float]], share: Any) -> dict[str, Any]:
    """Return one row: an arm after so much play, over its play sets."""
    scores = [normalised(sum(found) / len(found)) for found in rows]
    flat = [normalised(value) for found in rows for value in found]
    whole = mean_interval(scores if len(scores) > 1 else flat)
    keys = ("regained", "regained_lo", "regained_hi")
    about = {"side": side, "limit": limit, "budget": int(budget), "arm": arm, "method": arm == METHOD}
    return about | {
        "normalised": whole.mean,
        "lo": whole.lo,
        "hi": whole.hi,
        "n": len(flat),
        **dict(zip(keys, share, strict=True)),
    }


def ankle_rows(lives: Sequence[Life], found: Sequence[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return the rows of the broken ankle; share of the loss regained only where there is a loss."""
    by_life = dict(zip(lives, found, strict=True))
    rows = []
    for arm, side, limit in dict.fromkeys((x.arm, x.side, x.limit) for x in lives if x.limit is not None):
        (healthy,) = (f["0"] for x, f in by_life.items() if x.arm == arm and x.limit is None)
        mine = [(x, f) for x, f in by_life.items() if (x.arm, x.side, x.limit) == (arm, side, limit)]
        (broken,) = (f["0"] for x, f in mine if x.play_set is None)
        rows.append(row(arm, side, limit, "0", [broken], (0.0, 0.0, 0.0)))
        sets = [f for x, f in mine if x.play_set is not None]
        for budget in [key for key in sets[0] if key.isdigit()]:
            after = [f[budget] for f in sets]
            rows.append(row(arm, side, limit, budget, after, nested_bootstrap(after, broken, healthy)))
    return rows


COLUMNS = ("side", "limit", "budget", "arm", "normalised", "lo", "hi", "n", "regained", "regained_lo", "regained_hi")


def measure(options: WalkerOptions) -> Result:
    """Return the table over arms, defects and budgets."""
    lives = plan(options)
    rows = ankle_rows(lives, lived(lives, options.workers))
    method = [r for r in rows if r["method"] and (r["side"], r["limit"]) == DEFECTS[0] and r["budget"]]
    figures = {f"regained after {r['budget']} episodes": r["regained"] for r in method}
    table = Table(
        "broken ankle; budget = episodes of play; regained = (arm - broken) / (healthy - broken)",
        COLUMNS,
        tuple(tuple(r[c] for c in COLUMNS) for r in rows),
    )
    claim = f"After the left ankle breaks, most of what was lost comes back online; the method: {METHOD}."
    seeds = tuple(range(options.sets))
    return Result("walker", claim, figures, (table,), seeds, sum(r["n"] for r in rows), results={"broken_ankle": rows})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and publish."""
    options = parse(WalkerOptions, __doc__, argv)
    publish(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
