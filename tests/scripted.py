"""A robot and an agent that do as they are told, for tests of the loop around them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.build import LinearConfig
from agents.types import AdaptationReport, ModelSwap, SurpriseReading
from configs.limits import LIMITS
from deploy.config import RunConfig
from deploy.loop import Outcome
from deploy.safety import Command, RobotLimits, make_safe
from envs.types import Observation
from planners.types import ActionPlan, PlanStatus

DT_S = 0.1
SLOW = RobotLimits(low=(-100.0,), high=(100.0,), max_rate=(1000.0,), hold=(0.0,))


def config(**changes: Any) -> RunConfig:
    base = {
        "preset": "scripted",
        "robot": "double_integrator",
        "limits": LIMITS["double_integrator"],
        "agent": LinearConfig(),
        "plan_latency_s": 0.0,
        "adapt_latency_s": 1.0,
        "max_s": 3.0,
    }
    return RunConfig(**{**base, **changes})


class ScriptedRobot:
    """State = (step of the episode, what was sent); ends after `length` steps; `observe` may spoil what it reads."""

    def __init__(self, length: int = 10, limits: RobotLimits = SLOW, spoil: Callable[[int], float] = lambda _: 0.0):
        self.dt_s, self.hold_A, self.limits = DT_S, limits.hold_A, limits.build()
        self.length, self.spoil = length, spoil
        self.last_A, self.sent, self.steps, self.total = self.hold_A, [], 0, 0

    def reset(self, seed: int, t_s: float, /) -> Observation:
        self.last_A, self.steps = self.hold_A, 0
        return Observation(t_s, np.array([0.0, self.spoil(self.total)]))

    def send(self, action_A: np.ndarray, /) -> Command:
        command = make_safe(action_A, self.last_A, self.dt_s, self.limits)
        self.last_A, self.steps, self.total = command.action_A, self.steps + 1, self.total + 1
        self.sent.append(command.action_A[0])
        return command

    def read(self, t_s: float, /) -> Outcome:
        state_O = np.array([self.steps, self.last_A[0] + self.spoil(self.total)])
        return Outcome(Observation(t_s, state_O), 1.0, self.steps >= self.length, False, self.last_A)

    def pose(self) -> np.ndarray:
        return np.zeros(1)


@dataclass
class ScriptedAgent:
    """Plan n (from 1) asks for n + row / 100; alarms at the times given, and then has a job."""

    horizon: int = 20
    fails: Callable[[int], bool] = lambda _: False
    alarms_s: tuple[float, ...] = ()
    accept: bool = True
    plans: list[tuple[float, np.ndarray]] = field(default_factory=list)
    observed: list[tuple[float, float, float]] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)
    jobs: int = 0
    received_s: list[float] = field(default_factory=list)
    waiting: bool = False
    episodes: list[tuple[int, int]] = field(default_factory=list)

    def begin_episode(self, episode, seed, /):
        self.episodes.append((episode, seed))

    def plan(self, observation, committed_KA, /):
        self.plans.append((observation.t_s, np.array(committed_KA)))
        n = len(self.plans) - 1  # the first plan only warms up
        t0_s = observation.t_s + len(committed_KA) * DT_S
        actions_HA = n + np.arange(self.horizon)[:, None] / 100
        status = PlanStatus.FAILED if self.fails(n) else PlanStatus.OK
        if status is PlanStatus.FAILED:
            actions_HA = np.full_like(actions_HA, np.nan)
        return ActionPlan(actions_HA, DT_S, t0_s, status, 0.0, observed_s=observation.t_s, rejected=int(self.fails(n)))

    def observe(self, before, action_A, after, reward, /):
        assert np.isfinite(after.state_O).all()
        self.observed.append((before.t_s, float(action_A[0]), after.t_s))
        alarm = any(abs(after.t_s - t_s) < 1e-6 for t_s in self.alarms_s)
        self.waiting |= alarm
        return [SurpriseReading(after.t_s, 1.0, 2.0 if alarm else 0.1, 1.0, False, alarm)]

    def end_episode(self, terminated, whole, /):
        self.ends.append((terminated, whole))
        return []

    def take_job(self):
        if not self.waiting:
            return None
        self.waiting = False
        self.jobs += 1
        return lambda: "weights"

    def receive(self, result, t_s, /):
        assert result == "weights"
        self.received_s.append(t_s)
        report = AdaptationReport(t_s, "dynamics", self.accept, 2.0, 1.0, 100, 3, "better by half")
        return [report, ModelSwap(t_s, "body-1.1", "accepted")] if self.accept else [report]
