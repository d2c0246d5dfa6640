"""What target and small model do when, part of benchmarks/goal_service.py: the same text, decoded in three ways, as a picture."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.goal_service.engine import Engine
from deploy.goal_service.requests import Finished, Mode, Sampling

SHOWN_S = 8.0
"""Of each way, from its first look on."""
MODES: tuple[tuple[Mode, str], ...] = (
    ("ar", "one by one"),
    ("sd", "speculative"),
    ("ssd", "speculative, drafted ahead"),
)
COLOURS = {"target": "#1f6f8b", "draft": "#e0a352"}


@dataclass(frozen=True)
class Busy:
    """Somebody works from `start_s` to `end_s`; a look of the target has decided so many tokens."""

    who: str
    start_s: float
    end_s: float
    tokens: int = 0


def watched(engine: Engine, prompt: list[int], mode: Mode, tokens: int) -> list[Busy]:
    """Return who worked when on one greedy text; drafting ahead begins when a draft is handed over, and takes what was measured."""
    decoder, found = engine.decoder, list[Busy]()

    def timed(who: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            began_s = time.monotonic()
            result = work(*args)
            ended_s = time.monotonic()
            if who == "target":
                found.append(Busy(who, began_s, ended_s, 1 + sum(result[1])))
            elif mode == "sd":
                found.append(Busy(who, began_s, ended_s))
            elif mode == "ssd" and engine.link is not None:
                found.append(Busy(who, ended_s, ended_s + engine.link.stats()["prepare_seconds"]))
            return result

        return wrapped

    plain = decoder.draft, decoder.verify
    decoder.draft, decoder.verify = timed("draft", decoder.draft), timed("target", decoder.verify)
    try:
        ticket = engine.submit(prompt, Sampling(0.0, max_tokens=tokens, mode=mode))
        assert any(isinstance(event, Finished) for event in ticket)
    finally:
        decoder.draft, decoder.verify = plain
    return found


def picture(engine: Engine, question: str, tokens: int) -> bytes:
    """Return a PNG: a lane each for target and small model, in each mode; below it how many tokens were known when."""
    from matplotlib.figure import Figure

    prompt = list(engine.vocabulary.chat([{"role": "user", "content": question}]))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(len(MODES), 1, sharex=True)
    for axis, (mode, name) in zip(axes, MODES, strict=True):
        watched(engine, prompt, mode, tokens)  # the prompt is read, the times are known
        spans = watched(engine, prompt, mode, tokens)
        first_s, total = min(s.start_s for s in spans if s.who == "target"), 0
        for span in spans:
            start_s = span.start_s - first_s
            if not 0 <= start_s < SHOWN_S:
                continue
            lane = 0 if span.who == "draft" else 1
            axis.barh(lane, span.end_s - span.start_s, 0.8, start_s, color=COLOURS[span.who], edgecolor="white")
            if span.tokens:
                total += span.tokens
                axis.text(
                    start_s + (span.end_s - span.start_s) / 2,
                    1,
                    f"+{span.tokens}",
                    ha="center",
                    va="center",
                    color="white",
                )
        axis.set_yticks([0, 1], ["small model", "target"])
        axis.set_title(f"{name}: {total} tokens in {SHOWN_S:g} s", loc="left", fontsize=10)
        axis.set_xlim(0, SHOWN_S)
    axes[-1].set_xlabel("s; each model on a device of its own, stood in for by set times")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    return drawn.getvalue()
