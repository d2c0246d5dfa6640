"""Who waits for a place in the engine: whoever gives up, or runs out of time, gives his place to others at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.goal_service.grammar import Matcher
from deploy.goal_service.requests import Busy, Finished, Reason, Ticket, Timings

if TYPE_CHECKING:
    from deploy.goal_service.scoring import Looks


@dataclass
class Waiting:
    """A text that is to be written."""

    ticket: Ticket
    since_s: float
    matcher: Matcher | None

    def over(self) -> Reason | None:
        """Return why it need not be begun any more."""
        if self.ticket.cancelled.is_set():
            return "cancelled"
        late = time.monotonic() - self.since_s > self.ticket.sampling.deadline_s
        return "deadline" if late else None

    def tell(self, reason: Reason, message: str) -> None:
        """End it, before its first token."""
        waited_s = time.monotonic() - self.since_s
        count = len(self.ticket.prompt)
        nothing = Timings(count, 0, 0, waited_s, waited_s, waited_s, 0, 0, 0, 0, 0, 0, "ar")
        self.ticket.tell(Finished(reason, nothing, message))


@dataclass
class Looking:
    """A text that nobody writes, and what is asked about it."""

    looks: Looks[Any]
    until_s: float
    cancelled: threading.Event
    done: Future[Any] = field(default_factory=Future)

    def over(self) -> Reason | None:
        """Return why it need not be done any more."""
        if self.cancelled.is_set():
            return "cancelled"
        return "deadline" if time.monotonic() > self.until_s else None

    def tell(self, reason: Reason, message: str) -> None:
        """Say that there will be no answer."""
        late = TimeoutError("the deadline passed before the model had looked at it all")
        with suppress(InvalidStateError):
            self.done.set_exception(Busy(message) if reason == "error" else late)


class WaitingLine:
    """First come, first served; any thread may ask."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting | Looking] = deque()
        self._some = threading.Condition()

    def __len__(self) -> int:
        """Return how many wait."""
        with self._some:
            return sum(asked.over() is None for asked in self._waiting)

    def put(self, asked: Waiting | Looking, room: int) -> None:
        """Add one, where fewer than `room` wait. Raises Busy."""
        self.sweep()
        with self._some:
            if len(self._waiting) >= room:
                raise Busy(f"{len(self._waiting)} requests are waiting")
            self._waiting.append(asked)
            self._some.notify()

    def get(self, timeout_s: float) -> Waiting | Looking | None:
        """Return the next, or None where none comes in time."""
        self.sweep()
        with self._some:
            return self._waiting.popleft() if self._some.wait_for(lambda: self._waiting, timeout_s) else None

    def sweep(self) -> None:
        """Tell those who need not wait any more that it is over."""
        with self._some:
            judged: list[tuple[Waiting | Looking, Reason | None]] = [(a, a.over()) for a in self._waiting]
            self._waiting = deque(asked for asked, reason in judged if reason is None)
        for asked, reason in judged:
            if reason is not None:
                asked.tell(reason, "")

    def end(self, message: str) -> None:
        """Tell everybody that it is over."""
        with self._some:
            gone, self._waiting = self._waiting, deque()
        for asked in gone:
            asked.tell("error", message)
