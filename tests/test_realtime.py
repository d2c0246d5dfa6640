"""Three processes in real time: what reaches the robot when the planner is well, slow, stopped or killed. No wall time is asserted."""

import os
import signal
from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest

from agents.types import AdaptationReport, SurpriseReading
from configs.presets import PRESETS
from deploy.arms import build, open_session
from deploy.interrupt import Interrupts
from deploy.mind import JobStarted
from deploy.realtime import adapter
from deploy.realtime.link import Link, pack_plan, pack_told, unpack_plan, unpack_told
from deploy.realtime.remote import RemoteMind
from deploy.records import PlanRecord
from planners.types import ActionPlan, PlanStatus

CFG = replace(
    PRESETS["linear-cem"][1], time="realtime", faults=(), adapt=False, plan_latency_s=None, episode_steps=30, max_s=6.0
)


def session(folder, monkeypatch=None, **changes):
    cfg = replace(CFG, **changes)
    return open_session(cfg, build(cfg), folder, Interrupts())


@pytest.mark.parametrize("status", list(PlanStatus))
def test_a_plan_survives_the_way_between_processes(status):
    actions = np.arange(12.0).reshape(4, 3)
    plan = ActionPlan(actions, 0.008, 1.5, status, -2.5, 7, 1.25, 3)
    episode, from_step, back = unpack_plan(pack_plan(5, 188, plan))
    assert (episode, from_step) == (5, 188)
    assert np.array_equal(back.actions_HA, actions)
    for name in ("dt_s", "t0_s", "status", "cost", "goal_version", "observed_s", "rejected"):
        assert getattr(back, name) == getattr(plan, name)


@pytest.mark.parametrize(
    "report",
    [
        SurpriseReading(0.5, float(np.float32(1.5)), np.float64(2.0), 1.0, False, bool(np.bool_(True))),  # pyright: ignore
        PlanRecord(0.1, 0.2, 0.3, "ok", float("inf"), 0),
        JobStarted(3.0),
        (17,),
    ],
)
def test_a_report_survives_the_way_between_processes(report):
    assert unpack_told(pack_told(report)) == report


def test_a_reason_that_is_too_long_is_cut_and_the_rest_kept():
    report = AdaptationReport(1.0, "step", True, 2.0, 1.0, 10, 3, "x" * 5000)
    back = unpack_told(pack_told(report))
    assert back == replace(report, reason="x" * 200)


def test_in_real_time_the_point_mass_is_brought_to_rest(tmp_path):
    made = session(tmp_path)
    made.run(lambda episode: episode < 2)
    first, second = made.history.episodes
    assert (first.steps, second.steps) == (30, 30)
    for episode in (first, second):
        assert np.abs(episode.states_TO[-1, 0]) < 0.5 * max(1.0, np.abs(episode.states_TO[0, 0]))
        assert episode.planned_T[0] == 1  # the world waited for the first plan
        assert episode.planned_T.mean() > 0.9
    assert made.history.late_s.count == 60
    assert made.guard.mode.value == "running"


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_planner_that_dies_or_hangs_leaves_a_robot_that_holds(tmp_path, blow):
    made = session(tmp_path, episode_steps=60)
    mind = made._mind
    assert isinstance(mind, RemoteMind)
    learn, pid = mind.learn, mind.processes[0].pid

    def strike(step, *rest):
        learn(step, *rest)
        if step == 10:
            os.kill(pid, blow)

    mind.learn = strike
    made.run(lambda episode: episode < 3)
    (episode,) = made.history.episodes
    assert episode.ended == "held"
    assert made.guard.mode.value == "hold"
    assert "no plan to follow" in made.guard.reason
    held = np.flatnonzero(episode.planned_T == 0)
    assert len(held) >= 5
    assert (np.diff(held) == 1).all()  # once there is no plan, nothing else is followed
    assert (episode.requested_TA[held] == 0).all()
    # plans reach 20 steps ahead of the last observation; the guard then waits for half a second
    assert episode.steps <= 10 + 2 + 20 + 6


def test_a_planner_that_never_came_up_is_an_error_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.realtime.remote.think", os._exit)
    made = session(tmp_path)
    with pytest.raises(
        RuntimeError, match=r"the planner did not come up within 120 s: it ended with exit code"
    ) as caught:
        made.run(lambda episode: episode < 1)
    assert "\n" not in str(caught.value)


def test_nothing_is_left_running(tmp_path):
    made = session(tmp_path)
    mind = made._mind
    assert isinstance(mind, RemoteMind)
    made.run(lambda episode: episode < 1)
    assert not any(process.is_alive() for process in mind.processes)


def test_what_the_loop_says_arrives_as_it_was_said():
    link = Link.of(2, 1)
    record = np.zeros((), link.heard.dtype)
    record["kind"], record["step"], record["state_O"], record["action_A"] = 4, 17, [1.0, 2.0], [3.0]
    link.heard.write(record)
    (back,) = link.heard.read()
    assert back == record


def test_a_fit_that_fails_leaves_an_empty_result_and_one_line(tmp_path, monkeypatch, capsys):
    def fails(cfg, folder):
        raise RuntimeError("the play is empty")

    monkeypatch.setattr(adapter, "do_job", fails)
    monkeypatch.setattr(adapter.signal, "signal", lambda *_: None)
    monkeypatch.setattr(adapter.os, "nice", lambda _: 0)
    there, here = Pipe(duplex=False)
    (tmp_path / "adaptation-1").mkdir()
    here.send_bytes(str(tmp_path / "adaptation-1").encode())
    here.close()
    adapter.adapt(CFG, there)
    assert (tmp_path / "adaptation-1" / "done.json").read_text() == "[]"
    assert (
        capsys.readouterr().err == "an adaptation failed, and nothing is changed: RuntimeError('the play is empty')\n"
    )


def test_an_adaptation_that_never_ends_is_given_up(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(adapter, "write_job", lambda folder, job: None)
    monkeypatch.setattr(adapter.time, "monotonic", lambda: now[0])
    _, asking = Pipe(duplex=False)
    jobs = adapter.AdapterJobs(asking, tmp_path, lambda _: None, 0.01)
    jobs.start(lambda: None, 5)
    assert (jobs.busy, jobs.done(6)) == (True, None)
    now[0] = adapter.LONGEST_S
    assert jobs.done(7) == []
    assert not jobs.busy
