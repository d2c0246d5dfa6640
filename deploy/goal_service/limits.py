"""Who may ask, how much and how often: all that is settled before a request is understood."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from deploy.goal_service.problems import ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = "/health"
"""The one path that takes no token and is never refused for being asked too often."""
CLIENTS = 4096
"""Addresses whose rate is remembered."""
SHORTEST_TOKEN = 16
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Limits:
    """What one service takes on; more gets 413 (too much at once), 429 (come again) or 400."""

    body_bytes: int = 262_144
    body_s: float = 10.0
    """A request that has not arrived after so long is dropped."""
    depth: int = 64
    """Of brackets in a request."""
    prompt_tokens: int = 8192
    max_tokens: int = 4096
    choices: int = 16
    """Answers to one request: prompts times n."""
    candidates: int = 64
    """Of one request to /v1/score."""
    concurrent: int = 128
    """Requests under way."""
    blocking: int = 8
    """Of them, sentences and scores that are worked on; the others wait."""
    connections: int = 512
    rate: float = 100.0
    """Requests per second of one client (address) ..."""
    burst: float = 200.0
    """... and how many it may have saved up."""
    deadline_s: float = 300.0
    """The longest that a request may take, and what it gets if it names no deadline."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"limits: {name} must be > 0 and finite, got {value}")


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class Bucket:
    """A client's right to ask: `burst` at once, then `rate` per second."""

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, client: str) -> float:
        """Take one; return 0, or the seconds until there is one."""
        now = self.clock()
        left, then = self._left.pop(client, (self.burst, now))
        left = min(self.burst, left + (now - then) * self.rate)
        wait_s = 0.0 if left >= 1 else (1 - left) / self.rate
        self._left[client] = (left if wait_s else left - 1, now)
        while len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return wait_s


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_a_number(text[:20])


def check_json(body: bytes, depth: int) -> None:
    """Raise ProblemError unless `body` is JSON that is not too deep, with finite numbers and text that UTF-8 can hold."""
    level = 0
    for mark in _MARK.finditer(body):
        level += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark.group(), 0)
        if level > depth:
            raise ProblemError(400, f"the body is nested more than {depth} deep")
    try:
        tree: Any = json.loads(body.decode(), parse_constant=_not_a_number, parse_float=_finite)
        if _SURROGATE.search(body):
            json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"the body is not JSON: {error}") from None


async def read(receive: Receive, limit: int, seconds: float) -> bytes | None:
    """Return the body of a request, or None when the client has left. Raises ProblemError: too long, or too slow."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise _too_long(limit)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ProblemError(408, f"the request has not arrived within {seconds:g} s") from None


def _too_long(limit: int) -> ProblemError:
    return ProblemError(413, f"the body may have {limit} bytes", code="request_too_large")


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _hostname(netloc: str) -> str:
    """Return the name in `name:port` or `[address]:port`."""
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]]*)(?::\d+)?", netloc.strip())
    return "" if found is None else (found[1] or found[2] or "").lower().rstrip(".")


class Door:
    """ASGI middleware in front of the service: token, host, rate, number and size of requests.

    `tell(method, path, status, seconds)` hears of every request; `path` is the route's, or "other".
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        token: str | None = None,
        loopback: bool = True,
        tell: Callable[[str, str, int, float], None] | None = None,
    ) -> None:
        """`loopback`: only names of this machine are served, so that a web page cannot reach in under a name of its own."""
        self._app, self._limits, self._loopback, self._tell = app, limits, loopback, tell
        self._token = None if token is None else _digest(token)
        self._bucket = Bucket(limits.rate, limits.burst)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say why not."""
        if scope["type"] != "http":  # start and end of the process
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # unless something is sent

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, sending)
        except ProblemError as problem:
            await problem.response()(scope, receive, sending)
        finally:
            if self._tell is not None:
                path = getattr(scope.get("route"), "path", "other")
                self._tell(scope["method"], path, status, time.monotonic() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_sender(scope)
        if scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        client = scope.get("client") or ("", 0)
        if (wait_s := self._bucket.take(client[0])) > 0:
            raise ProblemError(
                429, f"more than {self._limits.rate:g} requests per second", code="rate_limit_exceeded", retry_s=wait_s
            )
        self._check_token(scope)
        if self._under_way >= self._limits.concurrent and scope["method"] == "POST":
            raise ProblemError(
                429, f"{self._limits.concurrent} requests are under way", code="too_many_requests", retry_s=1
            )
        self._under_way += 1
        try:
            await self._with_body(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, check it, and hand it on."""
        promised = _header(scope, b"content-length")
        if promised is not None and promised.isdecimal() and int(promised[:20]) > self._limits.body_bytes:
            raise _too_long(self._limits.body_bytes)
        body = await read(receive, self._limits.body_bytes, self._limits.body_s)
        if body is None:
            return
        if body and "json" in (_header(scope, b"content-type") or "").lower():
            check_json(body, self._limits.depth)
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)

    def _check_sender(self, scope: Scope) -> None:
        """Raise ProblemError for a name that is not this machine's, and for a web page that is not ours."""
        host = _header(scope, b"host") or ""
        if self._loopback and not is_loopback(_hostname(host)):
            raise ProblemError(403, "this service is reached as localhost, 127.0.0.1 or [::1]", code="wrong_host")
        origin = _header(scope, b"origin")
        if origin is not None and origin.rpartition("//")[2] != host:
            raise ProblemError(403, "web pages of other hosts are not served", code="wrong_origin")

    def _check_token(self, scope: Scope) -> None:
        if self._token is None:
            return
        kind, _, given = (_header(scope, b"authorization") or "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._token):
            raise ProblemError(401, "this service needs its token: Authorization: Bearer ...", code="invalid_api_key")


def _digest(token: str) -> bytes:
    """Return what tokens are compared by: as long for every token."""
    return hashlib.sha256(token.encode()).digest()


def check_token(token: str) -> str:
    """Return a token as it is compared. Raises ValueError for one that is easily guessed, or that no header can hold."""
    token = token.strip()
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(
            f"a token has {SHORTEST_TOKEN} or more printable ASCII characters and no space, got {len(token)}"
        )
    return token
