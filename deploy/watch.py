"""Many episodes of a preset, recorded. Several sessions run side by side and plan in one batch.

A plan is the same alone and in a batch (up to the rounding of larger matrix products), so this changes the time only.
"""

from __future__ import annotations

import multiprocessing
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from agents.mpc import MpcAgent, look_ahead
from envs.episodes import Episode, Spool
from envs.types import Belief
from world_models.checkpoint import GOAL_PARTS, GOALS, LATENT_PARTS, PARTS, TRIM

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.robots.sim import SimRobot
    from envs.types import Observation
    from planners.base import Dynamics
    from planners.search import SearchPlanner
    from planners.types import ActionPlan
    from world_models.checkpoint import WorldModel

TOGETHER = 8
"""Sessions side by side in one process."""


NEVER = ("agent", "hardware", "goals_from", "offset", "goal", "goal_service")
"""Settings that no learned robot's episode in simulation depends on, or that are counted by themselves."""


def made_with(cfg: RunConfig, judged: bool = False) -> int:
    """Return a checksum of what episodes depend on, weights included; how surprise is judged and answered only if `judged`."""
    from agents.latent import LatentConfig
    from agents.learned import LearnedConfig

    if cfg.goal:
        raise ValueError(f"a measurement names its goals as objectives, got the sentence {cfg.goal!r}")
    if isinstance(cfg.agent, LatentConfig):
        others_too = ("surprise.json",) if judged else ()
        return _weighed(cfg.agent.folder, LATENT_PARTS, others_too, zlib.crc32(repr(cfg).encode()))
    if not isinstance(cfg.agent, LearnedConfig):
        return zlib.crc32(repr(cfg).encode())
    kept = {f.name: getattr(cfg.agent, f.name) for f in fields(cfg.agent)}
    if not judged:
        del kept["surprise"], kept["adapt"]
    others = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name not in NEVER}
    total = zlib.crc32(f"{others} {kept}".encode())
    others_too = ("surprise.json", "replay.safetensors") if judged else ()
    if not (cfg.objective or cfg.goals):
        return _weighed(cfg.agent.folder, PARTS, others_too, total)
    goals = tuple(f"{GOALS}/{part}" for part in GOAL_PARTS)
    return _weighed(cfg.agent.folder, (*PARTS, *goals), (f"{GOALS}/{TRIM}", *others_too), total)


def _weighed(folder: Path, parts: Sequence[str], others: Sequence[str], total: int) -> int:
    """Return the checksum `total` with that of parts of a checkpoint and of other files there, as far as they are there."""
    for name in [*(f"{part}.{kind}" for part in parts for kind in ("json", "safetensors")), *others]:
        path = folder / name
        total = zlib.crc32(path.read_bytes() if path.exists() else b"", total)
    return total


class NoPlanError(RuntimeError):
    """Another session, or the batch, failed."""


class Table:
    """Where sessions in threads of one process meet: when all that still run wait for a plan, one batch makes them all."""

    def __init__(self, planner: SearchPlanner, ahead: Dynamics, seats: int) -> None:
        self._planner, self._ahead, self._seated = planner, ahead, seats
        self._asked: dict[int, tuple[Observation, Belief, np.ndarray, torch.Generator]] = {}
        self._plans: dict[int, ActionPlan] = {}
        self._turn, self._closed = threading.Condition(), False

    def plan(
        self, seat: int, observation: Observation, now: Belief, committed_KA: np.ndarray, generator: torch.Generator
    ) -> ActionPlan:
        """Wait for the others, and return the plan of this seat."""
        with self._turn:
            self._asked[seat] = (observation, now, committed_KA, generator)
            self._serve()
            self._turn.wait_for(lambda: seat not in self._asked or self._closed)
            if seat not in self._plans:
                raise NoPlanError("the batch that this plan was in failed")
            return self._plans.pop(seat)

    def close(self) -> None:
        """Make no more plans."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def leave(self) -> None:
        """One session has ended."""
        with self._turn:
            self._seated -= 1
            self._serve()

    def _serve(self) -> None:
        if not self._asked or len(self._asked) < self._seated:
            return
        alike: dict[tuple[int, int], list[int]] = {}
        for seat in sorted(self._asked):  # rounding depends on a row's place, which no race of threads may decide
            _, now, committed, _ = self._asked[seat]
            alike.setdefault((len(committed), now.z_BTD.shape[1]), []).append(seat)
        try:
            for (steps, _), seats in alike.items():
                self._batch(seats, steps)
        finally:
            self._asked.clear()
            self._turn.notify_all()

    def _batch(self, seats: list[int], steps: int) -> None:
        planner, asked = self._planner, [self._asked[seat] for seat in seats]
        generators = [generator for *_, generator in asked]
        now = Belief(
            torch.cat([now.z_BTD for _, now, *_ in asked]), torch.cat([now.actions_BTA for _, now, *_ in asked])
        )
        committed_BKA = np.stack([committed for _, _, committed, _ in asked])
        result = planner.search(look_ahead(self._ahead, now, committed_BKA, generators), None, generators)
        for row, (seat, (seen, *_)) in enumerate(zip(seats, asked, strict=True)):
            self._plans[seat] = planner.as_plan(result, row, seen.t_s + steps * planner.dt_s, seen.t_s)


class Guest(MpcAgent):
    """An agent whose plans are made at the table."""

    def __init__(self, table: Table, seat: int, planner: SearchPlanner, ahead: Dynamics) -> None:
        super().__init__(planner, ahead, planner.dt_s, planner.action.size)
        self._table, self._seat = table, seat

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return the plan that follows the committed actions."""
        return self._table.plan(self._seat, observation, self.belief(observation), committed_KA, self.generator)


def together[T](
    cfg: RunConfig,
    runs: Sequence[Callable[[MpcAgent], T]],
    model: WorldModel | None = None,
    planner: SearchPlanner | None = None,
) -> list[T]:
    """Return what each run makes of an agent of its own; `cfg` names model and planner, if they are not given, and the goal.

    Raises what a run raised.
    """
    from agents.goal_numbers import step_for
    from agents.learned import LearnedConfig, planner_of
    from envs.robots import robot_spec
    from world_models.checkpoint import load_model

    torch.set_num_threads(1)
    if not isinstance(cfg.agent, LearnedConfig):
        raise ValueError(f"preset {cfg.preset!r} has no learned model to watch")
    if cfg.plan_latency_s is None:
        raise ValueError("sessions that plan together cannot measure their latency: give --plan-latency")
    if cfg.agent.warm:
        raise ValueError("sessions that plan together do not know the last plan of each: agent.warm must be False")
    spec, model = robot_spec(cfg.robot, cfg.version), model or load_model(cfg.agent.folder)
    planner = planner or planner_of(cfg.agent, spec, model, cfg.objective)
    ahead = step_for(model, cfg.objective)
    table = Table(planner, ahead, len(runs))

    def seat(index: int) -> T:
        try:
            return runs[index](Guest(table, index, planner, ahead))
        finally:
            table.leave()

    with ThreadPoolExecutor(len(runs)) as pool:
        try:
            made = [pool.submit(seat, index) for index in range(len(runs))]
            errors = [error for error in [future.exception() for future in made] if error is not None]
        finally:
            table.close()  # after Ctrl-C the threads end at their next plan
    if errors:
        raise next((error for error in errors if not isinstance(error, NoPlanError)), errors[0])
    return [future.result() for future in made]


def watch_together(
    cfg: RunConfig, numbers: Sequence[int], model: WorldModel | None = None, planner: SearchPlanner | None = None
) -> list[Episode]:
    """Return a few episodes; each depends on the config, the model, the planner and its number alone."""
    return together(cfg, [partial(live, cfg, number) for number in numbers], model, planner)


def live(cfg: RunConfig, number: int, agent: MpcAgent | Callable[[SimRobot], MpcAgent]) -> Episode:
    """Return one episode on a clock of its own, which starts at 0; the agent may be made for the robot."""
    from deploy.arms import Parts, unlogged
    from deploy.robots.sim import make_robot

    robot, fault_s = make_robot(cfg)
    if not isinstance(agent, MpcAgent):
        agent = agent(robot)
    session = unlogged(cfg, Parts(robot, agent, fault_s), lambda history, _: not history.episodes, number)
    (done,) = session.history.episodes
    assert session.view.observation is not None
    return Episode(
        state_TO=np.concatenate([done.states_TO, session.view.observation.state_O[None]]),
        action_requested_TA=done.requested_TA,
        action_TA=done.sent_TA,
        action_applied_TA=done.applied_TA,
        reward_T=done.reward_T,
        terminated=done.ended == "terminated",
        truncated=done.ended != "terminated",
        seed=done.env_seed,
        meta={"index": number, "preset": cfg.preset, "ended": done.ended},
    )


def watch(cfg: RunConfig, numbers: Sequence[int], workers: int = 1, address: str | None = None) -> Iterator[Episode]:
    """Yield the episodes in order; they are made in so many processes, or on the Ray cluster at `address`."""
    groups = [numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)]
    for group in side_by_side(partial(watch_together, cfg), groups, workers, address):
        yield from group


def watch_and_keep(
    cfg: RunConfig, first: int, count: int, workers: int, folder: Path, address: str | None = None
) -> Iterator[Episode]:
    """Yield `count` episodes from number `first` on, kept in a spool under `folder`: the same call later goes on from there."""
    spool = Spool(folder / f"{cfg.preset}-{made_with(cfg):08x}")
    return keep(spool, range(first, first + count), lambda missing: watch(cfg, missing, workers, address))


def keep(spool: Spool, numbers: Sequence[int], make: Callable[[Sequence[int]], Iterator[Episode]]) -> Iterator[Episode]:
    """Yield the episodes in order: those that the spool holds, and what `make(missing)` yields, which it then holds too."""
    kept = {number for number in numbers if spool.read_if_whole(number) is not None}
    made = make([number for number in numbers if number not in kept])
    for number in numbers:
        if number in kept:
            yield spool.read(number)
        else:
            episode = next(made)
            spool.write(number, episode)
            yield episode


def side_by_side[X, T](
    make: Callable[[X], T], work: Sequence[X], workers: int, address: str | None = None
) -> Iterator[T]:
    """Yield what `make` returns for each piece of work, in order.

    With more than one worker it is made in processes, with an `address` on the Ray cluster there, whatever `workers` says.
    """
    from deploy.interrupt import ignored_by_children

    if address is not None and work:
        from deploy.sweeps.cluster import scattered

        yield from scattered(make, work, address)
        return
    if workers == 1:
        yield from map(make, work)
        return
    with ExitStack() as stack:
        with ignored_by_children():
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
        yield from pool.imap(make, work)
