"""One text that is being written: its tokens, what of them the target has computed, and what its reader has been told."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import Tensor

from deploy.goal_service.drafters import Draftee, Proposal
from deploy.goal_service.grammar import Matcher
from deploy.goal_service.requests import Finished, Mode, Reason, Ticket, Timings, Token
from deploy.goal_service.sampling import (
    ACCEPT,
    RESIDUAL,
    Rule,
    acceptance,
    choose,
    one_hot,
    residual,
    scores,
)
from deploy.goal_service.text import GrowingText
from deploy.goal_service.vocabulary import Vocabulary


@dataclass
class Counts:
    """What was counted while it was written."""

    cached: int = 0
    rounds: int = 0
    forced: int = 0
    drafted: int = 0
    accepted: int = 0
    hits: int = 0
    misses: int = 0
    modes: dict[Mode, int] = field(default_factory=dict)


@dataclass
class Row:
    """A request in one row of the target's cache. `draftee` holds its text, and is what drafters see of it."""

    index: int
    ticket: Ticket
    draftee: Draftee
    vocabulary: Vocabulary
    rule: Rule
    limit: int
    """Tokens that fit into the cache."""
    queued_s: float
    started_s: float
    computed: int = 0
    """Tokens whose keys and values the target has."""
    counts: Counts = field(default_factory=Counts)
    ended: Reason | None = None
    message: str = ""
    first_s: float | None = None

    def __post_init__(self) -> None:
        self.text = GrowingText(self.ticket.sampling.stop)
        self.told = 0

    @property
    def tokens(self) -> list[int]:
        """The prompt and what was decided."""
        return self.draftee.tokens

    def forced(self) -> list[int]:
        """Return the tokens that the grammar leaves no choice about."""
        matcher = self.draftee.matcher
        if matcher is None or self.ended:
            return []
        return matcher.forced()

    def advance(self) -> None:
        """Decide what needs no look at the model, unless the reader wants to know how likely it was."""
        self._check()
        while self.ticket.sampling.logprobs is None and (forced := self.forced()):
            for token in forced:
                self.decide(token, None, forced=True)

    def judge(self, proposal: Proposal, logits: list[Tensor | None]) -> int:
        """Decide tokens by the target's logits after the text and after each drafted token; return how many drafts it took.

        None stands for logits that nobody computed, as the grammar forces what comes there.
        """
        before = len(self.tokens)
        accepted = 0
        for k, logits_V in enumerate(logits):
            if self.ended:
                break
            drafted = proposal.tokens[k] if k < len(proposal.tokens) else None
            forced = self.forced()
            if forced:
                self.decide(forced[0], logits_V, forced=True)
            elif logits_V is None:
                break
            else:
                drafted_scores = proposal.scores[k] if drafted is not None else None
                self.decide(self._choose(logits_V, drafted, drafted_scores), logits_V)
            if self.ended and len(self.tokens) == before + accepted:
                accepted += int(drafted in self.draftee.eos)
                break
            if self.tokens[-1] != drafted:
                break
            accepted += 1
        self.counts.rounds += 1
        self.counts.drafted += len(proposal.tokens)
        self.counts.accepted += accepted
        self.computed = min(before + accepted, len(self.tokens))
        return accepted

    def _choose(self, logits_V: Tensor, drafted: int | None, drafted_scores: Tensor | None) -> int:
        """Return the target's token: by the shared noise, or, under the ratio rule, the draft where the target takes it."""
        matcher, who = self.draftee.matcher, self.draftee
        allowed_V = None if matcher is None else matcher.mask()
        if self.rule == "coupled" or who.sampling.temperature == 0 or drafted is None:
            return choose(logits_V, who.sampling, allowed_V, who.dice, who.said)
        target_V = scores(logits_V, who.sampling, allowed_V)
        draft_V = one_hot(drafted, len(target_V)) if drafted_scores is None else drafted_scores
        chance = target_V.new_tensor([(a := acceptance(target_V, draft_V, drafted)), 1 - a]).log()
        if who.dice.draw(chance, who.said, ACCEPT) == 0:
            return drafted
        return who.dice.draw(residual(target_V, draft_V), who.said, RESIDUAL)

    def decide(self, token: int, logits_V: Tensor | None, forced: bool = False) -> None:
        """Add a token and tell the reader; what ends the text is not part of it."""
        if self.ended:
            return
        matcher = self.draftee.matcher
        if token in self.draftee.eos:
            self._stop_of(matcher)
            return
        self.draftee.take([token])
        self.counts.forced += forced
        if self.first_s is None:
            self.first_s = time.monotonic() - self.queued_s
        shown = self.text.add(self.vocabulary.bytes_of(token))
        self.ticket.tell(self._event(token, shown, logits_V))
        if self.text.stopped:
            self.ended = "stop"
        elif matcher is not None and matcher.ended:
            self._stop_of(matcher)
        elif self.draftee.said >= self.ticket.sampling.max_tokens or len(self.tokens) >= self.limit:
            self.ended = "length"

    def _stop_of(self, matcher: Matcher | None) -> None:
        """End it; where only the grammar could not be followed any further, that is no stop."""
        self.message = "" if matcher is None else matcher.error
        self.ended = "length" if self.message else "stop"

    def _event(self, token: int, shown: str, logits_V: Tensor | None) -> Token:
        wanted = self.ticket.sampling.logprobs
        if wanted is None or logits_V is None:
            return Token(token, shown)
        known_V = logits_V.log_softmax(0)
        best = known_V.topk(wanted) if wanted else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Token(token, shown, float(known_V[token]), top)

    def _check(self) -> None:
        """End it if its reader is gone or its time is up."""
        if self.ticket.cancelled.is_set():
            self.ended = self.ended or "cancelled"
        elif time.monotonic() - self.queued_s > self.ticket.sampling.deadline_s:
            self.ended = self.ended or "deadline"

    def finish(self) -> None:
        """Tell the reader what was held back, and the end."""
        assert self.ended is not None
        rest, c, now_s = self.text.end(), self.counts, time.monotonic()
        if rest:
            self.ticket.tell(Token(-1, rest))
        modes: list[Mode] = sorted(c.modes, key=lambda mode: -c.modes[mode])
        timings = Timings(
            prompt_tokens=self.draftee.start,
            cached_tokens=c.cached,
            completion_tokens=self.draftee.said,
            queued_s=self.started_s - self.queued_s,
            first_token_s=self.first_s or now_s - self.queued_s,
            total_s=now_s - self.queued_s,
            rounds=c.rounds,
            forced=c.forced,
            drafted=c.drafted,
            accepted=c.accepted,
            cache_hits=c.hits,
            cache_misses=c.misses,
            mode=modes[0] if modes else "ar",
        )
        self.ticket.tell(Finished(self.ended, timings, self.message))
