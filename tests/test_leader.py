"""lerobot's own factory, drivers and plug-in discovery behind `surefoot teleop`; no hardware."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.operators.leader import Leader, LeaderConfig
from deploy.operators.leader_process import lerobot_teleoperator
from deploy.orders import Orders
from deploy.records import read_episodes
from tests.test_operators import TWO

ROOT = Path(__file__).resolve().parents[1]
PUPPET = '''
"""A teleoperator whose only joint stands where a file says; a plug-in as lerobot discovers them."""

from dataclasses import dataclass
from pathlib import Path

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig


@TeleoperatorConfig.register_subclass("puppet")
@dataclass
class PuppetConfig(TeleoperatorConfig):
    port: str = ""


class Puppet(Teleoperator):
    config_class, name = PuppetConfig, "puppet"
    action_features = {"force.pos": float}
    feedback_features = {}
    is_connected = False
    is_calibrated = True

    def __init__(self, config):
        super().__init__(config)
        self.file = Path(config.port)

    def connect(self, calibrate=True):
        self.get_action()
        self.is_connected = True

    def get_action(self):
        return {"force.pos": float(self.file.read_text())}

    def disconnect(self):
        self.is_connected = False
        self.file.with_suffix(".disconnected").touch()

    def calibrate(self): ...
    def configure(self): ...
    def send_feedback(self, feedback): ...
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "lerobot_teleoperator_puppet.py").write_text(PUPPET)
    info = folder / "lerobot_teleoperator_puppet-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_teleoperator_puppet\nVersion: 1.0\n")
    return folder


def start(plugin, *args):
    env = {**os.environ, "PYTHONPATH": str(plugin), "HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(plugin / "home")}
    command = [sys.executable, "-m", "deploy.cli", "teleop", "--robot", "double_integrator", *args]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_plug_in_moves_the_robot_and_its_silence_holds_it(plugin, tmp_path):
    port, out = tmp_path / "port", tmp_path / "run"
    port.write_text("2.5")
    options = ["--with", "puppet", f"--teleop.port={port}", "--operator-units", "radians"]
    with start(plugin, *options, "--episode-steps", "5", "--out", str(out)) as command:
        end_s = time.monotonic() + 120
        events = out / "events.jsonl"
        while not (events.exists() and '"kind": "episode"' in events.read_text()):
            assert time.monotonic() < end_s
            assert command.poll() is None, command.stdout.read()
            time.sleep(0.1)
        port.unlink()
        said, _ = command.communicate(timeout=120)
        assert command.returncode == 1
    with events.open() as lines:
        episodes = read_episodes(lines)
    assert (episodes[0].sent_TA == 2.5).all()
    assert (episodes[0].planned_T == 2).all()
    assert episodes[-1].sent_TA[-1] == 0
    status = json.loads((out / "summary.json").read_text())["status"]
    assert re.fullmatch(r"hold: puppet has said nothing for \d+\.\d\d s", status)
    assert status in said
    assert port.with_suffix(".disconnected").exists()


def test_a_device_that_is_not_there_is_one_line_and_no_run(plugin, tmp_path):
    options = ["--with", "puppet", f"--teleop.port={tmp_path / 'nowhere'}", "--operator-units", "radians"]
    with start(plugin, *options, "--out", str(tmp_path / "run")) as command:
        said, _ = command.communicate(timeout=120)
    assert command.returncode == 2
    assert said.startswith("error: puppet: FileNotFoundError")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_stock_leader_arm_without_an_arm_is_refused_in_one_line():
    cfg = LeaderConfig(("--teleop.type=so101_leader", "--teleop.port=/dev/null"))
    with pytest.raises(ValueError, match="so101_leader: ") as caught, Leader(cfg, TWO, Orders(), 0.2):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--teleop.type=keybord"],
            "no device 'keybord': keyboard, gamepad, script, or one of lerobot's: .*so101_leader",
        ),
        ([], "no device 'nothing'"),
        (["--teleop.type=so101_leader", "--teleop.prt=x"], "lerobot refuses --teleop.type=so101_leader --teleop.prt=x"),
    ],
)
def test_options_that_lerobot_refuses_are_told_in_one_line(options, said):
    with pytest.raises(ValueError, match=said) as caught:
        lerobot_teleoperator(options)
    assert "\n" not in str(caught.value)


def test_the_stock_leader_is_made_by_lerobots_factory(tmp_path):
    options = ["--teleop.type=so101_leader", "--teleop.port=/dev/null", f"--teleop.calibration_dir={tmp_path}"]
    made = lerobot_teleoperator(options)
    assert made.name == "so_leader"
    assert "shoulder_pan.pos" in made.action_features
    assert not made.is_connected
