"""Sentences to goals: how many are exactly right, refused or wrong, without a model and, if there is one, with it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Options, Result, Table, command, quantiles, rate_interval
from deploy.goal_service.examples.cases import DEV, GENERATED, HANDWRITTEN, IMPOSSIBLE, Case, read, same
from deploy.goal_service.sentences import Engine, to_goal

SETS = (GENERATED, HANDWRITTEN, IMPOSSIBLE, DEV)
QUICK = 60
"""Sentences of each set with --quick and a model."""


@dataclass(frozen=True)
class SentenceOptions(Options):
    """Sentences to goals."""

    model: Path | None = None
    """Folder or GGUF file of a model that is asked too; the packaged one: `packaged`."""


@dataclass(frozen=True)
class Judged:
    """What became of one sentence."""

    case: Case
    verdict: str
    """right | cannot (though it can) | wrong."""
    path: str
    ms: float
    got: str


def judge(case: Case, engine: Engine | None) -> Judged:
    """Return what becomes of a sentence."""
    began_s = time.perf_counter()
    goal, timings = to_goal(case.sentence, case.robot, case.current, engine)
    ms = 1e3 * (time.perf_counter() - began_s)
    verdict = "right" if same(goal, case.goal) else "cannot" if goal.cannot is not None else "wrong"
    return Judged(case, verdict, timings["path"], ms, goal.cannot or goal.to_json())


def row(who: str, name: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """Return one row of the table."""
    counts, paths = Counter(one.verdict for one in judged), Counter(one.path for one in judged)
    p50, p99 = quantiles([one.ms for one in judged], 0.5, 0.99)
    return {
        "by": who,
        "set": name,
        "n": len(judged),
        "right": rate_interval(counts["right"], len(judged)),
        "cannot": counts["cannot"],
        "wrong": counts["wrong"],
        "by words": paths["words"],
        "by the model": paths["model"],
        "p50 ms": p50,
        "p99 ms": p99,
    }


def engines(options: SentenceOptions) -> dict[str, Engine | None]:
    """Return who is judged."""
    if options.model is None:
        return {"words": None}
    from deploy.goal_service.engine import EngineConfig, build_engine

    model = "" if str(options.model) == "packaged" else options.model
    return {"words": None, "words, then the model": build_engine(EngineConfig(model=model))}  # pyright: ignore


def measure(options: SentenceOptions) -> Result:
    """Return how the sets are read."""
    rows, missed = [], []
    for who, engine in engines(options).items():
        for name in SETS:
            cases = read(name)[: QUICK if options.quick and engine is not None else None]
            judged = [judge(case, engine) for case in cases]
            rows.append(row(who, name, judged))
            missed += [(who, name, one.case.sentence, one.verdict, one.got) for one in judged if one.verdict != "right"]
            print(f"{who}: {name} done", file=sys.stderr)
        if engine is not None:
            engine.close()  # pyright: ignore
    best = {r["set"]: r["right"].mean for r in rows}  # of whoever came last
    table = Table("sentences", tuple(rows[0]), tuple(tuple(r.values()) for r in rows))
    return Result(
        name="goal_sentences",
        claim="a sentence becomes exactly the goal that it says, or a refusal; never a number that was not said",
        headline={f"right: {name}": rate for name, rate in best.items()} | {"wrong": sum(r["wrong"] for r in rows)},
        tables=(table,),
        seeds=(options.seed,),
        n=sum(r["n"] for r in rows),
        notes=(
            "right: all terms, values (to 0.0005), durations and the order; for the impossible: refused.",
            "cannot: refused though it can be done. wrong: another goal, which the robot would pursue.",
        ),
        extra={"missed": missed},
    )


main = command(SentenceOptions, __doc__, measure)

if __name__ == "__main__":
    sys.exit(main())
