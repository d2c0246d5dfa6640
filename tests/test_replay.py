"""`surefoot record` and `surefoot replay`: the recorded robot repeats itself to the last bit, another one does not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from configs.presets import PRESETS
from deploy.cli import main as surefoot
from deploy.replay import read_recording, replay
from deploy.robots.sim import make_robot

FAULTY = ["--faults", "actuator_gain:force:0.5@1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("replay") / "smoke"
    args = ["record", "smoke", "--out", str(root), *FAULTY, "--episodes"]
    assert surefoot([*args, "1"]) == 0
    assert surefoot([*args, "2"]) == 0  # goes on
    return root


@pytest.mark.parametrize("episode", [0, 1])
def test_the_recorded_robot_repeats_every_state_to_the_last_bit(folder, capsys, episode):
    assert surefoot(["replay", str(folder), "--episode", str(episode)]) == 0
    said = capsys.readouterr().out
    assert said == f"30 of 30 steps of {folder} on double_integrator; largest difference of states 0\n"


def test_a_robot_without_the_fault_differs_from_the_step_after_it(folder, capsys):
    assert surefoot(["replay", str(folder), "--episode", "0", "--on", "linear-cem"]) == 0
    assert "first at step 11" in capsys.readouterr().out  # the fault halves action 10, at 1 s


def test_an_action_that_differs_in_its_last_bits_is_noticed(folder):
    cfg = replace(PRESETS["smoke"][1], faults=(FAULTY[1],))
    recording = read_recording(folder, 1)
    assert replay(recording, make_robot(cfg)[0]).difference == 0.0
    sent_TA = recording.sent_TA.copy()
    sent_TA[3] = np.nextafter(sent_TA[3].astype(np.float32), np.float32(np.inf))
    found = replay(replace(recording, sent_TA=sent_TA), make_robot(cfg)[0])
    assert found.first == 4
    assert found.difference is not None
    assert 0.0 < found.difference < 1e-4


def test_the_data_set_says_how_it_was_made(folder):
    config = yaml.safe_load((folder / "meta/config.yaml").read_text())
    assert (config["preset"], config["faults"]) == ("smoke", [FAULTY[1]])
    assert {"surefoot", "mujoco", "numpy"} <= set(json.loads((folder / "meta/surefoot.json").read_text()))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["replay", "{}", "--episode", "2"], "has episodes 0 to 1"),
        (["replay", "{}", "--episode", "0", "--on", "walker"], "recorded at 10 Hz, but this robot runs at 125 Hz"),
        (["replay", "{}", "--episode", "0", "--on", "wolker"], "is neither preset nor robot; near misses: ['walker"),
        (["replay", "/nowhere", "--episode", "0"], "there is no data set at /nowhere"),
        (["record", "smoke", "--out", "{}", "--episodes", "3"], "was recorded with another config"),
        (["record", "smoke", "--out", "/dev/null/x", "--episodes", "3"], "/dev/null/x cannot be made"),
        (["record", "smoke", "--out", "{}", "--episodes", "0"], "--episodes must be >= 1, got 0"),
        (["record", "smok", "--out", "{}", "--episodes", "1"], "no preset 'smok'"),
        (["record", "smoke"], "the following arguments are required"),
    ],
)
def test_bad_input_is_refused_in_one_line(folder, capsys, args, said):
    assert surefoot([arg.format(folder) for arg in args]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
