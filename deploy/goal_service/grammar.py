"""What a text has to match, token by token: which tokens may come next, and which one must (llguidance).

A token is forced where the text that must come has one way to be written: as the tokenizer writes it. There `mask` allows that token
alone (a test holds it), with or without a look at `forced`: what is forced and what is drawn from the masked distribution are the
same, so that whoever skips the model at forced tokens changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from deploy.goal_service.building import Tokens, Trial, build, one_line
from deploy.goal_service.requests import Grammar
from deploy.goal_service.vocabulary import Vocabulary

KEPT = 64
"""Grammars that need not be compiled again."""
USUAL_S = 0.004
"""Of a core, for one step of a grammar; a plain one takes a tenth."""
SLOW_S = 0.1
"""By so much more than usual steps a text may have taken before nothing is drafted for it any more ..."""
MOST_S = 2.0
"""... and before it ends."""


class _Tokens(Tokens):
    """A vocabulary as llguidance asks for it, with the tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        names = {i: name.encode() for name, i in vocabulary.special.items()}
        tokens = [names.get(i) or vocabulary.bytes_of(i) for i in range(vocabulary.size)]
        super().__init__(tokens, min(vocabulary.eos), vocabulary.bos, sorted(names))

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.encode(text, special=False)


@dataclass
class _Effort:
    """What the grammar of a text has taken, with all of its drafts."""

    beyond_s: float = 0.0
    """Of a core, more than usual steps would have."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count what is done meanwhile."""
        began_s = time.thread_time()
        try:
            yield
        finally:
            self.beyond_s = max(0.0, self.beyond_s + time.thread_time() - began_s - USUAL_S)


class Matcher:
    """How far a text has got in a grammar."""

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary: Vocabulary,
        over: bool = False,
        telling: bool = True,
        effort: _Effort | None = None,
    ) -> None:
        """`telling`: it says what is forced; otherwise only the mask shows it."""
        self._matcher, self._vocabulary, self._over, self._telling = matcher, vocabulary, over, telling
        self._effort = effort or _Effort()

    def mask(self) -> Tensor:
        """Return which tokens may come next, bool (vocab,); the ends of text where the grammar may end, or cannot be followed."""
        allowed = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        if not self.ended:
            with self._effort.step():
                bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = torch.from_numpy(np.unpackbits(bits, count=len(allowed), bitorder="little")).bool()
        allowed[list(self._vocabulary.eos)] = self._over or bool(self.error) or self._matcher.is_accepting()
        return allowed

    def forced(self) -> list[int]:
        """Return the tokens that come next without a choice, at each of which `mask` allows nothing else; never an end of text."""
        if not self._telling or self.ended:
            return []
        with self._effort.step():
            return self._matcher.compute_ff_tokens()

    def accept(self, token: int) -> bool:
        """Go on by a token; False, and nothing is changed, where it is not allowed."""
        if token in self._vocabulary.eos:
            self._over = self._over or self._matcher.is_accepting()
            return self._over
        if self.ended:
            return False
        with self._effort.step():
            return self._matcher.try_consume_tokens([token]) == 1

    def copy(self) -> Matcher:
        """Return another that has got as far."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._over, self._telling, self._effort)

    @property
    def ended(self) -> bool:
        """Whether nothing more may come but an end of text."""
        return self._over or self._effort.beyond_s > MOST_S or self._matcher.is_stopped()

    @property
    def slow(self) -> bool:
        """Whether the grammar takes so much time that nothing should be drafted for the text."""
        return self._effort.beyond_s > SLOW_S

    @property
    def error(self) -> str:
        """Return "" or, in one line, why the grammar could not be followed any further (it grew too large, or took too long)."""
        if self._effort.beyond_s > MOST_S:
            return "the grammar takes too long: it can be read in too many ways"
        return one_line(self._matcher.get_error())


class GrammarFactory:
    """Compiles grammars for a vocabulary; any thread may ask."""

    def __init__(self, vocabulary: Vocabulary, telling: bool = True, tries: bool = False) -> None:
        """`telling`: its matchers say what is forced; `tries`: grammars that may be anything are tried in another process."""
        if not vocabulary.eos:
            raise ValueError("a model needs an end of text for grammars: its tokenizer names none")
        self._vocabulary, self._telling = vocabulary, telling
        tokens = _Tokens(vocabulary)
        self._tokenizer = LLTokenizer(TokenizerWrapper(tokens), n_vocab=vocabulary.size)
        self._trial = Trial(tokens) if tries else None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning. Raises ValueError, in one line, for what is no grammar."""
        with self._lock:
            found = self._compiled.get(grammar)
        if found is None:  # others need not wait for it
            if self._trial is not None:
                self._trial.check(grammar)
            found = build(self._tokenizer, grammar)
        with self._lock:
            self._compiled[grammar] = found
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return Matcher(found.deep_copy(), self._vocabulary, telling=self._telling)

    def close(self) -> None:
        """End what was started."""
        if self._trial is not None:
            self._trial.close()
