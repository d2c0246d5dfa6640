"""The loop's end: a mind that thinks in another process and learns in a third, and that the loop never waits for while it runs."""

from __future__ import annotations

import multiprocessing
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.interrupt import ignored_by_children
from deploy.realtime.adapter import AdapterJobs, adapt
from deploy.realtime.link import Kind, Link, unpack_plan, unpack_told
from deploy.realtime.priority import loop_first, loop_like_others
from deploy.realtime.thinker import think
from deploy.records import LoopPriority
from planners.types import PlanStatus

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.mind import Body, Tell
    from deploy.realtime.asks import SharedGoals
    from deploy.realtime.feed import Feed
    from deploy.safety import Command
    from envs.types import Observation
    from planners.types import ActionPlan

START_S, BETWEEN_S = 120.0, 60.0
"""Longest wait for the processes to come up, and for what is done while the world waits."""


class RemoteMind:
    """A mind behind a link. While an episode runs, nothing here blocks; between episodes the world waits."""

    def __init__(
        self,
        cfg: RunConfig,
        body: Body,
        states: int,
        tell: Tell,
        folder: Path,
        feed: Feed | None = None,
        goals: SharedGoals | None = None,
    ) -> None:
        self._link, self._tell = Link.of(states, body.actions, body.picture), tell
        self._last = 0  # step of the session that was told of last
        self._episode, self._seen_plan, self._sent, self._awaited, self._acked = -1, 0, 0, 0, 0
        self._plans: list[tuple[int, ActionPlan]] = []
        context = multiprocessing.get_context("spawn")
        asked, asking = context.Pipe(duplex=False)
        jobs = partial(AdapterJobs, asking, folder / "adaptations")
        self._thinker = context.Process(
            target=think, args=(cfg, self._link, body, jobs, os.getpid(), feed, goals), daemon=True, name="planner"
        )
        self._adapter = context.Process(target=adapt, args=(cfg, asked), daemon=True, name="adapter")
        with ignored_by_children():
            self._thinker.start()
            if cfg.adapt:
                self._adapter.start()
        asked.close()
        asking.close()
        tell(LoopPriority(loop_first()))

    @property
    def processes(self) -> list[Any]:
        """Those that think and learn."""
        return [p for p in (self._thinker, self._adapter) if p.pid is not None]

    def close(self) -> None:
        """End them."""
        loop_like_others()
        for process in self.processes:
            process.kill()
            process.join()

    def warm_up(self, episode: int, seed: int, observation: Observation, /) -> None:
        """Wait until the thinker is up and has planned once. Raises RuntimeError if it does not come up."""
        self._send(Kind.WARM_UP, 0, episode, seed, observation)
        if not self._wait(self._caught_up, START_S):
            raise RuntimeError(f"the planner did not come up within {START_S:g} s{self._fate()}")

    def begin(self, episode: int, seed: int, step: int, /) -> None:
        """Forget every plan."""
        self._episode, self._plans = episode, []
        self._send(Kind.BEGIN, step, episode, seed)

    def look(self, step: int, observation: Observation, last_A: np.ndarray, first: bool, /) -> None:
        """Take in plans and reports; the world waits for the first plan of an episode."""
        if first:
            self._send(Kind.FIRST, step, self._episode, 0, observation, last_A)
            self._wait(lambda: bool(self._plans), BETWEEN_S)
        self._listen()

    def plan_at(self, step: int, /) -> ActionPlan | None:
        """Return the newest plan that may be followed at `step`."""
        return next((plan for from_step, plan in reversed(self._plans) if from_step <= step), None)

    def learn(self, step: int, before: Observation, command: Command, after: Observation, reward: float, /) -> None:
        """Pass on what was seen."""
        self._last = step
        self._send(Kind.STEP, step, self._episode, 0, after, command.action_A, reward)

    def work(self, step: int, /) -> None:
        """The thinker starts jobs by itself."""

    def end(self, terminated: bool, whole: bool, /) -> None:
        """Wait until the thinker has taken in the whole episode: its last reports belong to it."""
        self._send(Kind.END, self._last, self._episode, 0, terminated=terminated, whole=whole)
        self._wait(self._caught_up, BETWEEN_S)

    def _send(
        self,
        kind: Kind,
        step: int,
        episode: int,
        seed: int,
        seen: Observation | None = None,
        action_A: np.ndarray | None = None,
        reward: float = 0.0,
        terminated: bool = False,
        whole: bool = False,
    ) -> None:
        record = np.zeros((), self._link.heard.dtype)
        record["kind"], record["step"], record["episode"], record["seed"] = kind, step, episode, seed
        record["seen_s"], record["reward"] = time.monotonic(), reward
        record["terminated"], record["whole"] = terminated, whole
        if seen is not None:
            record["state_O"] = seen.state_O
            if seen.image is not None and "image" in self._link.heard.dtype.fields:  # pyright: ignore[reportOperatorIssue]
                record["image"], record["image_t_s"] = seen.image, np.nan if seen.image_t_s is None else seen.image_t_s
        if action_A is not None:
            record["action_A"] = action_A
        self._sent += 1
        record["number"] = self._sent
        self._link.heard.write(record)
        if kind not in (Kind.STEP, Kind.FIRST):
            self._awaited = self._sent

    def _caught_up(self) -> bool:
        return self._acked >= self._awaited

    def _listen(self) -> None:
        """Take in what is there."""
        for record in self._link.told.read():
            told = unpack_told(record)
            if isinstance(told, tuple):
                self._acked = told[0]
            else:
                self._tell(told)
        found = self._link.plan.read(self._seen_plan)
        if found is not None:
            self._seen_plan = found[0]
            episode, from_step, plan = unpack_plan(found[1])
            if episode == self._episode and (plan.status is not PlanStatus.FAILED or not self._plans):
                self._plans = [*self._plans[-3:], (from_step, plan)]

    def _wait(self, there: Any, longest_s: float) -> bool:
        """Listen until `there()`, at most so long, and no longer than the thinker lives; return whether it is there."""
        until_s = time.monotonic() + longest_s
        while not there():
            self._listen()
            if time.monotonic() > until_s or not self._thinker.is_alive():
                return there()
            time.sleep(0.0005)
        return True

    def _fate(self) -> str:
        code = self._thinker.exitcode
        return "" if code is None else f": it ended with exit code {code}"
