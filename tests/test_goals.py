"""Goals that change while the robot runs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from agents.types import GoalChange
from configs.presets import PRESETS
from deploy.arms import build, unlogged
from deploy.commandline import resolve
from deploy.goals import parse_goals
from deploy.run_agent import main
from deploy.wishes import Wishes
from tests.test_adaptive import agent, live

LINEAR = replace(PRESETS["linear-cem"][1], plan_latency_s=0.0, max_s=9.9)


def test_goals_come_in_the_order_of_time():
    assert parse_goals(["height:1.2@7", "speed:1+0.1*effort@2.5"]) == [(2.5, "speed:1+0.1*effort"), (7.0, "height:1.2")]


@pytest.mark.parametrize("bad", ["speed:1", "speed:1@", "@3", "speed:1@-2", "speed:1@inf", "speed:99@3", "dance:2@3"])
def test_a_bad_goal_is_told_in_one_line(bad):
    with pytest.raises(ValueError, match=r"goal|objective") as error:
        parse_goals([bad])
    assert "\n" not in str(error.value)


def test_the_robot_turns_to_the_goal_when_its_time_has_come():
    cfg = replace(LINEAR, goals=("speed:1@4",))
    session = unlogged(cfg, build(cfg), lambda _, episode: episode < 1)
    assert session.history.goals == [GoalChange(4.0, "speed:1")]
    (done,) = session.history.episodes
    speed = done.states_TO[:, 1]
    assert abs(speed[30:40].mean()) < 0.3  # the task: stand at 0
    assert speed[-20:].mean() == pytest.approx(1.0, abs=0.15)


def test_sentences_come_in_their_time_too():
    walker = replace(PRESETS["walker"][1], plan_latency_s=0.0, adapt=False)
    told = ("walk at 1 m/s@0.1", "faster@0.2", "crouch@0.3", "run@0.4")
    session = unlogged(replace(walker, goals=told, max_s=0.5), build(replace(walker, goals=told)), lambda _, __: True)
    assert [(g.t_s, g.objective) for g in session.history.goals] == [
        (pytest.approx(0.104), "speed:1.0"),
        (pytest.approx(0.2), "speed:1.5"),
        (pytest.approx(0.304), "height:1.0"),
        (pytest.approx(0.4), "run"),
    ]
    for bad in ("dance on the table@3", "faster@3"):
        with pytest.raises(ValueError, match=f"goal '{bad[:6]}.*: "):
            build(replace(walker, goals=(bad,)))


def test_goals_are_in_the_log_and_a_bad_one_ends_the_run_before_it_begins(tmp_path, capsys):
    common = ["linear-cem", "--plan-latency", "0", "--max-s", "2", "--pictures", "none"]
    assert main([*common, "--goals", "speed:1@1", "--out", str(tmp_path / "run")]) == 0
    kinds = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [(e["t_s"], e["objective"]) for e in kinds if e["kind"] == "goal"] == [(1.0, "speed:1")]
    capsys.readouterr()
    assert main([*common, "--goals", "speed:1", "--out", str(tmp_path / "bad")]) == 2
    assert "OBJECTIVE@START" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
    assert resolve(["walker", "--goals", "speed:1@1", "run@2"], PRESETS, "x").goals == ("speed:1@1", "run@2")


def test_after_a_change_of_goal_surprise_is_provisional_and_the_task_brings_its_scale_back():
    it = agent()
    live(it, 0.0)
    assert it.pursue("height:1.2", 3.0) == (GoalChange(3.0, "height:1.2"),)
    assert it.state.provisional
    it.pursue("", 4.0)
    assert not it.state.provisional


def test_returns_of_one_goal_are_not_held_against_those_of_another():
    it = agent()
    live(it, 100.0)
    live(it, 100.0)
    earned = list(it.trial.before)
    assert earned
    it.pursue("height:1.2", 3.0)
    live(it, 100.0)
    it.pursue("run", 4.0)
    assert it.trial.before == earned
    live(it, 100.0)
    assert len(it.trial.before) == len(earned) + 1


def test_a_goal_that_is_not_legal_leaves_the_old_one():
    it = agent()
    it.pursue("height:1.2", 3.0)
    with pytest.raises(ValueError, match="nonsense"):
        it.pursue("nonsense", 4.0)
    assert it.objective == "height:1.2"


def test_a_goal_from_the_start_is_one_that_surprise_does_not_know():
    from agents.adaptive import AdaptiveAgent

    it = agent()
    other = AdaptiveAgent(
        it.model, it.planner_for, it.judge, it.calibration, it.replay, it.surprise_cfg, False, it.cfg, 0, "height:1.2"
    )
    assert other.state.provisional
    assert np.isfinite(other.state.shift)


# --- in words


def test_a_run_is_told_its_goal_in_words():
    cfg = replace(LINEAR, goal="go at one metre per second for 4 s, then a bit slower")
    session = unlogged(cfg, build(cfg), lambda _, episode: episode < 1)
    assert session.history.goals == [GoalChange(0.0, "speed:1.0"), GoalChange(4.0, "speed:0.75")]
    assert [note.text for note in session.history.notes] == [
        "pursuing speed:1.0 since 0.0 s",
        "pursuing speed:0.75 since 4.0 s",
    ]
    (done,) = session.history.episodes
    assert done.states_TO[30:40, 1].mean() == pytest.approx(1.0, abs=0.15)
    assert done.states_TO[-20:, 1].mean() == pytest.approx(0.75, abs=0.15)


def test_a_goal_that_has_expired_is_followed_by_rest_and_one_that_is_reached_by_the_next():
    cfg = replace(LINEAR, goal="go at 1 m/s, then at half a metre per second for 2 s")
    session = unlogged(cfg, build(cfg), lambda _, episode: episode < 1)
    first, second, third = session.history.goals
    assert [first.objective, second.objective, third.objective] == ["speed:1.0", "speed:0.5", "speed:0.0"]
    assert 1.0 <= second.t_s < 6.0
    assert third.t_s == pytest.approx(second.t_s + 2.0, abs=0.11)


def test_the_same_words_give_the_same_log(tmp_path, capsys):
    common = [
        "linear-cem",
        "--plan-latency",
        "0",
        "--max-s",
        "4",
        "--pictures",
        "none",
        "--goal",
        "go at 1 m/s for 2 s",
    ]
    for name in ("one", "other"):
        assert main([*common, "--out", str(tmp_path / name)]) == 0
    logs = [(tmp_path / name / "events.jsonl").read_bytes() for name in ("one", "other")]
    assert logs[0] == logs[1]
    assert b'"text": "pursuing speed:1.0 since 0.0 s"' in logs[0]
    assert "goal at 0.0 s: pursuing speed:1.0 since 0.0 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ("open the door", "did not understand 'open', 'door'; `surefoot goals serve` and --goal-service URL read more"),
        ("speed 100", "speed must be -2 .. 6 m/s, got 100"),
        ("speed:100", "out of range"),
        ("crouch", "no kind 'height' for double_integrator"),
    ],
)
def test_words_that_cannot_be_pursued_end_the_run_before_it_begins(tmp_path, capsys, goal, says):
    assert main(["linear-cem", "--goal", goal, "--out", str(tmp_path / "bad")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_an_address_that_is_none_ends_the_run_before_it_begins(tmp_path, capsys):
    assert main(["linear-cem", "--goal-service", "nowhere", "--out", str(tmp_path / "bad")]) == 2
    assert "http://HOST:PORT" in capsys.readouterr().err


def test_an_objective_is_what_relative_words_refer_to():
    wishes = Wishes("double_integrator", "speed:1+0.1*effort")
    assert wishes.hear("faster", 0.0) == "speed:1.5+0.1*effort"
    assert wishes.hear("speed:0.5", 1.0) == "speed:0.5"
    assert wishes.hear("twice as fast", 2.0) == "speed:1.0"
    assert wishes.hear("run", 3.0) == "run"
    with pytest.raises(ValueError, match="faster or slower than what"):
        wishes.hear("faster", 4.0)
    assert wishes.due(5.0, {}) is None
