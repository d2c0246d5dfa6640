"""Drafts that nobody prepared: what was said before, or a small model's, whichever has lately brought more tokens per second.

All texts of a round wait while the small model drafts for some. Each guess is held against what was said in the end, whether it was
used or not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from deploy.goal_service.drafters import Draftee, ModelDrafter, NGram, Proposal, Source, common
from deploy.goal_service.speed import tokens_per_round, worth_waiting

Fallback = Literal["auto", "jit", "ngram", "none"]
KEPT = 0.98
"""Of what was measured, from one guess to the next."""
WEIGHT = 4.0
"""Tokens that what is known of all texts counts for in a new one."""
AGAIN = 32
"""Drafts from one look at a model that is not worth it to the next."""


@dataclass
class _Share:
    """How many guessed tokens were right."""

    right: float = 0.5 * WEIGHT
    tried: float = WEIGHT

    def note(self, right: int, tried: int) -> None:
        """Take in a guess."""
        self.right, self.tried = KEPT * self.right + right, KEPT * self.tried + tried

    @property
    def rate(self) -> float:
        """The part of them."""
        return self.right / self.tried


@dataclass
class OnDemand:
    """Who is asked for drafts, and what they have been worth."""

    model: ModelDrafter | None
    way: Fallback = "auto"
    look_s: float = 0.0
    """What a round takes without the model's drafts; 0: not known."""
    ngram: NGram = field(default_factory=NGram)
    step_s: float = 0.0
    """Of the model, per drafted token."""
    _all: dict[Source, _Share] = field(default_factory=lambda: {"ngram": _Share(), "model": _Share()})
    _of: dict[tuple[int, Source], _Share] = field(default_factory=dict)
    _guesses: dict[tuple[int, Source], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """Where in a text what was guessed."""
    _asked: int = 0

    def propose(self, who: Sequence[Draftee], lookahead: int, others: float = 0.0) -> list[Proposal]:
        """Return a draft for each; `others`: tokens that texts with a draft are likely to say meanwhile."""
        if self.way == "none":
            return [Proposal() for _ in who]
        for w in who:
            self._compare(w)
        drafts = [Proposal() if self.way == "jit" else self.ngram.propose(w, lookahead) for w in who]
        wanted = self._wanted(who, drafts, lookahead, others)
        asked = [i for i, want in enumerate(wanted) if want]
        for w, draft in zip(who, drafts, strict=True):
            self._guess(w, "ngram", draft)
        if asked and self.model is not None:
            began_s = time.monotonic()
            made = self.model.propose([who[i] for i in asked], lookahead)
            took_s = (time.monotonic() - began_s) / max(1, lookahead)
            self.step_s = 0.9 * self.step_s + 0.1 * took_s if self.step_s else took_s
            for i, draft in zip(asked, made, strict=True):
                self._guess(who[i], "model", draft)
                drafts[i] = draft if draft.tokens else drafts[i]
        return drafts

    def end(self, uid: int) -> None:
        """Forget a text."""
        for source in self._all:
            self._of.pop((uid, source), None)
            self._guesses.pop((uid, source), None)

    def _wanted(self, who: Sequence[Draftee], drafts: Sequence[Proposal], lookahead: int, others: float) -> list[bool]:
        """Return for which texts the model is to be asked."""
        able = [not w.slow for w in who]
        if self.model is None or self.way == "ngram" or not any(able):
            return [False] * len(who)
        if self.way == "jit":
            return able
        if not self.step_s:
            return able
        if not self.look_s:
            return [can and not draft.tokens for can, draft in zip(able, drafts, strict=True)]
        self._asked += 1
        if self._asked % AGAIN == 0:
            return able
        said = [
            tokens_per_round(self._share(w, "ngram").rate, len(draft.tokens))
            for w, draft in zip(who, drafts, strict=True)
        ]
        hoped = [
            tokens_per_round(self._share(w, "model").rate, lookahead) if can else 0.0
            for w, can in zip(who, able, strict=True)
        ]
        return worth_waiting(said, hoped, others, self.look_s, self.step_s * lookahead)

    def _share(self, who: Draftee, source: Source) -> _Share:
        key = who.uid, source
        if key not in self._of:
            self._of[key] = _Share(WEIGHT * self._all[source].rate)
        return self._of[key]

    def _guess(self, who: Draftee, source: Source, draft: Proposal) -> None:
        """Remember what was guessed, up to where a grammar leaves no choice."""
        free = next((i for i, forced in enumerate(draft.forced) if forced), len(draft.tokens))
        self._guesses[who.uid, source] = len(who.tokens), draft.tokens[:free]

    def _compare(self, who: Draftee) -> None:
        """Hold what was guessed against what was said."""
        for source, everybody in self._all.items():
            at, guess = self._guesses.pop((who.uid, source), (0, ()))
            said = who.tokens[at : at + len(guess)]
            right = common(guess, said)
            if tried := min(right + 1, len(guess), len(said)):
                everybody.note(right, tried)
                self._share(who, source).note(right, tried)
