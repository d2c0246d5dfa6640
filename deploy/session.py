"""A session: episodes of one robot, on a clock that counts control steps; a mind says what to do, a guard whether it may be done.

At each control step: deliver what is due (a plan, new weights), start a plan if the planner is free, send what is due
now, let the agent observe what was sent. The clock runs on across episodes, so that a fault comes at its second of the
run. At an episode's start the world waits for the first plan: the cold start is not part of what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agents.types import AdaptationReport, GoalChange, ModelSwap, SurpriseReading
from deploy.clock import Clock, SimulatedClock
from deploy.guard import Guard, GuardConfig, Mode, Switch
from deploy.history import History, Phase
from deploy.loop import Operator, Outcome, Pace, Robot
from deploy.mind import JobStarted, Mind, Tell
from deploy.orders import QUIT
from deploy.record import Recorder, Step
from deploy.records import (
    EpisodeTiming,
    GoalNote,
    JobRecord,
    JobTiming,
    LoopPriority,
    PlanRecord,
    PlanTiming,
)
from deploy.robots.fault import RobotFault
from deploy.safety import Command
from deploy.streamer import Setpoint, setpoint_at
from deploy.trace import Trace
from planners.types import PlanStatus

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.orders import Orders
    from deploy.realtime.feed import Feed
    from deploy.records import EventRecord, TimingRecord
    from deploy.telemetry import Log
    from envs.types import Observation


SIMULATED = "a simulated robot"
PATIENCE_S = 0.02
"""How often a robot that waits to be armed is looked at."""


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


def env_seed(seed: int, episode: int) -> int:
    """Return the seed of an episode's start, drawn from the run's seed and the episode's number."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def self_armed(cfg: GuardConfig, switch: Switch | None = None, why: str = SIMULATED) -> Guard:
    """Return a guard that is running: nobody is hurt by a simulated robot."""
    guard = Guard(cfg, switch)
    guard.command("arm", 0.0, why)
    guard.command("start", 0.0)
    return guard


class Session:
    """One arm of a run: `history` and `view` may be read at any time."""

    def __init__(
        self,
        cfg: RunConfig,
        robot: Robot,
        mind_of: Callable[[Tell], Mind],
        log: Log,
        fault_s: float | None,
        timer: Callable[[], float] = time.perf_counter,
        clock: Clock | None = None,
        guard: Guard | None = None,
        feed: Feed | None = None,
        operator: Operator | None = None,
        recorder: Recorder | None = None,
        orders: Orders | None = None,
    ) -> None:
        """`clock` None: simulated time. `guard` None: one that is armed and started at once, for simulated robots.

        While `orders` are attended, a robot that is held waits for somebody to arm it; else that ends the session.
        """
        self._feed, self._operator, self._recorder, self._orders = feed, operator, recorder, orders
        self.history, self.view = History(fault_s, robot.dt_s), View()
        switch = feed.switch if feed is not None else None
        self.guard, self._pace = guard or self_armed(cfg.guard, switch), Pace(clock or SimulatedClock(), robot.dt_s)
        self.log, self._cfg, self._robot = log, cfg, robot
        self._timer, self._dt_s = timer, robot.dt_s
        self._mind = mind_of(self._take)
        self._trace: Trace | None = None
        self._observation: Observation | None = None
        self._running, self._attended = True, orders is not None and orders.attended
        self._may_start: Callable[[int], bool] = lambda _: False

    def run(self, may_start: Callable[[int], bool], first: int = 0) -> None:
        """Run episodes from number `first` on, while `may_start(episode)`, which may wait, and until the time is up.

        An interrupt ends it with the episode under way recorded as such.
        """
        self._may_start = may_start
        seed, step = env_seed(self._cfg.seed, first), 0
        try:
            self._mind.warm_up(first, seed, self._robot.reset(seed, 0.0))
            self._begin(first, 0)
            while self._running:
                step = self._step(step)
        except KeyboardInterrupt:
            self._finish("interrupted")
            raise
        finally:
            self._mind.close()

    def _begin(self, episode: int, step: int) -> None:
        """Begin the next episode that starts with a finite observation, if any more may start."""
        while self._armed(step) and self._may_start(episode):
            if self._open(episode, step):
                return
            episode += 1
        self._running = False

    def _armed(self, step: int) -> bool:
        """Wait for somebody to arm the robot, if anybody is there; return whether the session goes on."""
        while self._attended and self._hear(step * self._dt_s):
            if self.guard.mode is Mode.RUNNING:
                return True
            time.sleep(PATIENCE_S)
        return not self._attended

    def _hear(self, now_s: float) -> bool:
        """Do what people said since the last time; return False if that was to end the session."""
        words = [] if self._orders is None else self._orders.take()
        for order in words:
            self.guard.command(order.word, now_s, order.reason)
        self.guard.heed(now_s)
        self._log_modes()
        return all(order.word != QUIT for order in words)

    def _log_modes(self) -> None:
        while len(self.history.modes) < len(self.guard.changes):
            self.history.modes.append(self.guard.changes[len(self.history.modes)])
            self.log.event(self.history.modes[-1])

    def _open(self, episode: int, step: int) -> bool:
        seed = env_seed(self._cfg.seed, episode)
        self._mind.begin(episode, seed, step)
        self._observation = self._robot.reset(seed, step * self._dt_s)
        self._trace = Trace(episode, seed, step, self._timer(), poses=[self._robot.pose()])
        if self._recorder is not None:
            self._recorder.begin(seed)
        self.guard.begin_episode(step * self._dt_s)
        self.view.episode, self.view.reading = episode, None
        finite = bool(np.isfinite(self._observation.state_O).all())
        if not finite:
            self.history.nonfinite.observations += 1
            self._mind.end(False, False)
            self._finish("nonfinite observation")
        return finite

    def _step(self, step: int) -> int:
        """Do what is due at `step`; return the next step that somebody decides about."""
        before, trace, robot = self._observation, self._trace, self._robot
        assert before is not None
        assert trace is not None
        first, now_s = not trace.rows, step * self._dt_s
        if not self._hear(now_s):
            self._running = False
            self._end(step, "quit", False)
            return step
        self._mind.look(step, before, robot.last_A, first)
        if first:
            self._pace.restart(step)
        asked_A = None if self._operator is None else self._operator.wants(now_s, robot.last_A)
        if asked_A is None:
            due = setpoint_at(self._mind.plan_at(step), now_s, robot.hold_A)
        else:
            due = Setpoint(asked_A, "operator", 0.0)
        setpoint = self.guard.admit(due, before, robot.last_A, robot.hold_A, now_s)
        self._log_modes()
        missed = self._pace.missed(self._advance(step, setpoint))
        for late in range(step + 1, step + 1 + missed):
            if self._trace is not trace:
                return late
            trace.missed += 1
            self._advance(late, Setpoint(robot.last_A, "late", float("inf")))
        return step + 1 + missed

    def _advance(self, step: int, setpoint: Setpoint) -> float:
        """Send, wait for the next step, read what came of it; return how late that was [s]."""
        before, trace, robot = self._observation, self._trace, self._robot
        assert before is not None
        assert trace is not None
        try:
            command = robot.send(setpoint.action_A)
            late_s = self._pace.wait(step + 1)
            outcome = robot.read((step + 1) * self._dt_s)
        except RobotFault as fault:
            self.guard.command("hold", step * self._dt_s, str(fault))
            self._end(step, "held", False)
            return 0.0
        finite = bool(np.isfinite(outcome.observation.state_O).all() and np.isfinite(outcome.reward))
        if finite:
            self._mind.learn(step + 1, before, command, outcome.observation, outcome.reward)
        with self.log.shield():
            trace.rows.append((before, setpoint, command, outcome))
            trace.poses.append(robot.pose())
            trace.late.append(late_s)
            if self._recorder is not None:
                self._recorder.record(self._as_step(before, setpoint, command, outcome))
            self._observation = outcome.observation
        trace.total += outcome.reward
        self.history.nonfinite.actions += "nonfinite" in command.altered_by
        self.history.nonfinite.observations += not finite
        self._show(step + 1, setpoint)
        if self._feed is not None:
            mode = self.guard.mode, self.guard.reason
            seen = trace.poses[-1], setpoint, command, outcome, late_s
            self._feed.show(step + 1, *seen, self.view, mode, trace.total)
        ended = self._ended(step + 1, outcome, finite)
        self._mind.work(step + 1)
        if ended:
            self._end(step + 1, ended, outcome.terminated and finite)
        return late_s

    def _as_step(self, before: Observation, setpoint: Setpoint, command: Command, outcome: Outcome) -> Step:
        """Return a control step as it is recorded."""
        goals, by = self.history.goals, "operator" if setpoint.source == "operator" else "planner"
        task = (goals[-1].objective if goals else self._cfg.objective) or self._cfg.robot
        sent_A, altered_by = command.action_A, command.altered_by
        return Step(before, setpoint.action_A, sent_A, altered_by, setpoint.age_s, outcome.reward, by, task)

    def _ended(self, step: int, outcome: Outcome, finite: bool) -> str | None:
        if not finite:
            return "nonfinite observation"
        if outcome.terminated:
            return "terminated"
        if outcome.truncated:
            return "truncated"
        if self.guard.mode is not Mode.RUNNING and not self._attended:
            return "stopped" if self.guard.mode is Mode.ESTOP else "held"
        return "limit" if self._over(step) else None

    def _over(self, step: int) -> bool:
        return step * self._dt_s >= self._cfg.max_s - 1e-9

    def _end(self, step: int, ended: str, terminated: bool) -> None:
        """Close the episode and begin the next."""
        assert self._trace is not None
        episode = self._trace.episode
        self._mind.end(terminated, self._trace.whole(ended))
        self._mind.work(step)
        self._finish(ended)
        held = self.guard.mode is not Mode.RUNNING and not self._attended
        if self._over(step) or held:
            self._running = False
        elif self._running:
            self._begin(episode + 1, step)

    def _finish(self, ended: str) -> None:
        """Record the episode under way, if there is one."""
        trace = self._trace
        if trace is None or self._observation is None:
            return
        if self._recorder is not None:
            whole = bool(trace.rows) and ended != "nonfinite observation"
            self._recorder.end(final_O=self._observation.state_O if whole else None, terminated=ended == "terminated")
        sizes = (len(self._observation.state_O), len(self._robot.hold_A))
        record = trace.record(self._dt_s, ended, sizes)
        with self.log.shield():
            self._trace = None
            self.history.add(record, np.stack(trace.poses))
            self.history.late_s.add(trace.late)
            self.history.missed += trace.missed
            self.log.event(record)
            self.log.timing(EpisodeTiming(record.episode, self._timer() - trace.began_wall_s, *trace.lateness))

    def _take(self, record: EventRecord | TimingRecord | JobStarted) -> None:
        """File what the mind reports."""
        history, view = self.history, self.view
        match record:
            case SurpriseReading():
                self._read(record)
                return
            case JobStarted():
                view.adapting_s, view.due_s = record.t_s, None
                return
            case PlanTiming():
                history.plan_ms.add([record.plan_ms])
                view.plan_ms = record.plan_ms
            case PlanRecord():
                history.nonfinite.candidates += record.rejected
                history.nonfinite.plans += record.status == PlanStatus.FAILED.value
            case LoopPriority():
                history.scheduling = record.scheduling
            case JobRecord():
                history.jobs.append(record)
                view.due_s = record.due_s
            case AdaptationReport():
                history.adaptations.append(record)
                view.adapting_s = view.due_s = None
            case ModelSwap():
                history.swaps.append(record)
            case GoalChange():
                history.goals.append(record)
            case GoalNote():
                history.notes.append(record)
        if isinstance(record, PlanTiming | JobTiming | EpisodeTiming | LoopPriority):
            self.log.timing(record)
        else:
            self.log.event(record)

    def _read(self, reading: SurpriseReading) -> None:
        """Keep a reading of surprise with its step; file an alarm."""
        if self._trace is not None:
            self._trace.readings[round(reading.t_s / self._dt_s)] = reading
        self.view.reading = reading
        if reading.alarm:
            self.history.alarms.append((self.view.episode, reading))
            self.view.alarm_s = reading.t_s
            self.log.event(reading)

    def _show(self, step: int, setpoint: Setpoint) -> None:
        view, t_s = self.view, step * self._dt_s
        view.t_s, view.observation, view.plan_age_ms = t_s, self._observation, 1e3 * setpoint.age_s
        view.phase = self.history.phase_at(t_s)
