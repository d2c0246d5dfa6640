"""The arms of a run: the robot that adapts and, in a second process, the same robot that may not.

The control arm starts no episode before the main arm has started it, so that it never runs ahead, and ends with the
main arm's last episode.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.build import build_agent, sees
from deploy.clock import MonotonicClock
from deploy.goals import check_goals
from deploy.guard import Guard
from deploy.interrupt import Interrupts, ignored_by_children
from deploy.mind import Body, Mind, NoMind, OwnMind, Tell
from deploy.operators.several import AnyOf, FirstOf
from deploy.realtime.asks import SharedGoals
from deploy.records import EpisodeRecord, RunRecord, read_episodes
from deploy.robots.hardware import spec_of
from deploy.robots.sim import make_robot
from deploy.session import SIMULATED, Session, self_armed
from deploy.telemetry import Log

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.history import History
    from deploy.loop import Agent, Robot
    from deploy.operators.crew import Crew
    from deploy.realtime.feed import Feed
    from deploy.record import Recorder

OPEN = -1  # how many episodes there will be is not known yet


@dataclass(frozen=True)
class Parts:
    """A robot and its agent, ready to run."""

    robot: Robot
    agent: Agent | None  # None: nothing plans
    fault_s: float | None  # when the first fault starts


def build(cfg: RunConfig, planner: bool = True, connect: Callable[[], Robot] | None = None) -> Parts:
    """Return what a run is made of, without writing anything; the robot is simulated, unless there is one to `connect`.

    Raises ValueError or KeyError, in one line, for bad input.
    """
    check_goals(cfg)  # refused before anything is loaded
    made = make_robot(cfg) if connect is None else None
    agent = build_agent(cfg.agent, spec_of(cfg), cfg.objective, cfg.adapt, cfg.seed) if planner else None
    robot, fault_s = made or (connect(), None)  # pyright: ignore[reportOptionalCall]
    return Parts(robot, agent, fault_s)


def open_session(
    cfg: RunConfig,
    parts: Parts,
    folder: Path,
    stop: Interrupts,
    recorder: Recorder | None = None,
    feed: Feed | None = None,
    crew: Crew | None = None,
    armed: str = SIMULATED,
) -> Session:
    """Return a session that is ready to run and writes into `folder`; `feed`: where others see it and ask; `crew`: who may steer it.

    Goals may be asked for through both. `armed`: why the robot may move at once; empty: a person of the crew arms it.
    """
    log = Log(folder, stop.shield)
    log.event(RunRecord(cfg.preset, cfg.robot, cfg.seed, parts.robot.dt_s, cfg.faults, parts.fault_s))
    # who moves it by hand from afar has to go on asking; a crew may ask for ever, if only to hold
    steering = [way for way in (feed, crew) if way is not None]
    more: dict[str, Any] = {"recorder": recorder, "feed": feed, "orders": None if crew is None else crew.orders}
    if steering:
        more["operator"] = FirstOf([way.operator for way in steering])
    switch = AnyOf([way.switch for way in steering])
    more["guard"] = self_armed(cfg.guard, switch, armed) if armed else Guard(cfg.guard, switch)
    clock = None if cfg.time == "lockstep" else MonotonicClock()
    goals = None if feed is None else feed.goals
    if crew is not None and crew.console is not None and parts.agent is not None:
        crew.console.goals = goals = goals or SharedGoals()
    return Session(cfg, parts.robot, mind_of(cfg, parts, folder, feed, goals), log, parts.fault_s, clock=clock, **more)


def mind_of(
    cfg: RunConfig, parts: Parts, folder: Path, feed: Feed | None = None, goals: SharedGoals | None = None
) -> Callable[[Tell], Mind]:
    """Return how the mind of a run is made: here, in processes of its own, or none; `goals`: where they are asked for."""
    robot = parts.robot
    spec = spec_of(cfg)
    picture = next(((*size, 3) for size in robot.camera.values() if sees(cfg.agent)), ())
    hold_A = None if spec.action.positions else robot.hold_A
    columns = {name: (at, spec.offsets.get(name, 0.0)) for name, at in spec.columns.items()}
    body = Body(robot.dt_s, spec.action.size, hold_A, robot.limits, picture, columns)
    if parts.agent is None:
        return lambda _: NoMind()
    if cfg.time == "lockstep":
        return partial(OwnMind, cfg, parts.agent, body, feed=feed, goals=goals)
    return partial(remote_mind, cfg, body, spec.state_size, folder, feed, goals)


def remote_mind(
    cfg: RunConfig, body: Body, states: int, folder: Path, feed: Feed | None, goals: SharedGoals | None, tell: Tell
) -> Mind:
    """Return a mind in processes of its own."""
    from deploy.realtime.remote import RemoteMind

    return RemoteMind(cfg, body, states, tell, folder, feed, goals)


def unlogged(
    cfg: RunConfig,
    parts: Parts,
    may_start: Callable[[History, int], bool],
    first: int = 0,
    recorder: Recorder | None = None,
) -> Session:
    """Return a session that has run from episode `first` on, while `may_start(history, episode)`; its log is not kept."""
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        session = open_session(cfg, parts, Path(folder), Interrupts(), recorder)
        session.run(partial(may_start, session.history), first=first)
        session.log.close()
    return session


def finished(history: History, cfg: RunConfig, episode: int) -> bool:
    """Return whether the run is complete before this episode."""
    adapted, partial = history.episodes_in("adapted")
    enough = not partial and len(adapted) >= cfg.adapted_episodes
    return episode >= cfg.max_episodes or enough


def save_poses(folder: Path, session: Session) -> None:
    """Write the configurations of every episode, for drawing."""
    parts = {f"episode_{e.episode}": p for e, p in zip(session.history.episodes, session.history.poses, strict=False)}
    part = folder / ".poses.part.npz"
    np.savez_compressed(part, **parts)  # pyright: ignore[reportArgumentType]
    part.replace(folder / "poses.npz")


@dataclass
class Progress:
    """How far the main arm is, shared with the control arm."""

    started: Any  # int32: episodes that the main arm has begun
    final: Any  # int32: OPEN, or how many episodes there will be
    done: Any  # int32: episodes that the control arm has completed

    def may_start(self, episode: int) -> bool:
        """Wait until the main arm is there too; return whether the episode is part of the run."""
        self.done.value = episode
        parent = multiprocessing.parent_process()
        while self.final.value == OPEN:
            if episode < self.started.value:
                return True
            if parent is not None and not parent.is_alive():
                return False
            time.sleep(0.02)
        return episode < self.final.value


def _control_arm(cfg: RunConfig, folder: Path, progress: Progress) -> None:
    """Run the control arm to its end; the body of the second process."""
    torch.set_num_threads(1)
    with Interrupts(signal.SIGTERM) as stop:  # SIGINT is for the main arm, which then decides
        try:
            session = open_session(cfg, build(cfg), folder, stop)
            session.run(progress.may_start)
        except KeyboardInterrupt:
            return  # asked to stop: what was done is in its log
        session.log.close()
        with stop.shield():
            save_poses(folder, session)


class ControlArm:
    """The second process, from start to what it found."""

    def __init__(self, cfg: RunConfig, folder: Path) -> None:
        self.folder = folder / "control"
        self.folder.mkdir()
        context = multiprocessing.get_context("spawn")
        self._progress = Progress(context.Value("i", 0), context.Value("i", OPEN), context.Value("i", 0))
        own = replace(cfg, adapt=False, control_arm=False)
        self._process = context.Process(target=_control_arm, args=(own, self.folder, self._progress), daemon=True)
        with ignored_by_children():
            self._process.start()

    def started(self, episode: int) -> None:
        """Say that the main arm begins `episode`."""
        self._progress.started.value = episode + 1

    def finish(self, episodes: int) -> None:
        """Let it complete so many episodes, and wait. Raises RuntimeError if it failed."""
        self._progress.final.value = episodes
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"the control arm failed with exit code {self._process.exitcode}; see its message above")

    def stop(self) -> None:
        """End it where it is."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5)
        if self._process.is_alive():
            self._process.kill()

    def episodes(self) -> list[EpisodeRecord]:
        """Return the episodes that it has completed."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return []
        with path.open(encoding="utf-8") as lines:
            return read_episodes(lines)

    @property
    def done(self) -> int:
        """How many episodes it has completed so far."""
        return self._progress.done.value
