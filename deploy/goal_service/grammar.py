"""What a text has to match, token by token: which tokens may come next, and which one must (llguidance).

A token is forced where the text that must come has one way to be written: as the tokenizer writes it. There `mask` allows that token
alone (a test holds it), with or without a look at `forced`: what is forced and what is drawn from the masked distribution are the
same, so that whoever skips the model at forced tokens changes nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from deploy.goal_service.requests import Grammar
from deploy.goal_service.vocabulary import Vocabulary

KEPT = 64
"""Grammars that need not be compiled again."""
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class _Tokens:
    """A vocabulary as llguidance asks for it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id, self.bos_token_id = min(vocabulary.eos), vocabulary.bos
        names = {i: name.encode() for name, i in vocabulary.special.items()}
        self.tokens = [names.get(i) or vocabulary.bytes_of(i) for i in range(vocabulary.size)]
        self.special_token_ids = sorted(names)

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.encode(text, special=False)


class Matcher:
    """How far a text has got in a grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, over: bool = False, telling: bool = True) -> None:
        """`telling`: it says what is forced; otherwise only the mask shows it."""
        self._matcher, self._vocabulary, self._over, self._telling = matcher, vocabulary, over, telling

    def mask(self) -> Tensor:
        """Return which tokens may come next, bool (vocab,); the ends of text where the grammar may end."""
        allowed = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        if not self.ended:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = torch.from_numpy(np.unpackbits(bits, count=len(allowed), bitorder="little")).bool()
        allowed[list(self._vocabulary.eos)] = self._over or self._matcher.is_accepting()
        return allowed

    def forced(self) -> list[int]:
        """Return the tokens that come next without a choice, at each of which `mask` allows nothing else; never an end of text."""
        return self._matcher.compute_ff_tokens() if self._telling and not self.ended else []

    def accept(self, token: int) -> bool:
        """Go on by a token; False, and nothing is changed, where it is not allowed."""
        if token in self._vocabulary.eos:
            self._over = self._over or self._matcher.is_accepting()
            return self._over
        return not self.ended and self._matcher.try_consume_tokens([token]) == 1

    def copy(self) -> Matcher:
        """Return another that has got as far."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._over, self._telling)

    @property
    def ended(self) -> bool:
        """Whether nothing more may come but an end of text."""
        return self._over or self._matcher.is_stopped()

    @property
    def error(self) -> str:
        """Return "" or, in one line, why the grammar could not be followed any further (it grew too large)."""
        return _line(self._matcher.get_error())


class GrammarFactory:
    """Compiles grammars for a vocabulary; any thread may ask."""

    def __init__(self, vocabulary: Vocabulary, telling: bool = True) -> None:
        """`telling`: its matchers say what is forced."""
        if not vocabulary.eos:
            raise ValueError("a model needs an end of text for grammars: its tokenizer names none")
        self._vocabulary, self._telling = vocabulary, telling
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), n_vocab=vocabulary.size)
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning. Raises ValueError, in one line, for what is no grammar."""
        with self._lock:
            found = self._compiled.pop(grammar, None) or self._compile(grammar)
            self._compiled[grammar] = found
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return Matcher(found.deep_copy(), self._vocabulary, telling=self._telling)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        try:
            if grammar.kind == "json":  # without white space, so that more is forced
                source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=_COMPACT)  # pyright: ignore
            else:
                kinds = {"regex": LLMatcher.grammar_from_regex, "lark": LLMatcher.grammar_from_lark}
                source = kinds[grammar.kind](grammar.source)
        except ValueError as error:
            raise ValueError(f"bad {grammar.kind} grammar: {_line(str(error))}") from None
        failed, messages = LLMatcher.validate_grammar_with_warnings(source, self._tokenizer)
        if failed:
            raise ValueError(f"bad {grammar.kind} grammar: {_line(messages[0])}")
        return LLMatcher(self._tokenizer, source, log_level=0)


def _line(text: str) -> str:
    """Return a message as one line that is not too long."""
    return " ".join(text.split())[:300]
