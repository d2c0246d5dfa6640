"""The engine: requests come in from any thread, are decoded together by one, and leave token by token."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deploy.goal_service.draft_link import DraftLink
from deploy.goal_service.draft_process import DraftConfig
from deploy.goal_service.drafters import Draftee, ModelDrafter, common
from deploy.goal_service.grammar import GrammarFactory
from deploy.goal_service.linear import Kind
from deploy.goal_service.models import load_drafter, load_target
from deploy.goal_service.modes import Arm, Chooser
from deploy.goal_service.ondemand import Fallback
from deploy.goal_service.requests import Busy, Mode, Sampling, Ticket
from deploy.goal_service.rounds import Decoder
from deploy.goal_service.rows import Row
from deploy.goal_service.sampling import Rule, SeededDice
from deploy.goal_service.scoring import Looks, mean_features, scores
from deploy.goal_service.waiting import Looking, Waiting, WaitingLine
from deploy.goal_service.weights import load_weights, packaged_model

_log = logging.getLogger(__name__)
IDLE_S = 0.05
MOST = 64
"""Drafted tokens at a time."""
BROKEN = (RuntimeError, ValueError, LookupError, TypeError, MemoryError)
"""What may go wrong with some texts, and must not end the others."""
LEAST = 4
"""Tokens of a prompt that must agree with another's for their keys and values to be copied."""


@dataclass(frozen=True)
class EngineConfig:
    """What is served, and how it is decoded."""

    model: str = ""
    """GGUF file, or folder with safetensors; empty for the SmolLM2 that the packages bring."""
    kind: Kind = "int4"
    """Of the target's matrices."""
    draft: str = ""
    """Folder of a small model that drafts; without one, what was said before and what a grammar forces is drafted."""
    mode: Mode = "auto"
    lookahead: int = 0
    """Drafted tokens; 0: whatever is fastest."""
    context: int = 2048
    rows: int = 8
    """Texts at once."""
    queue: int = 64
    """Requests that may wait."""
    rule: Rule = "coupled"
    """How a drafted token is taken: if it is what the target would draw, or (ratio) with min(1, p / q), as published."""
    budget: int = 24
    """Outcomes for which is drafted ahead, per text."""
    factor: float = 1.0
    """Of Saguaro sampling (ratio rule): 1 for none."""
    fallback: Fallback = "auto"
    """Who drafts what was not drafted ahead: the small model (jit), what was said before (ngram), nobody, or whoever is worth it."""
    forced: bool = True
    """Tokens that a grammar forces are decided without a look at the target."""
    threads: int = 0
    """Of the target; 0: all cores, less one while the draft process works."""
    verify_floor_s: float = 0.0
    """A look of the target takes at least so long, to stand in for a slower one ..."""
    draft_floor_s: float = 0.0
    """... and a step of the small model."""

    def __post_init__(self) -> None:
        for name, least in (
            ("context", 64),
            ("rows", 1),
            ("queue", 0),
            ("lookahead", 0),
            ("budget", 1),
            ("threads", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if self.lookahead > MOST:
            raise ValueError(f"lookahead must be <= {MOST}, got {self.lookahead}")
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor must be in (0, 1], got {self.factor}")


class Engine:
    """Decodes requests in a thread of its own until it is closed."""

    def __init__(self, cfg: EngineConfig) -> None:
        path = Path(cfg.model) if cfg.model else packaged_model()
        weights = load_weights(path)
        self.cfg, self.name, self.vocabulary = cfg, weights.name, weights.vocabulary
        self.context = min(cfg.context, weights.config.context)
        self._cores = sorted(os.sched_getaffinity(0))
        self._threads = cfg.threads or len(self._cores)
        self.grammars = GrammarFactory(self.vocabulary, cfg.forced, tries=True)
        target = load_target(weights, cfg.kind)
        drafter, self.link = self._drafters(path)
        cache = target.cache(cfg.rows, self.context)
        self.decoder = Decoder(target, cache, drafter, self.link, cfg.verify_floor_s, cfg.fallback)
        self.chooser = Chooser(self._arms())
        self.rows: dict[int, Row] = {}
        self._held: list[list[int]] = [[] for _ in range(cfg.rows)]
        """Tokens whose keys and values are in each row of the cache."""
        self._looks: dict[int, tuple[Looking, Iterator[None]]] = {}
        """In rows of their own."""
        self._waiting = WaitingLine()
        self._uids, self.counts = itertools.count(), Counter[str]()
        self._closed, self._problem = threading.Event(), ""
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)
        self._thread.start()

    def _drafters(self, path: Path) -> tuple[ModelDrafter | None, DraftLink | None]:
        """Return who drafts when asked, and who drafts ahead."""
        cfg = self.cfg
        if not cfg.draft or cfg.mode == "ar":
            return None, None
        floor_s, folder = cfg.draft_floor_s, Path(cfg.draft)
        length = self.context + MOST
        drafter = load_drafter(
            folder, self.vocabulary.size, cfg.rows, length, cfg.rule, cfg.factor, cfg.budget, floor_s
        )
        if cfg.mode == "sd":
            return drafter, None
        core = self._cores[-1] if len(self._cores) > 1 else -1
        kept = {"rows": cfg.rows, "context": self.context, "budget": cfg.budget, "rule": cfg.rule, "factor": cfg.factor}
        kept |= {"fallback": cfg.fallback, "forced": cfg.forced, "core": core, "step_floor_s": floor_s}
        return drafter, DraftLink(DraftConfig(str(folder), str(path), **kept))

    def _arms(self) -> list[Arm]:
        lookaheads = (self.cfg.lookahead,) if self.cfg.lookahead else (2, 4, 8)
        arms: list[Arm] = [("ar", 0), *(("sd", k) for k in lookaheads)]
        if self.link is not None:
            arms.extend(("ssd", k) for k in lookaheads if k < 8 or self.cfg.lookahead)
        return arms

    # --- any thread ------------------------------------------------------------------------------------------------

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Ticket:
        """Return a ticket for the answer. Raises ValueError for what cannot be decoded, Busy when too many wait."""
        self._fits(prompt, 1)
        matcher = None if sampling.grammar is None else self.grammars.matcher(sampling.grammar)
        ticket = Ticket(tuple(prompt), sampling)
        self._enqueue(Waiting(ticket, time.monotonic(), matcher))
        return ticket

    def score(
        self,
        prompt: Sequence[int],
        candidates: Sequence[Sequence[int]],
        deadline_s: float = math.inf,
        cancelled: threading.Event | None = None,
    ) -> list[list[float]]:
        """Return the log-probability of each token of each candidate after the prompt.

        Raises as `submit`, and TimeoutError after the deadline or when it is cancelled.
        """
        self._fits(prompt, 0)
        for candidate in candidates:
            self._fits([*prompt, *candidate], 0)
        return self._look(scores(list(prompt), [list(c) for c in candidates]), deadline_s, cancelled)

    def mean_features(
        self,
        tokens: Sequence[int],
        first: int,
        depth: int,
        deadline_s: float = math.inf,
        cancelled: threading.Event | None = None,
    ) -> torch.Tensor:
        """Return the mean over the tokens from `first` on of what stands behind `depth` layers: float32 (width,).

        Raises as `score`.
        """
        self._fits(tokens, 0)
        layers = self.decoder.target.config.layers
        if not (0 <= first < len(tokens) and 0 < depth <= layers):
            raise ValueError(
                f"first must be in 0 .. {len(tokens) - 1} and depth in 1 .. {layers}, got {first} and {depth}"
            )
        return self._look(mean_features(list(tokens), first, depth), deadline_s, cancelled)

    def _look[T](self, looks: Looks[T], deadline_s: float, cancelled: threading.Event | None) -> T:
        asked = Looking(looks, time.monotonic() + deadline_s, cancelled or threading.Event())
        self._enqueue(asked)
        return asked.done.result()

    def _fits(self, tokens: Sequence[int], more: int) -> None:
        size = self.vocabulary.size
        if not tokens:
            raise ValueError("the prompt is empty: at least one token is needed")
        if wrong := [token for token in tokens if not 0 <= token < size]:
            raise ValueError(f"token {wrong[0]} is not in the vocabulary of {size}")
        if len(tokens) + more > self.context:
            raise ValueError(f"{len(tokens)} tokens and {more} more do not fit into the context of {self.context}")

    def _enqueue(self, asked: Waiting | Looking) -> None:
        if self._closed.is_set() or self._problem:
            raise Busy(self._problem or "the engine is closed")
        try:
            self._waiting.put(asked, self.cfg.queue + self.cfg.rows - len(self.rows) - len(self._looks))
        except Busy:
            self.counts["refused"] += 1
            raise
        if self._closed.is_set() or self._problem:  # the engine may not have seen it any more
            self._waiting.end(self._problem or "the engine was closed")

    def stats(self) -> dict[str, float]:
        """Return counters, and what is so at present."""
        now = {"running": len(self.rows) + len(self._looks), "waiting": len(self._waiting)}
        extra = {} if self.link is None else self.link.stats()
        rates = {f"rate_{mode}_{k}": rate for (mode, k), rate in self.chooser.rates(max(1, len(self.rows))).items()}
        return {**self.counts, **now, **extra, **rates}

    def healthy(self) -> str:
        """Return what is wrong, or nothing."""
        return self._problem or ("" if self._thread.is_alive() else "the engine has ended")

    def drafting(self) -> str | None:
        """Return what the draft process does, in one line; None where there is none. Without it texts are written as well."""
        return None if self.link is None else self.link.state

    def close(self) -> None:
        """End all requests, the thread and the draft process."""
        self._closed.set()
        self._thread.join(10)
        self.grammars.close()
        if self.link is not None:
            self.link.close()

    # --- its own thread --------------------------------------------------------------------------------------------

    def _live(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            while not self._closed.is_set():
                self._admit()
                if self.rows:
                    self._step()
                self._look_on()
        finally:  # whoever waits must be told; what broke it is on stderr
            if not self._closed.is_set():
                self._problem = "the engine broke: its log says why"
            self._end_all()

    def _admit(self) -> None:
        """Give waiting requests the free rows; wait a moment when there is nothing at all to do."""
        self._waiting.sweep()
        while free := self._free():
            asked = self._waiting.get(0.0 if self.rows or self._looks else IDLE_S)
            if asked is None:
                return
            if isinstance(asked, Looking):
                row = min(free, key=lambda i: len(self._held[i]))
                self._held[row] = []
                self._looks[row] = asked, asked.looks(self.decoder.target, self.decoder.cache, row)
            else:
                self._begin(asked)

    def _free(self) -> list[int]:
        return [i for i in range(self.cfg.rows) if i not in self.rows and i not in self._looks]

    def _begin(self, asked: Waiting) -> None:
        ticket, sampling = asked.ticket, asked.ticket.sampling
        index, same = self._place(list(ticket.prompt))
        uid, prompt = next(self._uids), list(ticket.prompt)
        who = Draftee(uid, prompt, len(prompt), sampling, self.vocabulary.eos, asked.matcher, SeededDice(sampling.seed))
        now_s = time.monotonic()
        row = Row(index, ticket, who, self.vocabulary, self.cfg.rule, self.context, asked.since_s, now_s, same)
        row.counts.cached = same
        self.rows[index] = row
        self.decoder.begin(who)
        self.counts["requests"] += 1
        self.counts["prompt_tokens"] += len(prompt)
        self.counts["cached_tokens"] += same

    def _place(self, prompt: list[int]) -> tuple[int, int]:
        """Return a free row, and how many tokens of the prompt it holds already: its own, or copied from another."""
        held = {i: row.tokens[: row.computed] for i, row in self.rows.items()}
        held |= {i: self._held[i] for i in range(self.cfg.rows) if i not in self.rows}
        same = {i: min(common(tokens, prompt), len(prompt) - 1) for i, tokens in held.items()}
        best = max(same, key=lambda i: same[i])
        free = self._free()
        if same[best] < LEAST:
            return min(free, key=lambda i: len(self._held[i])), 0
        if best in free:
            return best, same[best]
        row = min(free, key=lambda i: len(self._held[i]))
        self.decoder.cache.copy(best, row, same[best])
        return row, same[best]

    def _step(self) -> None:
        """Decode one round of all texts; those that are decoded in the same way, whatever they asked for, go together."""
        groups: dict[Mode, list[Row]] = {}
        for row in self.rows.values():
            asked = row.ticket.sampling.mode
            groups.setdefault(asked if asked != "auto" else self.cfg.mode, []).append(row)
        arms: dict[Arm, dict[Mode, list[Row]]] = {}
        for asked, rows in groups.items():
            arms.setdefault(self._choose(asked, len(rows)), {})[asked] = rows
        for arm, together in arms.items():
            rows = [row for some in together.values() for row in some]
            try:
                self._round(arm, together, rows)
            except BROKEN as error:
                _log.exception("a round failed: its %d texts end", len(rows))
                for row in rows:
                    row.ended, row.computed = "error", 0
                    row.message = " ".join(f"the engine failed: {error}".split())[:300]
        for row in [row for row in self.rows.values() if row.ended]:
            self._finish(row)

    def _round(self, arm: Arm, together: Mapping[Mode, Sequence[Row]], rows: Sequence[Row]) -> None:
        """Decode one round of some texts, by what they asked for, and note what it took."""
        mode = arm[0]
        self._use_cores(mode)
        reading = any(row.computed < row.draftee.start - 1 for row in rows)
        began_s = time.monotonic()
        took = self.decoder.round(rows, *arm)
        lost = mode == "ssd" and self.link is not None and not self.link.ready()
        spent_s = time.monotonic() - began_s
        for asked, some in together.items():
            if said := sum(took.said.get(row.index, 0) for row in some):
                self.chooser.note(arm, len(some), said, spent_s, not reading and not lost, asked)
        self.counts.update({"rounds": 1, f"rounds_{mode}": 1, "decided": took.decided, "seen": took.tokens})
        self.counts["drafts"] += took.drafts
        self.counts.update({"draft_seconds": took.draft_s, "verify_seconds": took.verify_s})  # pyright: ignore

    def _choose(self, mode: Mode, rows: int) -> Arm:
        ahead = self.link is not None and self.link.ready()
        if mode == "auto":
            return self.chooser.choose(rows, ("ar", "sd", "ssd") if ahead else ("ar", "sd"))
        return self.chooser.choose(rows, ("sd",) if mode == "ssd" and not ahead else (mode,), mode)

    def _use_cores(self, mode: Mode) -> None:
        """Leave the draft process its core while it works."""
        spare = mode == "ssd" and not self.cfg.threads and len(self._cores) > 1
        threads = self._threads - spare
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def _finish(self, row: Row) -> None:
        row.finish()
        self._held[row.index] = row.tokens[: row.computed]
        self.decoder.end(row.draftee.uid)
        c = row.counts
        self.counts.update({f"finished_{row.ended}": 1, "completion_tokens": row.draftee.said, "forced": c.forced})
        self.counts.update({"drafted": c.drafted, "accepted": c.accepted})
        del self.rows[row.index]

    def _look_on(self) -> None:
        """Look at the texts that nobody writes, once at each."""
        for row, (asked, looks) in list(self._looks.items()):
            try:
                if (reason := asked.over()) is None:
                    next(looks)
                    continue
                asked.tell(reason, "")
            except StopIteration as end:
                asked.done.set_result(end.value)
            except BROKEN as error:
                asked.done.set_exception(error)
            del self._looks[row]

    def _end_all(self) -> None:
        """Tell everybody who waits that it is over."""
        message = self._problem or "the engine was closed"
        for row in list(self.rows.values()):
            row.ended, row.message = "error", message
            row.finish()
        for asked, _ in self._looks.values():
            asked.tell("error", message)
        self.rows, self._looks = {}, {}
        self._waiting.end(message)


def build_engine(cfg: EngineConfig) -> Engine:
    """Return an engine that decodes. Raises ValueError, in one line, for what cannot be served."""
    return Engine(cfg)
