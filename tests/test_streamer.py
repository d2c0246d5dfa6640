"""What is due now, and never anything else."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deploy.streamer import setpoint_at
from planners.types import ActionPlan, PlanStatus

HOLD_A = np.array([7.0])


def make_plan(rows: int, dt_s: float, t0_s: float, status: PlanStatus = PlanStatus.OK) -> ActionPlan:
    return ActionPlan(np.arange(rows, dtype=float)[:, None], dt_s, t0_s, status, observed_s=t0_s - 1.0)


plans = st.builds(make_plan, st.integers(1, 40), st.floats(1e-3, 1.0), st.floats(-1e3, 1e3))


@given(plans, st.floats(-2e3, 2e3))
def test_a_plan_is_never_executed_before_its_start_or_past_its_end(plan, now_s):
    setpoint = setpoint_at(plan, now_s, HOLD_A)
    within = 1e-5 * plan.dt_s  # of a boundary either answer is right
    if min(abs(now_s - plan.t0_s), abs(now_s - plan.expires_s)) > within:
        assert (setpoint.source == "plan") == (plan.t0_s <= now_s < plan.expires_s)


@given(plans, st.floats(0, 1, exclude_max=True))
def test_inside_the_plan_the_row_is_the_one_that_is_due(plan, share):
    now_s = plan.t0_s + share * (plan.expires_s - plan.t0_s)
    setpoint = setpoint_at(plan, now_s, HOLD_A)
    if setpoint.source == "plan":
        elapsed = (now_s - plan.t0_s) / plan.dt_s
        assert abs(setpoint.action_A[0] - (elapsed - 0.5)) <= 0.5 + 1e-6
        assert setpoint.age_s == now_s - plan.observed_s


@given(plans)
def test_the_last_instant_before_expiry_gets_the_last_row(plan):
    setpoint = setpoint_at(plan, plan.expires_s - 1e-5 * plan.dt_s, HOLD_A)
    assert setpoint.action_A[0] == len(plan.actions_HA) - 1


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.008, 0.05, 0.1, 1 / 3]))
def test_on_the_control_grid_a_plan_ends_on_its_step_whatever_the_rounding(start, rows, dt_s):
    plan = make_plan(rows, dt_s, start * dt_s)
    assert setpoint_at(plan, (start + rows) * dt_s, HOLD_A).source == "hold"
    assert start == 0 or setpoint_at(plan, (start - 1) * dt_s, HOLD_A).source == "hold"


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.008, 0.05, 0.1, 1 / 3]))
def test_on_the_control_grid_no_row_is_skipped_or_repeated(start, rows, dt_s):
    plan = make_plan(rows, dt_s, start * dt_s)
    seen = [setpoint_at(plan, (start + h) * dt_s, HOLD_A).action_A[0] for h in range(rows)]
    assert seen == list(range(rows))


@given(st.floats(-10, 10))
def test_a_failed_plan_and_no_plan_are_held(now_s):
    failed = make_plan(3, 1.0, 0.0, PlanStatus.FAILED)
    for plan in (failed, None):
        setpoint = setpoint_at(plan, now_s, HOLD_A)
        assert setpoint.source == "hold"
        assert setpoint.action_A is HOLD_A
        assert setpoint.age_s == math.inf
