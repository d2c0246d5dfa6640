"""The process that thinks: it takes in what the loop saw, plans whenever it is free, and publishes; the loop never waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.mind import Body, OwnMind
from deploy.realtime.link import Kind, Link, pack_plan, pack_told
from deploy.safety import Command
from envs.types import Observation

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.mind import Jobs
    from deploy.realtime.asks import SharedGoals
    from deploy.realtime.feed import Feed

IDLE_S = 0.0003
"""How long it sleeps when there is nothing new."""


@dataclass
class Thinker:
    """A mind that is fed from a link."""

    mind: OwnMind
    link: Link
    dt_s: float
    latency_s: float | None
    """Given: no plan is there sooner after what it was made from."""
    episode: int = -1
    step: int = 0
    seen: Observation | None = None
    seen_s: float = 0.0
    last_A: np.ndarray = field(default_factory=lambda: np.zeros(0))
    first: bool = False
    """The world waits for a plan."""
    published: Any = None

    def turn(self) -> bool:
        """Take in what is new, then think about the newest; return whether there was anything to do."""
        records = self.link.heard.read()
        for record in records:
            self.hear(record)
            if int(record["kind"]) not in (Kind.STEP, Kind.FIRST):
                self.link.told.write(pack_told((int(record["number"]),)))
        if self.seen is None or not records:
            return bool(records)
        self.mind.look(self.step, self.seen, self.last_A, self.first, seen_s=self.seen_s)
        made = self.mind.made
        if made is not None and made is not self.published:
            self.published = made
            if self.latency_s is not None and not self.first:
                time.sleep(max(0.0, self.seen_s + self.latency_s - time.monotonic()))
            self.link.plan.write(pack_plan(self.episode, made.from_step, made.plan))
        self.first = False
        return True

    def hear(self, record: np.ndarray) -> None:
        """Take in one record of the loop."""
        kind, step = Kind(int(record["kind"])), int(record["step"])
        state = observation_of(record, step * self.dt_s)
        if kind is Kind.WARM_UP:
            self.mind.warm_up(int(record["episode"]), int(record["seed"]), state)
        elif kind is Kind.BEGIN:
            self.episode, self.seen = int(record["episode"]), None
            self.mind.begin(self.episode, int(record["seed"]), step)
        elif kind is Kind.END:
            self.seen = None
            self.mind.end(bool(record["terminated"]), bool(record["whole"]))
            self.mind.work(step)
        else:
            before, self.step, self.seen, self.seen_s = self.seen, step, state, float(record["seen_s"])
            self.last_A, self.first = np.array(record["action_A"]), kind is Kind.FIRST
            if kind is Kind.STEP and before is not None:
                self.mind.learn(step, before, Command(self.last_A), state, float(record["reward"]))
                self.mind.work(step)


def observation_of(record: np.ndarray, t_s: float) -> Observation:
    """Return what the loop saw at `t_s` [s]."""
    state_O = np.array(record["state_O"])
    if "image" not in (record.dtype.names or ()):
        return Observation(t_s, state_O)
    taken_s = float(record["image_t_s"])
    return Observation(t_s, state_O, np.array(record["image"]), None if np.isnan(taken_s) else taken_s)


def think(
    cfg: RunConfig,
    link: Link,
    body: Body,
    jobs_of: Callable[..., Jobs],
    parent: int,
    feed: Feed | None = None,
    goals: SharedGoals | None = None,
) -> None:
    """Think until the parent is gone; the body of the process."""
    import torch

    from agents.build import build_agent
    from envs.robots import robot_spec

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the loop decides when it is over
    torch.set_num_threads(1)
    agent = build_agent(cfg.agent, robot_spec(cfg.robot, cfg.version), cfg.objective, cfg.adapt, cfg.seed)

    def tell(report: Any) -> None:
        link.told.write(pack_told(report))

    measured = replace(cfg, plan_latency_s=None, adapt_latency_s=None)
    jobs, least_s = jobs_of(tell, body.dt_s), cfg.plan_latency_s or 0.0
    mind = OwnMind(measured, agent, body, tell, time.monotonic, jobs, least_s, feed, goals)
    thinker = Thinker(mind, link, body.dt_s, cfg.plan_latency_s)
    while os.getppid() == parent:
        if not thinker.turn():
            time.sleep(IDLE_S)
