"""`surefoot goals serve`: sentences to goals, and OpenAI's interface to the same model, over HTTP until Ctrl-C."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
import uvicorn
from rich.console import Console
from uvicorn.protocols.http.h11_impl import H11Protocol

from deploy.commandline import HELP, complain, guarded, in_one_line
from deploy.goal_service.desk import Desk
from deploy.goal_service.engine import EngineConfig, build_engine
from deploy.goal_service.limits import Limits, check_token, is_loopback
from deploy.goal_service.sentences import warm_up
from deploy.goal_service.server import make_app
from deploy.interrupt import Interrupts

TOKEN_VARIABLE = "SUREFOOT_GOAL_TOKEN"
"""Of the environment; a token on the command line would be seen by everybody on the machine."""
SILENT_S = 10.0
"""A connection on which nothing whole was asked within this time is closed."""
USAGE = """usage: surefoot goals serve [OPTIONS]

  serve   sentences to goals, and OpenAI's interface to the same model, over HTTP until Ctrl-C

surefoot goals serve --help says more."""


@dataclass(frozen=True)
class ServeConfig:
    """Where to serve, to whom, and how much."""

    engine: tyro.conf.OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)
    host: str = "127.0.0.1"
    """Address to serve at; any other than loopback needs a token."""
    port: int = 8642
    """0: any that is free."""
    token_file: Path | None = None
    """File with the token that clients have to send (Authorization: Bearer ...); or set SUREFOOT_GOAL_TOKEN."""
    cert: Path | None = None
    """Certificate chain (PEM), for https; `key` is its private key."""
    key: Path | None = None
    grace_s: float = 3.0
    """Seconds that answers have to end by themselves when the service is told to stop."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        if not 0 <= self.grace_s <= 60:
            raise ValueError(f"grace_s must be between 0 and 60, got {self.grace_s}")
        if (self.cert is None) != (self.key is None):
            raise ValueError("https needs both --cert and --key")


class Patient(H11Protocol):
    """HTTP/1.1 for clients that ask at some time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(SILENT_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Serves until it is told to stop; then answers have a little time to end."""

    def __init__(self, config: uvicorn.Config, desk: Desk, grace_s: float, ready: Callable[[], None]) -> None:
        """`ready` is called once clients can connect."""
        super().__init__(config)
        self._desk, self._grace_s, self._ready = desk, grace_s, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: nothing new, and what is under way is cancelled when its time is up."""
        self._desk.wind_up()
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._desk.cancel_all)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def token_of(cfg: ServeConfig, environment: Mapping[str, str]) -> str | None:
    """Return the token that clients need, if any. Raises ValueError: a bad one, or none where there has to be one."""
    token = environment.get(TOKEN_VARIABLE)
    if cfg.token_file is not None:
        try:
            token = cfg.token_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--token-file {cfg.token_file} cannot be read: {error}") from None
    if token is not None:
        return check_token(token)
    if not is_loopback(cfg.host):
        raise ValueError(f"--host {cfg.host} can be reached from elsewhere: give --token-file or set {TOKEN_VARIABLE}")
    return None


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that will listen there. Raises ValueError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise ValueError(f"cannot serve at {host}:{port}: {error.strerror}") from None
    return made


def serve(cfg: ServeConfig, environment: Mapping[str, str], console: Console) -> None:
    """Serve until SIGINT or SIGTERM. Raises ValueError, in one line, for what cannot be served."""
    token = token_of(cfg, environment)
    place = bound(cfg.host, cfg.port)
    with console.status("loading the model"):
        engine = build_engine(cfg.engine)
    try:
        with console.status("reading the examples"):
            warm_up(engine)
        app = make_app(engine, cfg.limits, token, is_loopback(cfg.host))
        config = uvicorn.Config(
            app,
            http=Patient,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=cfg.limits.connections,
            timeout_graceful_shutdown=math.ceil(cfg.grace_s) + 2,
            ssl_certfile=cfg.cert,
            ssl_keyfile=cfg.key,
        )
        host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
        url = f"http{'s' if cfg.cert else ''}://{host}:{place.getsockname()[1]}"
        said = f"{engine.name} at {url}, {'with a token' if token else 'for this machine only'}; Ctrl-C ends it"
        server = Server(
            config, app.state.desk, cfg.grace_s, lambda: console.print(said, highlight=False, soft_wrap=True)
        )
        try:
            server.run([place])
        except KeyboardInterrupt:  # the signal that it was ended by
            console.print("ended", highlight=False)
    finally:
        engine.close()


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 after Ctrl-C or SIGTERM, 2 for bad input."""
    if not argv or argv[0] in HELP:
        print(USAGE)
        return 0 if argv else 2
    if argv[0] != "serve":
        return complain(f"no command 'goals {argv[0]}'; there is: goals serve")

    def body() -> int:
        parse = lambda: tyro.cli(ServeConfig, args=argv[1:], prog="surefoot goals serve", description=__doc__)  # noqa: E731
        serve(in_one_line(parse), os.environ, Console(stderr=True))
        return 0

    with Interrupts():
        return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
