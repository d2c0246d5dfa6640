"""Faults at every boundary of a session, judged by what the plant saw.

Whatever is injected: every command is finite, of the right shape and within the limits of position, rate and acceleration;
the robot holds (or was stopped) within its deadline, or goes on where that is harmless; and then nothing moves until a
person arms it.
"""

import json
import os
import resource
import signal
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from deploy.arms import build
from deploy.clock import MonotonicClock
from deploy.guard import GuardConfig, Mode
from deploy.interrupt import Interrupts
from deploy.record import Recorder
from deploy.recording import form_of
from deploy.view.process import Viewer, feed_of
from envs.types import Observation
from planners.types import PlanStatus
from tests.plant import BODIES, CART, END_S, FAULT_S, HEAL_S, Blows, Stage, stage_of, think_badly, with_actions

REST_S = 0.6
"""By then a robot that is held has come to rest, whatever its limits of rate and acceleration."""


def faulty(t_s: float) -> bool:
    return FAULT_S - 1e-9 <= t_s < HEAL_S - 1e-9


def hold_deadline_s(cfg, dt_s: float) -> float:
    """The longest that a robot without new plans goes on: the last good plan to its end, then the guard's patience."""
    plan_s = min(cfg.guard.plan_age_s, (cfg.plan_latency_s or 0.0) + 10 * dt_s)
    return plan_s + cfg.guard.no_plan_s + 3 * dt_s


# --- plans


PLANS = {
    "nan": lambda plan: with_actions(plan, np.full_like(plan.actions_HA, np.nan)),
    "one nan": lambda plan: with_actions(plan, plan.actions_HA + np.where(np.arange(10) == 9, np.nan, 0.0)[:, None]),
    "inf": lambda plan: with_actions(plan, np.full_like(plan.actions_HA, np.inf)),
    "too wide": lambda plan: replace(plan, actions_HA=np.repeat(plan.actions_HA, 2, axis=1)),
    "too narrow": lambda plan: with_actions(plan, plan.actions_HA[:, :0]),
    "flat": lambda plan: with_actions(plan, plan.actions_HA[:, 0]),
    "failed": lambda plan: replace(plan, status=PlanStatus.FAILED),
}


def jumping(plan):
    """From one end of the world to the other at every step, whichever plan it belongs to."""
    signs_H1 = (-1.0) ** (round(plan.t0_s / plan.dt_s) + np.arange(10))[:, None]
    return replace(plan, actions_HA=1e9 * signs_H1 * np.ones_like(plan.actions_HA))


WILD = {
    "huge": lambda plan: replace(plan, actions_HA=np.full_like(plan.actions_HA, 1e300, dtype=np.float64)),
    "jumping": jumping,
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
    "stale": (lambda seen, first: Observation(seen[first].t_s, seen[-1].state_O), "stale_s"),
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


# --- a person stops it


@pytest.mark.parametrize("body", BODIES)
def test_an_emergency_stop_is_obeyed_in_the_next_step_and_arming_does_not_undo_it(tmp_path, injected, body):
    stage = Stage(BODIES[body])
    stage.read = Blows((FAULT_S, lambda: stage.orders.give("stop", "a test")))
    session = stage.play(tmp_path)
    injected(1, stage.witness.count, stage.violations())
    assert [change.mode for change in session.guard.changes] == ["armed", "running", "estop"]
    assert session.guard.changes[-1].t_s == pytest.approx(FAULT_S)
    rest = stage.witness.commands[round((FAULT_S + REST_S) / stage.dt_s) :]
    assert len(rest) * stage.dt_s > END_S - FAULT_S - REST_S - stage.dt_s
    assert (rest == rest[0]).all()


def interrupted(folder, body, strike):
    """Return the stage and the session of a run that was interrupted; `strike(stage)` arranges for that."""
    stage = Stage(BODIES[body])
    with Interrupts() as stop:
        session = stage.open(folder, stop)
        strike(stage)
        with pytest.raises(KeyboardInterrupt):
            session.run(lambda _: True)
        session.log.close()
    return stage, session


def episode_ends(folder):
    """How each recorded episode ended, and after how many steps; every line of the record must be whole."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [(event["ended"], event["steps"]) for event in events if event["kind"] == "episode"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("body", BODIES)
def test_ctrl_c_at_any_tick_ends_the_run_with_whole_records_and_no_further_command(tmp_path, injected, body, seed):
    tick = int(np.random.default_rng([seed, len(body)]).integers(1, 40))
    press = lambda count: os.kill(os.getpid(), signal.SIGINT) if count == tick else None  # noqa: E731
    stage, session = interrupted(tmp_path, body, lambda stage: setattr(stage.witness, "each_step", press))
    injected(1, stage.witness.count, stage.violations())
    assert stage.witness.count == tick
    assert session.history.episodes[-1].steps == tick - 1  # what the last command led to was not seen
    assert episode_ends(tmp_path) == [("interrupted", tick - 1)]


@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_at_any_moment_ends_the_run_with_whole_records(tmp_path, injected, seed):
    later_s = 0.05 + 0.2 * np.random.default_rng(seed).random()
    timer = threading.Timer(later_s, lambda: os.kill(os.getpid(), signal.SIGINT))
    stage, _ = interrupted(tmp_path, "cart", lambda stage: (setattr(stage, "end_s", np.inf), timer.start()))
    injected(1, stage.witness.count, stage.violations())
    sent = [len(rows) for _, rows in stage.witness.episodes[1:]]
    whole = [(ended, steps) for ended, steps in episode_ends(tmp_path) if ended != "interrupted"]
    assert whole == [("truncated", steps) for steps in sent[: len(whole)]]
    assert len(sent) - len(whole) <= 1


# --- processes

WATCHFUL = replace(CART, time="realtime", plan_latency_s=None, guard=GuardConfig(no_plan_s=0.3, plan_age_s=0.8))


def in_real_time(folder, strike, heal):
    """Return the stage and the session of a run in real time; `strike` and `heal` get the planner's process."""
    stage = Stage(WATCHFUL)
    session = stage.open(folder, clock=MonotonicClock())
    planner = session._mind.processes[0]
    stage.read = Blows((FAULT_S, lambda: strike(planner.pid)), (HEAL_S - 0.3, lambda: heal(planner.pid)))
    session.run(lambda episode: episode < 1)
    session.log.close()
    return stage, session


def late_s(stage, session):
    """How much longer than in time that stands still it may take: steps that this machine has missed."""
    return session.history.missed * stage.dt_s


def signalled(number):
    return lambda pid: os.kill(pid, number)


def ignore(pid): ...


def test_a_planner_that_hangs_leaves_a_robot_that_holds_until_it_is_armed_and_then_moves(tmp_path, injected):
    stage, session = in_real_time(tmp_path, signalled(signal.SIGSTOP), signalled(signal.SIGCONT))
    injected(1, stage.witness.count, stage.violations())
    assert_held_until_armed(stage, session, hold_deadline_s(WATCHFUL, stage.dt_s) + late_s(stage, session))
    assert "no plan to follow" in session.guard.changes[2].reason


@pytest.mark.parametrize("how", ["killed", "raises", "nan"])
def test_without_a_planner_the_robot_holds_and_arming_it_moves_nothing(tmp_path, injected, monkeypatch, how):
    if how != "killed":
        monkeypatch.setattr("deploy.realtime.remote.think", partial(think_badly, how))
    strike = signalled(signal.SIGKILL) if how == "killed" else ignore
    stage, session = in_real_time(tmp_path, strike, ignore)
    injected(1, stage.witness.count, stage.violations())
    changes = session.guard.changes
    modes = [change.mode for change in changes]
    assert modes[:5] == ["armed", "running", "hold", "armed", "running"]
    if (
        changes[4].t_s + WATCHFUL.guard.no_plan_s + 3 * stage.dt_s < END_S
    ):  # else steps were missed until the person left
        assert modes[5:] == ["hold"]
    assert changes[2].t_s <= FAULT_S + hold_deadline_s(WATCHFUL, stage.dt_s) + late_s(stage, session)
    first = round(FAULT_S / stage.dt_s)
    assert session.history.episodes[0].planned_T[first : first + 4].all()  # the last good plan is followed on
    rest = stage.witness.commands[round((changes[2].t_s + REST_S) / stage.dt_s) :]
    assert len(rest) > 5
    assert (rest == stage.cfg.limits.hold_A).all()


def test_a_viewer_that_does_not_drain_changes_no_command(tmp_path, injected):
    cfg = replace(CART, view="web", view_port=0, max_s=3.0)
    session, alone = stage_of(cfg, made(tmp_path / "alone"))
    session.run(lambda episode: episode < 1)
    feed = feed_of(cfg, build(cfg).robot)
    viewer = Viewer(cfg, feed)
    session, seen = stage_of(cfg, made(tmp_path / "seen"), feed=feed)
    seen.each_step = lambda count: os.kill(viewer.process.pid, signal.SIGSTOP) if count == 5 else None
    session.run(lambda episode: episode < 1)
    viewer.close()
    injected(1, seen.count, seen.violations(cfg.limits, 0.1))
    assert seen.count == 30
    assert (seen.commands == alone.commands).all()


def made(folder):
    folder.mkdir()
    return folder


# --- disks


def test_a_disk_that_is_full_for_the_recorder_changes_no_command_and_is_said(tmp_path, injected):
    cfg = replace(CART, max_s=6.0)
    runs = []
    for name, full in (("free", False), ("full", True)):
        with Recorder(tmp_path / f"{name}-data", form_of(cfg, build(cfg).robot), patient=not full) as recorder:
            if full:
                resource.prlimit(recorder.writer_pid, resource.RLIMIT_FSIZE, (2000, 2000))
            session, witness = stage_of(cfg, made(tmp_path / name), recorder=recorder)
            session.run(lambda episode: episode < 2)
            runs.append((witness, recorder.wait()))
    (free, kept), (full, lost) = runs
    injected(1, full.count, full.violations(cfg.limits, 0.1))
    assert (full.commands == free.commands).all()
    assert (kept.saved, kept.ended) == (2, None)
    assert lost.saved == 0
    assert "File too large" in lost.ended


def test_a_disk_that_is_full_for_the_runs_log_ends_the_run_and_nothing_more_is_sent(tmp_path, injected):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    session, witness = stage_of(CART, tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            session.run(lambda _: True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sent = witness.count
    injected(1, sent, witness.violations(CART.limits, 0.1))
    assert sent < 100
