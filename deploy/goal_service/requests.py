"""What is asked of the engine, and what it says: plain values that cross threads."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["auto", "ar", "sd", "ssd"]
Reason = Literal["stop", "length", "cancelled", "deadline", "error"]
SEEDS = 2**63


class Busy(Exception):
    """The queue is full; the client should come again later."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a text has to match: a JSON schema, a regular expression or a Lark grammar, as its source."""

    kind: Literal["json", "regex", "lark"]
    source: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; the same seed gives the same text in every batch and in every mode."""

    temperature: float = 1.0
    """0: the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    seed: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Texts that end it; they are not part of it."""
    logprobs: int | None = None
    """So many alternatives per token, 0 for that of the token alone; None for none."""
    grammar: Grammar | None = None
    mode: Mode = "auto"
    deadline_s: float = math.inf
    """From submission on."""

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0, 5), ("top_p", 0, 1), ("top_k", 0, 2**31), ("seed", 0, SEEDS)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {getattr(self, name)}")
        if self.top_p == 0:
            raise ValueError("top_p must be > 0, got 0")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {self.max_tokens}")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise ValueError(f"logprobs must be between 0 and 20, got {self.logprobs}")
        if not self.deadline_s > 0:
            raise ValueError(f"deadline_s must be > 0, got {self.deadline_s}")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer. `text` is empty while it is part of a character that is not whole, or may begin a stop text."""

    id: int
    text: str
    logprob: float | None = None
    """Natural, under the model at temperature 1, before top-k, top-p and grammar."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their log-probabilities, best first."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Of one request; names as the published code reports them."""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, that an earlier request had already computed."""
    completion_tokens: int
    queued_s: float
    first_token_s: float
    """From submission."""
    total_s: float
    rounds: int
    """Verifications by the target."""
    forced: int
    """Tokens that the grammar left no choice about."""
    drafted: int
    accepted: int
    cache_hits: int
    """Rounds whose draft was ready before it was asked for."""
    cache_misses: int
    mode: Mode
    """That was used most."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer."""

    reason: Reason
    timings: Timings
    message: str = ""
    """What went wrong, in one line."""


@dataclass
class Ticket:
    """A request under way: iterate over it for its tokens, then its end. Any thread may cancel it."""

    prompt: tuple[int, ...]
    sampling: Sampling
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: queue.SimpleQueue[Token | Finished] = field(default_factory=queue.SimpleQueue)
    notify: Callable[[], None] | None = None
    """Called after each event, in the engine's thread: it must be quick and raise nothing."""

    def tell(self, event: Token | Finished) -> None:
        """Hand over the next event."""
        self.events.put(event)
        if self.notify is not None:
            self.notify()

    def cancel(self) -> None:
        """End it at its next token."""
        self.cancelled.set()

    def __iter__(self) -> Iterator[Token | Finished]:
        """Yield tokens as they are decided; the last is Finished."""
        while True:
            event = self.events.get()
            yield event
            if isinstance(event, Finished):
                return
