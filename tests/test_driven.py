"""A simulated robot driven by somebody else's loop: what the plant gets, and when."""

import json

import numpy as np
import pytest

from configs.limits import LIMITS
from deploy.clock import SimulatedClock
from deploy.robots.driven import HOLD_AFTER_S, DrivenRobot
from deploy.robots.simulated import Simulated

CART = Simulated("double_integrator", LIMITS)
DT_S = CART.spec.dt_s


def rows(journal):
    return [json.loads(line) for line in journal.read_text().splitlines()]


@pytest.fixture
def driven(tmp_path):
    """Return a function that makes a robot; all of them write the same journal."""

    def make(clock=None, task=CART, seed=0):
        return DrivenRobot(task.build(), clock, seed, tmp_path / "journal.jsonl")

    make.journal = tmp_path / "journal.jsonl"
    return make


def test_stepped_a_command_is_one_control_step_and_reading_none(driven):
    robot = driven()
    before = robot.observe()
    assert robot.observe() is before
    robot.command(np.array([1.0]))
    assert robot.observe().t_s == pytest.approx(before.t_s + DT_S)
    assert len(rows(driven.journal)) == 1


def test_in_real_time_the_last_command_is_repeated_until_the_next(driven):
    clock = SimulatedClock(100.0)
    robot = driven(clock)
    robot.command(np.array([2.0]))
    clock.advance(3 * DT_S)
    robot.command(np.array([-2.0]))
    assert [row["sent"] for row in rows(driven.journal)] == [[2.0], [2.0], [2.0], [-2.0]]
    clock.advance(2 * DT_S)
    assert robot.observe().t_s == pytest.approx(5 * DT_S)


def test_in_real_time_no_client_drives_the_plant_faster_than_its_control_rate(driven):
    clock = SimulatedClock()
    robot = driven(clock)
    sent = []
    for force in range(1, 9):
        sent.append(robot.command(np.array([float(force)])).action_A.item())
        clock.advance(DT_S / 4)
    assert [row["sent"] for row in rows(driven.journal)] == [[1.0], [5.0]]
    assert sent == [1.0] * 4 + [5.0] * 4


def test_a_robot_that_nobody_commands_any_more_is_held(driven):
    clock = SimulatedClock()
    robot = driven(clock)
    robot.command(np.array([3.0]))
    clock.advance(2 * HOLD_AFTER_S)
    robot.observe()
    forces = [row["sent"][0] for row in rows(driven.journal)]
    patience = round(HOLD_AFTER_S / DT_S)
    assert forces == [3.0] * patience + [0.0] * patience


@pytest.mark.parametrize("clock", [None, SimulatedClock()], ids=["stepped", "realtime"])
def test_what_is_not_finite_never_reaches_the_plant(driven, clock):
    robot = driven(clock)
    robot.command(np.array([3.0]))
    for bad in (np.nan, np.inf, -np.inf):
        if clock:
            clock.advance(2 * DT_S)
        assert robot.command(np.array([bad])).action_A.tolist() == [3.0]
    logged = rows(driven.journal)
    assert {row["sent"][0] for row in logged} == {3.0}
    assert {row["applied"][0] for row in logged} == {3.0}
    assert ["nonfinite"] in [row["altered_by"] for row in logged]
    assert [None] in [row["requested"] for row in logged]


def test_a_command_of_another_shape_is_refused_before_it_is_kept(driven):
    clock = SimulatedClock()
    robot = driven(clock)
    clock.advance(DT_S)
    with pytest.raises(ValueError, match=r"action_A: expected \(A\)"):
        robot.command(np.zeros(2))
    clock.advance(DT_S)
    robot.observe()


def test_a_robot_that_falls_is_put_back_at_its_next_start(driven):
    task = Simulated("hopper", LIMITS)
    robot = driven(None, task, seed=5)
    starts = [task.build().reset(seed, 0.0).state_O for seed in (5, 6)]
    assert np.array_equal(robot.observe().state_O, starts[0])
    while not (logged := rows(driven.journal)) or not logged[-1]["fallen"]:
        robot.command(np.array([1.0, -1.0, 1.0]))
        assert len(rows(driven.journal)) < 300
    assert np.array_equal(robot.observe().state_O, starts[1])
    assert robot.observe().t_s == pytest.approx(len(rows(driven.journal)) * task.spec.dt_s)


def test_faults_run_on_the_clock_since_the_robot_was_made(driven):
    task = Simulated("double_integrator", LIMITS, faults=f"actuator_gain:force:0.5@{2 * DT_S}")
    robot = driven(None, task)
    for _ in range(4):
        robot.command(np.array([2.0]))
    assert [row["applied"][0] for row in rows(driven.journal)] == [2.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"robot": "walker3d"}, "no robot named 'walker3d'; choose from"),
        ({"faults": "friction:all:0.3"}, "cannot read fault 'friction:all:0.3'"),
        ({"version": "v9"}, "version must be one of"),
        ({"episode_steps": 0}, "has 1 .. 1000 steps, got 0"),
        ({"pictures": "oil"}, "no kind of pictures named 'oil'"),
        ({"limits": {}}, "no limits of a robot named 'walker2d'"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(wrong, says):
    with pytest.raises((KeyError, ValueError)) as refusal:
        Simulated(**{"robot": "walker2d", "limits": LIMITS, **wrong})
    (message,) = refusal.value.args
    assert says in message
    assert "\n" not in message
