"""Many episodes of a preset, watched: returns and prediction errors. Several sessions run side by side and plan in one batch.

A plan is the same alone and in a batch (up to the rounding of larger matrix products), so this changes the time only.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.mpc import MpcAgent, belief_of, look_ahead
from envs.types import Belief

if TYPE_CHECKING:
    from agents.monitor import Course
    from deploy.config import RunConfig
    from envs.types import Observation
    from planners.search import SearchPlanner
    from planners.types import ActionPlan

TOGETHER = 8
"""Sessions side by side in one process."""


@dataclass(frozen=True)
class Watched:
    """One episode on a clock of its own, which starts at 0."""

    episode: int
    episode_return: float
    steps: int
    ended: str
    errors: np.ndarray  # (U,) what the monitor would have folded, one per update
    error_UO: np.ndarray  # the signed errors behind them
    start_UO: np.ndarray  # the states they were predicted from


def made_with(cfg: RunConfig) -> int:
    """Return a checksum of what episodes depend on: everything but how surprise is judged and answered."""
    from agents.learned import LearnedConfig

    plain = LearnedConfig()
    agent = (
        replace(cfg.agent, surprise=plain.surprise, adapt=plain.adapt)
        if isinstance(cfg.agent, LearnedConfig)
        else cfg.agent
    )
    return zlib.crc32(repr(replace(cfg, agent=agent)).encode())


def save_watched(path: Path, made: Watched) -> None:
    """Write an episode through a temporary name."""
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **vars(made))
    part.replace(path)


def load_watched(path: Path) -> Watched:
    """Return an episode that was kept."""
    with np.load(path, allow_pickle=False) as kept:
        plain = int(kept["episode"]), float(kept["episode_return"]), int(kept["steps"]), str(kept["ended"])
        return Watched(*plain, kept["errors"], kept["error_UO"], kept["start_UO"])


class Table:
    """Where sessions in threads of one process meet: when all that still run wait for a plan, one batch makes them all."""

    def __init__(self, planner: SearchPlanner, block: int, seats: int) -> None:
        self._planner, self._block, self._seated = planner, block, seats
        self._asked: dict[int, tuple[Observation, np.ndarray, torch.Generator]] = {}
        self._plans: dict[int, ActionPlan] = {}
        self._turn = threading.Condition()

    def plan(
        self, seat: int, observation: Observation, committed_KA: np.ndarray, generator: torch.Generator
    ) -> ActionPlan:
        """Wait for the others, and return the plan of this seat."""
        with self._turn:
            self._asked[seat] = (observation, committed_KA, generator)
            self._serve()
            self._turn.wait_for(lambda: seat in self._plans)
            return self._plans.pop(seat)

    def leave(self) -> None:
        """One session has ended."""
        with self._turn:
            self._seated -= 1
            self._serve()

    def _serve(self) -> None:
        if not self._asked or len(self._asked) < self._seated:
            return
        for ahead in {len(committed) for _, committed, _ in self._asked.values()}:
            self._batch([seat for seat, (_, committed, _) in self._asked.items() if len(committed) == ahead], ahead)
        self._asked.clear()
        self._turn.notify_all()

    def _batch(self, seats: list[int], ahead: int) -> None:
        planner, asked = self._planner, [self._asked[seat] for seat in seats]
        generators = [generator for *_, generator in asked]
        z_BTD = torch.cat([belief_of(seen.state_O, planner.action.size).z_BTD for seen, *_ in asked])
        now = Belief(z_BTD, torch.zeros(len(asked), 0, planner.action.size))
        committed_BKA = np.stack([committed for _, committed, _ in asked])
        result = planner.search(
            look_ahead(planner.dynamics, now, committed_BKA, self._block, generators), None, generators
        )
        for row, (seat, (seen, *_)) in enumerate(zip(seats, asked, strict=True)):
            self._plans[seat] = planner.as_plan(result, row, seen.t_s + ahead * planner.dt_s, seen.t_s)


class Guest(MpcAgent):
    """An agent whose plans are made at the table."""

    def __init__(self, table: Table, seat: int, planner: SearchPlanner) -> None:
        super().__init__(planner, planner.dynamics, planner.dt_s, planner.action.size)
        self._table, self._seat = table, seat

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return the plan that follows the committed actions."""
        return self._table.plan(self._seat, observation, committed_KA, self.generator)


def watch_together(cfg: RunConfig, course: Course | None, episodes: Sequence[int]) -> list[Watched]:
    """Return what a few episodes showed; each depends on the config, the course and its number alone."""
    from agents.learned import LearnedConfig, load_calibration, placeholder, planner_of
    from envs.robots import robot_spec
    from world_models.checkpoint import load_model

    torch.set_num_threads(1)
    if not isinstance(cfg.agent, LearnedConfig):
        raise ValueError(f"preset {cfg.preset!r} has no learned model to watch")
    spec, model = robot_spec(cfg.robot, cfg.version), load_model(cfg.agent.folder)
    if course is None:
        course = (
            load_calibration(cfg.agent.folder)[1]
            if (cfg.agent.folder / "surprise.json").exists()
            else placeholder(spec)[1]
        )
    planner = planner_of(cfg.agent, spec, model, cfg.objective, adapted=False)
    table = Table(planner, model.dynamics.net.cfg.patch, len(episodes))
    lived: dict[int, tuple[Any, ...]] = {}

    def seat(index: int) -> None:
        try:
            lived[index] = live(cfg, Guest(table, index, planner), episodes[index])
        finally:
            table.leave()

    threads = [threading.Thread(target=seat, args=(i,)) for i in range(len(episodes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [finish(model.dynamics, course, *lived[i]) for i in range(len(episodes))]


def live(cfg: RunConfig, agent: MpcAgent, episode: int) -> tuple[Any, ...]:
    """Return one episode's record and its states, with the last (T + 1, O)."""
    from deploy.interrupt import Interrupts
    from deploy.robots.sim import make_robot
    from deploy.session import Session
    from deploy.telemetry import Log

    robot, fault_s = make_robot(cfg)
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        log = Log(Path(folder), Interrupts().shield)
        session = Session(cfg, robot, agent, log, fault_s)
        session.run(lambda _: not session.history.episodes, first=episode)
        log.close()
    (done,) = session.history.episodes
    assert session.view.observation is not None
    return done, np.concatenate([done.states_TO, session.view.observation.state_O[None]])


def finish(dynamics: Any, course: Course, done: Any, states_TO: np.ndarray) -> Watched:
    """Return an episode with its prediction errors."""
    from agents.monitor import episode_course

    error_UO, start_UO = episode_course(dynamics, states_TO, done.sent_TA)
    errors = course.errors(error_UO, start_UO)
    return Watched(done.episode, done.episode_return, done.steps, done.ended, errors, error_UO, start_UO)


def watch(cfg: RunConfig, episodes: Sequence[int], workers: int = 1, course: Course | None = None) -> Iterator[Watched]:
    """Yield the episodes in order."""
    groups = [episodes[i : i + TOGETHER] for i in range(0, len(episodes), TOGETHER)]
    some = partial(watch_together, cfg, course)
    with ExitStack() as stack:
        if workers == 1:
            found: Iterator[list[Watched]] = map(some, groups)
        else:
            from deploy.interrupt import ignored_by_children

            with ignored_by_children():
                pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            found = pool.imap(some, groups)
        for group in found:
            yield from group
