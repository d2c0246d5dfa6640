"""`--record` of `surefoot run` and `surefoot teleop`: what a run does becomes a data set that lerobot opens and replay repeats."""

import json
import signal
import subprocess

import numpy as np
import pytest

from deploy.cli import main
from deploy.records import read_episodes
from tests.terminals import ROOT, SUREFOOT


def opened(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/run", root=root, video_backend="pyav")


def rows(root):
    return opened(root).hf_dataset.with_format("numpy")[:]


def episodes_of(folder):
    with (folder / "events.jsonl").open() as lines:
        return read_episodes(lines)


def said_by(capsys, *args):
    code = main([*map(str, args)])
    return code, capsys.readouterr()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Three episodes of 3 s, in the second of which, at 4 s, half of the force is lost."""
    folder = tmp_path_factory.mktemp("broken")
    more = ("--max-episodes", "3", "--no-control-arm", "--pictures", "none", "--record", str(folder / "data"))
    assert main(["run", "smoke", *more, "--out", str(folder / "run")]) == 0
    return folder


def test_the_data_set_holds_what_the_log_holds(broken):
    found, episodes = rows(broken / "data"), episodes_of(broken / "run")
    assert opened(broken / "data").num_episodes == 3
    for name, parts in (
        ("action", "sent_TA"),
        ("action_requested", "requested_TA"),
        ("observation.state", "states_TO"),
    ):
        logged = np.concatenate([getattr(e, parts) for e in episodes])
        assert np.allclose(np.stack(found[name]).reshape(logged.shape), logged, rtol=1e-6)
    assert not np.asarray(found["intervention"]).any()


@pytest.mark.parametrize("episode", [0, 1, 2])
def test_an_episode_is_repeated_exactly_with_the_faults_of_its_time(broken, episode, capsys):
    code, told = said_by(capsys, "replay", broken / "data", "--episode", episode)
    assert code == 0, told.out
    assert "largest difference of states 0" in told.out


def test_another_config_is_not_mixed_in_and_the_same_goes_on(broken, tmp_path, capsys):
    args = ("run", "smoke", "--no-control-arm", "--pictures", "none", "--record", broken / "data")
    code, told = said_by(capsys, *args, "--max-episodes", 2, "--out", tmp_path / "other")
    assert code == 2
    assert "was recorded with another config" in told.err
    code, told = said_by(capsys, *args, "--max-episodes", 3, "--out", tmp_path / "same")
    assert code == 0
    assert f"recorded: 3 episodes into {broken / 'data'}" in told.out
    assert opened(broken / "data").num_episodes == 6


def test_who_steered_is_kept_step_by_step_and_a_robot_by_itself_is_replayed(tmp_path, capsys):
    script, data = tmp_path / "moves.csv", tmp_path / "data"
    script.write_text("t_s,force\n0.5,2\n1.0,\n")
    args = ("--plan-latency", 0.1, "--max-episodes", 1, "--episode-steps", 20, "--pictures", "none")
    steered = ("--operator", "script", "--script", script, "--record", data, "--out", tmp_path / "run")
    assert said_by(capsys, "run", "linear-cem", *args, *steered)[0] == 0
    assert np.asarray(rows(data)["intervention"]).ravel().tolist() == [False] * 5 + [True] * 5 + [False] * 10
    alone = ("teleop", "--robot", "double_integrator", "--with", "script", "--script", script)
    assert said_by(capsys, *alone, "--record", tmp_path / "alone", "--out", tmp_path / "teleop")[0] == 0
    code, told = said_by(capsys, "replay", tmp_path / "alone", "--episode", 0)
    assert (code, "largest difference of states 0" in told.out) == (0, True)
    assert said_by(capsys, "repair", tmp_path / "alone")[1].out == f"nothing to mend in {tmp_path / 'alone'}\n"


def test_ctrl_c_keeps_the_episodes_that_ended_and_the_one_under_way(tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    args = ("linear-cem", "--max-episodes", "100000", "--episode-steps", "100", "--pictures", "none")
    command = [*SUREFOOT, "run", *args, "--record", str(data), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "recorded: " in told
    episodes = [e for e in episodes_of(out) if e.steps]
    assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
    lengths = np.bincount(np.asarray(rows(data)["episode_index"]).ravel().astype(int))
    assert lengths.tolist() == [e.steps for e in episodes]
    assert len(episodes) >= 4


def test_a_folder_with_something_else_is_refused_before_the_run(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.txt").write_text("not a data set")
    code, told = said_by(capsys, "run", "linear-cem", "--record", tmp_path / "data", "--out", tmp_path / "run")
    assert (code, told.err.count("\n")) == (2, 1)
    assert "is no LeRobotDataset" in told.err
