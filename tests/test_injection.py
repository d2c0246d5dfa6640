"""Faults at every boundary of a session, judged by what the plant saw.

Whatever is injected: every command is finite, of the right shape and within the limits of position, rate and acceleration;
the robot holds (or was stopped) within its deadline, or goes on where that is harmless; and then nothing moves until a
person arms it.
"""

from dataclasses import replace

import numpy as np
import pytest

from deploy.guard import Mode
from envs.types import Observation
from planners.types import PlanStatus
from tests.plant import BODIES, END_S, FAULT_S, HEAL_S, Stage

REST_S = 0.6
"""By then a robot that is held has come to rest, whatever its limits of rate and acceleration."""


def faulty(t_s: float) -> bool:
    return FAULT_S - 1e-9 <= t_s < HEAL_S - 1e-9


def hold_deadline_s(cfg, dt_s: float) -> float:
    """The longest that a robot without new plans goes on: the last good plan to its end, then the guard's patience."""
    plan_s = min(cfg.guard.plan_age_s, (cfg.plan_latency_s or 0.0) + 10 * dt_s)
    return plan_s + cfg.guard.no_plan_s + 3 * dt_s


# --- plans


def with_actions(plan, actions_HA):
    """The plan with other actions, which its constructor would have refused: as if memory had been overwritten."""
    broken = replace(plan)
    object.__setattr__(broken, "actions_HA", actions_HA)
    return broken


PLANS = {
    "nan": lambda plan: with_actions(plan, np.full_like(plan.actions_HA, np.nan)),
    "one nan": lambda plan: with_actions(plan, plan.actions_HA + np.where(np.arange(10) == 9, np.nan, 0.0)[:, None]),
    "inf": lambda plan: with_actions(plan, np.full_like(plan.actions_HA, np.inf)),
    "too wide": lambda plan: replace(plan, actions_HA=np.repeat(plan.actions_HA, 2, axis=1)),
    "too narrow": lambda plan: with_actions(plan, plan.actions_HA[:, :0]),
    "flat": lambda plan: with_actions(plan, plan.actions_HA[:, 0]),
    "failed": lambda plan: replace(plan, status=PlanStatus.FAILED),
}
WILD = {
    "huge": lambda plan: replace(plan, actions_HA=np.full_like(plan.actions_HA, 1e300, dtype=np.float64)),
    "jumping": lambda plan: replace(
        plan, actions_HA=1e9 * (-1.0) ** np.arange(10)[:, None] * np.ones_like(plan.actions_HA)
    ),
}


def assert_held_until_armed(stage, session, deadline_s):
    """The robot holds within the deadline, stands still after it has come to rest, and moves again once it is armed."""
    dt_s, words = stage.dt_s, [(round(c.t_s, 9), c.mode) for c in session.guard.changes]
    modes = [mode for _, mode in words]
    assert modes == ["armed", "running", "hold", "armed", "running"], session.guard.changes
    held_s, armed_s = words[2][0], words[3][0]
    assert FAULT_S - 1e-9 <= held_s <= FAULT_S + deadline_s
    commands = stage.witness.commands
    rest = commands[round((held_s + REST_S) / dt_s) : round(armed_s / dt_s)]
    assert len(rest) >= 3
    assert (rest == rest[0]).all()
    if not stage.plain._by_angles:
        assert (rest == stage.cfg.limits.hold_A).all()
    assert np.ptp(commands[round(armed_s / dt_s) :], axis=0).min() > 0.01


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("fault", PLANS)
def test_plans_that_cannot_be_followed_end_in_hold(tmp_path, injected, body, fault):
    cfg = BODIES[body]
    stage = Stage(cfg, plan=lambda plan, t_s: PLANS[fault](plan) if faulty(t_s) else plan)
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    assert_held_until_armed(stage, session, hold_deadline_s(cfg, stage.dt_s))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("fault", WILD)
def test_wild_plans_are_followed_as_far_as_the_limits_allow(tmp_path, injected, body, fault):
    stage = Stage(BODIES[body], plan=lambda plan, t_s: WILD[fault](plan) if faulty(t_s) else plan)
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    assert session.guard.mode is Mode.RUNNING
    assert session.history.episodes[0].altered
    assert stage.witness.count * stage.dt_s >= END_S


@pytest.mark.parametrize("body", BODIES)
def test_a_planner_that_raises_in_lockstep_ends_the_session_and_nothing_more_is_sent(tmp_path, injected, body):
    def broken(plan, t_s):
        if faulty(t_s):
            raise ZeroDivisionError("the planner is broken")
        return plan

    stage = Stage(BODIES[body], plan=broken)
    with pytest.raises(ZeroDivisionError, match="the planner is broken"):
        stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    assert stage.witness.count == round(FAULT_S / stage.dt_s)


# --- what a person asks for


def constant(value):
    return lambda last_A: np.full(len(last_A), value)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("asked", "deadline_s"),
    [
        (constant(np.nan), None),
        (constant(-np.inf), None),
        (lambda last_A: np.zeros(len(last_A) + 1), 0.0),
        (lambda last_A: np.zeros((1, len(last_A))), 0.0),
    ],
    ids=["nan", "inf", "too wide", "a row"],
)
def test_a_person_who_asks_for_what_is_no_action_ends_in_hold(tmp_path, injected, body, asked, deadline_s):
    cfg = BODIES[body]
    stage = Stage(cfg, wants=lambda t_s, last_A: asked(last_A) if faulty(t_s) else None)
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    patience_s = cfg.guard.no_plan_s if deadline_s is None else deadline_s
    assert_held_until_armed(stage, session, patience_s + 1.5 * stage.dt_s)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("value", [1e300, -1e12])
def test_a_person_who_asks_for_too_much_gets_what_the_limits_allow(tmp_path, injected, body, value):
    stage = Stage(BODIES[body], wants=lambda t_s, last_A: constant(value)(last_A) if faulty(t_s) else None)
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    assert session.guard.mode is Mode.RUNNING


# --- sensors


class Sensors:
    """Readings as a fault makes them of the true ones."""

    def __init__(self, how):
        self._how, self._seen = how, []

    def __call__(self, outcome, t_s):
        self._seen.append(outcome.observation)
        if not faulty(t_s):
            self._first = len(self._seen)
            return outcome
        return replace(outcome, observation=self._how(self._seen, self._first - 1))


def value(number):
    return lambda seen, first: Observation(seen[-1].t_s, np.full_like(seen[-1].state_O, number))


def reordered(seen, first):
    """Every other reading is older than the one before it."""
    return seen[-1] if (len(seen) - first) % 2 else seen[-3]


HELD = {
    "frozen": (lambda seen, first: Observation(seen[-1].t_s, seen[first].state_O), "frozen_s"),
    "stale": (lambda seen, first: seen[first], "stale_s"),
    "an hour back": (lambda seen, first: Observation(seen[-1].t_s - 3600.0, seen[-1].state_O), None),
    "backwards": (lambda seen, first: seen[max(0, 2 * first - len(seen))], None),
    "reordered": (reordered, None),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("fault", HELD)
def test_sensors_that_cannot_be_trusted_end_in_hold(tmp_path, injected, body, fault):
    how, patience = HELD[fault]
    cfg = BODIES[body]
    stage = Stage(cfg, read=Sensors(how))
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    patience_s = 0.0 if patience is None else getattr(cfg.guard, patience)
    assert_held_until_armed(stage, session, patience_s + 3.5 * stage.dt_s)


@pytest.mark.parametrize("body", BODIES)
def test_readings_that_come_twice_are_harmless(tmp_path, injected, body):
    stage = Stage(BODIES[body], read=Sensors(lambda seen, first: seen[-1 - (len(seen) - first) % 2]))
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    assert session.guard.mode is Mode.RUNNING
    assert stage.witness.count * stage.dt_s >= END_S


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_no_command_follows_a_reading_that_is_not_finite_but_those_of_the_next_start(tmp_path, injected, body, number):
    stage = Stage(BODIES[body], read=Sensors(value(number)))
    session = stage.play(tmp_path, episodes=2)
    injected(1, stage.witness.count, stage.violations())
    _, (_, first), (_, second) = stage.witness.episodes  # before them the planner has warmed up
    assert session.history.episodes[0].ended == "nonfinite observation"
    assert len(first) == round(FAULT_S / stage.dt_s)
    assert len(second) == 1  # whose reading is not finite either
