"""The goal service's engine: how fast each way of decoding is on this machine, and with two devices stood in for by delays.

All arms have the same weights, cores and texts, and take turns. With delays the target's look and a step of
the small model take at least a set time, each in its own process: what overlaps is real, and is held against the published model.
There the target itself drafts, in another rounding and with layers left out: real models that agree as well as published pairs do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Result, Table, command
from benchmarks.goal_timeline import picture
from deploy.goal_service.engine import Engine, EngineConfig, build_engine
from deploy.goal_service.models import save_drafter
from deploy.goal_service.requests import Finished, Grammar, Mode, Sampling, Timings
from deploy.goal_service.speed import Times, ar_rate, sd_rate, ssd_rate
from deploy.goal_service.weights import load_weights, packaged_model
from deploy.machine import ROOT

PICTURE = ROOT / "docs" / "decoding.png"
DRAFT = ROOT / "runs" / "distil" / "out"
THINNED = ROOT / "runs" / "goal_service"
LEFT_OUT = ((), (25,))
"""Layers that the target does without when it drafts: about 0.97 and 0.57 of what it drafts is right."""
QUESTIONS = (
    *(
        "Explain in a few sentences why a robot with a broken ankle falls.",
        "What is friction, and when does a walker need it?",
    ),
    *(
        "Write a short story about a robot that learns to walk backwards.",
        "List five things that a careful operator checks.",
    ),
    *(
        "Describe how bread is made.",
        "Give me advice about sleeping well.",
        "What do bridges and knees have in common?",
    ),
    "Write a short email that invites a friend to a walk by the river.",
)
SENTENCES = (
    *("walk forward at 1.5 m/s", "crouch to 1.1 m and stop", "go backwards slowly", "lean forward by 0.2 rad at 1 m/s"),
    *("stand tall", "run at 3 m/s for 5 seconds", "slow down to 0.4 m/s", "stop"),
)
GOAL = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["speed", "height", "pitch"]},
        "value": {"type": "number"},
        "unit": {"enum": ["m/s", "m", "rad"]},
        "then": {"enum": ["stop", "go on"]},
    },
    "required": ["kind", "value", "unit", "then"],
    "additionalProperties": False,
}
BUDGET = 8
"""Outcomes for which is drafted ahead."""
ARMS: tuple[Mode, ...] = ("ar", "sd", "ssd", "auto")


@dataclass(frozen=True)
class ServiceOptions(Options):
    """What this benchmark can be told."""

    draft: Path = DRAFT
    """Folder of the small model for this machine: `python -m deploy.goal_service.distil --out FOLDER` makes it."""
    tokens: int = 48
    """Of each text."""
    texts: int = 8
    turns: int = 2
    """How often each arm has its turn."""
    verify_s: float = 0.4
    """Of the target's look, where two devices are stood in for."""


@dataclass(frozen=True)
class Task:
    """What is written: texts, how many at once, how they are drawn."""

    name: str
    batch: int
    temperature: float
    grammar: bool = False


def asked(engine: Engine, task: Task, options: ServiceOptions, mode: Mode) -> list[tuple[list[int], Sampling]]:
    """Return the requests of a task."""
    said = SENTENCES if task.grammar else QUESTIONS
    grammar = Grammar("json", json.dumps(GOAL)) if task.grammar else None
    found = []
    for i in range(options.texts):
        content = f"Answer as JSON: {said[i % len(said)]}" if task.grammar else said[i % len(said)]
        prompt = engine.vocabulary.chat([{"role": "user", "content": content}])
        found.append(
            (prompt, Sampling(task.temperature, seed=i, max_tokens=options.tokens, grammar=grammar, mode=mode))
        )
    return found


def decode(
    engine: Engine, task: Task, options: ServiceOptions, mode: Mode
) -> tuple[float, float, list[Timings], list[Any]]:
    """Return the seconds and tokens that a task took, the timings of its texts, and the texts."""
    requests, seconds, tokens = asked(engine, task, options, mode), 0.0, 0
    timings, texts = [], []
    for first in range(0, len(requests), task.batch):
        began_s = time.perf_counter()
        tickets = [engine.submit(prompt, sampling) for prompt, sampling in requests[first : first + task.batch]]
        for ticket in tickets:
            *said, end = list(ticket)
            assert isinstance(end, Finished)
            timings.append(end.timings)
            texts.append([token.id for token in said if not isinstance(token, Finished) and token.id >= 0])
        seconds += time.perf_counter() - began_s
    tokens = sum(t.completion_tokens for t in timings)
    return seconds, tokens, timings, texts


def rows_of(engine: Engine, task: Task, options: ServiceOptions, forced: bool) -> list[dict[str, Any]]:
    """Return one row per arm."""
    modes: list[Mode] = [m for m in ARMS if m != "ssd" or engine.link is not None]
    for mode in modes:
        decode(engine, task, options, mode)  # prompts are read, modes have settled
    found: dict[Mode, list[Any]] = {mode: [] for mode in modes}
    for _ in range(options.turns):
        for mode in modes:
            found[mode].append(decode(engine, task, options, mode))
    first = found["ar"][0][3]
    rows = []
    for mode, turns in found.items():
        rates = [tokens / seconds for seconds, tokens, _, _ in turns]
        timings = [t for turn in turns for t in turn[2]]
        drafted, hits = sum(t.drafted for t in timings), sum(t.cache_hits for t in timings)
        looked = hits + sum(t.cache_misses for t in timings)
        about = {"task": task.name, "batch": task.batch, "temperature": task.temperature, "forced": forced, "arm": mode}
        rows.append(
            about
            | {
                "tokens_per_s": float(np.median(rates)),
                "first_token_ms": 1e3 * float(np.median([t.first_token_s for t in timings])),
                "acceptance": sum(t.accepted for t in timings) / drafted if drafted else None,
                "hit_rate": hits / looked if looked else None,
                "tokens_per_round": sum(t.completion_tokens for t in timings) / max(1, sum(t.rounds for t in timings)),
                "same_text": all(turn[3] == first for turn in turns),
            }
        )
    best = max(r["tokens_per_s"] for r in rows if r["arm"] != "auto")
    return [r | {"of_best": r["tokens_per_s"] / best} for r in rows]


def here(options: ServiceOptions) -> list[dict[str, Any]]:
    """Return the rows of this machine."""
    free = [Task("free text", batch, t) for batch in (1, 4, 8) for t in (0.0, 0.7, 1.0)]
    goals = [Task("goal JSON", batch, t, True) for batch in (1, 4) for t in (0.0, 1.0)]
    if options.quick:
        free, goals = free[:1], goals[:1]
    rows = []
    for forced in (True, False):
        engine = build_engine(EngineConfig(draft=str(options.draft), forced=forced))
        if engine.link is not None:
            engine.link.wait(60)
        for task in [*(free if forced else []), *goals]:
            rows += rows_of(engine, task, options, forced)
        engine.close()
    return rows


def devices(options: ServiceOptions) -> list[dict[str, Any]]:
    """Return the rows of two devices: what the delays, acceptance and hits say, and what was measured."""
    cells = [(out, step, k, t) for out in LEFT_OUT for step in (0.13, 0.22) for k in (3, 6) for t in (0.0, 1.0)]
    if options.quick:
        cells = cells[2:3]
    return [device(options, *cell) for cell in cells]


def thinned(left_out: Sequence[int]) -> Path:
    """Return the folder of a drafter that is the target, in bfloat16, without some of its layers."""
    folder = THINNED / "-".join(["without", *map(str, left_out or ["none"])])
    weights = load_weights(packaged_model())
    kept = [i for i in range(weights.config.layers) if i not in left_out]
    tensors = {name: t.bfloat16() for name, t in weights.tensors.items() if not name.startswith("layers.")}
    for new, old in enumerate(kept):
        head = f"layers.{old}."
        tensors |= {
            f"layers.{new}.{n.removeprefix(head)}": t.bfloat16()
            for n, t in weights.tensors.items()
            if n.startswith(head)
        }
    config = replace(weights.config, layers=len(kept))
    save_drafter(folder, config, tensors, None, {"target": weights.name, "left_out": list(left_out)})
    return folder


def device(
    options: ServiceOptions, left_out: Sequence[int], step: float, lookahead: int, temperature: float
) -> dict[str, Any]:
    """Return one row; `step`: of the small model, relative to a look of the target."""
    floor_s, step_s = options.verify_s, step * options.verify_s
    cfg = EngineConfig(draft=str(thinned(left_out)), lookahead=lookahead, budget=BUDGET, fallback="jit")
    engine = build_engine(replace(cfg, verify_floor_s=floor_s, draft_floor_s=step_s))
    assert engine.link is not None
    engine.link.wait(60)
    task, some = Task("free text", 1, temperature), replace(options, texts=min(options.texts, 2))
    decode(engine, task, some, "ssd")
    rates: dict[Mode, float] = {}
    per_round: dict[Mode, float] = {}
    before = engine.stats()
    for mode in ARMS[:3]:
        seconds, tokens, timings, _ = decode(engine, task, some, mode)
        rates[mode] = tokens / seconds
        per_round[mode] = tokens / sum(t.rounds for t in timings)
    after = engine.stats()
    hits, misses, on_hit, on_miss = (
        after[name] - before[name] for name in ("cache_hits", "cache_misses", "accepted_on_hit", "accepted_on_miss")
    )
    engine.close()
    times = Times(floor_s, floor_s, lookahead * step_s, (lookahead + 1) * step_s)
    told = ssd_rate(times, hits / (hits + misses), 1 + on_hit / max(1, hits), 1 + on_miss / max(1, misses))
    told_sd = sd_rate(times, per_round["sd"])
    about = {"left_out": len(left_out), "step": step, "lookahead": lookahead, "temperature": temperature}
    return about | {
        "hit_rate": hits / (hits + misses),
        "tokens_on_hit": 1 + on_hit / max(1, hits),
        "tokens_on_miss": 1 + on_miss / max(1, misses),
        "ssd_over_sd": rates["ssd"] / rates["sd"],
        "model_ssd_over_sd": told / told_sd,
        "ssd_over_ar": rates["ssd"] / rates["ar"],
        "model_ssd_over_ar": told / ar_rate(times),
    }


def drawn(options: ServiceOptions) -> bytes:
    """Return the picture of who works when, with two devices stood in for."""
    cfg = EngineConfig(draft=str(thinned(LEFT_OUT[-1])), lookahead=3, budget=BUDGET, fallback="jit")
    floors = replace(cfg, verify_floor_s=options.verify_s, draft_floor_s=0.13 * options.verify_s)
    engine = build_engine(floors)
    assert engine.link is not None
    engine.link.wait(60)
    found = picture(engine, QUESTIONS[0], options.tokens)
    engine.close()
    return found


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table."""
    return Table(title, tuple(rows[0]), tuple(tuple(row.values()) for row in rows))


def measure(options: ServiceOptions) -> Result:
    """Return the tables."""
    if options.quick:
        options = replace(options, texts=2, turns=1, tokens=24)
    two, rows = devices(options), here(options)
    if not options.quick:
        PICTURE.write_bytes(drawn(options))
    off = [abs(r[f"ssd_over_{arm}"] / r[f"model_ssd_over_{arm}"] - 1) for r in two for arm in ("sd", "ar")]
    auto = [r["of_best"] for r in rows if r["arm"] == "auto"]
    figures = {
        "furthest from the speed model, two devices stood in for": max(off),
        "SSD / SD at a step of 0.13, greedy (best lookahead and drafter)": max(
            r["ssd_over_sd"] for r in two if r["step"] == 0.13 and not r["temperature"]
        ),
        "slowest automatic mode / best of the others": min(auto),
        "texts that are the same in every mode": float(np.mean([r["same_text"] for r in rows])),
    }
    claim = "Drafting ahead overlaps with verification as the published model says; here the automatic mode finds what is fastest."
    tables = (
        table("two devices stood in for: step of the small model relative to a look of the target", two),
        table("this machine, the same cores for each arm; of_best: relative to the best of ar, sd and ssd", rows),
    )
    return Result("goal_service", claim, figures, tables, tuple(range(options.texts)), options.texts * options.turns)


main = command(ServiceOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
