"""The viewer's process: it looks at a running session as often as it can, and the session never looks back."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
import warnings
from contextlib import redirect_stdout
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Protocol

from deploy.interrupt import ignored_by_children
from deploy.realtime.channel import Latest
from deploy.realtime.feed import Feed
from envs.robots import robot_spec

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.loop import Robot

NICE = 15
"""How much it steps back behind all that moves the robot."""
RATE_HZ = 30.0
START_S, END_S = 60.0, 3.0
"""Longest waits for it to come up, and to close what it writes."""
READY, FAILED = "ready", "failed"


class LiveView(Protocol):
    """A way to show a feed."""

    @property
    def where(self) -> str:
        """Where people find it."""
        ...

    def draw(self) -> None:
        """Show the newest frame."""
        ...

    def close(self) -> None:
        """Finish what it writes."""
        ...


def feed_of(cfg: RunConfig, robot: Robot) -> Feed:
    """Return a feed for a robot, before its first reset too."""
    states = robot_spec(cfg.robot, cfg.version).state_size
    pose = len(robot.pose()) or states  # a robot without joints is where its state says
    return Feed.of(pose, states, len(robot.hold_A), tuple(limit.name for limit in robot.limits))


def open_view(cfg: RunConfig, feed: Feed, token: str) -> LiveView:
    """Return the view that is configured. Raises ValueError or OSError, in one line, where it cannot be had."""
    if cfg.view == "rerun":
        from deploy.view.stream import RerunView

        return RerunView(cfg, feed)
    from deploy.view.web import WebView

    return WebView(cfg, feed, token)


class Viewer:
    """The process, seen from the session's."""

    def __init__(self, cfg: RunConfig, feed: Feed) -> None:
        """Wait until it is up. Raises ValueError, in one line, if it does not come up."""
        context = get_context("spawn")
        self.token = secrets.token_urlsafe(9)
        self._told, self._over = Latest(1000), context.RawValue("b", 0)
        ends = self._told, self._over, os.getpid()
        self.process: Any = context.Process(target=show, args=(cfg, feed, self.token, *ends), daemon=True, name="view")
        with ignored_by_children():
            self.process.start()
        self.where = self._wait()

    def _wait(self) -> str:
        until_s = time.monotonic() + START_S
        while (found := self._told.read()) is None and self.process.is_alive() and time.monotonic() < until_s:
            time.sleep(0.02)
        state, _, said = ("", "", "it ended before it said why") if found is None else found[1].decode().partition(" ")
        if state != READY:
            self.close()
            raise ValueError(f"the view did not come up: {said}")
        return said

    def close(self) -> None:
        """End it; one that hangs is killed."""
        self._over.value = 1
        self.process.join(END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def show(cfg: RunConfig, feed: Feed, token: str, told: Latest, over: Any, parent: int) -> None:
    """Show until it is over or the parent is gone; the body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session decides when it is over
    os.nice(NICE)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # a visitor who leaves is no news
    warnings.filterwarnings("ignore", "Queued a .* on a closed connection")
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            view = open_view(cfg, feed, token)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            told.write(f"{FAILED} {error}".encode()[:1000])
            return
        told.write(f"{READY} {view.where}".encode())
        while not over.value and os.getppid() == parent:
            view.draw()
            time.sleep(1 / RATE_HZ)
        view.close()
