"""The lockstep session: episodes of one robot on one simulated clock, with thinking time charged in simulated time.

At each control step: deliver what is due (a plan, new weights), start a plan if the planner is free, send what is due
now, let the agent observe what was sent. The clock runs on across episodes, so that a fault comes at its second of the
run. At an episode's start the world waits for the first plan: the cold start is not part of what is measured.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.types import AdaptationReport, ModelSwap, SurpriseReading
from deploy.clock import SimulatedClock
from deploy.goals import parse_goals
from deploy.history import History, Phase
from deploy.loop import Agent, Outcome, Robot, ticks
from deploy.planning import PlanQueue, steps_in
from deploy.records import (
    EpisodeRecord,
    EpisodeTiming,
    JobRecord,
    JobTiming,
    PlanRecord,
    PlanTiming,
)
from deploy.safety import Command, make_safe
from deploy.streamer import Setpoint, setpoint_at
from planners.types import PlanStatus

if TYPE_CHECKING:
    from agents.types import AgentEvent
    from deploy.config import RunConfig
    from deploy.telemetry import Log
    from envs.types import Observation
    from planners.types import ActionPlan


@dataclass
class View:
    """What a display may read at any moment; the session writes it."""

    phase: Phase = "healthy"
    episode: int = 0
    t_s: float = 0.0
    observation: Observation | None = None
    reading: SurpriseReading | None = None
    alarm_s: float | None = None
    adapting_s: float | None = None
    """When the adaptation under way began, on the simulated clock."""
    due_s: float | None = None
    """When its result arrives; None while it is still computed."""
    plan_ms: float = float("nan")
    plan_age_ms: float = float("nan")


@dataclass
class Trace:
    """An episode under way."""

    episode: int
    env_seed: int
    start_step: int
    began_wall_s: float
    rows: list[tuple[Observation, Setpoint, Command, Outcome, SurpriseReading | None]] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)

    def record(self, dt_s: float, ended: str, sizes: tuple[int, int]) -> EpisodeRecord:
        """Return the episode as arrays; `sizes` are those of a state and of an action."""
        reward_T = np.array([outcome.reward for *_, outcome, _ in self.rows])
        altered = [name for _, _, command, *_ in self.rows for name in command.altered_by]
        nan = float("nan")
        readings = [reading for *_, reading in self.rows]
        return EpisodeRecord(
            episode=self.episode,
            env_seed=self.env_seed,
            start_s=self.start_step * dt_s,
            end_s=(self.start_step + len(self.rows)) * dt_s,
            steps=len(self.rows),
            episode_return=float(reward_T[np.isfinite(reward_T)].sum()),
            ended=ended,
            states_TO=_stack([before.state_O for before, *_ in self.rows], sizes[0]),
            requested_TA=_stack([setpoint.action_A for _, setpoint, *_ in self.rows], sizes[1]),
            sent_TA=_stack([command.action_A for _, _, command, *_ in self.rows], sizes[1]),
            applied_TA=_stack([outcome.applied_A for *_, outcome, _ in self.rows], sizes[1]),
            reward_T=reward_T,
            planned_T=np.array([int(setpoint.source == "plan") for _, setpoint, *_ in self.rows]),
            age_T=np.array([setpoint.age_s for _, setpoint, *_ in self.rows]),
            altered={name: altered.count(name) for name in sorted(set(altered))},
            surprise_T=np.array([r.score if r else nan for r in readings]),
            error_T=np.array([r.error if r else nan for r in readings]),
            threshold_T=np.array([r.threshold if r else nan for r in readings]),
        )


def _stack(rows: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, size))


def env_seed(seed: int, episode: int) -> int:
    """Return the seed of an episode's start, drawn from the run's seed and the episode's number."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


class Session:
    """One arm of a run: `history` and `view` may be read at any time."""

    def __init__(
        self,
        cfg: RunConfig,
        robot: Robot,
        agent: Agent,
        log: Log,
        fault_s: float | None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.history, self.view = History(fault_s, robot.dt_s), View()
        self.log, self._cfg, self._robot, self._agent = log, cfg, robot, agent
        self._timer, self._dt_s = timer, robot.dt_s
        self._queue = PlanQueue(robot.dt_s, cfg.plan_every, cfg.plan_latency_s, timer)
        self._goals = deque(parse_goals(cfg.goals))
        self._job: tuple[int, Any] | None = None
        self._trace: Trace | None = None
        self._observation: Observation | None = None
        self._running = True
        self._may_start: Callable[[int], bool] = lambda _: False

    def run(self, may_start: Callable[[int], bool], first: int = 0) -> None:
        """Run episodes from number `first` on, while `may_start(episode)`, which may wait, and until the time is up.

        An interrupt ends it with the episode under way recorded as such.
        """
        self._may_start = may_start
        self._warm_up(first)
        self._begin(first, 0)
        try:
            for tick in ticks(SimulatedClock(), self._dt_s, lambda: self._running):
                self._step(tick.index)
        except KeyboardInterrupt:
            self._finish("interrupted")
            raise

    def _warm_up(self, episode: int) -> None:
        """Plan once for nothing: what is slow only the first time belongs to no plan's latency."""
        seed = env_seed(self._cfg.seed, episode)
        self._agent.begin_episode(episode, seed)
        self._agent.plan(self._robot.reset(seed, 0.0), self._committed(0, 0))

    def _begin(self, episode: int, step: int) -> None:
        """Begin the next episode that starts with a finite observation, if any more may start."""
        while self._may_start(episode):
            if self._open(episode, step):
                return
            episode += 1
        self._running = False

    def _open(self, episode: int, step: int) -> bool:
        seed = env_seed(self._cfg.seed, episode)
        self._agent.begin_episode(episode, seed)
        self._observation = self._robot.reset(seed, step * self._dt_s)
        self._trace = Trace(episode, seed, step, self._timer(), poses=[self._robot.pose()])
        self._queue.start_episode(step)
        self.view.episode, self.view.reading = episode, None
        finite = bool(np.isfinite(self._observation.state_O).all())
        if not finite:
            self.history.nonfinite.observations += 1
            self._take(self._agent.end_episode(False))
            self._finish("nonfinite observation")
        return finite

    def _step(self, step: int) -> None:
        before, trace = self._observation, self._trace
        assert before is not None
        assert trace is not None
        self._deliver(step)
        while self._goals and self._goals[0][0] <= step * self._dt_s + 1e-9:
            self._take(self._agent.pursue(self._goals.popleft()[1], step * self._dt_s))
        if self._queue.due(step):
            self._plan(step, before, held=not trace.rows)
        setpoint = setpoint_at(self._queue.at(step), step * self._dt_s, self._robot.hold_A)
        command = self._robot.send(setpoint.action_A)
        outcome = self._robot.read((step + 1) * self._dt_s)
        finite = bool(np.isfinite(outcome.observation.state_O).all() and np.isfinite(outcome.reward))
        reading = self._observe(before, command, outcome) if finite else None
        trace.rows.append((before, setpoint, command, outcome, reading))
        trace.poses.append(self._robot.pose())
        self._observation = outcome.observation
        self.history.nonfinite.actions += "nonfinite" in command.altered_by
        self.history.nonfinite.observations += not finite
        self._show(step + 1, setpoint, reading)
        ended = self._ended(step + 1, outcome, finite)
        self._start_job(step + 1)
        if ended:
            self._end(step + 1, ended, outcome.terminated and finite)

    def _ended(self, step: int, outcome: Outcome, finite: bool) -> str | None:
        if not finite:
            return "nonfinite observation"
        if outcome.terminated:
            return "terminated"
        if outcome.truncated:
            return "truncated"
        return "limit" if self._over(step) else None

    def _over(self, step: int) -> bool:
        return step * self._dt_s >= self._cfg.max_s - 1e-9

    def _end(self, step: int, ended: str, terminated: bool) -> None:
        """Close the episode and begin the next."""
        assert self._trace is not None
        episode = self._trace.episode
        self._take(self._agent.end_episode(terminated))
        self._start_job(step)
        self._finish(ended)
        if self._over(step):
            self._running = False
        else:
            self._begin(episode + 1, step)

    def _finish(self, ended: str) -> None:
        """Record the episode under way, if there is one."""
        trace = self._trace
        if trace is None or self._observation is None:
            return
        sizes = (len(self._observation.state_O), len(self._robot.hold_A))
        record = trace.record(self._dt_s, ended, sizes)
        with self.log.shield():
            self._trace = None
            self.history.episodes.append(record)
            self.history.poses.append(np.stack(trace.poses))
            self.log.event(record)
            self.log.timing(EpisodeTiming(record.episode, self._timer() - trace.began_wall_s))

    def _plan(self, step: int, observation: Observation, held: bool) -> None:
        def think(ahead: int) -> ActionPlan:
            return self._agent.plan(observation, self._committed(step, ahead))

        made = self._queue.compute(step, think, held)
        plan, took_ms = made.plan, 1e3 * made.took_s
        self.history.plan_ms.append(took_ms)
        self.history.nonfinite.candidates += plan.rejected
        self.history.nonfinite.plans += plan.status is PlanStatus.FAILED
        self.view.plan_ms = took_ms
        t_s, visible_s = step * self._dt_s, made.visible_step * self._dt_s
        self.log.event(PlanRecord(t_s, plan.t0_s, visible_s, plan.status.value, plan.cost, plan.rejected))
        self.log.timing(PlanTiming(t_s, took_ms))

    def _committed(self, step: int, ahead: int) -> np.ndarray:
        """Return what will be sent during the next `ahead` steps, whatever is planned now, (K, A)."""
        robot, last_A, rows = self._robot, self._robot.last_A, []
        for later in range(step, step + ahead):
            setpoint = setpoint_at(self._queue.at(later), later * self._dt_s, robot.hold_A)
            last_A = make_safe(setpoint.action_A, last_A, self._dt_s, robot.limits).action_A
            rows.append(last_A)
        return _stack(rows, len(last_A))

    def _observe(self, before: Observation, command: Command, outcome: Outcome) -> SurpriseReading | None:
        return self._take(self._agent.observe(before, command.action_A, outcome.observation, outcome.reward))

    def _take(self, events: Sequence[AgentEvent]) -> SurpriseReading | None:
        """File what the agent reports; return the last reading of its surprise."""
        reading = None
        for event in events:
            if isinstance(event, SurpriseReading):
                reading = event
                if event.alarm:
                    self._alarm(event)
            elif isinstance(event, AdaptationReport):
                self.history.adaptations.append(event)
                self.log.event(event)
            elif isinstance(event, ModelSwap):
                self.history.swaps.append(event)
                self.log.event(event)
            else:
                self.history.goals.append(event)
                self.log.event(event)
        return reading

    def _alarm(self, reading: SurpriseReading) -> None:
        self.history.alarms.append((self.view.episode, reading))
        self.view.alarm_s = reading.t_s
        self.log.event(reading)

    def _start_job(self, step: int) -> None:
        """Run a waiting adaptation now; its result arrives once the time that it took has passed."""
        if not self._cfg.adapt or self._job is not None:
            return
        job = self._agent.take_job()
        if job is None:
            return
        t_s = step * self._dt_s
        self.view.adapting_s, self.view.due_s = t_s, None
        began_s = self._timer()
        result = job()
        took_s = self._timer() - began_s
        charged_s = took_s if self._cfg.adapt_latency_s is None else self._cfg.adapt_latency_s
        due = step + steps_in(charged_s, self._dt_s)
        self._job, self.view.due_s = (due, result), due * self._dt_s
        record = JobRecord(t_s, due * self._dt_s)
        self.history.jobs.append(record)
        self.log.event(record)
        self.log.timing(JobTiming(t_s, took_s))

    def _deliver(self, step: int) -> None:
        """Hand a finished adaptation to the agent, between two plans."""
        if self._job is None or step < self._job[0]:
            return
        result, self._job = self._job[1], None
        self.view.adapting_s = self.view.due_s = None
        self._take(self._agent.receive(result, step * self._dt_s))

    def _show(self, step: int, setpoint: Setpoint, reading: SurpriseReading | None) -> None:
        view, t_s = self.view, step * self._dt_s
        view.t_s, view.observation, view.plan_age_ms = t_s, self._observation, 1e3 * setpoint.age_s
        view.reading, view.phase = reading or view.reading, self.history.phase_at(t_s)
