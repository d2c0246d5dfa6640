"""Drafts ahead in a process of its own: it answers from what it has prepared, then prepares for what may come, while the target looks.

The two ends exchange JSON, and float32 rows where the ratio rule needs them, over a socket pair; nothing is pickled. Started by
`DraftLink`, which restarts it when it is gone; until it is back there are no drafts, and nothing else changes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.goal_service.drafters import Draftee, ModelDrafter, Outcome, Proposal
from deploy.goal_service.grammar import GrammarFactory
from deploy.goal_service.models import load_drafter, load_vocabulary, pinned
from deploy.goal_service.ondemand import Fallback, OnDemand
from deploy.goal_service.requests import Grammar, Sampling
from deploy.goal_service.sampling import Rule, SeededDice
from deploy.goal_service.speed import fan_out, tokens_per_round

SLOW = 0.95
"""Weight of the past in what is measured."""


@dataclass(frozen=True)
class DraftConfig:
    """What the draft process needs to know; plain values."""

    draft: str
    """Folder of the small model."""
    vocabulary: str
    """The target's file or folder."""
    rows: int = 8
    context: int = 2048
    budget: int = 24
    """Outcomes that are prepared per text."""
    rule: Rule = "coupled"
    factor: float = 1.0
    """Of Saguaro sampling, under the ratio rule."""
    fallback: Fallback = "auto"
    """For a text whose outcome was not prepared: draft at once, look for what was said before, or nothing."""
    forced: bool = True
    uniform: bool = False
    """As many outcomes after each number of accepted tokens, as the published code has it; else by measured acceptance."""
    core: int = -1
    """That it is pinned to; -1: none."""
    step_floor_s: float = 0.0
    """A step of the small model takes at least so long, to stand in for a slower one."""


@dataclass
class Measured:
    """What the process has learned about itself."""

    on_hit: float = 0.7
    """Acceptance per token of drafts that had been prepared ..."""
    on_miss: float = 0.5
    """... and of others."""
    jit_s: float = 0.0
    prepare_s: float = 0.0
    round_s: float = 0.0

    def blend(self, name: str, value: float, count: int = 1) -> None:
        """Take in the mean of so many values."""
        old, kept = getattr(self, name), SLOW**count
        setattr(self, name, value if old == 0 else kept * old + (1 - kept) * value)


@dataclass
class Guesser:
    """The texts under way, the drafts they have, and those that are ready for what may come."""

    cfg: DraftConfig
    model: ModelDrafter
    grammars: GrammarFactory | None
    eos: frozenset[int]
    who: dict[int, Draftee] = field(default_factory=dict)
    drafts: dict[int, Proposal] = field(default_factory=dict)
    ready: dict[Outcome, Proposal] = field(default_factory=dict)
    on_demand: OnDemand = field(init=False)
    asked: tuple[int, ...] = ()
    """The texts that were asked for last; others, decoded in rounds of their own, keep what is ready for them."""
    seen: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        self.on_demand = OnDemand(self.model, self.cfg.fallback)

    def begin(self, uid: int, tokens: list[int], start: int, sampling: dict[str, Any]) -> None:
        """Take up a text, of which some may be said already."""
        grammar = sampling.pop("grammar")
        asked = Sampling(**sampling, grammar=None if grammar is None else Grammar(**grammar))
        matcher = None
        if asked.grammar is not None and self.grammars is not None:
            matcher = self.grammars.matcher(asked.grammar)
        who = Draftee(uid, tokens[:start], start, asked, self.eos, matcher, SeededDice(asked.seed))
        who.take(tokens[start:])
        self.who[uid] = who
        self.model.begin(who)

    def end(self, uid: int) -> None:
        """Forget a text."""
        if self.who.pop(uid, None) is not None:
            self.model.end(uid)
        self.on_demand.end(uid)
        self.drafts.pop(uid, None)
        self._drop_ready({uid})

    def _drop_ready(self, uids: Set[int]) -> None:
        self.ready = {outcome: draft for outcome, draft in self.ready.items() if outcome[0] not in uids}

    def hear(self, message: dict[str, Any]) -> list[Proposal]:
        """Take in what became of the texts, and return the next draft for each."""
        for uid in message["ended"]:
            self.end(uid)
        for text in message["begun"]:
            self.begin(**text)
        return self.answer([tuple(row) for row in message["rows"]], message["lookahead"])

    def answer(self, rows: Sequence[tuple[int, list[int], int]], lookahead: int) -> list[Proposal]:
        """Return a draft for each text; `rows`: whose, what was decided since, how many drafted tokens were taken (-1: unseen)."""
        found: list[Proposal | None] = []
        for uid, new, accepted in rows:
            found.append(self._hit(uid, new, accepted))
            self._learn(uid, accepted)
            self.who[uid].take(new)
        self.asked = tuple(uid for uid, _, _ in rows)
        self._drop_ready(set(self.asked))
        missed = [i for i, draft in enumerate(found) if draft is None]
        for i, draft in zip(missed, self._at_once([rows[i][0] for i in missed], len(rows), lookahead), strict=True):
            found[i] = draft
        rooms = [self.who[uid].room(self.cfg.context) for uid, _, _ in rows]
        drafts = [(draft or Proposal()).cut(room) for draft, room in zip(found, rooms, strict=True)]
        self.drafts |= zip(self.asked, drafts, strict=True)
        return drafts

    def _hit(self, uid: int, new: list[int], accepted: int) -> Proposal | None:
        """Return the draft that was prepared for just this outcome; with what is forced first, where that is not decided yet."""
        last = self.drafts.get(uid)
        if last is None or not 0 <= accepted < len(new) or tuple(new[:accepted]) != last.tokens[:accepted]:
            return None
        draft = self.ready.get((uid, accepted, new[accepted]))
        known = len(new) - accepted
        if draft is None or draft.after[:known] != tuple(new[accepted:]):
            return None
        more = draft.after[known:]
        kept = more + draft.tokens, (True,) * len(more) + draft.forced, (None,) * len(more) + draft.scores
        return Proposal(*kept, draft.source, True, draft.after[:known])

    def _learn(self, uid: int, accepted: int) -> None:
        last = self.drafts.get(uid)
        if last is not None and last.tokens and accepted >= 0:
            free = [not forced for forced in last.forced]
            taken, tried = sum(free[:accepted]), sum(free[: accepted + 1])
            if tried:
                self.seen.blend("on_hit" if last.hit else "on_miss", taken / tried, tried)

    def _at_once(self, uids: Sequence[int], rows: int, lookahead: int) -> list[Proposal]:
        """Return drafts that nobody prepared; of so many rows the others have theirs."""
        if not uids:
            return []
        others = (rows - len(uids)) * tokens_per_round(self.seen.on_hit, lookahead)
        self.on_demand.look_s = self.seen.round_s
        drafts = self.on_demand.propose([self.who[uid] for uid in uids], lookahead, others)
        self.seen.jit_s = self.on_demand.step_s * lookahead
        return drafts

    def prepare(self, lookahead: int) -> None:
        """Draft on from the likeliest outcomes of the drafts that are being verified."""
        began_s = time.monotonic()
        drafts = [self.drafts[uid] for uid in self.asked]
        if drafts:
            who, fans = [self.who[uid] for uid in self.asked], [self._fan(draft) for draft in drafts]
            self.ready |= self.model.prepare(who, drafts, fans, lookahead)
        self.seen.blend("prepare_s", time.monotonic() - began_s)

    def _fan(self, draft: Proposal) -> tuple[int, ...]:
        """Return how many outcomes to prepare after 0, 1 .. of its tokens; where one is forced there is no other."""
        open_places = [k for k, forced in enumerate((*draft.forced, False)) if not forced]
        last = len(open_places) - 1
        if self.cfg.uniform:
            fan = (max(1, self.cfg.budget // (last + 1)),) * (last + 1)
        else:
            acceptance = self.seen.on_hit if draft.hit else self.seen.on_miss
            fan = fan_out(acceptance, last, max(self.cfg.budget, last + 1))
        found = dict(zip(open_places, fan, strict=True))
        return tuple(found.get(k, 1) for k in range(len(draft.tokens) + 1))


def serve(line: Connection, cfg: DraftConfig) -> None:
    """Answer until the other end is gone."""
    if cfg.core >= 0:
        pinned([cfg.core])
    torch.set_num_threads(1)
    vocabulary = load_vocabulary(Path(cfg.vocabulary))
    length = cfg.context + 16 + 20 * cfg.budget
    model = load_drafter(
        Path(cfg.draft), vocabulary.size, cfg.rows, length, cfg.rule, cfg.factor, cfg.budget, cfg.step_floor_s
    )
    guesser = Guesser(cfg, model, GrammarFactory(vocabulary, cfg.forced), vocabulary.eos)
    line.send_bytes(b'{"ready": true}')
    last_s = 0.0
    while True:
        message = json.loads(line.recv_bytes())
        _send(line, guesser.hear(message), guesser.seen)
        guesser.prepare(message["lookahead"])
        now_s = time.monotonic()
        if last_s and now_s - last_s < 1:
            guesser.seen.blend("round_s", now_s - last_s)
        last_s = now_s


def _send(line: Connection, drafts: Sequence[Proposal], seen: Measured) -> None:
    plain = [[d.tokens, d.forced, [s is not None for s in d.scores], d.source, d.hit] for d in drafts]
    line.send_bytes(json.dumps({"drafts": plain, "seen": asdict(seen)}).encode())
    for draft in drafts:
        for scores_V in draft.scores:
            if scores_V is not None:
                line.send_bytes(scores_V.numpy().astype(np.float32, copy=False).tobytes())


def receive(line: Connection) -> tuple[list[Proposal], Measured]:
    """Return what `serve` sent. Raises EOFError or OSError when it is gone."""
    message = json.loads(line.recv_bytes())
    drafts = []
    for tokens, forced, drawn, source, hit in message["drafts"]:
        rows = [torch.frombuffer(bytearray(line.recv_bytes()), dtype=torch.float32) if d else None for d in drawn]
        drafts.append(Proposal(tuple(tokens), tuple(forced), tuple(rows), source, hit))
    return drafts, Measured(**message["seen"])


def main() -> int:
    """Serve on the socket that was handed over."""
    fd, text = sys.argv[1:]
    line = Connection(int(fd))
    try:
        serve(line, DraftConfig(**json.loads(text)))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
