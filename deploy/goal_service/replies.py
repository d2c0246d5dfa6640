"""What clients get: answers, pieces of answers and scores in OpenAI's JSON, with `timings` and `stop_reason` besides."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from deploy.goal_service.problems import ProblemError
from deploy.goal_service.requests import Finished, Mode, Timings, Token

if TYPE_CHECKING:
    from deploy.goal_service.vocabulary import Vocabulary

LEAST = -9999.0
"""Stands for minus infinity, which JSON has not; OpenAI's does the same."""

Tree = dict[str, Any]


class Reply(BaseModel):
    """What is answered: these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class PromptDetails(Reply):
    """Of the prompt's tokens, those that an earlier request had already computed."""

    cached_tokens: int


class Usage(Reply):
    """Tokens of a request; a prompt counts once for all of its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Alternative(Reply):
    """A token and its natural log-probability. Where it is part of a character, `bytes` says which."""

    token: str
    logprob: float
    bytes: list[int]


class Chosen(Alternative):
    """The token that was drawn, and the likeliest ones."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Reply):
    """Of each token."""

    content: list[Chosen]
    refusal: None


class ChatMessage(Reply):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(Reply):
    """One answer. `stop_reason` is "deadline" where it was out of time, "grammar" where that could not be followed any further.

    Then `finish_reason` is "length".
    """

    index: int
    finish_reason: Literal["stop", "length"]
    stop_reason: Literal["deadline", "grammar"] | None
    timings: Timings | None


class ChatChoice(Choice):
    """One answer in a chat."""

    message: ChatMessage
    logprobs: ChatLogprobs | None


class TextLogprobs(Reply):
    """Of each token; null where none is known: of a prompt's first token, and of what else might have stood in a prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Choice):
    """One continuation."""

    text: str
    logprobs: TextLogprobs | None


class Answer(Reply):
    """All answers to a request."""

    id: str
    created: int
    model: str
    usage: Usage
    system_fingerprint: None


class ChatReply(Answer):
    """Of POST /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextReply(Answer):
    """Of POST /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Candidate(Reply):
    """A candidate's natural log-probability after the prompt, and that of each of its tokens."""

    index: int
    logprob: float
    tokens: list[str]
    token_logprobs: list[float]


class ScoreReply(Reply):
    """Of POST /v1/score."""

    object: Literal["score"]
    model: str
    scores: list[Candidate]
    usage: Usage


class GoalTimings(BaseModel):
    """What a goal took; `path` says who understood the sentence: a grammar of commands (words), the model, or nobody."""

    path: Literal["words", "model", "refused"]
    words_s: float
    model_s: float
    total_s: float
    tokens: int | None = None
    first_token_s: float | None = None
    mode: Mode | None = None


class GoalReply(Reply):
    """Of POST /v1/goals: a Goal (agents/goals.py), and what it took."""

    goal: dict[str, Any]
    timings: GoalTimings


class ModelCard(Reply):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Reply):
    """The models that are served: one."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(Reply):
    """Whether the service can answer, and what the draft process does, without which it answers too."""

    status: str
    draft: str | None
    """up, late, starting, or since when it is gone; null where there is none."""


class Problem(Reply):
    """What went wrong, in one line."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """In place of an answer."""

    error: Problem


def usage(prompt: int, completion: int, cached: int) -> Tree:
    """Return a Usage."""
    details = {"cached_tokens": cached}
    total = prompt + completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": details,
    }


def timings(of: Timings) -> Tree:
    """Return timings as JSON; a first token that never came is as late as the end."""
    tree = asdict(of)
    if not math.isfinite(tree["first_token_s"]):
        tree["first_token_s"] = tree["total_s"]
    return tree


def failure(finished: Finished) -> ProblemError | None:
    """Return why there is no answer, or None where there is one."""
    if finished.reason == "error":
        return ProblemError(500, finished.message or "the engine failed", code="engine")
    if finished.reason == "cancelled":
        return ProblemError(503, "the service is shutting down", code="shutting_down", retry_s=5)
    if finished.reason == "deadline" and not finished.timings.completion_tokens:
        return ProblemError(503, "the deadline passed before the first token", code="deadline", retry_s=1)
    return None


def ending(finished: Finished | None) -> Tree:
    """Return how an answer ended; None: none was asked for."""
    if finished is None:
        return {"finish_reason": "length", "stop_reason": None, "timings": None}
    early = "deadline" if finished.reason == "deadline" else "grammar" if finished.message else None
    reason = "stop" if finished.reason == "stop" else "length"
    return {
        "finish_reason": reason,
        "stop_reason": early,
        "timings": timings(finished.timings),
    }


def bounded(logprob: float | None) -> float:
    """Return a log-probability that JSON can hold."""
    return LEAST if logprob is None or not logprob > LEAST else logprob


@dataclass
class Said:
    """What has been said of one answer."""

    tokens: list[Token] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(token.text for token in self.tokens)


def real(tokens: Sequence[Token]) -> list[Token]:
    """Return those that are tokens, not what was held back of the text until its end."""
    return [token for token in tokens if token.id >= 0]


class Writer:
    """Writes the answers to one request."""

    kind, piece_kind, prefix = "", "", ""

    def __init__(self, vocabulary: Vocabulary, model: str) -> None:
        self._vocabulary, self._model = vocabulary, model
        self._special = {token: name for name, token in vocabulary.special.items()}
        self._id, self._created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def reply(self, choices: Sequence[Tree], counted: Tree) -> Tree:
        """Return the whole reply."""
        return {**self._head(self.kind), "choices": list(choices), "usage": counted}

    def chunk(self, choices: Sequence[Tree], **more: Any) -> Tree:
        """Return a chunk of a stream."""
        return {**self._head(self.piece_kind), "choices": list(choices), **more}

    def _head(self, kind: str) -> Tree:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return {**head, "system_fingerprint": None}

    def name_of(self, token: int) -> str:
        """Return a token's text, or its name if it has none; part of a character is spelt `bytes:\\x..`."""
        whole = self.bytes_of(token)
        try:
            return whole.decode() or self._special.get(token, "")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in whole)

    def bytes_of(self, token: int) -> bytes:
        """Return what a token adds to a text."""
        return self._vocabulary.bytes_of(token)

    def opening(self, index: int) -> Tree | None:
        """Return what a stream begins with."""
        raise NotImplementedError

    def piece(self, index: int, token: Token) -> Tree | None:
        """Return a streamed token, or None where there is nothing to say of it."""
        raise NotImplementedError

    def closing(self, index: int, finished: Finished | None) -> Tree:
        """Return the end of a streamed answer."""
        raise NotImplementedError

    def whole(self, index: int, said: Said) -> Tree:
        """Return an answer in one piece."""
        raise NotImplementedError
