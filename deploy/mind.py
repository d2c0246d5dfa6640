"""An agent with its plans and its jobs, on a clock that counts control steps: what thinking takes is charged in steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deploy.goals import parse_goals
from deploy.planning import Planned, PlanQueue, steps_in
from deploy.records import GoalNote, JobRecord, JobTiming, PlanRecord, PlanTiming
from deploy.safety import make_safe
from deploy.streamer import setpoint_at
from deploy.wishes import Wishes, is_sentence
from planners.types import ActionPlan, PlanStatus

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.loop import Agent
    from deploy.realtime.asks import SharedGoals
    from deploy.realtime.feed import Feed
    from deploy.records import EventRecord, TimingRecord
    from deploy.safety import Command, Limit
    from envs.types import Observation


@dataclass(frozen=True, slots=True)
class JobStarted:
    """An adaptation is being computed since `t_s` [s]; of interest to a display only."""

    t_s: float


@dataclass(frozen=True, slots=True)
class Body:
    """What of a robot bears on a plan."""

    dt_s: float
    actions: int
    hold_A: np.ndarray | None
    """What is sent without a plan; None: what was sent last."""
    limits: Sequence[Limit]
    picture: tuple[int, ...] = ()
    """Shape of the pictures that come with observations, (height, width, 3); (): none come."""
    columns: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Reading -> its column of the state, and what is added to that."""

    def readings(self, observation: Observation) -> dict[str, float]:
        """Return what a state says in physical quantities."""
        return {name: float(observation.state_O[at]) + more for name, (at, more) in self.columns.items()}


Tell = Callable[["EventRecord | TimingRecord | JobStarted"], None]
"""Where a mind reports what it did."""


class Jobs(Protocol):
    """Where an agent's jobs are done, one at a time."""

    def start(self, job: Callable[[], Any], step: int, /) -> None:
        """Begin a job at `step`."""
        ...

    @property
    def busy(self) -> bool:
        """Whether there is one that has not been delivered."""
        ...

    def done(self, step: int, /) -> Any | None:
        """Return the result that is there at `step`, once."""
        ...


class OwnJobs:
    """At once, here; the result is there once the time that it took has passed."""

    def __init__(self, dt_s: float, latency_s: float | None, tell: Tell, timer: Callable[[], float]) -> None:
        self._dt_s, self._latency_s, self._tell, self._timer = dt_s, latency_s, tell, timer
        self._waiting: tuple[int, Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a result that is not due yet."""
        return self._waiting is not None

    def start(self, job: Callable[[], Any], step: int, /) -> None:
        """Do the job."""
        t_s = step * self._dt_s
        self._tell(JobStarted(t_s))
        began_s = self._timer()
        result = job()
        took_s = self._timer() - began_s
        due = step + steps_in(took_s if self._latency_s is None else self._latency_s, self._dt_s)
        self._waiting = due, result
        self._tell(JobRecord(t_s, due * self._dt_s))
        self._tell(JobTiming(t_s, took_s))

    def done(self, step: int, /) -> Any | None:
        """Return the result if it is due."""
        if self._waiting is None or step < self._waiting[0]:
            return None
        result, self._waiting = self._waiting[1], None
        return result


class Mind(Protocol):
    """What a session asks of whoever thinks. Steps are those of the session's clock."""

    def warm_up(self, episode: int, seed: int, observation: Observation, /) -> None:
        """Do what is slow only the first time."""
        ...

    def begin(self, episode: int, seed: int, step: int, /) -> None:
        """Begin an episode whose first step is `step`."""
        ...

    def look(self, step: int, observation: Observation, last_A: np.ndarray, first: bool, /) -> None:
        """Take in what is seen before `step`; the world waits for the plan that the `first` of an episode leads to."""
        ...

    def plan_at(self, step: int, /) -> ActionPlan | None:
        """Return the plan to follow at `step`."""
        ...

    def learn(self, step: int, before: Observation, command: Command, after: Observation, reward: float, /) -> None:
        """Take in what the command of the last step led to, finite, at `step`."""
        ...

    def work(self, step: int, /) -> None:
        """Start a job that waits, at `step`."""
        ...

    def end(self, terminated: bool, whole: bool, /) -> None:
        """Take in how the episode ended, and whether the robot did all of it by itself."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class NoMind:
    """A mind that never plans: the robot is held unless somebody steers."""

    def warm_up(self, episode: int, seed: int, observation: Observation, /) -> None:
        """Nothing is slow."""

    def begin(self, episode: int, seed: int, step: int, /) -> None:
        """Nothing is remembered."""

    def look(self, step: int, observation: Observation, last_A: np.ndarray, first: bool, /) -> None:
        """Nothing is planned."""

    def plan_at(self, step: int, /) -> ActionPlan | None:
        """Return None."""

    def learn(self, step: int, before: Observation, command: Command, after: Observation, reward: float, /) -> None:
        """Nothing is learned."""

    def work(self, step: int, /) -> None:
        """There are no jobs."""

    def end(self, terminated: bool, whole: bool, /) -> None:
        """Nothing follows."""

    def close(self) -> None:
        """Nothing was started."""


def committed(
    body: Body,
    plan_at: Callable[[int], ActionPlan | None],
    last_A: np.ndarray,
    rate_A: np.ndarray,
    step: int,
    ahead: int,
) -> np.ndarray:
    """Return what will be sent during the next `ahead` steps, whatever is planned now, (K, A)."""
    rows = np.empty((ahead, len(last_A)))
    for row, later in enumerate(range(step, step + ahead)):
        hold_A = last_A if body.hold_A is None else body.hold_A
        setpoint = setpoint_at(plan_at(later), later * body.dt_s, hold_A)
        sent_A = make_safe(setpoint.action_A, last_A, body.dt_s, body.limits, rate_A).action_A
        rows[row], rate_A, last_A = sent_A, (sent_A - last_A) / body.dt_s, sent_A
    return rows


def executable(plan: ActionPlan, actions: int) -> ActionPlan:
    """Return the plan; a failed one in its place, if its rows are not finite or not for so many actuators."""
    rows = plan.actions_HA
    fits = rows.ndim == 2 and rows.shape[1] == actions and np.isfinite(rows).all()
    if fits or plan.status is PlanStatus.FAILED:
        return plan
    return ActionPlan(
        np.full((1, actions), np.nan), plan.dt_s, plan.t0_s, PlanStatus.FAILED, observed_s=plan.observed_s
    )


class OwnMind:
    """A mind in the session's own process: the session waits while it thinks, and time is charged for it."""

    def __init__(
        self,
        cfg: RunConfig,
        agent: Agent,
        body: Body,
        tell: Tell,
        timer: Callable[[], float] = time.perf_counter,
        jobs: Jobs | None = None,
        least_s: float = 0.0,
        feed: Feed | None = None,
        goals: SharedGoals | None = None,
    ) -> None:
        """`least_s`: where latency is measured, what a plan takes at least; others see plans in `feed`, and ask for `goals`."""
        self._cfg, self._agent, self._body, self._tell, self._feed, self._asked = cfg, agent, body, tell, feed, goals
        self._jobs: Jobs = jobs or OwnJobs(body.dt_s, cfg.adapt_latency_s, tell, timer)
        self.made: Planned | None = None
        """The newest plan, with the steps from which it is known and followed."""
        self._queue = PlanQueue(body.dt_s, cfg.plan_every, cfg.plan_latency_s, timer, cfg.compensate, least_s)
        self._goals, self._wishes = deque(parse_goals(cfg.goals)), Wishes.of(cfg)
        self._first = cfg.goal
        self._last_A = self._rate_A = np.zeros(body.actions)

    def warm_up(self, episode: int, seed: int, observation: Observation, /) -> None:
        """Plan once for nothing: what is slow only the first time belongs to no plan's latency."""
        self._agent.begin_episode(episode, seed)
        self._agent.plan(observation, np.empty((0, self._body.actions)))

    def begin(self, episode: int, seed: int, step: int, /) -> None:
        """Begin an episode; every plan is forgotten."""
        self._agent.begin_episode(episode, seed)
        self._queue.start_episode(step)

    def look(
        self, step: int, observation: Observation, last_A: np.ndarray, first: bool, /, seen_s: float | None = None
    ) -> None:
        """Deliver what is due, pursue what is asked for, and plan if the planner is free; `seen_s`: since when, by the timer."""
        t_s = step * self._body.dt_s
        if first:
            self._last_A = last_A
        self._rate_A, self._last_A = (last_A - self._last_A) / self._body.dt_s, last_A
        self._deliver(step)
        self._want(t_s, observation)
        if self._queue.due(step):
            self._plan(step, observation, last_A, first, seen_s)

    def _want(self, t_s: float, observation: Observation) -> None:
        """Pursue what the run is to pursue by now, and what is asked for."""
        while self._goals and self._goals[0][0] <= t_s + 1e-9:
            _, wanted = self._goals.popleft()
            if is_sentence(wanted):
                self._note(t_s, self._try(wanted, t_s))
            else:
                self._report(self._agent.pursue(self._wishes.hear(wanted, t_s), t_s))
        if self._first:
            first, self._first = self._first, ""
            self._note(t_s, self._try(first, t_s))
        if self._asked is not None and (asked := self._asked.take()) is not None:
            self._note(t_s, self._try(asked, t_s))
        if (due := self._wishes.due(t_s, self._body.readings(observation))) is not None:
            self._note(t_s, self._pursue(due, t_s))
        for text in self._wishes.notes():
            self._note(t_s, text)

    def _note(self, t_s: float, text: str) -> None:
        self._tell(GoalNote(t_s, text))
        if self._asked is not None:
            self._asked.say(text)

    def _try(self, text: str, t_s: float) -> str:
        """Pursue what somebody asks for, in words or as an objective, if it is legal here; return what became of it."""
        try:
            return self._pursue(self._wishes.hear(text, t_s), t_s)
        except ValueError as error:
            return f"refused: {error}"

    def _pursue(self, objective: str, t_s: float) -> str:
        try:
            self._report(self._agent.pursue(objective, t_s))
        except ValueError as error:
            return f"refused: {error}"
        return f"pursuing {objective or 'the task'} since {t_s:.1f} s"

    def plan_at(self, step: int, /) -> ActionPlan | None:
        """Return the plan to follow at `step`."""
        return self._queue.at(step)

    def learn(self, step: int, before: Observation, command: Command, after: Observation, reward: float, /) -> None:
        """Let the agent observe what was sent and what it led to."""
        self._report(self._agent.observe(before, command.action_A, after, reward))

    def work(self, step: int, /) -> None:
        """Start an adaptation that waits, if none is under way."""
        if self._cfg.adapt and not self._jobs.busy and (job := self._agent.take_job()) is not None:
            self._jobs.start(job, step)

    def end(self, terminated: bool, whole: bool, /) -> None:
        """Let the agent take in how the episode ended."""
        self._report(self._agent.end_episode(terminated, whole))

    def close(self) -> None:
        """Ask for no more goals."""
        self._wishes.close()

    def _report(self, events: Sequence[Any]) -> None:
        for event in events:
            self._tell(event)

    def _deliver(self, step: int) -> None:
        """Hand a finished adaptation to the agent, between two plans."""
        result = self._jobs.done(step)
        if result is not None:
            self._report(self._agent.receive(result, step * self._body.dt_s))

    def _plan(self, step: int, observation: Observation, last_A: np.ndarray, held: bool, seen_s: float | None) -> None:
        def think(ahead: int) -> ActionPlan:
            due_KA = committed(self._body, self._queue.at, last_A, self._rate_A, step, ahead)
            return executable(self._agent.plan(observation, due_KA), self._body.actions)

        self.made = made = self._queue.compute(step, think, held, seen_s)
        t_s, plan = step * self._body.dt_s, made.plan
        if self._feed is not None:
            self._feed.foresee(plan)
        self._tell(
            PlanRecord(t_s, plan.t0_s, made.visible_step * self._body.dt_s, plan.status.value, plan.cost, plan.rejected)
        )
        self._tell(PlanTiming(t_s, 1e3 * made.took_s))
