"""Phases, numbers and the report, on histories made by hand."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from agents.types import AdaptationReport, ModelSwap, SurpriseReading
from deploy.drawing import SIZE, make_painter, paint_cart
from deploy.history import History, Sample
from deploy.records import EpisodeRecord, plain, read_episodes, to_line
from deploy.render import draw
from deploy.report import headline, write_report
from deploy.session import View
from deploy.storyboard import Storyboard, storyboard
from deploy.summary import interval, summarise
from deploy.terminal import Display, clock, gauge
from envs.poses import configuration
from envs.robots import make_env
from tests.scripted import config

DT_S = 0.008
POSE = np.array([0.0, 1.25, 0.1, *[-0.1] * 6])


def episode(index, start_s, seconds, value, ended="terminated"):
    steps = round(seconds / DT_S)
    one, many = np.ones(steps), np.zeros((steps, 6))
    return EpisodeRecord(
        episode=index,
        env_seed=index,
        start_s=start_s,
        end_s=start_s + seconds,
        steps=steps,
        episode_return=value,
        ended=ended,
        states_TO=np.zeros((steps, 17)),
        requested_TA=many,
        sent_TA=many,
        applied_TA=many,
        reward_T=one,
        planned_T=one,
        age_T=0.024 * one,
        altered={},
        surprise_T=0.2 * one,
        error_T=one,
        threshold_T=one,
    )


def story(accepted=True):
    """Two healthy episodes, a break in the third, falls, an adaptation, and what then follows."""
    spans = [(4, 3000), (4, 3100), (3, 1500), (1, 300), (1, 280), (2, 800), (2.4, 900), (1.2, 400)]
    history, t_s = History(9.0, DT_S), 0.0
    for n, (seconds, value) in enumerate(spans):
        history.add(episode(n, t_s, seconds, value), np.tile(POSE, (round(seconds / DT_S) + 1, 1)))
        t_s += seconds
    history.alarms = [(0, reading(1.0)), (2, reading(9.3))]
    history.adaptations = [AdaptationReport(13.5, "dynamics", accepted, 0.5, 0.3, 300, 3, "better <by> far")]
    history.swaps = [ModelSwap(13.5, "body-1.1", "accepted")] if accepted else []
    history.plan_ms.add([10.0, 20.0, 30.0])
    return history


def reading(t_s):
    return SurpriseReading(t_s, 3.0, 2.0, 1.0, False, True)


def control():
    return [episode(n, 0.0, 1.0, 100.0 + n) for n in range(9)]


def test_an_episode_belongs_to_a_phase_only_if_it_lies_wholly_inside():
    history = story()
    found = {phase: [e.episode for e in history.episodes_in(phase)[0]] for phase in ("healthy", "broken", "adapted")}
    # the third has the break inside, the sixth the swap
    assert found == {"healthy": [0, 1], "broken": [3, 4], "adapted": [6, 7]}
    assert not history.episodes_in("healthy")[1]


def test_with_none_wholly_inside_partial_ones_are_used_and_marked():
    history = History(1.0, DT_S, episodes=[episode(0, 0.0, 2.0, 5.0)])
    episodes, partial = history.episodes_in("healthy")
    assert [e.episode for e in episodes] == [0]
    assert partial
    assert history.episodes_in("adapted") == ([], True)


def test_without_a_fault_all_is_healthy():
    history = History(None, DT_S, episodes=[episode(0, 0.0, 2.0, 5.0)])
    assert len(history.episodes_in("healthy")[0]) == 1
    assert history.phase_at(1e9) == "healthy"


def test_an_interrupted_episode_counts_in_no_phase():
    history = History(None, DT_S, episodes=[episode(0, 0.0, 2.0, 5.0, "interrupted")])
    assert history.episodes_in("healthy")[0] == []


def test_a_model_accepted_before_the_fault_does_not_begin_the_adapted_phase():
    history = story()
    history.swaps = [ModelSwap(2.0, "body-1.1", "accepted"), ModelSwap(14.0, "previous", "rolled back")]
    assert history.adapted_s is None


def test_the_summary_is_exact():
    summary = summarise(config(seed=4), story(), control(), "ok", "abc", 12.0)
    assert summary["phases"]["adapted"]["return_mean"] == 650.0
    assert summary["phases"]["adapted"]["steps"] == 450
    assert summary["control_arm"]["episode_indices"] == [6, 7]
    assert summary["control_arm"]["return_mean"] == 106.5
    assert [a["after_fault_s"] for a in summary["alarms"]] == [None, pytest.approx(0.3)]
    assert summary["false_alarms"] == 1
    assert summary["plan_ms"]["p50"] == 20.0
    assert summary["plan_age_ms"]["p99"] == pytest.approx(24.0)
    json.dumps(plain(summary), allow_nan=False)


def test_the_interval_is_students():
    mean, lo, hi = interval([1.0, 2.0, 3.0])
    assert (mean, lo, hi) == (
        2.0,
        pytest.approx(2 - 4.302653 / math.sqrt(3)),
        pytest.approx(2 + 4.302653 / math.sqrt(3)),
    )
    assert interval([5.0]) == (5.0, None, None)
    assert interval([]) == (None, None, None)


def test_the_headline_tells_the_truth():
    told = headline(summarise(config(faults=("x",)), story(), control(), "ok", "abc", 1.0))
    for part in ("broke at 9.0 s", "0.30 s later", "650", "without adaptation gets 106", "1 false alarm."):
        assert part in told
    refused = headline(summarise(config(faults=("x",)), story(accepted=False), control(), "ok", "abc", 1.0))
    assert "1 adaptations were tried, none accepted" in refused
    assert "takes over" not in refused
    history = story()
    history.alarms.clear()
    assert "No alarm was raised after it" in headline(summarise(config(faults=("x",)), history, None, "ok", "abc", 1.0))
    history.surprise_max = None
    blind = headline(summarise(config(faults=("x",)), history, None, "ok", "abc", 1.0))
    assert "Nothing watched for surprise" in blind
    assert "alarm" not in blind


@pytest.mark.parametrize(
    ("latency_s", "took_ms", "late"), [(None, 250.0, True), (None, 150.0, False), (0.1, 250.0, False)]
)
def test_the_headline_warns_where_plans_came_so_late_that_the_run_says_little(latency_s, took_ms, late):
    history = story()
    history.plan_ms = Sample()
    history.plan_ms.add([took_ms] * 9)
    told = headline(summarise(config(plan_latency_s=latency_s, plan_every=10), history, None, "ok", "abc", 1.0))
    assert ("PLANS CAME LATE: one took 250 ms (median), where one is due each 80 ms" in told) == late
    assert ("--plan-latency 0.08" in told) == late


def test_an_event_is_the_same_after_writing_and_reading():
    before = episode(3, 1.0, 0.08, 2.5)
    (after,) = read_episodes([to_line(before) + "\n"])
    assert np.array_equal(after.sent_TA, before.sent_TA)
    assert (after.episode, after.ended, after.episode_return) == (3, "terminated", 2.5)


def test_json_has_nine_digits_and_no_nan():
    assert plain([1 / 3, math.nan, math.inf, np.float32(0.1), {"a": (1,)}]) == [
        0.333333333,
        None,
        None,
        0.100000001,
        {"a": [1]},
    ]


def test_the_storyboard_shows_the_break_and_both_arms_and_never_a_step_that_was_not():
    board = storyboard(story(), control(), DT_S)
    assert len(board.rows) == 3
    assert "+0.00 s" in board.rows[0][1].captions
    for shot in [row for _, row in board.rows] + [s for scene in board.scenes for s in scene.shots]:
        assert 0 <= min(shot.steps) <= max(shot.steps) <= shot.last_step
    assert any(text.startswith("over after 1.0 s") for text in board.rows[2][1].captions)


def test_nothing_to_show_is_an_empty_storyboard(tmp_path):
    assert storyboard(History(None, DT_S), [], DT_S) == Storyboard((), ())
    assert draw(tmp_path, "walker2d", "v4", Storyboard((), ()), ("drawn",)) is None


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    history = story()
    for where in (folder, folder / "control"):
        where.mkdir(exist_ok=True)
        poses = {f"episode_{n}": p for n, p in enumerate(history.poses)}
        poses = {k: np.tile(POSE, (126, 1)) for k in poses} if where != folder else poses
        np.savez(where / "poses.npz", **poses)
    cfg = config(robot="walker2d", faults=("actuator_limit:foot_left_joint:0.5@9",))
    write_report(folder, cfg, summarise(cfg, history, control(), "ok", "abc", 60.0), history, control())
    return folder


def test_the_report_stands_alone_and_holds_the_pictures(reported):
    html = (reported / "report.html").read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") == 3 + 3  # strips and plots
    assert html.count("data:video/mp4;base64,") == 1
    assert "better &lt;by&gt; far" in html
    assert (reported / "video.mp4").stat().st_size > 1000


def test_a_report_of_nothing_is_still_a_report(tmp_path):
    cfg, history = config(), History(None, DT_S)
    write_report(tmp_path, cfg, summarise(cfg, history, None, "ok", "abc", 0.0), history, [])
    assert "</html>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("robot", "joints"),
    [
        ("walker2d", range(1, 9)),
        ("hopper", range(1, 6)),
        ("halfcheetah", range(1, 9)),
        ("so101", range(6)),
        ("so101_push", range(6)),
        ("dm_control:cartpole-balance", range(2)),
    ],
)
def test_every_robot_can_be_drawn_and_moving_a_joint_shows(robot, joints):
    painter = make_painter(robot, "v4", gl=False)
    env = make_env(robot)
    env.reset(seed=0)
    still = configuration(env.unwrapped.data)  # pyright: ignore[reportAttributeAccessIssue]
    shown = painter(still)
    assert shown.shape == (SIZE[1], SIZE[0], 3)
    for joint in joints:
        bent = still.copy()
        bent[joint] -= 0.5
        assert (shown != painter(bent)).any(-1).mean() > 0.001, joint


def test_the_mark_of_a_goal_is_drawn_where_it_is_and_a_short_pose_will_do():
    painter = make_painter("so101", "v4", gl=False)
    env = make_env("so101")
    env.reset(seed=0, options={"target": (0.25, 0.1, 0.1)})
    data = env.unwrapped.data  # pyright: ignore[reportAttributeAccessIssue]

    def red():
        shown = painter(configuration(data)).astype(float)
        return np.argwhere((shown[..., 0] > 100) & (shown[..., 1] < 60)).mean(0)

    row, column = red()
    data.mocap_pos[0, 1] -= 0.1
    assert np.hypot(red()[0] - row, red()[1] - column) > 15
    assert np.array_equal(painter(configuration(data)[:6]), painter(configuration(data))), "it stays where it was"


def test_the_cart_is_drawn_where_it_is():
    assert (paint_cart(np.array([0.5, 0.0])) != paint_cart(np.array([-0.5, 0.0]))).any()


def test_the_gauge_is_full_at_the_threshold_and_survives_nonsense():
    assert gauge(1.0, 1.0).plain.count("█") == 24
    assert gauge(0.1, 1.0).plain.count("█") == 12
    assert gauge(math.nan, 1.0).plain.count("█") == 0
    assert gauge(1e9, 1.0).plain.count("█") == 32
    assert clock(65) == "1:05"
    assert clock(math.inf) == "?"


def test_without_a_terminal_each_thing_is_told_once_in_a_line():
    out = io.StringIO()
    display = Display(config(), View(), story(), lambda _: 0.0, lambda: 3, Console(file=out, width=200))
    with display:
        display.tell()
        display.tell()
    told = out.getvalue().splitlines()
    assert len([line for line in told if line.startswith("episode")]) == 8
    assert len([line for line in told if line.startswith("ALARM")]) == 2
    assert len([line for line in told if "accepted" in line]) == 1


def test_on_a_terminal_the_panel_shows_phase_surprise_alarm_and_what_remains():
    out = io.StringIO()
    view = View("broken", 2, 9.5, None, reading(9.3), 9.3, 9.4, 20.0, 12.0, 24.0)
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    display = Display(config(), view, story(accepted=False), lambda _: 0.0, lambda: 3, console)
    console.print(display._panel())
    shown = out.getvalue()
    for part in ("broken", "2.00 / 1.00", "ALARM at 9.30 s", "new weights at 20.0 s", "age 24 ms", "left", "3 done"):
        assert part in shown
