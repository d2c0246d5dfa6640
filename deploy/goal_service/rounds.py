"""One round of decoding: a draft for each text, one look of the target at all of them, and what it decides.

    ar    no draft, but for what the grammar forces
    sd    drafted here, when it is asked for
    ssd   drafted ahead by the draft process, while the target verified the draft before

The target sees all texts at once, and each as if it were alone (llama.py), so that neither mode nor company changes a text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from deploy.goal_service.drafters import Draftee, ModelDrafter, Proposal
from deploy.goal_service.llama import Cache, Llama, Span
from deploy.goal_service.ondemand import Fallback, OnDemand
from deploy.goal_service.requests import Mode
from deploy.goal_service.rows import Row

CHUNK = 128
"""Tokens of a prompt that the target reads in one round; other texts wait no longer than that."""


class Ahead(Protocol):
    """The draft process, as the target sees it."""

    def propose(self, rows: Sequence[Row], lookahead: int) -> list[Proposal]:
        """Return a draft for each, and have it drafted on from there."""
        ...

    def judged(self, row: Row, draft: Proposal, accepted: int) -> None:
        """Note how many of its drafted tokens a text took."""
        ...

    def end(self, uid: int) -> None:
        """Draft no more for a text."""
        ...


@dataclass(frozen=True)
class Took:
    """What a round took."""

    mode: Mode
    rows: int
    tokens: int
    """That the target saw."""
    said: Mapping[int, int]
    """Tokens that were decided, of each row that may say any."""
    drafts: int
    """Texts that had one."""
    draft_s: float
    verify_s: float

    @property
    def decided(self) -> int:
        """Tokens of all texts."""
        return sum(self.said.values())


class Decoder:
    """The target with its cache, and who drafts for it."""

    def __init__(
        self,
        target: Llama,
        cache: Cache,
        drafter: ModelDrafter | None = None,
        ahead: Ahead | None = None,
        verify_floor_s: float = 0.0,
        fallback: Fallback = "auto",
    ) -> None:
        """`verify_floor_s`: a look of the target takes at least so long, to stand in for a slower one."""
        self.target, self.cache, self.drafter, self.ahead = target, cache, drafter, ahead
        way: Fallback = "auto" if fallback == "none" else fallback  # without drafts nothing would be speculative
        self.on_demand, self.floor_s = OnDemand(drafter, way), verify_floor_s

    def round(self, rows: Sequence[Row], mode: Mode, lookahead: int) -> Took:
        """Decide at least one more token of each text whose prompt is read."""
        start_s = time.monotonic()
        for row in rows:
            row.advance()
        live = [row for row in rows if not row.ended]
        reading = [row for row in live if len(row.tokens) - row.computed > CHUNK]
        writing = [row for row in live if row not in reading]
        drafts = self.draft(writing, mode, lookahead)
        drafted_s = time.monotonic()
        before = [len(row.tokens) for row in writing]
        tokens, accepted = self.verify(reading, writing, drafts) if live else (0, [])
        for row, draft, count in zip(writing, drafts, accepted, strict=True):
            row.counts.modes[mode] = row.counts.modes.get(mode, 0) + 1
            if mode == "ssd" and self.ahead is not None:
                self.ahead.judged(row, draft, count)
        took_s = time.monotonic() - drafted_s
        if not reading:
            self.on_demand.look_s = 0.9 * (self.on_demand.look_s or took_s) + 0.1 * took_s
        said = {row.index: len(row.tokens) - count for row, count in zip(writing, before, strict=True)}
        made = sum(bool(draft.tokens) for draft in drafts)
        return Took(mode, len(live), tokens, said, made, drafted_s - start_s, took_s)

    def begin(self, who: Draftee) -> None:
        """Take up a text."""
        if self.drafter is not None:
            self.drafter.begin(who)

    def end(self, uid: int) -> None:
        """Forget a text."""
        self.on_demand.end(uid)
        if self.drafter is not None:
            self.drafter.end(uid)
        if self.ahead is not None:
            self.ahead.end(uid)

    def draft(self, rows: Sequence[Row], mode: Mode, lookahead: int) -> list[Proposal]:
        """Return a draft for each, no longer than what may still be said."""
        rooms = [row.draftee.room(row.limit) for row in rows]
        lookahead = min(lookahead, max(rooms, default=0))
        if mode == "ar" or not lookahead:
            return [Proposal() for _ in rows]
        if mode == "ssd" and self.ahead is not None:
            drafts = self.ahead.propose(rows, lookahead)
        else:
            drafts = self.on_demand.propose([row.draftee for row in rows], lookahead)
        return [draft.cut(room) for draft, room in zip(drafts, rooms, strict=True)]

    def verify(
        self, reading: Sequence[Row], writing: Sequence[Row], drafts: Sequence[Proposal]
    ) -> tuple[int, list[int]]:
        """Show the target what it has not seen; let the texts whose prompt it has read decide.

        Return how many tokens it saw, and how many drafted tokens each text took.
        """
        began_s, fed, spans, wanted, places = time.monotonic(), [], [], [], []
        for row in reading:
            spans.append(_span(row, CHUNK))
            fed += row.tokens[row.computed : row.computed + CHUNK]
        for row, draft in zip(writing, drafts, strict=True):
            new = row.tokens[row.computed :] + list(draft.tokens)
            spans.append(_span(row, len(new)))
            fed += new
            last = len(fed) - len(draft.tokens) - 1
            looks = [row.ticket.sampling.logprobs is not None or not forced for forced in draft.forced]
            needed = [at for at, looked in enumerate([*looks, True]) if looked]
            places.append((needed, len(draft.tokens) + 1))
            wanted += [last + at for at in needed]
        logits = self.target.forward(torch.tensor(fed), spans, self.cache, torch.tensor(wanted, dtype=torch.long))
        time.sleep(max(0.0, began_s + self.floor_s - time.monotonic()))
        for row in reading:
            row.computed += CHUNK
        first, accepted = 0, []
        for row, draft, (needed, count) in zip(writing, drafts, places, strict=True):
            found = dict(zip(needed, logits[first : first + len(needed)], strict=True))
            first += len(needed)
            accepted.append(row.judge(draft, [found.get(at) for at in range(count)]))
        return len(fed), accepted


def _span(row: Row, count: int) -> Span:
    slots = torch.arange(row.computed, row.computed + count)
    return Span(row.index, slots, slots)
