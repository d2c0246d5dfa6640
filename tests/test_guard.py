"""The guard: only people move it back, and every watchdog ends in HOLD with a reason."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.guard import NEXT, Guard, GuardConfig, Mode
from deploy.streamer import Setpoint
from envs.types import Observation

HOLD_A = np.array([0.5])
WORDS = sorted({word for _, word in NEXT})
PEOPLE = ("arm", "reset", "disarm")
RANK = (Mode.DISARMED, Mode.ARMED, Mode.RUNNING, Mode.HOLD, Mode.ESTOP)
CFG = GuardConfig(no_plan_s=0.5, plan_age_s=1.0, stale_s=0.2, frozen_s=0.3)


class Thrown:
    thrown = ""


def running(switch=None) -> Guard:
    guard = Guard(CFG, switch)
    assert guard.command("arm", 0.0)
    assert guard.command("start", 0.0)
    return guard


def plan(value: float = 1.0, age_s: float = 0.03) -> Setpoint:
    return Setpoint(np.array([value]), "plan", age_s)


HELD = Setpoint(HOLD_A, "hold", math.inf)


def seen(t_s: float, value: float | None = None) -> Observation:
    return Observation(t_s, np.array([t_s if value is None else value]))


def admit(guard: Guard, setpoint: Setpoint, observation: Observation, now_s: float, last: float = 0.0) -> Setpoint:
    return guard.admit(setpoint, observation, np.array([last]), HOLD_A, now_s)


@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_only_people_move_the_mode_back_and_from_an_emergency_stop_only_reset_leads_away(words):
    guard = Guard(CFG)
    for t_s, word in enumerate(words):
        before = guard.mode
        legal = guard.command(word, float(t_s))
        assert legal == ((before, word) in NEXT)
        if not legal or word not in PEOPLE:
            assert RANK.index(guard.mode) >= RANK.index(before)
        if before is Mode.ESTOP and guard.mode is not Mode.ESTOP:
            assert (word, guard.mode) == ("reset", Mode.DISARMED)
        if guard.mode is Mode.RUNNING and before is not Mode.RUNNING:
            assert (before, word) == (Mode.ARMED, "start")


@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_the_robot_moves_only_while_it_is_running(words):
    guard = Guard(CFG)
    for word in words:
        guard.command(word, 0.0)
        found = admit(guard, plan(), seen(0.0), 0.0)
        assert (found.action_A[0] == 1.0) == (guard.mode is Mode.RUNNING)
        assert guard.mode is Mode.RUNNING or found.action_A[0] == HOLD_A[0]


def test_plans_are_followed_while_everything_is_fresh():
    guard = running()
    for step in range(100):
        assert admit(guard, plan(step), seen(0.1 * step), 0.1 * step, step).action_A[0] == step
    assert guard.mode is Mode.RUNNING


def test_without_a_plan_the_robot_holds_and_after_a_while_it_stays_so():
    guard = running()
    assert admit(guard, plan(), seen(0.0), 0.0).source == "plan"
    for step in range(1, 6):
        assert admit(guard, HELD, seen(0.1 * step), 0.1 * step).source == "hold"
        assert guard.mode is Mode.RUNNING
    admit(guard, HELD, seen(0.6), 0.6)
    assert (guard.mode, guard.reason) == (Mode.HOLD, "no plan to follow for 0.60 s")
    assert admit(guard, plan(), seen(0.7), 0.7).source == "hold"  # a plan again: but nobody has armed it
    assert not guard.command("start", 0.8)
    assert guard.command("arm", 0.8)
    assert guard.command("start", 0.8)
    guard.begin_episode(0.8)
    assert admit(guard, plan(), seen(0.8), 0.8).source == "plan"


def test_a_plan_from_too_old_an_observation_is_not_followed():
    guard = running()
    assert admit(guard, plan(age_s=1.01), seen(0.0), 0.0).source == "hold"
    assert guard.mode is Mode.RUNNING
    admit(guard, plan(age_s=1.7), seen(0.6), 0.6)
    assert guard.mode is Mode.HOLD


@pytest.mark.parametrize(
    ("second", "now_s", "reason"),
    [
        (seen(0.1, math.nan), 0.1, "not finite"),
        (seen(0.1, math.inf), 0.1, "not finite"),
        (seen(-0.1), 0.1, "went back from 0.000 to -0.100"),
        (seen(0.1), 0.31, "newest reading is 0.21 s old"),
    ],
)
def test_a_sensor_that_cannot_be_trusted_stops_the_robot_at_once(second, now_s, reason):
    guard = running()
    admit(guard, plan(), seen(0.0), 0.0)
    found = admit(guard, plan(), second, now_s)
    assert found.source == "hold"
    assert guard.mode is Mode.HOLD
    assert reason in guard.reason


def test_sensors_that_stand_still_while_the_command_moves_stop_the_robot():
    guard = running()
    for step in range(3):
        admit(guard, plan(), seen(0.1 * step, 3.0), 0.1 * step, last=float(step))
        assert guard.mode is Mode.RUNNING
    admit(guard, plan(), seen(0.4, 3.0), 0.4, last=4.0)
    assert guard.mode is Mode.HOLD
    assert "sensors have not changed for 0.40 s" in guard.reason


def test_a_robot_at_rest_may_read_the_same_for_ever():
    guard = running()
    for step in range(100):
        admit(guard, plan(), seen(0.1 * step, 3.0), 0.1 * step, last=1.0)
    assert guard.mode is Mode.RUNNING


def test_the_switch_stops_it_in_any_mode_and_stays_thrown():
    switch = Thrown()
    guard = running(switch)
    switch.thrown = "keyboard"
    assert admit(guard, plan(), seen(0.0), 0.0).source == "hold"
    assert (guard.mode, guard.reason) == (Mode.ESTOP, "keyboard")
    switch.thrown = ""
    for word in ("arm", "start", "hold", "disarm"):
        assert not guard.command(word, 1.0)
    assert admit(guard, plan(), seen(1.0), 1.0).source == "hold"
    assert [change.mode for change in guard.changes] == ["armed", "running", "estop"]


@pytest.mark.parametrize("name", ["no_plan_s", "plan_age_s", "stale_s", "frozen_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_watchdog_needs_a_time(name, value):
    with pytest.raises(ValueError, match=f"{name} must be > 0"):
        GuardConfig(**{name: value})


def test_a_camera_that_stops_holds_the_robot_and_one_without_times_is_left_alone():
    guard, picture = running(), np.zeros((2, 2, 3), np.uint8)
    for step in range(1, 20):
        taken_s = min(0.02 * step, 0.1)
        now = Observation(0.02 * step, np.array([float(step)]), picture, taken_s)
        admit(guard, plan(), now, 0.02 * step)
        assert (guard.mode is Mode.HOLD) == (0.02 * step - taken_s > CFG.stale_s)
    assert guard.reason == "the newest picture is 0.22 s old"
    guard = running()
    for step in range(1, 20):
        admit(guard, plan(), Observation(0.02 * step, np.array([float(step)]), picture), 0.02 * step)
    assert guard.mode is Mode.RUNNING
