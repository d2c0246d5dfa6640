"""The schedule, the queue of plans and the lockstep session, with robots and agents that do as they are told."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.clock import MonotonicClock, SimulatedClock
from deploy.loop import Pace
from deploy.mind import Body, OwnMind
from deploy.planning import PlanQueue, steps_in
from deploy.session import Session, env_seed
from deploy.telemetry import Log
from tests.scripted import DT_S, ScriptedAgent, ScriptedRobot, config


def test_a_late_step_is_late_by_the_schedule_and_the_next_one_is_on_time_again():
    clock, seen = SimulatedClock(5.0), []
    pace = Pace(clock, 0.1)
    for step in range(6):
        seen.append(round(pace.wait(step), 9))
        clock.advance(0.25 if step == 1 else 0.0)
    assert seen == [0.0, 0.0, 0.15, 0.05, 0.0, 0.0]
    assert [pace.missed(late_s) for late_s in seen] == [0, 0, 1, 0, 0, 0]


@given(st.lists(st.floats(0, 0.35), min_size=1, max_size=40))
def test_lateness_is_what_the_work_before_left_of_the_schedule_and_does_not_accumulate(work):
    clock = SimulatedClock(5.0)
    pace, done_s = Pace(clock, 0.1), 5.0
    for step, took_s in enumerate(work):
        late_s = pace.wait(step)
        assert late_s == pytest.approx(max(0.0, done_s - (5.0 + step * 0.1)), abs=1e-6)
        clock.advance(took_s)
        done_s = clock.now_s()


def test_a_schedule_goes_on_from_the_step_at_which_the_world_waited():
    clock = SimulatedClock()
    pace = Pace(clock, 0.1)
    pace.wait(3)
    clock.advance(7.0)
    pace.restart(4)
    assert pace.wait(4) == 0.0
    assert pace.wait(5) == pytest.approx(0.0, abs=1e-9)
    assert clock.now_s() == pytest.approx(7.4)


def test_the_monotonic_clock_sleeps_until_it_is_time():
    clock = MonotonicClock()
    due_s = clock.now_s() + 0.01
    clock.sleep_until(due_s)
    assert clock.now_s() >= due_s
    clock.sleep_until(due_s - 1.0)


def test_simulated_time_never_goes_back():
    clock = SimulatedClock()
    clock.sleep_until(2.0)
    clock.sleep_until(1.0)
    assert clock.now_s() == 2.0
    with pytest.raises(ValueError, match=">= 0"):
        clock.advance(-1.0)


@pytest.mark.parametrize("period_s", [0.0, -1.0, float("nan")])
def test_a_period_that_is_none_is_refused(period_s):
    with pytest.raises(ValueError, match="period_s"):
        Pace(SimulatedClock(), period_s)


@pytest.mark.parametrize(("time_s", "steps"), [(0.0, 0), (0.1, 1), (0.100001, 2), (0.3, 3), (0.30000000001, 3)])
def test_a_latency_is_rounded_up_to_steps(time_s, steps):
    assert steps_in(time_s, 0.1) == steps


def session_of(cfg, robot, agent, log, fault_s=None, **more):
    body = Body(robot.dt_s, len(robot.hold_A), robot.hold_A, robot.limits)
    return Session(cfg, robot, lambda tell: OwnMind(cfg, agent, body, tell, **more), log, fault_s, **more)


def run(tmp_path, agent, robot=None, timer=None, fault_s=None, episodes=100, **changes):
    log = Log(tmp_path)
    robot = robot or ScriptedRobot()
    session = session_of(config(**changes), robot, agent, log, fault_s, **({} if timer is None else {"timer": timer}))
    session.run(lambda episode: episode < episodes)
    log.close()
    return session, robot


def events(tmp_path, kind):
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["kind"] == kind]


def test_with_no_latency_every_step_executes_the_plan_made_for_it(tmp_path):
    _, robot = run(tmp_path, ScriptedAgent(), episodes=1)
    assert robot.sent == [float(n) for n in range(1, 11)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 7), st.integers(1, 6), st.integers(1, 25))
def test_a_plan_is_executed_only_from_its_start_to_its_end(tmp_path_factory, latency, every, horizon):
    folder = tmp_path_factory.mktemp("run")
    agent = ScriptedAgent(horizon=horizon)
    _, robot = run(folder, agent, episodes=1, plan_latency_s=latency * DT_S, plan_every=every)
    starts = [0, *(round(t_s / DT_S) + latency for t_s, _ in agent.plans[2:])]
    for step, sent in enumerate(robot.sent):
        if sent == 0.0:  # held: the newest plan that has begun ran out
            assert step - max(s for s in starts if s <= step) >= horizon
            continue
        plan, row = int(sent), round(100 * (sent - int(sent)))
        assert row == step - starts[plan - 1]
        assert row < horizon
        assert plan == max(n + 1 for n, s in enumerate(starts) if s <= step)


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_committed_actions_are_those_that_were_then_sent(tmp_path, latency):
    agent = ScriptedAgent(horizon=4)
    _, robot = run(tmp_path, agent, episodes=1, plan_latency_s=latency * DT_S, plan_every=2)
    assert len(agent.plans) > 3
    for t_s, committed_KA in agent.plans[2:]:
        step = round(t_s / DT_S)
        later = robot.sent[step : step + latency]
        assert committed_KA.shape == (latency, 1)
        assert list(committed_KA[: len(later), 0]) == later


def test_a_planner_that_is_slower_than_expected_delays_its_plan_and_one_plan_is_made_at_a_time(tmp_path):
    now = iter(np.arange(0.0, 1e4, 0.125).tolist())  # each reading of the timer is an eighth of a second later
    agent = ScriptedAgent(horizon=50)
    run(tmp_path, agent, episodes=1, plan_latency_s=None, timer=lambda: next(now))
    plans = events(tmp_path, "plan")
    assert [p["visible_s"] - p["t_s"] for p in plans[1:]] == pytest.approx([0.2] * len(plans[1:]))
    assert [p["t_s"] for p in plans] == pytest.approx([0.0, 0.1, 0.3, 0.5, 0.7, 0.9])


def test_a_late_plan_is_entered_where_it_should_be_by_then():
    took = iter([0.0, 0.0, 0.0, 0.35])  # the first plan took no time, so none is expected of the second
    queue = PlanQueue(DT_S, 1, None, lambda: next(took))
    agent = ScriptedAgent()
    queue.compute(0, lambda ahead: agent.plan(_at(0), np.zeros((ahead, 1))))
    second = queue.compute(1, lambda ahead: agent.plan(_at(1), np.zeros((ahead, 1))))
    assert second.visible_step == 5
    assert not queue.due(4)
    assert queue.at(4) is not queue.at(5)
    current = queue.at(5)
    assert current is not None
    assert current.t0_s == pytest.approx(0.1)


def test_without_compensation_a_plan_is_made_for_now_and_entered_at_its_first_row_once_it_is_there(tmp_path):
    agent = ScriptedAgent(horizon=20)
    _, robot = run(tmp_path, agent, episodes=1, plan_latency_s=2 * DT_S, compensate=False)
    assert all(committed_KA.shape == (0, 1) for _, committed_KA in agent.plans)
    assert robot.sent == pytest.approx([1.0, 1.01, 1.02, 2.0, 2.01, 3.0, 3.01, 4.0, 4.01, 5.0])


def test_a_plan_is_expected_to_take_no_less_than_the_least():
    queue = PlanQueue(DT_S, 1, None, iter([0.0, 0.05, 1.0, 1.05]).__next__, least_s=0.25)
    assert queue.expected_s == 0.25
    agent = ScriptedAgent()
    queue.compute(0, lambda ahead: agent.plan(_at(0), np.zeros((ahead, 1))), held=True)
    made = queue.compute(1, lambda ahead: agent.plan(_at(1), np.zeros((ahead, 1))))
    assert (made.visible_step, made.from_step) == (4, 4)


def _at(step):
    from envs.types import Observation

    return Observation(step * DT_S, np.zeros(2))


def test_a_failed_plan_is_counted_and_never_executed(tmp_path):
    agent = ScriptedAgent(horizon=4, fails=lambda n: n >= 2)
    session, robot = run(tmp_path, agent, episodes=1)
    assert robot.sent == [1.0, 1.01, 1.02, 1.03, 0, 0, 0, 0, 0, 0]
    assert session.history.nonfinite.plans == 9
    assert session.history.episodes[0].planned_T.tolist() == [1] * 4 + [0] * 6


def test_a_robot_whose_first_plan_failed_holds(tmp_path):
    _, robot = run(tmp_path, ScriptedAgent(fails=lambda n: True), episodes=1)
    assert set(robot.sent) == {0.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_observation_ends_the_episode_and_reaches_nobody(tmp_path, bad):
    agent = ScriptedAgent()
    robot = ScriptedRobot(spoil=lambda total: bad if total == 4 else 0.0)
    session, _ = run(tmp_path, agent, robot, episodes=2)
    first, second = session.history.episodes
    assert (first.ended, first.steps) == ("nonfinite observation", 4)
    # the same spoilt reading greets the next start, which then is no episode either
    assert (second.ended, second.steps) == ("nonfinite observation", 0)
    assert session.history.nonfinite.observations == 2
    assert agent.ends == [(False, False)] * 2
    assert len(agent.observed) == 3


@pytest.mark.parametrize(("cut_s", "whole"), [(10.0, True), (0.35, False)])
def test_an_episode_is_whole_if_nothing_cut_it_short(tmp_path, cut_s, whole):
    agent = ScriptedAgent()
    run(tmp_path, agent, ScriptedRobot(length=8), episodes=1, max_s=cut_s)
    assert agent.ends == [(whole, whole)]


def test_an_episode_that_a_person_steered_in_is_not_whole(tmp_path):
    agent = ScriptedAgent()

    class Now:
        def wants(self, t_s, last_A, /):
            return np.ones(1) if 0.15 < t_s < 0.25 else None

    cfg, log, robot = config(), Log(tmp_path), ScriptedRobot(length=4)
    body = Body(robot.dt_s, 1, robot.hold_A, robot.limits)
    made = Session(cfg, robot, lambda tell: OwnMind(cfg, agent, body, tell), log, None, operator=Now())
    made.run(lambda episode: episode < 2)
    log.close()
    assert [whole for _, whole in agent.ends] == [False, True]


def test_the_clock_runs_on_across_episodes_and_stops_at_max_s(tmp_path):
    session, _ = run(tmp_path, ScriptedAgent(), max_s=2.5)
    spans = [(round(e.start_s, 9), round(e.end_s, 9), e.ended) for e in session.history.episodes]
    assert spans == [(0.0, 1.0, "terminated"), (1.0, 2.0, "terminated"), (2.0, 2.5, "limit")]


def test_every_episode_has_its_own_seed_drawn_from_the_runs(tmp_path):
    agent = ScriptedAgent()
    run(tmp_path, agent, seed=3)
    assert agent.episodes[1:] == [(i, env_seed(3, i)) for i in range(3)]
    assert len({env_seed(seed, i) for seed in range(20) for i in range(20)}) == 400


def test_an_adaptation_arrives_after_the_time_charged_and_jobs_never_overlap(tmp_path):
    agent = ScriptedAgent(alarms_s=(0.5, 0.7, 2.0))
    session, _ = run(tmp_path, agent, fault_s=0.4)
    assert agent.received_s == pytest.approx([1.5, 2.6])  # the second began a step after the first was there
    assert agent.jobs == 3
    assert session.history.adapted_s == pytest.approx(1.5)
    assert [round(j.due_s - j.t_s, 9) for j in session.history.jobs][:2] == [1.0, 1.0]


def test_without_adaptation_no_job_is_ever_taken(tmp_path):
    agent = ScriptedAgent(alarms_s=(0.5,))
    session, _ = run(tmp_path, agent, adapt=False)
    assert agent.jobs == 0
    assert len(session.history.alarms) == 1


def test_the_agent_observes_what_was_sent_not_what_was_asked_for(tmp_path):
    from deploy.safety import RobotLimits

    tight = RobotLimits(low=(-2.5,), high=(2.5,), max_rate=(100.0,), hold=(0.0,))
    agent = ScriptedAgent()
    session, robot = run(tmp_path, agent, ScriptedRobot(limits=tight), episodes=1)
    assert [a for _, a, _ in agent.observed] == robot.sent
    assert max(robot.sent) == 2.5
    record = session.history.episodes[0]
    assert record.requested_TA[:, 0].tolist() == [float(n) for n in range(1, 11)]
    assert record.sent_TA[:, 0].tolist() == robot.sent
    assert record.altered == {"bounds": 8}


def test_the_same_run_writes_the_same_events(tmp_path):
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, ScriptedAgent(alarms_s=(0.5,)), fault_s=0.4, plan_latency_s=0.2)
        texts.append((tmp_path / name / "events.jsonl").read_bytes())
    assert texts[0] == texts[1]
    assert b"NaN" not in texts[0]
    assert b"Infinity" not in texts[0]


def test_an_interrupted_episode_is_recorded_as_such(tmp_path):
    class Interrupting(ScriptedAgent):
        def observe(self, before, action_A, after, reward, /):
            if after.t_s > 1.35:
                raise KeyboardInterrupt
            return super().observe(before, action_A, after, reward)

    log = Log(tmp_path)
    session = session_of(config(), ScriptedRobot(), Interrupting(), log)
    with pytest.raises(KeyboardInterrupt):
        session.run(lambda _: True)
    assert [(e["ended"], e["steps"]) for e in events(tmp_path, "episode")] == [("terminated", 10), ("interrupted", 3)]
    assert not session.history.episodes[-1].whole
