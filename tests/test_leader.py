"""lerobot's own factory, drivers and plug-in discovery behind `surefoot teleop`; no hardware."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.operators.leader import Leader, LeaderConfig
from deploy.operators.leader_process import lerobot_teleoperator
from deploy.orders import Orders
from deploy.records import read_episodes
from deploy.robots.servo_arm import ServoArm
from deploy.robots.servo_bus import BusFaults, ServoBus, wave, write_calibration
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


def started(plugin, *args):
    env = {**os.environ, "PYTHONPATH": str(plugin), "HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(plugin / "home")}
    command = [sys.executable, "-m", "deploy.cli", *args]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_an_episode(command, out):
    end_s, events = time.monotonic() + 120, out / "events.jsonl"
    while not (events.exists() and '"kind": "episode"' in events.read_text()):
        assert time.monotonic() < end_s
        assert command.poll() is None, command.stdout.read()
        time.sleep(0.1)


MASS = ("teleop", "--robot", "double_integrator", "--with", "puppet", "--operator-units", "radians")


def test_a_plug_in_moves_the_robot_and_its_silence_holds_it(plugin, tmp_path):
    port, out = tmp_path / "port", tmp_path / "run"
    port.write_text("2.5")
    args = [*MASS, f"--teleop.port={port}", "--episode-steps", "5", "--out", str(out)]
    with started(plugin, *args) as command:
        wait_for_an_episode(command, out)
        port.unlink()
        said, _ = command.communicate(timeout=120)
        assert command.returncode == 1
    with (out / "events.jsonl").open() as lines:
        episodes = read_episodes(lines)
    assert (episodes[0].sent_TA == 2.5).all()
    assert episodes[0].planned_T[0] == 2
    assert episodes[-1].sent_TA[-1] == 0
    status = json.loads((out / "summary.json").read_text())["status"]
    assert re.fullmatch(r"hold: puppet has said nothing for \d+\.\d\d s", status)
    assert status in said
    assert port.with_suffix(".disconnected").exists()


def test_a_device_that_is_not_there_is_one_line_and_no_run(plugin, tmp_path):
    with started(plugin, *MASS, f"--teleop.port={tmp_path / 'nowhere'}", "--out", str(tmp_path / "run")) as command:
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


def test_the_simulated_arm_goes_where_the_stock_leader_arm_is_and_holds_once_that_has_no_power(tmp_path):
    """The unmodified so101_leader with Feetech's SDK on the emulated bus, whose arm a hand waves about."""
    out, folder = tmp_path / "run", write_calibration(tmp_path / "calibration", "blue").parent
    device = ["--with", "so101_leader", "--teleop.id=blue", f"--teleop.calibration_dir={folder}"]
    pace = ["--operator-speed", "1", "--operator-stale", "2", "--episode-steps", "120"]
    with ServoBus(ServoArm(hand=wave)) as bus:
        args = ["teleop", "--robot", "so101", *device, f"--teleop.port={bus.port}", *pace, "--out", str(out)]
        with started(tmp_path, *args) as command:
            wait_for_an_episode(command, out)
            bus.faults = BusFaults(power=False)
            command.communicate(timeout=120)
    assert command.returncode == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"].startswith("hold: so101_leader has said nothing for")
    with (out / "events.jsonl").open() as lines:
        first = read_episodes(lines)[0]
    assert first.planned_T[0] == 2  # a machine that is busy misses steps, which nobody steers
    pan, lift, elbow, flex, roll, _ = first.sent_TA[20:].T
    assert np.ptp(pan) > 0.5
    assert elbow == pytest.approx(0.5 + 0.5 * pan, abs=0.05)  # as the hand moves them
    assert [lift, flex, roll] == [pytest.approx(at, abs=0.05) for at in (-0.5, 0.8, 0.0)]
