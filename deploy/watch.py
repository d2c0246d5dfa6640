"""Many episodes of a preset, watched: returns, prediction errors and alarms, on one process or several, with the same result."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from agents.monitor import Course
    from agents.surprise import Calibration
    from deploy.config import RunConfig


@dataclass(frozen=True)
class Watched:
    """One episode on a clock of its own, which starts at 0."""

    episode: int
    episode_return: float
    steps: int
    ended: str
    errors: np.ndarray  # (U,) what the monitor folded, one per update
    course_UC: np.ndarray  # the signed errors behind them
    start_UO: np.ndarray  # the states they were predicted from
    alarms_s: tuple[float, ...]


def watch_episode(cfg: RunConfig, calibration: tuple[Calibration, Course] | None, episode: int) -> Watched:
    """Return what one episode showed; it depends on the config, the calibration and its number alone."""
    import torch

    from agents.learned import LearnedConfig, build_learned
    from agents.monitor import episode_course
    from deploy.interrupt import Interrupts
    from deploy.robots.sim import make_robot
    from deploy.session import Session
    from deploy.telemetry import Log
    from envs.robots import robot_spec

    torch.set_num_threads(1)
    if not isinstance(cfg.agent, LearnedConfig):
        raise ValueError(f"preset {cfg.preset!r} has no learned model to watch")
    robot, fault_s = make_robot(cfg)
    spec = robot_spec(cfg.robot, cfg.version)
    agent = build_learned(cfg.agent, spec, cfg.objective, cfg.adapt, cfg.seed, calibration)
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        log = Log(Path(folder), Interrupts().shield)
        session = Session(cfg, robot, agent, log, fault_s)
        session.run(lambda _: not session.history.episodes, first=episode)
        log.close()
    (done,) = session.history.episodes
    alarms_s = tuple(reading.t_s for _, reading in session.history.alarms)
    errors = done.error_T[np.isfinite(done.error_T)]
    course = episode_course(agent.model.dynamics, *agent.lived(), agent.course.columns)
    return Watched(episode, done.episode_return, done.steps, done.ended, errors, *course, alarms_s)


def watch(
    cfg: RunConfig, episodes: Sequence[int], workers: int = 1, calibration: tuple[Calibration, Course] | None = None
) -> Iterator[Watched]:
    """Yield the episodes in order."""
    one = partial(watch_episode, cfg, calibration)
    if workers == 1:
        yield from map(one, episodes)
        return
    from deploy.interrupt import ignored_by_children

    with ExitStack() as stack:
        with ignored_by_children():
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
        yield from pool.imap(one, episodes, chunksize=4)
