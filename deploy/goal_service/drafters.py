"""Who guesses what the target will say: what was said before, or a small model; what a grammar forces is drafted by either.

A small model drafts when it is asked, or ahead: while the target verifies one draft, it drafts on from the likeliest outcomes of
that verification (speculative speculative decoding, arXiv 2603.03251). One forward over the draft gives its view of each place
(glue), the likeliest tokens there become branches (fork), and all branches go on side by side, each blind to the others (tree).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deploy.goal_service.grammar import Matcher
from deploy.goal_service.llama import Llama, Span
from deploy.goal_service.requests import Sampling
from deploy.goal_service.sampling import DRAFT, TOKEN, Rule, SeededDice, saguaro, scores

Source = Literal["model", "ngram", "none"]
OTHERS = 30.0
"""Nats by which tokens that the drafter itself would not say stand behind those that it might."""
type Outcome = tuple[int, int, int]
"""Whose, how many drafted tokens were accepted, and what the target said after them."""


@dataclass(frozen=True)
class Proposal:
    """Drafted tokens; those that the grammar forces are marked, and need no look at the target."""

    tokens: tuple[int, ...] = ()
    forced: tuple[bool, ...] = ()
    scores: tuple[Tensor | None, ...] = ()
    """Log-weights (V,) that each was drawn from, under the ratio rule; None: it was certain."""
    source: Source = "none"
    hit: bool = False
    """It had been drafted before it was asked for ..."""
    after: tuple[int, ...] = ()
    """... for the case that just these tokens follow those which were accepted."""

    def cut(self, count: int) -> Proposal:
        """Return the first so many tokens of it."""
        if len(self.tokens) <= count:
            return self
        kept = self.tokens[:count], self.forced[:count], self.scores[:count]
        return Proposal(*kept, self.source, self.hit, self.after)


@dataclass
class Draftee:
    """A text that is drafted for: the prompt and what the target decided so far."""

    uid: int
    tokens: list[int]
    start: int
    """Length of the prompt."""
    sampling: Sampling
    eos: frozenset[int]
    matcher: Matcher | None = None
    """After the last token."""
    dice: SeededDice = field(default_factory=lambda: SeededDice(0))

    @property
    def said(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.start

    @property
    def slow(self) -> bool:
        """Whether its grammar takes so much time that nothing should be drafted."""
        return self.matcher is not None and self.matcher.slow

    def room(self, limit: int) -> int:
        """Return how many tokens may be drafted, as the target adds one; `limit`: of the whole text."""
        return max(0, min(self.sampling.max_tokens - self.said, limit - len(self.tokens)) - 1)

    def take(self, tokens: Sequence[int]) -> None:
        """Add what the target decided."""
        self.tokens.extend(tokens)
        if self.matcher is not None:
            for token in tokens:
                self.matcher.accept(token)


@dataclass
class _Branch:
    """A draft that grows: after `kept` tokens of the text and of the last draft."""

    who: Draftee
    kept: int
    matcher: Matcher | None
    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    scores: list[Tensor | None] = field(default_factory=list)
    ended: bool = False

    def take(self, token: int, forced: bool, scores_V: Tensor | None) -> None:
        self.tokens.append(token)
        self.forced.append(forced)
        self.scores.append(scores_V)
        if self.matcher is not None and token not in self.who.eos:
            self.matcher.accept(token)
        self.ended = token in self.who.eos or (self.matcher is not None and self.matcher.ended)

    def finish(self, source: Source, hit: bool, first: int = 0) -> Proposal:
        """Return the proposal, and with it what the grammar forces next; the first tokens may not be part of it."""
        while not self.ended and self.matcher is not None and (forced := self.matcher.forced()):
            for token in forced:
                self.take(token, True, None)
        kept = tuple(self.tokens[first:]), tuple(self.forced[first:]), tuple(self.scores[first:])
        return Proposal(*kept, source, hit, tuple(self.tokens[:first]))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens agree at the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class NGram:
    """What followed the last time that the text ended like this (prompt lookup)."""

    def __init__(self, longest: int = 6, shortest: int = 2) -> None:
        self.lengths = range(longest, shortest - 1, -1)

    def propose(self, who: Draftee, lookahead: int) -> Proposal:
        """Return what may come next."""
        if who.slow:
            return Proposal()
        branch = _Branch(who, len(who.tokens), None if who.matcher is None else who.matcher.copy())
        found = self._continuation(who.tokens, lookahead)
        for token in found:
            forced = branch.matcher.forced() if branch.matcher is not None and not branch.ended else []
            for one in forced:
                branch.take(one, True, None)
            if forced or branch.ended or (branch.matcher is not None and not bool(branch.matcher.mask()[token])):
                break
            branch.take(token, False, None)
        return branch.finish("ngram" if found else "none", False)

    def _continuation(self, tokens: list[int], count: int) -> list[int]:
        text_N = np.asarray(tokens)
        for length in self.lengths:
            if len(text_N) <= length:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(text_N[:-1], length)
            (places,) = np.nonzero((windows == text_N[-length:]).all(-1))
            if len(places):
                begin = int(places[-1]) + length
                return text_N[begin : begin + count].tolist()
        return []


class ModelDrafter:
    """A small model that shares the target's vocabulary, or has a part of it (`ids`: which)."""

    def __init__(
        self,
        model: Llama,
        size: int,
        rows: int,
        length: int,
        ids: Tensor | None = None,
        rule: Rule = "coupled",
        factor: float = 1.0,
        budget: int = 12,
    ) -> None:
        """`size`: of the whole vocabulary; `length`: slots per row; `factor`: of Saguaro sampling.

        `budget`: outcomes that are kept for a draft, so that at each place Saguaro sampling lowers as many as there will be.
        """
        self.model, self.size, self.ids, self.rule = model, size, ids, rule
        self._own = torch.zeros(size, dtype=torch.long)  # what it does not know is its token 0
        if ids is not None:
            self._own[ids] = torch.arange(len(ids))
        self.factor, self.budget = factor, budget
        self.cache, self.length = model.cache(rows, length), length
        self.row_of: dict[int, int] = {}
        self.written: list[list[int]] = [[] for _ in range(rows)]
        """Tokens whose keys and values are at the first slots of each row."""
        self.free = list(range(rows))

    def begin(self, who: Draftee) -> None:
        """Give it the free row that holds most of its beginning already."""
        row = max(self.free, key=lambda row: (common(self.written[row], who.tokens), -len(self.written[row])))
        self.free.remove(row)
        self.row_of[who.uid] = row

    def end(self, uid: int) -> None:
        """Take the row back."""
        self.free.append(self.row_of.pop(uid))

    # --- when it is asked ------------------------------------------------------------------------------------------

    def propose(self, who: Sequence[Draftee], lookahead: int) -> list[Proposal]:
        """Return a draft for each, of so many tokens that the model chose and what the grammar forces."""
        branches = [_Branch(w, len(w.tokens), None if w.matcher is None else w.matcher.copy()) for w in who]
        feeds = [self._unwritten(w, w.tokens) for w in who]
        for step in range(lookahead):
            live = [b for b in branches if not (b.ended or b.who.slow)]
            if not live:
                break
            if step:
                feeds = [([b.tokens[-1]], len(b.who.tokens) + len(b.tokens) - 1) for b in live]
            elif len(live) < len(branches):
                feeds = [feed for feed, b in zip(feeds, branches, strict=True) if any(b is one for one in live)]
            seen = self._linear([b.who for b in live], feeds)
            for branch, logits_TV in zip(live, seen, strict=True):
                self._extend(branch, logits_TV[-1], lookahead)
        return [b.finish("model", False) for b in branches]

    def _unwritten(self, who: Draftee, tokens: list[int]) -> tuple[list[int], int]:
        """Return the tokens that are to be fed, at least the last, and the slot of the first."""
        first = min(common(self.written[self.row_of[who.uid]], tokens), len(tokens) - 1)
        return tokens[first:], first

    def _linear(self, who: Sequence[Draftee], feeds: Sequence[tuple[list[int], int]]) -> Iterator[Tensor]:
        """Feed tokens at their own slots; yield the logits of each text's tokens."""
        spans = []
        for w, (tokens, first) in zip(who, feeds, strict=True):
            slots, row = torch.arange(first, first + len(tokens)), self.row_of[w.uid]
            spans.append(Span(row, slots, slots, None))
            del self.written[row][first:]
        logits = self._see([t for tokens, _ in feeds for t in tokens], spans)
        for w, (tokens, _) in zip(who, feeds, strict=True):
            self.written[self.row_of[w.uid]] += tokens
        yield from logits.split([len(tokens) for tokens, _ in feeds])

    def _see(self, tokens: list[int], spans: Sequence[Span]) -> Tensor:
        fed = torch.tensor(tokens)
        return self.model.forward(fed if self.ids is None else self._own[fed], spans, self.cache)

    def _spread(self, logits_V: Tensor, matcher: Matcher | None) -> Tensor:
        """Return logits over the whole vocabulary, minus infinity for what may not come."""
        if self.ids is not None:
            logits_V = torch.full((self.size,), -torch.inf).index_copy_(0, self.ids, logits_V)
        allowed_V = None if matcher is None else matcher.mask()
        if allowed_V is not None and not bool((allowed_V & logits_V.isfinite()).any()):
            logits_V = torch.zeros(self.size)  # it knows none of what may come
        return logits_V if allowed_V is None else logits_V.masked_fill(~allowed_V, -torch.inf)

    def _order(self, logits_V: Tensor, who: Draftee, place: int) -> Tensor:
        """Return the larger, the likelier the target says a token: first what the drafter itself might say, then the others."""
        asked = who.sampling
        wide = replace(asked, temperature=asked.temperature or 1.0, top_k=0, top_p=1.0)
        order_V, own_V = scores(logits_V, wide), scores(logits_V, asked)
        if self.rule == "coupled" and asked.temperature:
            order_V = order_V + who.dice.noise(place, TOKEN, self.size)
        return order_V if wide == asked else torch.where(own_V.isfinite(), order_V, order_V - OTHERS)

    def _extend(self, branch: _Branch, logits_V: Tensor, lookahead: int) -> None:
        """Add a token to a draft of so many: what is forced, or the model's choice."""
        if branch.matcher is not None and (forced := branch.matcher.forced()):
            branch.take(forced[0], True, None)
            return
        who, place = branch.who, branch.kept - branch.who.start + len(branch.tokens)
        scores_V = scores(self._spread(logits_V, branch.matcher), who.sampling)
        if self.rule == "coupled" or who.sampling.temperature == 0:
            noise = who.dice.noise(place, TOKEN, self.size) if who.sampling.temperature else 0.0
            branch.take(int((scores_V + noise).argmax()), False, None)
        else:
            scores_V = saguaro(scores_V, max(1, self.budget // (lookahead + 1)), self.factor)
            branch.take(who.dice.draw(scores_V, place, DRAFT), False, scores_V)

    # --- ahead of time ---------------------------------------------------------------------------------------------

    def prepare(
        self, who: Sequence[Draftee], drafts: Sequence[Proposal], fans: Sequence[Sequence[int]], lookahead: int
    ) -> dict[Outcome, Proposal]:
        """Return a draft for each of the likeliest outcomes of a verification; `fans`: how many after 0, 1 .. accepted tokens."""
        branches = self._fork(who, drafts, fans)
        first = [len(b.tokens) for b in branches]
        self._grow(branches, lookahead)
        found = {}
        for branch, begun in zip(branches, first, strict=True):
            key = (branch.who.uid, branch.kept - len(branch.who.tokens), branch.tokens[0])
            if len(branch.tokens) > begun:
                found[key] = branch.finish("model", True, begun)
        return found

    def _fork(self, who: Sequence[Draftee], drafts: Sequence[Proposal], fans: Sequence[Sequence[int]]) -> list[_Branch]:
        """Read the drafts in one forward, and begin a branch at each likely other token after each of theirs."""
        texts = [w.tokens + list(d.tokens) for w, d in zip(who, drafts, strict=True)]
        begun = [self._unwritten(w, w.tokens)[1] for w in who]
        feeds = [(text[first:], first) for text, first in zip(texts, begun, strict=True)]
        branches = []
        for w, draft, fan, logits_TV in zip(who, drafts, fans, self._linear(who, feeds), strict=True):
            places = logits_TV[len(logits_TV) - len(draft.tokens) - 1 :]
            matcher = None if w.matcher is None else w.matcher.copy()
            for k, logits_V in enumerate(places):
                token = draft.tokens[k] if k < len(draft.tokens) else None
                count = fan[min(k, len(fan) - 1)]
                branches += self._outcomes(w, k, token, matcher, logits_V, count)
                if token is None or token in w.eos:
                    break
                if matcher is not None:
                    matcher.accept(token)
        return branches

    def _outcomes(
        self, who: Draftee, k: int, drafted: int | None, matcher: Matcher | None, logits_V: Tensor, count: int
    ) -> list[_Branch]:
        """Return the branches after `k` accepted tokens: of what is likeliest there, but for what was drafted."""
        if matcher is not None and (matcher.ended or matcher.slow):
            return []
        forced = matcher.forced() if matcher is not None else []
        if forced:
            likely = [] if drafted == forced[0] else forced[:1]
        else:
            order_V = self._order(self._spread(logits_V, matcher), who, who.said + k)
            if drafted is not None:
                order_V[drafted] = -torch.inf
            best = order_V.topk(min(count, len(order_V)))
            likely = best.indices[best.values.isfinite()].tolist()
        made = []
        for token in likely:
            if token not in who.eos:
                branch = _Branch(who, len(who.tokens) + k, None if matcher is None else matcher.copy())
                branch.take(token, bool(forced), None)
                while branch.matcher is not None and not branch.ended and (more := branch.matcher.forced()):
                    for one in more:
                        branch.take(one, True, None)
                made.append(branch)
        return made

    def _grow(self, branches: Sequence[_Branch], lookahead: int) -> None:
        """Let all branches go on by so many tokens, side by side."""
        groups: dict[int, list[_Branch]] = {}
        for branch in branches:
            groups.setdefault(branch.who.uid, []).append(branch)
        rows = [self.row_of[uid] for uid in groups]
        trees = [
            _Tree(row, group, len(self.written[row]), self.length)
            for row, group in zip(rows, groups.values(), strict=True)
        ]
        for _ in range(lookahead):
            trees = [tree for tree in trees if not tree.branches[0].who.slow]
            ready = [tree for tree in trees if tree.next_tokens()]
            if not ready:
                return
            logits = self._see([t for tree in ready for t in tree.feed], [tree.span() for tree in ready])
            for tree, logits_TV in zip(ready, logits.split([len(tree.feed) for tree in ready]), strict=True):
                for branch, last in tree.ends:
                    self._extend(branch, logits_TV[last], lookahead)


class _Tree:
    """The branches of one text in the cache: behind the text and its draft, each step of all of them in a block."""

    def __init__(self, row: int, branches: Sequence[_Branch], base: int, length: int) -> None:
        self.row, self.branches, self.next_slot, self.length = row, branches, base, length
        self.slots: list[list[int]] = [[] for _ in branches]
        self.feed: list[int] = []
        self.ends: list[tuple[_Branch, int]] = []
        self._owner: list[tuple[int, int]] = []

    def next_tokens(self) -> bool:
        """Collect the tokens that are not in the cache yet, of the branches for which there is room; return whether there are any."""
        self.feed, self.ends, self._owner = [], [], []
        room = self.length - self.next_slot
        for b, branch in enumerate(self.branches):
            if branch.ended or len(self.feed) + len(branch.tokens) - len(self.slots[b]) > room:
                continue
            for i in range(len(self.slots[b]), len(branch.tokens)):
                self._owner.append((b, i))
                self.feed.append(branch.tokens[i])
            self.ends.append((branch, len(self.feed) - 1))
        return bool(self.feed)

    def span(self) -> Span:
        """Return where the tokens go and what each of them sees: its text, its part of the draft, and its own branch."""
        slots = torch.arange(self.next_slot, self.next_slot + len(self.feed))
        self.next_slot += len(self.feed)
        visible = torch.zeros(len(self.feed), self.next_slot, dtype=torch.bool)
        positions = []
        for at, (b, i) in enumerate(self._owner):
            self.slots[b].append(int(slots[at]))
            visible[at, : self.branches[b].kept] = True
            visible[at, self.slots[b]] = True
            positions.append(self.branches[b].kept + i)
        return Span(self.row, slots, torch.tensor(positions), visible)
