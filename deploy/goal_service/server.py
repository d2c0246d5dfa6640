"""The goal service over HTTP: OpenAI's interface, sentences to goals, scores, health and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from agents.goals import Goal, robot_of
from deploy.goal_service.desk import LATE_S, Answers, Asking, Desk, Leash, unless_gone
from deploy.goal_service.limits import Door, Limits
from deploy.goal_service.metrics import Metrics
from deploy.goal_service.openapi import ERRORS, STREAMED, conform, install
from deploy.goal_service.problems import ProblemError
from deploy.goal_service.replies import (
    ChatReply,
    GoalReply,
    Health,
    ModelCard,
    ModelList,
    Said,
    ScoreReply,
    TextReply,
    Tree,
    Writer,
    bounded,
    failure,
    usage,
)
from deploy.goal_service.requests import Finished, Token
from deploy.goal_service.sentences import to_goal
from deploy.goal_service.wire import Asked, ChatForm, CompletionForm, GoalForm, ScoreForm
from deploy.goal_service.writers import ChatWriter, Echo, TextWriter

if TYPE_CHECKING:
    from deploy.goal_service.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of Prometheus's text format."""


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    engine: Engine
    limits: Limits
    metrics: Metrics
    desk: Desk
    began: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """Raise ProblemError for another model than the one that is served; none named is that one."""
        if name not in (None, self.engine.name):
            message = f"no model {name!r:.80}; there is {self.engine.name!r}"
            raise ProblemError(404, message, "model", "model_not_found")

    def deadline_s(self, wanted: float | None) -> float:
        """Return the seconds that a request has."""
        return min(wanted or self.limits.deadline_s, self.limits.deadline_s)

    def tokens_of(self, prompt: str | Sequence[int]) -> Sequence[int]:
        """Return the tokens of a prompt. Raises ProblemError: too many, none, or unknown ones."""
        vocabulary = self.engine.vocabulary
        ids = vocabulary.prompt(prompt) if isinstance(prompt, str) else prompt
        if wrong := [token for token in ids if not 0 <= token < vocabulary.size]:
            raise ProblemError(400, f"tokens are 0 to {vocabulary.size - 1}, got {wrong[0]}", "prompt")
        return self.checked(ids)

    def checked(self, ids: Sequence[int]) -> Sequence[int]:
        """Return the tokens of a prompt. Raises ProblemError: too many, or none."""
        if not ids:
            raise ProblemError(400, "the prompt is empty", "prompt")
        if len(ids) > (most := min(self.limits.prompt_tokens, self.engine.context - 1)):
            message = f"a prompt may have {most} tokens, got {len(ids)}"
            raise ProblemError(400, message, "prompt", "context_length_exceeded")
        return ids

    def asking(
        self, prompts: Sequence[Sequence[int]], asked: ChatForm | CompletionForm, logprobs: int | None
    ) -> Asking:
        """Return what to hand in: for each prompt its n answers."""
        most, wanted = self.limits.max_tokens, asked.wants_tokens
        tokens = min(asked.usual_tokens, most) if wanted is None else wanted
        if tokens > most:
            raise ProblemError(400, f"max_tokens may be {most}, got {tokens}", "max_tokens")
        drawn = asked.sampling(tokens, logprobs, self.limits) if tokens else []
        return [(prompt, sampling) for prompt in prompts for sampling in drawn]

    async def ask(self, asking: Callable[[], Asking], asked: ChatForm | CompletionForm) -> Answers:
        """Hand in what `asking()` returns. Raises ProblemError."""
        return await self.desk.ask(asking, self.deadline_s(asked.deadline_s), asked.constraint() is not None)

    def check_choices(self, prompts: int, n: int) -> None:
        """Raise ProblemError for too many answers."""
        if prompts * n > (most := self.limits.choices):
            raise ProblemError(400, f"one request may have {most} answers, got {prompts} x {n}", "n")


class EventStream(StreamingResponse):
    """Server-sent events; when they end, or the client leaves, so do the answers."""

    def __init__(self, content: AsyncIterator[bytes], answers: Answers, longest_s: float) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._answers, self._longest_s = answers, longest_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it; a client that does not read it in time is cut off."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._longest_s):
                    await super().__call__(scope, receive, send)
        finally:
            self._answers.close()


def event(tree: Tree) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(tree, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


@dataclass
class Exchange:
    """One request for answers, and what has been said so far."""

    service: Service
    asked: Asked
    writer: Writer
    answers: Answers
    prompts: Sequence[int]
    """Tokens of each prompt."""
    said: list[Said]

    def hear(self, number: int, what: Token | Finished) -> None:
        """Note an event. Raises ProblemError where there will be no answer."""
        if isinstance(what, Token):
            self.said[number].tokens.append(what)
            return
        self.said[number].finished = what
        self.service.metrics.answered(what)
        if (problem := failure(what)) is not None:
            raise problem

    @property
    def usage(self) -> Tree:
        """The tokens that were counted."""
        done = [said.finished.timings for said in self.said if said.finished is not None]
        cached = sum(each.cached_tokens for each in done[:: self.asked.n or 1])
        return usage(sum(self.prompts), sum(each.completion_tokens for each in done), cached)

    async def whole(self) -> Tree:
        """Return all answers, once they are there."""
        async for number, what in self.answers:
            self.hear(number, what)
        return self.writer.reply([self.writer.whole(i, said) for i, said in enumerate(self.said)], self.usage)

    async def stream(self, request: Request) -> EventStream:
        """Return the answers as they come, once the first token is there. Raises ProblemError up to then."""
        events = aiter(self.answers)

        async def first() -> list[tuple[int, Token | Finished]]:
            return [await anext(events)] if self.said and self.answers.tickets else []

        begun = await unless_gone(request, first())
        for number, what in begun:
            self.hear(number, what)
        longest_s = self.service.deadline_s(self.asked.deadline_s) + 2 * LATE_S
        return EventStream(self._pieces(begun, events), self.answers, longest_s)

    async def _pieces(
        self, begun: Sequence[tuple[int, Token | Finished]], events: AsyncIterator[tuple[int, Token | Finished]]
    ) -> AsyncIterator[bytes]:
        more: Tree = {"usage": None} if self.asked.wants_usage else {}

        def chunk(tree: Tree | None) -> bytes:
            return b"" if tree is None else event(self.writer.chunk([tree], **more))

        yield b"".join(chunk(self.writer.opening(number)) for number in range(len(self.said)))
        for number, what in begun:
            yield self._told(number, what, chunk)
        try:
            async for number, what in events:
                self.hear(number, what)
                yield self._told(number, what, chunk)
        except ProblemError as problem:
            yield event(problem.tree)
            return
        if not self.answers.tickets:
            yield b"".join(chunk(self.writer.closing(number, None)) for number in range(len(self.said)))
        if self.asked.wants_usage:
            yield event(self.writer.chunk([], usage=self.usage))
        yield b"data: [DONE]\n\n"

    def _told(self, number: int, what: Token | Finished, chunk: Any) -> bytes:
        of = self.writer
        return chunk(of.piece(number, what) if isinstance(what, Token) else of.closing(number, what))


async def respond(
    service: Service,
    request: Request,
    asked: ChatForm | CompletionForm,
    writer: Writer,
    answers: Answers,
    size: list[int],
) -> Response:
    """Return the answers to prompts of these sizes, whole or as a stream."""
    said = [Said() for _ in range(len(size) * (asked.n or 1))]
    exchange = Exchange(service, asked, writer, answers, size, said)
    streams = False
    try:
        if asked.stream:
            response = await exchange.stream(request)
            streams = True
            return response
        return JSONResponse(await unless_gone(request, exchange.whole()))
    finally:
        if not streams:
            answers.close()


def openai_routes(service: Service) -> APIRouter:
    """Return the routes of OpenAI's interface."""
    routes = APIRouter(prefix="/v1", responses=ERRORS, tags=["openai"])
    engine, desk = service.engine, service.desk

    @routes.post("/chat/completions", response_model=ChatReply, responses=STREAMED)
    async def chat(asked: ChatForm, request: Request) -> Response:
        """Answer in a conversation."""
        service.check_model(asked.model)
        service.check_choices(1, asked.n or 1)
        logprobs = asked.wants_logprobs

        def asking() -> Asking:
            prompt = service.checked(engine.vocabulary.chat([message.plain for message in asked.messages]))
            return service.asking([prompt], asked, logprobs)

        answers = await unless_gone(request, service.ask(asking, asked))
        writer = ChatWriter(engine.vocabulary, engine.name, logprobs is not None)
        return await respond(service, request, asked, writer, answers, [len(answers.tickets[0].prompt)])

    @routes.post("/completions", response_model=TextReply, responses=STREAMED)
    async def completions(asked: CompletionForm, request: Request) -> Response:
        """Go on from texts."""
        service.check_model(asked.model)
        n, prompts = asked.n or 1, asked.prompts
        service.check_choices(len(prompts), n)
        deadline_s = service.deadline_s(asked.deadline_s)
        echoes: list[Echo] = []
        if asked.echo:
            echoes = await desk.work(request, deadline_s, partial(echoed, service, asked))
        asking = lambda: service.asking([service.tokens_of(p) for p in prompts], asked, asked.logprobs)  # noqa: E731
        answers = await unless_gone(request, service.ask(asking, asked))
        size = [len(t.prompt) for t in answers.tickets[::n]] or [len(echo.tokens) for echo in echoes]
        writer = TextWriter(engine.vocabulary, engine.name, asked.logprobs is not None, echoes, n)
        return await respond(service, request, asked, writer, answers, size)

    @routes.get("/models")
    async def models() -> ModelList:
        """List the models: one."""
        return ModelList(object="list", data=[card()])

    @routes.get("/models/{name:path}")
    async def model(name: str) -> ModelCard:
        """Return a model."""
        service.check_model(name)
        return card()

    def card() -> ModelCard:
        return ModelCard(id=engine.name, object="model", created=service.began, owned_by="surefoot")

    return routes


def echoed(service: Service, asked: CompletionForm, leash: Leash) -> list[Echo]:
    """Return the prompts as they are given back."""
    found = []
    for prompt in asked.prompts:
        ids = service.tokens_of(prompt)
        text = prompt if isinstance(prompt, str) else service.engine.vocabulary.decode(ids)
        known: Sequence[float | None] = []
        if asked.logprobs is not None:
            known = [None, *(leash.score(ids[:1], [ids[1:]])[0] if len(ids) > 1 else [])]
        found.append(Echo(text, ids, known))
    return found


def goal_routes(service: Service) -> APIRouter:
    """Return the routes that are ours."""
    routes = APIRouter(prefix="/v1", responses=ERRORS, tags=["goals"])

    @routes.post("/goals", response_model=GoalReply)
    async def goals(asked: GoalForm, request: Request) -> Response:
        """Turn a sentence into a goal, relative to the one that is pursued now; `cannot` says why there is none."""
        began = time.monotonic()
        deadline_s = service.deadline_s(asked.deadline_s)
        tree = await service.desk.work(request, deadline_s, partial(goal_of, asked))
        service.metrics.goal(time.monotonic() - began)
        return JSONResponse(tree)

    @routes.post("/score", response_model=ScoreReply)
    async def score(asked: ScoreForm, request: Request) -> Response:
        """Return how likely each candidate is to come next."""
        service.check_model(asked.model)
        if len(asked.candidates) > (most := service.limits.candidates):
            raise ProblemError(
                400, f"one request may have {most} candidates, got {len(asked.candidates)}", "candidates"
            )
        deadline_s = service.deadline_s(asked.deadline_s)
        return JSONResponse(await service.desk.work(request, deadline_s, partial(scored, service, asked)))

    return routes


def goal_of(asked: GoalForm, leash: Leash) -> Tree:
    """Return the goal of a sentence. Raises ValueError for a robot or a current goal that there is not, and TimeoutError."""
    robot = robot_of(asked.robot)
    current = None if asked.current is None else Goal.from_dict(asked.current)
    if current is not None and current.robot != robot:
        raise ProblemError(400, f"current is a goal of {current.robot!r}, not of {robot!r}", "current")
    goal, took = to_goal(asked.sentence, robot, current, leash)
    leash.left_s()  # a goal that was refused for want of time is none
    return {"goal": goal.to_dict(), "timings": took}


def scored(service: Service, asked: ScoreForm, leash: Leash) -> Tree:
    """Return the scores of candidates."""
    engine, vocabulary = service.engine, service.engine.vocabulary
    if asked.messages is not None:
        prompt = service.checked(vocabulary.chat([message.plain for message in asked.messages]))
    else:
        prompt = service.tokens_of(asked.prompt or "")
    candidates = [vocabulary.encode(text, special=False) for text in asked.candidates]
    size = sum(map(len, candidates))
    if size > (most := service.limits.prompt_tokens):
        raise ProblemError(400, f"candidates may have {most} tokens in all, got {size}", "candidates")
    found = [[bounded(logprob) for logprob in row] for row in leash.score(prompt, candidates)]
    scores = [
        {
            "index": index,
            "logprob": sum(row),
            "tokens": [vocabulary.decode([token]) for token in ids],
            "token_logprobs": row,
        }
        for index, (ids, row) in enumerate(zip(candidates, found, strict=True))
    ]
    return {"object": "score", "model": engine.name, "scores": scores, "usage": usage(len(prompt) + size, 0, 0)}


def operating_routes(service: Service) -> APIRouter:
    """Return the routes for whoever runs the service."""
    routes = APIRouter(responses=ERRORS, tags=["operation"])

    @routes.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """Say whether the service can answer; takes no token."""
        wrong = service.engine.healthy()
        return JSONResponse({"status": wrong or "ok", "draft": service.engine.drafting()}, 503 if wrong else 200)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the numbers for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return routes


def make_app(engine: Engine, limits: Limits | None = None, token: str | None = None, loopback: bool = True) -> FastAPI:
    """Return the service as an ASGI application; `app.state.desk` winds it up.

    With a token every path but /health needs it; `loopback`: only names of this machine are served.
    """
    limits = limits or Limits()
    metrics, desk = Metrics(engine.stats), Desk(engine, limits)
    service = Service(engine, limits, metrics, desk)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(title="surefoot goal service", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.desk = desk
    for routes in (openai_routes(service), goal_routes(service), operating_routes(service)):
        app.include_router(routes)
    install(app)
    conform(app, token is not None)
    app.add_middleware(Door, limits=limits, token=token, loopback=loopback, tell=metrics.served)
    return app
