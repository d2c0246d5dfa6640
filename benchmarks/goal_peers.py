"""The goal service's engine beside others on the same weights, prompts and cores: transformers and llama.cpp, greedy.

Each engine has the machine to itself for its turn. llama.cpp computes in the file's four bits, the others in bfloat16: their text
should be ours, but for ties. The peers live in an environment of their own (`make bench-peers`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Result, Table, command
from benchmarks.goal_service import QUESTIONS, ServiceOptions, Task, asked, decode
from benchmarks.latent_planning import PEER
from deploy.goal_service.engine import EngineConfig, build_engine
from deploy.goal_service.requests import Mode
from deploy.goal_service.weights import packaged_model
from deploy.machine import ROOT

SCRIPT = ROOT / "benchmarks" / "peers" / "decode_text.py"
OURS: dict[str, Mode] = {"surefoot, one by one": "ar", "surefoot, speculative": "sd", "surefoot, automatic": "auto"}
PEERS = {
    "transformers": "transformers plain",
    "transformers, prompt lookup": "transformers lookup",
    "llama.cpp, 4 bits": "llama.cpp plain",
    "llama.cpp, 4 bits, n-grams": "llama.cpp ngram",
}
LOOKAHEAD = 4
BASE = next(iter(OURS))


@dataclass(frozen=True)
class PeerOptions(Options):
    """What this benchmark can be told."""

    tokens: int = 64
    """Of each text."""
    texts: int = len(QUESTIONS)
    turns: int = 3
    threads: int = 2


def ours(options: PeerOptions) -> tuple[dict[str, list[Any]], list[list[int]]]:
    """Return turns (seconds, tokens, texts) of each of our arms, and the prompts."""
    engine = build_engine(EngineConfig(threads=options.threads))
    task, some = Task("free text", 1, 0.0), ServiceOptions(tokens=options.tokens, texts=options.texts)
    found: dict[str, list[Any]] = {name: [] for name in OURS}
    for turn in range(-1, options.turns):  # the first is for nothing
        for name, mode in OURS.items():
            seconds, tokens, _, texts = decode(engine, task, some, mode)
            if turn >= 0:
                found[name].append({"seconds": seconds, "tokens": tokens, "texts": texts})
    prompts = [list(prompt) for prompt, _ in asked(engine, task, some, "ar")]
    engine.close()
    return found, prompts


def theirs(options: PeerOptions, prompts: Sequence[Sequence[int]], engine: str) -> list[Any]:
    """Return the same turns of a peer."""
    with tempfile.TemporaryDirectory(prefix="surefoot-") as made:
        about = {"model": str(packaged_model()), "threads": options.threads, "lookahead": LOOKAHEAD}
        about |= {"tokens": options.tokens, "turns": options.turns, "prompts": prompts}
        (Path(made) / "problem.json").write_text(json.dumps(about))
        run = subprocess.run([PEER, SCRIPT, made, engine], capture_output=True, text=True, check=False)
    if run.returncode:
        raise ValueError(f"{engine} failed: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


def same(texts: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """Return the share of tokens up to the first that differs."""
    shares = []
    for text, other in zip(texts, others, strict=True):
        agree = [a == b for a, b in zip(text, other, strict=False)]
        shares.append(float(np.cumprod(agree).sum() / len(text)))
    return float(np.mean(shares))


def measure(options: PeerOptions) -> Result:
    """Return the table."""
    if options.quick:
        options = replace(options, texts=2, turns=1, tokens=16)
    found, prompts = ours(options)
    notes = () if PEER.exists() else ("no peers are installed here: `make bench-peers`",)
    if PEER.exists():
        found |= {name: theirs(options, prompts, engine) for name, engine in PEERS.items()}
    first, rows = found[BASE][0]["texts"], []
    base = float(np.median([turn["tokens"] / turn["seconds"] for turn in found[BASE]]))
    for name, turns in found.items():
        rates = [turn["tokens"] / turn["seconds"] for turn in turns]
        rows.append(
            {
                "engine": name,
                "tokens per s": float(np.median(rates)),
                "of ours, one by one": float(np.median(rates)) / base,
                "slowest and fastest turn": f"{min(rates):.1f} to {max(rates):.1f}",
                "share of ours before the texts part": None if "4 bits" in name else same(first, turns[0]["texts"]),
            }
        )
    table = Table("tokens per second, free text, greedy", tuple(rows[0]), tuple(tuple(r.values()) for r in rows))
    figures = {f"{r['engine']}, of ours one by one": r["of ours, one by one"] for r in rows[1:]}
    claim = "How fast others decode the same weights on this machine, relative to the engine that takes one token at a time."
    return Result("goal_peers", claim, figures, (table,), (0,), options.texts * options.turns, notes, {"engines": rows})


main = command(PeerOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
