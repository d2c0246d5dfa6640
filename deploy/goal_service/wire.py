"""What clients may ask: OpenAI's forms, with `top_k`, `mode`, `grammar` and `deadline_s` besides, and what that is to the engine."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy.goal_service.limits import Limits
from deploy.goal_service.problems import ProblemError
from deploy.goal_service.requests import SEEDS, Grammar, Mode, Sampling

IGNORED = (
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
)
"""Of OpenAI's parameters, those that change nothing about the answer: taken and not looked at."""
REFUSED = (
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "presence_penalty",
    "reasoning_effort",
    "suffix",
    "tool_choice",
    "tools",
    "verbosity",
    "web_search_options",
)
"""Those that would change it, and that there is no way to honour: refused, unless they ask for nothing."""
NOTHING = (None, 0, False, "", "none", "auto")
LEAST_TOP_P = 1e-9
"""0 means the likeliest token, which this is too."""
LONGEST_GRAMMAR = 65_536


class Form(BaseModel):
    """A request: no other parameters, no numbers as strings, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Form):
    """How an answer is streamed."""

    include_usage: bool | None = None
    """A last chunk says how many tokens there were."""
    include_obfuscation: bool | None = None
    """Not looked at."""


class GrammarForm(Form):
    """What the text has to match."""

    kind: Literal["json", "regex", "lark"]
    source: Annotated[str, Field(min_length=1, max_length=LONGEST_GRAMMAR)]


class PlainText(Form):
    """Any text."""

    type: Literal["text"]


class AnyJson(Form):
    """A JSON object."""

    type: Literal["json_object"]


class SchemaOf(Form):
    """A JSON schema and its name."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    """Not looked at: the text always matches."""


class JsonOfSchema(Form):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: SchemaOf


class TextPart(Form):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat; what else OpenAI's clients send back of an answer is not looked at."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, tree: Any) -> Any:
        if isinstance(tree, dict):
            for name in ("tool_calls", "function_call", "audio"):
                if tree.get(name):
                    raise ProblemError(400, f"{name} is not supported", "messages", "unsupported_parameter")
        return tree

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role {self.role!r} needs content")
        return self

    @property
    def plain(self) -> dict[str, str]:
        """The message as chat templates have it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Deadline = Annotated[float, Field(gt=0, description="Seconds from now; an answer that is not done by then ends.")]


class Asked(Form):
    """What both forms have."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), le=2**63 - 1)] = None
    n: Annotated[int | None, Field(ge=1, le=128)] = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    user: str | None = None
    mode: Mode | None = None
    grammar: GrammarForm | None = None
    deadline_s: Deadline | None = None

    @model_validator(mode="before")
    @classmethod
    def _openai(cls, tree: Any) -> Any:
        """Take what changes nothing, and refuse in words what cannot be done."""
        if not isinstance(tree, dict):
            return tree
        for name in REFUSED:
            value = tree.get(name)
            if value not in NOTHING and value not in ([], {}):
                raise ProblemError(400, f"{name} is not supported", name, "unsupported_parameter")
        if tree.get("modalities") not in (None, ["text"]):
            raise ProblemError(400, "modalities: only text is supported", "modalities", "unsupported_parameter")
        return {key: value for key, value in tree.items() if key not in (*IGNORED, *REFUSED, "modalities")}

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream = true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def constraint(self) -> Grammar | None:
        """Return what the text has to match."""
        return None if self.grammar is None else Grammar(self.grammar.kind, self.grammar.source)

    def sampling(self, tokens: int, logprobs: int | None, limits: Limits) -> list[Sampling]:
        """Return how each of the n answers is drawn, from seeds of their own."""
        seed = secrets.randbelow(SEEDS) if self.seed is None else self.seed % SEEDS
        first = Sampling(
            temperature=1.0 if self.temperature is None else float(self.temperature),
            top_p=1.0 if self.top_p is None else max(float(self.top_p), LEAST_TOP_P),
            top_k=self.top_k or 0,
            seed=seed,
            max_tokens=tokens,
            stop=self.stops,
            logprobs=logprobs,
            grammar=self.constraint(),
            mode=self.mode or "auto",
            deadline_s=min(self.deadline_s or limits.deadline_s, limits.deadline_s),
        )
        return [replace(first, seed=choice_seed(seed, number)) for number in range(self.n or 1)]


def choice_seed(seed: int, number: int) -> int:
    """Return the seed of an answer of several; that of the first is the request's own."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:8], "big") % SEEDS


class ChatForm(Asked):
    """POST /v1/chat/completions."""

    usual_tokens: ClassVar[int] = 512

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    response_format: Annotated[PlainText | AnyJson | JsonOfSchema | None, Field(discriminator="type")] = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs = true")
        if self.grammar is not None and self.response_format is not None and self.response_format.type != "text":
            raise ValueError("give response_format or grammar, not both")
        return self

    def constraint(self) -> Grammar | None:
        """Return what the text has to match."""
        if isinstance(self.response_format, AnyJson):
            return Grammar("json", '{"type":"object"}')
        if isinstance(self.response_format, JsonOfSchema):
            schema = json.dumps(self.response_format.json_schema.schema_ or {"type": "object"})
            if len(schema) > LONGEST_GRAMMAR:
                raise ProblemError(400, f"a schema may have {LONGEST_GRAMMAR} characters", "response_format")
            return Grammar("json", schema)
        return super().constraint()

    @property
    def wants_tokens(self) -> int | None:
        """How many tokens an answer may have, where that is said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_logprobs(self) -> int | None:
        """How many alternatives per token; None for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionForm(Asked):
    """POST /v1/completions."""

    usual_tokens: ClassVar[int] = 16
    """As OpenAI has it."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]
    )
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    """0 only with `echo`."""
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    best_of: Annotated[int | None, Field(ge=1, le=128)] = None
    """Only the same as `n`."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of other than n is not supported")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens = 0 is only for echo = true")
        return self

    @property
    def wants_tokens(self) -> int | None:
        """How many tokens a continuation may have, where that is said."""
        return self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each of the prompts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        whole = all(isinstance(part, int) for part in self.prompt)
        return [self.prompt] if whole else self.prompt  # pyright: ignore[reportReturnType]


class GoalForm(Form):
    """POST /v1/goals."""

    sentence: Annotated[str, Field(min_length=1, max_length=1000)]
    robot: Annotated[str, Field(min_length=1, max_length=64)]
    current: dict[str, Any] | None = None
    """The Goal that is pursued now."""
    deadline_s: Deadline | None = None


class ScoreForm(Form):
    """POST /v1/score: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message] | None, Field(min_length=1)] = None
    candidates: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    deadline_s: Deadline | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self
