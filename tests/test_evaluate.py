"""An evaluation: its arms run the same episodes, it survives a kill, and it ranks nothing that it cannot tell apart."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from scipy import stats

from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.cli import main as surefoot
from deploy.comparison import Scores, compare, episodes_needed
from deploy.evaluate import run_episode, succeeded
from deploy.evaluation_plots import differences_plot, pairs_plot
from deploy.evaluation_report import chosen
from deploy.kept_episodes import EpisodeResult, KeptEpisodes, mark
from deploy.session import env_seed
from envs.episodes import TornEpisodeError

ROOT = Path(__file__).resolve().parents[1]
SMOKE = PRESETS["smoke"][1]
PLAIN = ["--videos", "0"]


def evaluate(*args):
    return surefoot(["evaluate", "smoke", *map(str, args)])


def untimed(result):
    """A result without what was measured in wall time."""
    if isinstance(result, dict):
        return {key: untimed(value) for key, value in result.items() if key != "plan_ms"}
    return [untimed(item) for item in result] if isinstance(result, list) else result


def read(path):
    return json.loads(path.read_text())


def scores(name, returns, successes=None):
    return Scores(name, tuple(range(len(returns))), tuple(returns), successes)


def compared(a, b):
    """What is found of two arms with these returns."""
    (found,) = compare(scores("a", a), [scores("b", b)])
    return found["differences"]["return"], found["verdict"][0]


# --- what may be said of two arms


def test_arms_that_differ_beyond_doubt_are_ranked_whichever_is_better():
    shared = np.random.default_rng(0).normal(0, 50, 30)
    better = shared + np.random.default_rng(1).normal(5, 1, 30)
    found, said = compared(better, shared)
    assert found["told_apart"]
    assert found["lo"] < found["mean"] < found["hi"]
    assert said.startswith("a earns more than b: ")
    assert compared(shared, better)[1].startswith("b earns more than a: ")


def test_an_interval_with_0_in_it_ranks_nothing_and_says_how_many_episodes_would():
    gap = np.random.default_rng(3).normal(0.2, 1.0, 20)
    found, said = compared(gap, np.zeros(20))
    assert found["lo"] < 0 < found["hi"]
    assert not found["told_apart"]
    assert "cannot be told apart by return with 20 episodes" in said
    assert found["episodes_needed"] == max(21, episodes_needed(gap))
    assert "more than" not in said


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_episodes_rank_nothing_however_clear_they_look(n):
    found, said = compared(np.arange(10.0, 10.0 + n), np.zeros(n))
    assert not found["told_apart"]
    assert "cannot be told apart" in said
    assert found["episodes_needed"] is None if n == 1 else found["episodes_needed"] >= 6


def test_p_values_are_corrected_for_all_the_arms():
    gap = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, -0.5]
    alone, _ = compared(gap, [0.0] * 8)
    others = [scores(f"b{i}", [0.0] * 8) for i in range(5)]
    several = [found["differences"]["return"] for found in compare(scores("a", gap), others)]
    assert alone["p_holm"] == alone["p_wilcoxon"] == pytest.approx(stats.wilcoxon(gap).pvalue)
    assert [d["p_holm"] for d in several] == pytest.approx([5 * alone["p_wilcoxon"]] * 5)
    assert alone["told_apart"]
    assert not any(d["told_apart"] for d in several)


def test_success_is_tested_on_the_pairs_that_differ():
    mine, other = [True] * 28 + [False] * 2, [False] * 23 + [True] * 5 + [False, True]
    (found,) = compare(scores("a", [0.0] * 30, tuple(mine)), [scores("b", [0.0] * 30, tuple(other))])
    success, mcnemar = found["differences"]["success"], 2 * (1 + 24) * 0.5**24
    assert (success["mean"], success["p_sign"]) == pytest.approx((22 / 30, mcnemar))
    assert success["p_holm"] == pytest.approx(2 * mcnemar)  # the return was tested too
    assert found["verdict"][1].startswith("a succeeds more often than b: success difference +73 [")


def test_so_many_episodes_as_are_said_to_be_needed_see_the_difference_four_times_in_five():
    rng = np.random.default_rng(0)
    needed = episodes_needed(stats.norm.ppf((np.arange(1000) + 0.5) / 1000, 0.4, 1.0))
    seen = stats.ttest_1samp(rng.normal(0.4, 1.0, (4000, needed)), 0.0, axis=1).pvalue < 0.05
    assert 0.76 < seen.mean() < 0.82
    assert episodes_needed([1.0, -1.0]) is None


def test_episodes_from_other_seeds_are_no_pairs():
    other = replace(scores("b", [1.0, 2.0]), seeds=(0, 7))
    with pytest.raises(ValueError, match="a and b began from different seeds"):
        compare(scores("a", [1.0, 2.0]), [other])


# --- success


def test_a_walker_succeeds_by_not_falling():
    walker = replace(PRESETS["walker"][1], plan_latency_s=0.0, adapt=False, episode_steps=10)
    assert run_episode(walker, 0).success is True
    limp = replace(walker, episode_steps=None, faults=("actuator_gain:all:0@0",), plan_every=16)
    fallen = run_episode(limp, 0)
    assert (fallen.ended, fallen.success) == ("terminated", False)
    assert len(fallen.poses_TP) == fallen.steps + 1


def test_an_arm_succeeds_by_being_there_at_the_end_and_a_point_mass_cannot():
    arm = replace(SMOKE, robot="so101", limits=LIMITS["so101"])
    assert succeeded(arm, "truncated", {"is_success": np.True_}) is True
    assert succeeded(arm, "truncated", {"is_success": False}) is False
    assert succeeded(arm, "held", {"is_success": True}) is False
    assert succeeded(SMOKE, "truncated", {}) is None


# --- the command

AGAINST = ["--against", "same=", "--against", "weak=--agent.samples 16 --agent.planner.iterations 1"]


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    out = tmp_path_factory.mktemp("arms") / "arms.json"
    assert evaluate("--episodes", 8, "--seed", 4, "--videos", 2, "--out", out, *AGAINST) == 0
    return out


def test_every_arm_runs_the_same_episodes(arms):
    result = read(arms)
    seeds = [env_seed(4, episode) for episode in range(8)]
    assert [arm["name"] for arm in result["arms"]] == ["same", "weak"]
    for arm in (result, *result["arms"]):
        assert [e["env_seed"] for e in arm["per_episode"]] == seeds
        assert arm["lo"] < arm["mean"] < arm["hi"]
        assert (arm["n"], arm["metric"], arm["success"]) == (8, "return", None)


def test_an_arm_that_is_the_same_differs_by_exactly_0_and_cannot_be_told_apart(arms):
    same, weak = read(arms)["comparisons"]
    found = same["differences"]["return"]
    assert (found["mean"], found["lo"], found["hi"], found["p_holm"], found["told_apart"]) == (0, 0, 0, 1, False)
    assert same["verdict"][0].startswith("smoke and same cannot be told apart by return with 8 episodes")
    assert weak["differences"]["return"]["told_apart"]
    assert weak["verdict"][0].startswith("smoke earns more than weak")


def test_the_page_is_whole_in_itself_and_says_what_the_file_says(arms):
    page = arms.with_name("arms.report.html").read_text()
    verdicts = [line for found in read(arms)["comparisons"] for line in found["verdict"]]
    assert all(line in page for line in verdicts)
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert page.count("data:image/png") == 3 + 2 * 3  # plots, and a row for each arm of each episode shown
    assert page.count("data:video/mp4") == 1
    assert "--agent.samples 16 --agent.planner.iterations 1" in page


def test_an_earlier_file_is_an_arm(arms, tmp_path, capsys):
    out = tmp_path / "new.json"
    args = ["--episodes", 8, "--seed", 4, *PLAIN, "--out", out, "--against", f"old={arms}"]
    assert evaluate(*args) == 0
    assert read(out)["comparisons"][0]["differences"]["return"]["mean"] == 0
    assert "smoke and old cannot be told apart" in capsys.readouterr().out
    assert not (tmp_path / "new.episodes" / "old").exists()


def test_another_preset_of_the_robot_is_an_arm_with_the_seed_of_the_first(tmp_path):
    out = tmp_path / "out.json"
    args = ["--episodes", 1, "--seed", 6, *PLAIN, "--out", out, "--against", "cem=linear-cem --plan-latency 0.1"]
    assert evaluate(*args, "--against", "short=--episode-steps 5") == 0
    cem, short = read(out)["arms"]
    assert (cem["preset"], cem["seed"], cem["per_episode"][0]["steps"]) == ("linear-cem", 6, 100)
    assert (short["preset"], short["per_episode"][0]["steps"]) == ("smoke", 5)


# --- going on


def wait_for(condition, limit_s=60.0):
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def started(out, episodes):
    """An evaluation in a process of its own that has done a few episodes."""
    command = [sys.executable, "-m", "deploy.cli", "evaluate", "smoke", "--episodes", str(episodes), *PLAIN]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([*command, "--out", str(out), "--against", "same="], env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: len(list(out.parent.glob("*.episodes/*/*.npz"))) >= 5 or run.poll() is not None)
    return run


def test_after_kill_9_the_same_command_goes_on_to_the_result_of_one_that_was_left_alone(tmp_path):
    out, alone = tmp_path / "killed.json", tmp_path / "alone.json"
    run = started(out, 25)
    run.kill()
    run.communicate()
    before = {path: path.read_bytes() for path in tmp_path.glob("killed.episodes/*/*.npz")}
    assert 5 <= len(before) < 50
    assert not out.exists()
    for path in (out, alone):
        assert evaluate("--episodes", 25, *PLAIN, "--out", path, "--against", "same=") == 0
    assert json.dumps(untimed(read(out))) == json.dumps(untimed(read(alone)))
    assert {path: path.read_bytes() for path in before} == before


def test_ctrl_c_leaves_what_is_done_and_its_number(tmp_path):
    out = tmp_path / "cut.json"
    run = started(out, 100_000)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    result = read(out)
    assert run.returncode == 130
    assert (result["status"], result["n"]) == ("interrupted", len(result["per_episode"]))
    assert 2 <= result["n"] < 100_000
    assert abs(result["n"] - result["arms"][0]["n"]) <= 1
    assert f"interrupted; {result['n']} of 100000 episodes are in {out}".encode() in err


def test_more_episodes_of_the_same_are_added_to_those_there_are(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert evaluate("--episodes", 2, *PLAIN, "--out", out) == 0
    few = read(out)["per_episode"]
    assert evaluate("--episodes", 4, *PLAIN, "--out", out) == 0
    assert "2 of 4 episodes were done before" in capsys.readouterr().err
    assert read(out)["per_episode"][:2] == few
    assert read(out)["n"] == 4


def test_episodes_of_other_settings_are_not_mixed_in(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert evaluate("--episodes", 1, *PLAIN, "--out", out) == 0
    kept = out.read_bytes()
    capsys.readouterr()
    assert evaluate("--episodes", 2, *PLAIN, "--out", out, "--agent.horizon", 8) == 2
    err = capsys.readouterr().err
    assert "out.episodes/smoke holds episodes made with other settings, weights or code; delete it" in err
    assert err.count("\n") == 1
    assert out.read_bytes() == kept
    assert evaluate("--episodes", 1, *PLAIN, "--out", out, "--pictures", "none") == 0  # no part of what happened


def test_an_episode_that_is_not_whole_is_run_again(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert evaluate("--episodes", 2, *PLAIN, "--out", out) == 0
    first, torn = read(out), tmp_path / "out.episodes/smoke/episode-000001.npz"
    torn.write_bytes(torn.read_bytes()[:-200])
    assert evaluate("--episodes", 2, *PLAIN, "--out", out) == 0
    assert f"run again: {torn}: not a whole episode" in capsys.readouterr().err
    assert untimed(read(out)) == untimed(first)


RESULT = EpisodeResult(3, 99, -1.5, 4, "truncated", None, 0, (1.0, 2.0), np.arange(10.0).reshape(5, 2))


def test_what_is_kept_comes_back_and_a_changed_byte_is_seen(tmp_path):
    store = KeptEpisodes(tmp_path, 7)
    store.write(RESULT)
    back = store.read(3)
    assert replace(back, poses_TP=None) == replace(RESULT, poses_TP=None)
    assert np.array_equal(back.poses_TP, RESULT.poses_TP)
    assert store.read(2) is None
    data = bytearray(store.path(3).read_bytes())
    data[data.find(np.float64(9.0).tobytes()) + 7] ^= 1
    store.path(3).write_bytes(data)
    with pytest.raises(TornEpisodeError, match=r"episode-000003\.npz"):
        store.read(3)


def test_episodes_depend_on_their_settings_and_not_on_how_they_are_shown():
    assert mark(replace(SMOKE, pictures="mujoco", view="web", max_episodes=9)) == mark(SMOKE)
    assert (
        len({mark(replace(SMOKE, **{key: value})) for key, value in (("seed", 9), ("faults", ()))} | {mark(SMOKE)}) == 3
    )


def test_the_worst_the_median_and_the_best_are_shown():
    results = [replace(RESULT, episode=i, episode_return=float(value)) for i, value in enumerate((5, 1, 4, 2, 3, 6))]
    assert chosen(results, 3) == [("the worst", 1), ("the median", 4), ("the best", 5)]
    assert chosen(results, 1) == [("the median", 4)]
    assert chosen(results[:2], 5) == [("the worst", 1), ("the best", 0)]
    assert chosen(results, 0) == []


def blue_and_red(png):
    """Whether there is blue in a picture, and red."""
    picture = imageio.imread(png).astype(int)
    warmth = picture[..., 0] - picture[..., 2]
    return bool((warmth < -60).any()), bool((warmth > 60).any())


@pytest.mark.parametrize(("mine", "blue", "red"), [((2.0, 3.0), True, False), ((2.0, 0.5), True, True)])
def test_the_plots_show_each_pair_by_who_won_it(mine, blue, red):
    others = {"b": (1.0, 1.0)}
    comparisons = compare(scores("a", mine), [scores("b", others["b"])])
    for plot in (pairs_plot("a", mine, others), differences_plot(comparisons, mine, others)):
        assert blue_and_red(plot) == (blue, red)


# --- bad input


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--against", "nothing"], 'give NAME="OVERRIDES"'),
        (["--against", "../up=--seed 1"], 'give NAME="OVERRIDES"'),
        (["--against", "a=", "--against", "a="], "there is an arm named 'a' already"),
        (["--against", "smoke="], "there is an arm named 'smoke' already"),
        (["--against", "a=--agent.sampels 4"], "no option '--agent.sampels'; near misses: --agent.samples"),
        (["--against", "a=walker"], "arms share their robot, 'double_integrator', got 'walker2d'"),
        (["--against", "a=--seed 3"], "arms share their seed, 0, got 3"),
        (["--against", "a='"], "No closing quotation"),
        (["--against", "a=--agent.samples 2"], "arm a: "),
        (["--against", "a=nowhere.json"], "nowhere.json cannot be read"),
        (["--videos", "-1"], "--videos must be >= 0, got -1"),
        (["--out", "."], "--out . is a folder"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(args, said, tmp_path, capsys):
    assert evaluate("--episodes", 2, "--out", tmp_path / "x.json", *args) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "args", "said"),
    [
        (lambda old: old, ["--episodes", 8, "--seed", 5], "began from other seeds: it ran --seed 4, this is --seed 5"),
        (lambda old: old, ["--episodes", 9, "--seed", 4], "holds 8 episodes, so that --episodes 9 are no pairs"),
        (lambda old: {**old, "robot": "hopper"}, ["--episodes", 8, "--seed", 4], "arms share their robot"),
        (lambda old: {"seed": 4}, ["--episodes", 8, "--seed", 4], "is no result of surefoot evaluate"),
        (lambda old: {**old, "per_episode": [{"env_seed": 1, "return": None}]}, ["--episodes", 1], "is no result"),
    ],
)
def test_an_earlier_file_that_is_no_pair_gets_one_line(arms, tmp_path, capsys, change, args, said):
    old = tmp_path / "old.json"
    old.write_text(json.dumps(change(read(arms))))
    assert evaluate(*args, "--out", tmp_path / "x.json", "--against", f"old={old}") == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_file_where_the_episodes_go_gets_one_line(tmp_path, capsys):
    (tmp_path / "x.episodes").write_text("")
    assert evaluate("--episodes", 1, *PLAIN, "--out", tmp_path / "x.json") == 2
    assert "x.episodes must be a folder" in capsys.readouterr().err
