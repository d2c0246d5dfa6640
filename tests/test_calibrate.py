"""`surefoot calibrate --dataset`: what surprise looks like on a robot that was recorded."""

import json
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from agents.calibration import calibrate
from agents.learned import load_calibration
from agents.monitor import episode_errors
from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.calibrate import main
from deploy.demonstrate import demonstrate
from deploy.machine import ROOT
from envs.dataset import Layout
from envs.dataset_writer import write_dataset
from envs.episodes import Episode
from envs.robots import robot_spec
from world_models.checkpoint import load_model

RATE = ["--agent.surprise.false-alarm-rate", "0.05"]


@cache
def shown():
    """A few whole demonstrations, short and long in turn, again and again: enough episodes for a calibration."""
    few = [demonstrate("so101", LIMITS["so101"], 0.02, 5, n) for n in range(3)]
    return [few[n % 3] for n in range(28)]


def recorded(folder, episodes, robot="so101"):
    write_dataset(episodes, Layout.of(robot_spec(robot)), folder / "data", {})
    shutil.copytree(ROOT / "checkpoints" / "arm-small", folder / "mine")
    (folder / "mine" / "surprise.json").unlink()
    return ["arm-small", "--agent.checkpoint", str(folder / "mine"), "--dataset", str(folder / "data"), *RATE]


def test_recorded_episodes_say_what_is_surprising(tmp_path, capsys):
    assert main(recorded(tmp_path, shown())) == 0
    step = load_model(tmp_path / "mine").step
    surprise = replace(PRESETS["arm-small"][1].agent.surprise, false_alarm_rate=0.05)
    want = calibrate([episode_errors(step, e.state_TO, e.action_TA) for e in shown()], surprise)
    assert load_calibration(tmp_path / "mine").maxima == pytest.approx(want.maxima, rel=1e-5)
    about = json.loads((tmp_path / "mine" / "surprise.json").read_text())["about"]
    assert (about["dataset"], about["episodes"]) == ("data", 28)
    assert "28 recorded episodes" in capsys.readouterr().out


def test_episodes_in_which_a_person_steered_say_nothing(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    command = recorded(tmp_path, shown())
    for file in (tmp_path / "data").glob("data/chunk-*/file-*.parquet"):
        table = pq.read_table(file)
        acted = [n in (3, 7) for n in table["episode_index"].to_pylist()]
        pq.write_table(table.append_column("intervention", pa.array(acted)), file)
    assert main(command) == 0
    assert "26 recorded episodes of" in (told := capsys.readouterr().out)
    assert "2 left out, as a person steered in them" in told
    assert json.loads((tmp_path / "mine" / "surprise.json").read_text())["about"]["episodes"] == 26


def test_too_few_episodes_are_refused_with_their_number_and_nothing_is_written(tmp_path, capsys):
    assert main(recorded(tmp_path, shown()[:9])) == 2
    assert "needs at least 26 healthy episodes, got 9" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "surprise.json").exists()


def test_a_recording_of_another_robot_is_refused(tmp_path, capsys):
    still = [Episode(np.zeros((5, 11)), *[np.zeros((4, 3))] * 3, np.zeros(4), False, True, 0)]
    assert main(recorded(tmp_path, still, "hopper")) == 2
    assert "is of 'hopper', whose sensors or actuators are not those of 'so101'" in capsys.readouterr().err
