"""The robot's end of the goal service: one sentence, one goal, over HTTP, with a time-out; what is wrong is one line, and no goal.

follower = GoalFollower(GoalClient("http://127.0.0.1:8642"), "walker", say=log)
follower.ask("walk slowly")          # any thread; the newest sentence counts
follower.take()                      # the loop: the newest goal that is not taken yet, or None; never waits, never raises
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agents.goals import Goal, robot_of

LARGEST = 65_536
"""Bytes of an answer."""
CHUNK = 4096
RETRY_S = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Pauses between tries; the last one is repeated."""


class Unanswered(Exception):
    """There is no goal: one line says why. `again`: it may be otherwise later."""

    def __init__(self, why: str, again: bool = True) -> None:
        super().__init__(why)
        self.again = again


@dataclass(frozen=True)
class GoalClient:
    """Where the service is, and how long to wait for it."""

    url: str
    token: str = field(default="", repr=False)
    timeout_s: float = 5.0
    """For all of an answer."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError(f"the goal service's address must be http://HOST:PORT, got {self.url!r}")
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s must be > 0 and finite, got {self.timeout_s}")
        if not self.token.isascii() or not self.token.isprintable():
            raise ValueError("the token must be printable ASCII")

    def ask(self, sentence: str, robot: str, current: Goal | None = None) -> Goal:
        """Return the goal that the service makes of a sentence. Raises Unanswered, in one line, whatever goes wrong."""
        now = None if current is None else current.to_dict()
        body = json.dumps({"sentence": sentence, "robot": robot, "current": now}).encode()
        until_s = time.monotonic() + self.timeout_s
        try:
            status, reply = self._post(body, until_s)
        except TimeoutError:
            raise Unanswered(f"no answer within {self.timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            why = f"the service's certificate is not trusted: {_line(error.verify_message)}"
            raise Unanswered(f"{why}; SSL_CERT_FILE names a file of those that are", again=False) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{type(error).__name__}: {_line(error)}") from None
        if status != 200:
            raise Unanswered(f"HTTP {status}: {_line(_detail(reply))}", again=status in (408, 429) or status >= 500)
        return _goal(reply, robot)

    def _post(self, body: bytes, until_s: float) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        port = parts.port or (http.client.HTTPS_PORT if secure else http.client.HTTP_PORT)
        link = http.client.HTTPConnection(parts.hostname, port, timeout=self.timeout_s)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        link.connect()
        if secure:
            trusted = ssl.create_default_context()
            link.sock = trusted.wrap_socket(link.sock, server_hostname=parts.hostname, do_handshake_on_connect=False)
        # a service that sends one byte at a time never times out by itself: what is late is cut off
        guard = threading.Timer(max(0.0, until_s - time.monotonic()), _cut, [link.sock])
        guard.daemon = True
        guard.start()
        try:
            if isinstance(link.sock, ssl.SSLSocket):
                link.sock.do_handshake()
            link.request("POST", f"{parts.path.rstrip('/')}/v1/goals", body, headers)
            answer = link.getresponse()
            found = answer.status, _read(answer)
        except (OSError, ValueError, http.client.HTTPException):
            if time.monotonic() >= until_s:
                raise TimeoutError from None
            raise
        finally:
            guard.cancel()
            link.close()
        if time.monotonic() >= until_s:
            raise TimeoutError
        return found


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # under TLS too, whoever reads sees the end


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Return the body. Raises Unanswered for one that is too large."""
    parts, size = [], 0
    while part := answer.read(CHUNK):
        size += len(part)
        if size > LARGEST:
            raise Unanswered(f"the answer has more than {LARGEST} bytes")
        parts.append(part)
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def _goal(reply: bytes, robot: str) -> Goal:
    try:
        tree = json.loads(reply)
    except (ValueError, RecursionError):
        raise Unanswered(f"the answer is not JSON: {reply[:60]!r}") from None
    if not isinstance(tree, dict) or "goal" not in tree:
        raise Unanswered(f"the answer has no goal: {reply[:60]!r}")
    try:
        goal = Goal.from_dict(tree["goal"])
    except ValueError as error:
        raise Unanswered(f"the answer is no legal goal: {error}") from None
    if goal.robot != robot:
        raise Unanswered(f"the goal is for a {goal.robot}, not a {robot}")
    return goal


def _detail(reply: bytes) -> str:
    """Return what an error says, if it says it in a way that is known."""
    try:
        tree = json.loads(reply)
    except (ValueError, RecursionError):
        return reply[:80].decode(errors="replace")
    found = tree.get("error", tree.get("detail", "")) if isinstance(tree, dict) else ""
    return str(found.get("message", found) if isinstance(found, dict) else found)


def _line(what: object) -> str:
    return " ".join(str(what).split())[:200]


@dataclass(frozen=True, slots=True)
class NewGoal:
    """A goal that was received, which one it is, and for which sentence."""

    goal: Goal
    version: int
    """Counts the goals received, from 1."""
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    sentence: str
    current: Goal | None


class GoalFollower:
    """A thread that asks; the loop only looks. The newest sentence counts, and the newest valid goal stays whatever happens."""

    def __init__(
        self,
        client: GoalClient,
        robot: str,
        say: Callable[[str], None] = lambda _: None,
        tries: int = 1_000_000,
        retry_s: tuple[float, ...] = RETRY_S,
    ) -> None:
        """`say`: takes one line per failure and per refusal; `tries`: of a sentence, before it is given up."""
        self._client, self._robot, self._say = client, robot_of(robot), say
        self._tries, self._retry_s = tries, retry_s
        self._asked: _Asked | None = None  # rebound, never changed: whoever reads sees all of it
        self._newest: NewGoal | None = None
        self._taken = self._version = 0
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="goals", daemon=True)
        self._thread.start()

    def ask(self, sentence: str, current: Goal | None = None) -> None:
        """Ask for a goal, given what is pursued now; a sentence that was not answered yet is forgotten."""
        self._asked = _Asked(sentence, current)
        self._wake.set()

    def take(self) -> NewGoal | None:
        """Return the newest goal, if it was not taken yet. For the loop: it does not wait."""
        newest = self._newest
        if newest is None or newest.version == self._taken:
            return None
        self._taken = newest.version
        return newest

    @property
    def newest(self) -> NewGoal | None:
        """The last valid goal, taken or not."""
        return self._newest

    def close(self) -> None:
        """Ask no more; a question under way is left to its time-out."""
        self._closed.set()
        self._wake.set()

    def _run(self) -> None:
        done: _Asked | None = None
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            while (asked := self._asked) is not done and asked is not None and not self._closed.is_set():
                done = asked
                self._pursue(asked)

    def _pursue(self, asked: _Asked) -> None:
        """Ask until there is an answer, another sentence, or no use in asking."""
        for attempt in range(self._tries):
            try:
                goal = self._client.ask(asked.sentence, self._robot, asked.current)
            except Unanswered as error:
                self._say(f"goal service: {error}")
                if not error.again or self._over(asked, self._retry_s[min(attempt, len(self._retry_s) - 1)]):
                    return
                continue
            if goal.cannot is not None:
                self._say(f"goal service: cannot: {goal.cannot}")
            elif asked is self._asked:
                self._version += 1
                self._newest = NewGoal(goal, self._version, asked.sentence)
            return

    def _over(self, asked: _Asked, pause_s: float) -> bool:
        """Wait before the next try; return whether there is none, since somebody said something else or nobody listens."""
        self._wake.wait(pause_s)
        return asked is not self._asked or self._closed.is_set()
