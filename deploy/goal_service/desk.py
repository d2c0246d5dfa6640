"""Between the event loop and the engine: no thread waits for an answer, and none is made for a client that has left."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deploy.goal_service.problems import ProblemError
from deploy.goal_service.requests import Busy, Finished, Sampling, Ticket, Token

if TYPE_CHECKING:
    from starlette.requests import Request
    from torch import Tensor

    from deploy.goal_service.engine import Engine
    from deploy.goal_service.limits import Limits
    from deploy.goal_service.vocabulary import Vocabulary

LATE_S = 5.0
"""An engine that is so much later than a deadline does not answer any more."""
SUBMITTERS = 2
"""Threads that read prompts and hand them in; what has a grammar goes through one of its own, as that may take seconds to build."""
Asking = Sequence[tuple[Sequence[int], Sampling]]


class Answers:
    """The tickets of one request as one stream of (number, event), in the order of the events of each."""

    def __init__(self, tickets: Sequence[Ticket], deadline_s: float, on_end: Callable[[Answers], None]) -> None:
        """`on_end` is called once, when all is said or it was closed."""
        self.tickets, self._on_end = tickets, on_end
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._late = self._loop.time() + deadline_s + LATE_S
        self._running, self._closed = dict(enumerate(tickets)), False
        for ticket in tickets:
            ticket.notify = self._notify

    def _notify(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Token | Finished]]:
        """Yield what the engine says. Raises ProblemError when it says nothing for too long."""
        while self._running:
            self._wake.clear()
            for number, ticket in list(self._running.items()):
                while number in self._running:
                    try:
                        event = ticket.events.get_nowait()
                    except queue.Empty:
                        break
                    if isinstance(event, Finished):
                        del self._running[number]
                    yield number, event
            if self._running:
                await self._woken()
        self.close()

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout_at(self._late):
                await self._wake.wait()
        except TimeoutError:
            raise ProblemError(503, "the engine does not answer", code="deadline", retry_s=10) from None

    def cancel(self) -> None:
        """Have it end soon."""
        for ticket in self._running.values():
            ticket.cancel()

    def close(self) -> None:
        """Listen no longer, whether it has ended or not."""
        self.cancel()
        if not self._closed:
            self._closed = True
            self._on_end(self)


class Leash:
    """The engine for somebody who works with it in a thread: what he asks for ends with his client, or his time."""

    def __init__(self, engine: Engine, deadline_s: float) -> None:
        self._engine, self._until = engine, time.monotonic() + deadline_s
        self._tickets: list[Ticket] = []
        self._cut = threading.Event()

    def left_s(self) -> float:
        """Return the seconds that are left. Raises TimeoutError where none are."""
        left = self._until - time.monotonic()
        if self._cut.is_set() or left <= 0:
            raise TimeoutError("the deadline has passed")
        return left

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Ticket:
        """Hand in a request that is no longer than the leash."""
        ticket = self._engine.submit(prompt, replace(sampling, deadline_s=min(sampling.deadline_s, self.left_s())))
        self._tickets.append(ticket)
        if self._cut.is_set():
            ticket.cancel()
        return ticket

    def score(
        self, prompt: Sequence[int], candidates: Sequence[Sequence[int]], deadline_s: float = math.inf
    ) -> list[list[float]]:
        """Return the log-probabilities of each candidate's tokens."""
        return self._engine.score(prompt, candidates, min(deadline_s, self.left_s()), self._cut)

    def mean_features(self, tokens: Sequence[int], first: int, depth: int, deadline_s: float = math.inf) -> Tensor:
        """Return the mean over the tokens from `first` on of what stands behind `depth` layers."""
        return self._engine.mean_features(tokens, first, depth, min(deadline_s, self.left_s()), self._cut)

    def cut(self) -> None:
        """End what is under way."""
        self._cut.set()
        for ticket in self._tickets:
            ticket.cancel()

    @property
    def name(self) -> str:
        """Of the engine's model."""
        return self._engine.name

    @property
    def vocabulary(self) -> Vocabulary:
        """The engine's."""
        return self._engine.vocabulary


class Desk:
    """Takes requests in, and knows which are under way."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self._submitters = ThreadPoolExecutor(SUBMITTERS, "submit")
        self._builder = ThreadPoolExecutor(1, "grammar")
        self._workers = ThreadPoolExecutor(limits.blocking, "work")
        self._open: set[Answers | Leash] = set()
        self._closing = False

    async def ask(self, asking: Callable[[], Asking], deadline_s: float, builds: bool = False) -> Answers:
        """Hand in what `asking()`, called in a thread, returns; `builds`: it has a grammar.

        Raises ProblemError: nonsense, too much, or shutting down.
        """
        self._check_open()
        threads = self._builder if builds else self._submitters
        handing_in = asyncio.wrap_future(threads.submit(self._submit, asking))
        try:
            tickets = await asyncio.shield(handing_in)
        except asyncio.CancelledError:
            handing_in.add_done_callback(_cancel_tickets)
            raise
        answers = Answers(tickets, deadline_s, self._open.discard)
        self._open.add(answers)
        if self._closing:
            answers.cancel()
        return answers

    def _submit(self, asking: Callable[[], Asking]) -> list[Ticket]:
        tickets: list[Ticket] = []
        whole = False
        try:
            for prompt, sampling in self._told(asking):
                tickets.append(self._told(partial(self.engine.submit, prompt, sampling)))
            whole = True
            return tickets
        finally:
            if not whole:
                for ticket in tickets:
                    ticket.cancel()

    async def work[T](self, request: Request, deadline_s: float, job: Callable[[Leash], T]) -> T:
        """Return what `job` makes in a thread; it is cut short when the client leaves."""
        self._check_open()
        leash = Leash(self.engine, deadline_s)
        self._open.add(leash)
        future = asyncio.wrap_future(self._workers.submit(self._told, partial(_in_time, leash, job)))
        future.add_done_callback(_heard)
        try:
            return await unless_gone(request, asyncio.wait_for(asyncio.shield(future), deadline_s + LATE_S))
        except TimeoutError:
            raise ProblemError(503, "the engine does not answer", code="deadline", retry_s=10) from None
        finally:
            leash.cut()
            self._open.discard(leash)

    def _told[T](self, body: Callable[[], T]) -> T:
        """Return what `body` returns; what it refuses is the client's business. Raises ProblemError."""
        try:
            return body()
        except Busy as error:
            if wrong := self.engine.healthy():
                raise ProblemError(503, wrong, code="engine", retry_s=10) from None
            raise ProblemError(429, str(error) or "the queue is full", code="queue_full", retry_s=1) from None
        except TimeoutError:
            raise ProblemError(503, "the deadline has passed", code="deadline", retry_s=1) from None
        except ValueError as error:
            raise ProblemError(400, str(error)) from None

    def _check_open(self) -> None:
        if self._closing:
            raise ProblemError(503, "the service is shutting down", code="shutting_down", retry_s=5)

    def wind_up(self) -> None:
        """Take nothing more in."""
        self._closing = True

    def cancel_all(self) -> None:
        """End all that is under way."""
        for one in list(self._open):
            one.cut() if isinstance(one, Leash) else one.cancel()

    def close(self) -> None:
        """Let the threads go; the engine stays."""
        self.wind_up()
        self.cancel_all()
        for pool in (self._submitters, self._builder, self._workers):
            pool.shutdown(wait=False, cancel_futures=True)


def _in_time[T](leash: Leash, job: Callable[[Leash], T]) -> T:
    """Return what `job` makes. Raises TimeoutError where its time has passed before it could begin."""
    leash.left_s()
    return job(leash)


def _cancel_tickets(done: asyncio.Future[list[Ticket]]) -> None:
    if not done.cancelled() and done.exception() is None:
        for ticket in done.result():
            ticket.cancel()


def _heard(done: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear what went wrong."""
    if not done.cancelled():
        done.exception()


async def unless_gone[T](request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. Raises ProblemError (499) when the client leaves first, and cancels the work."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ProblemError(499, "the client has left")
        return working.result()
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError, ProblemError):
                await working


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
