"""The two forms of an answer: of a chat, and of a text that goes on."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.goal_service.replies import LEAST, Said, Tree, Writer, bounded, ending, real
from deploy.goal_service.requests import Finished, Token

if TYPE_CHECKING:
    from deploy.goal_service.vocabulary import Vocabulary


class ChatWriter(Writer):
    """Answers in a chat."""

    kind, piece_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, vocabulary: Vocabulary, model: str, logprobs: bool) -> None:
        super().__init__(vocabulary, model)
        self._logprobs = logprobs

    def opening(self, index: int) -> Tree:
        """Return who speaks."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, token: Token) -> Tree | None:
        """Return a streamed token, or None where there is nothing to say of it."""
        if not (token.text or self._logprobs):
            return None
        delta = {"content": token.text}
        return {"index": index, "delta": delta, "logprobs": self._of([token]), "finish_reason": None}

    def closing(self, index: int, finished: Finished | None) -> Tree:
        """Return the end of a streamed answer."""
        return {"index": index, "delta": {}, "logprobs": None, **ending(finished)}

    def whole(self, index: int, said: Said) -> Tree:
        """Return an answer in one piece."""
        message = {"role": "assistant", "content": said.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._of(said.tokens), **ending(said.finished)}

    def _of(self, tokens: Sequence[Token]) -> Tree | None:
        if not self._logprobs:
            return None
        content = [
            {
                **self._one(token.id, token.logprob),
                "top_logprobs": [self._one(other, logprob) for other, logprob in token.top],
            }
            for token in real(tokens)
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float | None) -> Tree:
        return {"token": self.name_of(token), "logprob": bounded(logprob), "bytes": list(self.bytes_of(token))}


@dataclass(frozen=True)
class Echo:
    """A prompt that is given back: its text, its tokens and their log-probabilities, which the first has not."""

    text: str
    tokens: Sequence[int] = ()
    logprobs: Sequence[float | None] = ()


class TextWriter(Writer):
    """Texts that go on."""

    kind, piece_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, vocabulary: Vocabulary, model: str, logprobs: bool, echoes: Sequence[Echo], n: int) -> None:
        """`echoes`: one per prompt, or none at all; each prompt has `n` answers."""
        super().__init__(vocabulary, model)
        self._logprobs, self._echoes, self._n = logprobs, echoes, n
        self._length: dict[int, int] = {}

    def _echo(self, index: int) -> Echo:
        return self._echoes[index // self._n] if self._echoes else Echo("")

    def opening(self, index: int) -> Tree | None:
        """Return the prompt, if it is to be given back."""
        echo = self._echo(index)
        self._length[index] = len(echo.text)
        if not echo.text:
            return None
        return {"index": index, "text": echo.text, "logprobs": self._of_prompt(echo), "finish_reason": None}

    def piece(self, index: int, token: Token) -> Tree | None:
        """Return a streamed token, or None where there is nothing to say of it."""
        if not (token.text or self._logprobs):
            return None
        logprobs = self._of([token], self._length[index])
        self._length[index] += len(token.text)
        return {"index": index, "text": token.text, "logprobs": logprobs, "finish_reason": None}

    def closing(self, index: int, finished: Finished | None) -> Tree:
        """Return the end of a streamed text."""
        return {"index": index, "text": "", "logprobs": None, **ending(finished)}

    def whole(self, index: int, said: Said) -> Tree:
        """Return a text in one piece."""
        echo = self._echo(index)
        before, after = self._of_prompt(echo), self._of(said.tokens, len(echo.text))
        both = None if before is None or after is None else {key: before[key] + after[key] for key in before}
        return {"index": index, "text": echo.text + said.text, "logprobs": both, **ending(said.finished)}

    def _of_prompt(self, echo: Echo) -> Tree | None:
        if not self._logprobs:
            return None
        offsets, at, decoder = [], 0, codecs.getincrementaldecoder("utf-8")("replace")
        for token in echo.tokens:
            offsets.append(min(at, len(echo.text)))
            at += len(decoder.decode(self.bytes_of(token)))
        return {
            "tokens": [self.name_of(token) for token in echo.tokens],
            "token_logprobs": [None if logprob is None else bounded(logprob) for logprob in echo.logprobs],
            "top_logprobs": [None] * len(offsets),
            "text_offset": offsets,
        }

    def _of(self, tokens: Sequence[Token], start: int) -> Tree | None:
        if not self._logprobs:
            return None
        offsets, shown = [], real(tokens)
        for token in shown:
            offsets.append(start)
            start += len(token.text)
        return {
            "tokens": [self.name_of(token.id) for token in shown],
            "token_logprobs": [bounded(token.logprob) for token in shown],
            "top_logprobs": [self._likeliest(token) for token in shown],
            "text_offset": offsets,
        }

    def _likeliest(self, token: Token) -> dict[str, float]:
        """Return the likeliest texts; of tokens with the same text, the likelier one counts."""
        found: dict[str, float] = {}
        for other, logprob in (*token.top, (token.id, LEAST if token.logprob is None else token.logprob)):
            found.setdefault(self.name_of(other), bounded(logprob))
        return found
