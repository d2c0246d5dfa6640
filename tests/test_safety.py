"""Whatever is asked for, only what is allowed is sent."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.limits import LIMITS
from deploy.robots.sim import SimRobot
from deploy.safety import RobotLimits, make_safe
from envs.robots import ROBOTS, make_env

LIMIT = RobotLimits(low=(-1.0, -2.0), high=(1.0, 0.5), max_rate=(3.0, 40.0), hold=(0.0, 0.0))
DT_S = 0.1
anything = arrays(np.float64, 2, elements=st.floats(width=64))
inside = st.tuples(st.floats(-1, 1), st.floats(-2, 0.5)).map(np.array)


@given(anything, inside)
def test_whatever_is_asked_for_what_is_sent_is_finite_inside_the_bounds_and_slow_enough(action_A, last_A):
    sent_A = make_safe(action_A, last_A, DT_S, LIMIT.build()).action_A
    assert np.isfinite(sent_A).all()
    assert (sent_A >= LIMIT.low).all()
    assert (sent_A <= LIMIT.high).all()
    assert (np.abs(sent_A - last_A) <= np.array(LIMIT.max_rate) * DT_S + 1e-12).all()


ARM = RobotLimits(low=(-1.0, -2.0), high=(1.0, 0.5), max_rate=(3.0, 1.5), hold=(0.0, 0.0), max_accel=(8.0, 20.0))
ARM_DT_S = 0.02


@given(st.lists(st.one_of(anything, inside), min_size=1, max_size=80), inside)
def test_whatever_is_asked_for_in_a_row_an_arm_keeps_bounds_rate_and_acceleration_at_once(asked, last_A):
    limits, rate_A, dt_s = ARM.build(), np.zeros(2), ARM_DT_S
    for action_A in asked:
        sent_A = make_safe(action_A, last_A, dt_s, limits, rate_A).action_A
        now_A = (sent_A - last_A) / dt_s
        assert np.isfinite(sent_A).all()
        assert (sent_A >= ARM.low).all()
        assert (sent_A <= ARM.high).all()
        assert (np.abs(now_A) <= np.array(ARM.max_rate) + 1e-9).all()
        assert (np.abs(now_A - rate_A) <= np.array(ARM.max_accel) * dt_s + 1e-7).all()
        last_A, rate_A = sent_A, now_A


def test_an_arm_that_is_sent_to_its_bound_gets_there_and_stops():
    limits, last_A, rate_A = ARM.build(), np.zeros(2), np.zeros(2)
    for _ in range(200):
        sent_A = make_safe(np.array([9.0, -9.0]), last_A, ARM_DT_S, limits, rate_A).action_A
        rate_A, last_A = (sent_A - last_A) / ARM_DT_S, sent_A
    assert last_A == pytest.approx([1.0, -2.0], abs=1e-3)
    assert rate_A == pytest.approx([0.0, 0.0], abs=1e-6)


def test_an_arm_that_is_asked_for_nonsense_glides_to_a_stop():
    limits = ARM.build()
    command = make_safe(np.full(2, np.nan), np.zeros(2), ARM_DT_S, limits, np.array([1.0, 0.0]))
    assert command.altered_by == ("nonfinite", "acceleration")
    assert command.action_A == pytest.approx([1.0 * ARM_DT_S - 8.0 * ARM_DT_S**2, 0.0])


@given(inside, inside)
def test_a_legal_action_passes_unchanged_and_an_altered_one_says_why(action_A, last_A):
    command = make_safe(action_A, last_A, DT_S, LIMIT.build())
    legal = (np.abs(action_A - last_A) <= np.array(LIMIT.max_rate) * DT_S).all()
    assert bool(command.altered_by) == (not np.array_equal(command.action_A, action_A))
    if legal:
        assert np.array_equal(command.action_A, action_A)


@given(inside, st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_non_finite_action_repeats_the_last_one(last_A, bad):
    command = make_safe(np.array([0.0, bad]), last_A, DT_S, LIMIT.build())
    assert command.altered_by == ("nonfinite",)
    assert np.array_equal(command.action_A, last_A)


def test_each_limit_is_named_when_it_acts():
    assert make_safe(np.array([0.9, 0.0]), np.zeros(2), DT_S, LIMIT.build()).altered_by == ("slew",)
    assert make_safe(np.array([1.1, 0.0]), np.array([1.0, 0.0]), DT_S, LIMIT.build()).altered_by == ("bounds",)
    both = make_safe(np.array([9.0, 9.0]), np.array([1.0, 0.0]), DT_S, LIMIT.build())
    assert both.altered_by == ("slew", "bounds")
    assert np.array_equal(both.action_A, [1.0, 0.5])


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2), ()])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="action_A: expected"):
        make_safe(np.zeros(shape), np.zeros(2), DT_S, LIMIT.build())


def test_what_is_sent_is_not_the_callers_array():
    action_A, last_A = np.zeros(2), np.ones(2)
    assert make_safe(action_A, last_A, DT_S, LIMIT.build()).action_A is not action_A
    assert make_safe(np.full(2, np.nan), last_A, DT_S, LIMIT.build()).action_A is not last_A


@pytest.mark.parametrize(
    "change",
    [
        {"low": (0.0,)},
        {"hold": (5.0, 0.0)},
        {"max_rate": (0.0, 1.0)},
        {"high": (np.nan, 1.0)},
        {"max_accel": (0.0, 1.0)},
    ],
)
def test_nonsense_limits_are_refused(change):
    with pytest.raises(ValueError, match=r"limits|hold|max_rate|max_accel"):
        dataclasses.replace(LIMIT, **change)


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_the_limits_of_every_robot_are_those_of_its_actuators(name):
    spec, limits = ROBOTS[name], LIMITS[name]
    assert np.array_equal(limits.low, spec.action.low_A)
    assert np.array_equal(limits.high, spec.action.high_A)


class Recorder:
    """Stands between SimRobot and its environment, and keeps what reached it."""

    def __init__(self, env):
        self.env, self.seen, self.action_space = env, [], env.action_space
        self.unwrapped = env.unwrapped

    def reset(self, **kwargs):
        return self.env.reset(**kwargs)

    def step(self, action_A):
        self.seen.append(action_A)
        return self.env.step(action_A)


def test_nothing_reaches_the_simulation_but_what_make_safe_let_through():
    env = Recorder(make_env("double_integrator"))
    robot = SimRobot(env, 0.1, LIMITS["double_integrator"])  # pyright: ignore[reportArgumentType]
    robot.reset(0, 0.0)
    sent = [robot.send(np.array([x])) for x in (1e9, np.nan, -1e9, 3.0)]
    assert [c.action_A[0] for c in sent] == [10.0, 10.0, -10.0, 3.0]
    assert [a[0] for a in env.seen] == [10.0, 10.0, -10.0, 3.0]
    assert [c.altered_by for c in sent] == [("slew", "bounds"), ("nonfinite",), ("slew",), ()]


def test_a_robot_with_limits_for_another_is_refused():
    with pytest.raises(ValueError, match="its limits are for"):
        SimRobot(make_env("double_integrator"), 0.1, LIMITS["hopper"])
