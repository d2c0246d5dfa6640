"""Our own commands on a real robot: lerobot's unmodified so101_follower, on the emulated servo bus in a process of its own.

The oracle is what arrived at the servos' goal registers.
"""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.cli import main
from deploy.records import read_episodes
from deploy.robots.hardware import CAUTION_RAD_S, as_real, measured, take_hardware
from deploy.robots.lerobot_robot import lerobot_robot
from deploy.robots.servo_arm import JOINTS, calibration
from deploy.robots.servo_bus import GoalWrite, violations, write_calibration
from envs.robots import ROBOTS
from tests.terminals import ROOT, SUREFOOT, Seat

LIMIT, DT_S = LIMITS["so101"], ROBOTS["so101"].dt_s
ARM = ("--robot.type=so101_follower", "--robot.id=emulated")
CALIBRATED = ROOT / "checkpoints/arm-small/surprise.json"
needs_calibration = pytest.mark.skipif(not CALIBRATED.exists(), reason=f"no {CALIBRATED}: surefoot calibrate arm-small")


@dataclass
class Arm:
    """An emulated arm that serves a bus, and what it has seen once it is off."""

    link: Path
    log: Path
    process: subprocess.Popen

    @property
    def options(self):
        return (*ARM, f"--robot.port={self.link}", f"--robot.calibration_dir={self.link.parent}")

    def off(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=30)

    def writes(self):
        self.off()
        return [GoalWrite(**json.loads(line)) for line in self.log.read_text().splitlines()]


@contextmanager
def emulated(folder, name="so101"):
    link, log = folder / name, folder / f"{name}.jsonl"
    where = ["--port-link", str(link), "--calibration-dir", str(folder), "--log", str(log)]
    command = [sys.executable, "-m", "deploy.robots.servo_bus", *where]
    arm = Arm(link, log, subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        assert "SO-101 on" in arm.process.stdout.readline()
        yield arm
    finally:
        arm.off()


def surefoot(*args):
    return subprocess.run(
        [*SUREFOOT, *map(str, args)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )


def results(folder):
    with (folder / "events.jsonl").open() as lines:
        return json.loads((folder / "summary.json").read_text()), read_episodes(lines)


def opened(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/arm", root=root, video_backend="pyav")


def torque(arm):
    """Look at the servos as the next driver would."""
    bus = lerobot_robot(list(arm.options)).bus
    bus.connect()
    found = bus.sync_read("Torque_Enable", normalize=False, num_retry=5)
    bus.disconnect(disable_torque=False)
    return {*found.values()}


def moves(folder):
    path = folder / "moves.csv"
    path.write_text("t_s,shoulder_pan,elbow_flex\n0,0,0.5\n0.3,0.3,\n1.2,-0.2,0.8\n2,0,0.5\n")
    return ("--with", "script", "--script", path)


def assert_registers_were_legal(writes):
    assert len(writes) > 30
    assert violations(writes, LIMIT.max_rate[0], DT_S) == []


@needs_calibration
@pytest.mark.timeout(300)
def test_a_preset_drives_the_arm_through_the_unmodified_driver_and_leaves_a_report(tmp_path):
    out = tmp_path / "run"
    with emulated(tmp_path) as arm:
        more = ("--max-s", 6, "--episode-steps", 60, "--arm", "at-once", "--pictures", "none", "--out", out)
        done = surefoot("run", "arm-small", *arm.options, *more)
        assert done.returncode == 0, done.stderr
        assert_registers_were_legal(arm.writes())
    summary, episodes = results(out)
    assert (out / "report.html").exists()
    assert summary["modes"][0]["reason"] == "--arm at-once"
    assert f"- {ARM[0]}" in (out / "config.yaml").read_text()
    away_m = [np.linalg.norm(e.states_TO[:, 12:15] - e.states_TO[:, 15:18], axis=1) for e in episodes]
    assert len({*(tuple(e.states_TO[0, 15:18]) for e in episodes)}) == len(episodes) >= 3
    nearer = [last < 0.5 * first for first, last in ((d[0], d[-1]) for d in away_m)]
    assert sum(nearer) >= len(nearer) - 1


@pytest.mark.timeout(300)
def test_what_a_script_does_with_the_arm_is_recorded_for_stock_lerobot_and_is_replayed_in_simulation(tmp_path, capsys):
    data = tmp_path / "data"
    with emulated(tmp_path) as arm:
        args = ("teleop", *moves(tmp_path), *arm.options, "--arm", "at-once", "--record", data)
        done = surefoot(*args, "--out", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        assert f"recorded: 1 episodes into {data}" in done.stdout
        writes = arm.writes()
    assert_registers_were_legal(writes)
    summary, (episode,) = results(tmp_path / "run")
    dataset = opened(data)
    rows = dataset.hf_dataset.with_format("numpy")[:]
    assert len(dataset) == episode.steps == 61
    assert dataset.meta.robot_type == "so101"
    asked = np.asarray(rows["intervention"])
    # a machine that stands still misses steps, in which nobody asks for anything
    assert len(asked) - asked.sum() == summary["missed_steps"] < 30
    assert np.allclose(np.stack(rows["action"]), episode.sent_TA, atol=1e-8)
    assert np.ptp(np.stack(rows["observation.state"])[:, 0]) > 0.3  # [rad] the pan really moved
    assert main(["repair", str(data)]) == 0
    assert main(["replay", str(data), "--episode", "0"]) == 0
    assert "a real so101_follower" in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_a_real_robot_waits_for_a_person_at_the_keys_and_ctrl_c_keeps_log_episode_and_torque(tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    with emulated(tmp_path) as arm:
        with Seat("teleop", *arm.options, "--record", str(data), "--out", str(out)) as seat:
            seat.sees(r"disarmed \(not armed yet")
            assert not data.exists()
            seat.type("a")
            seat.sees(r"running \(keyboard")
            seat.holds_down("\x1b[C", "steers +you")
            seat.sees(r"at [1-9]\.\d\d s")
            seat.signal(signal.SIGINT)
            assert seat.ends() == 130
            seat.sees("recorded: 1 episodes into")
        assert torque(arm) == {1}
        assert_registers_were_legal(arm.writes())
    summary, (episode,) = results(out)
    assert summary["status"] == "interrupted"
    assert [mode["mode"] for mode in summary["modes"][:2]] == ["armed", "running"]
    assert len(opened(data)) == episode.steps >= 30


@pytest.mark.timeout(300)
def test_the_planner_goes_once_a_person_has_armed_the_robot(tmp_path):
    with emulated(tmp_path) as arm:
        more = ("--max-s", "4", "--pictures", "none", "--out", str(tmp_path / "run"))
        with Seat("run", "arm-small", *arm.options, *more) as seat:
            seat.sees(r"disarmed \(not armed yet")
            seat.type("a")
            seat.sees(r"running \(keyboard")
            assert seat.ends() == 0
        assert_registers_were_legal(arm.writes())
    summary, (episode,) = results(tmp_path / "run")
    assert summary["operator_steps"] == 0
    assert (episode.planned_T == 1).sum() > 10  # how many more depends on what else the machine does


@pytest.mark.timeout(300)
def test_two_arms_of_which_only_the_calibration_is_known_are_steered_within_it(tmp_path):
    write_calibration(tmp_path, "emulated_left")
    write_calibration(tmp_path, "emulated_right")
    script = tmp_path / "both.csv"
    script.write_text("t_s,left_shoulder_pan,right_elbow_flex\n0,0.2,0.7\n1.2,9,-9\n2.5,0,0.5\n")
    with emulated(tmp_path, "left") as left, emulated(tmp_path, "right") as right:
        ports = [f"--robot.{arm.link.name}_arm_config.port={arm.link}" for arm in (left, right)]
        two = ("--robot.type=bi_so_follower", "--robot.id=emulated", f"--robot.calibration_dir={tmp_path}", *ports)
        more = ("--with", "script", "--script", script, "--arm", "at-once", "--record", tmp_path / "data")
        done = surefoot("teleop", *two, *more, "--out", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        written = [arm.writes() for arm in (left, right)]
    for writes in written:
        assert violations(writes, CAUTION_RAD_S, DT_S) == []
    _, (episode,) = results(tmp_path / "run")
    assert episode.sent_TA.shape[1] == 12
    assert episode.altered["slew"] > 30
    assert opened(tmp_path / "data").meta.robot_type == "bi_so_follower"


def test_another_driver_of_the_same_body_needs_only_its_units(tmp_path):
    simulated = ("--robot.type=surefoot_sim", "--robot.robot=so101", "--arm", "at-once")
    done = surefoot("teleop", "--robot", "so101", *simulated, *moves(tmp_path), "--out", tmp_path / "none")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the unit of 'shoulder_pan.pos' is None: give one of degrees" in done.stderr
    done = surefoot(
        *("teleop", "--robot", "so101", *simulated, "--robot-units", "radians", *moves(tmp_path)),
        *("--out", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    _, (episode,) = results(tmp_path / "run")
    assert abs(episode.states_TO[27, 0] - 0.3) < 0.05


# --- what is refused, before anything is connected

NOWHERE = (*ARM, "--robot.port=/nowhere")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "arm-small", *NOWHERE, "--time", "lockstep"), "a real robot does not wait: leave out --time lockstep"),
        (("run", "arm-small", *NOWHERE, "--faults", "mass:all:2@1"), "faults are for simulated robots"),
        (("run", "walker", *NOWHERE), "walker2d cannot be read on a real robot; so101 can"),
        (("run", "arm-small", "--robot.port=/nowhere"), "--robot.port=/nowhere needs --robot.type=TYPE"),
        (("run", "arm-small", "--robot.type", "x"), "--robot.type needs its value in the same word"),
        (("run", "arm-small", "--arm", "at-once"), "--arm at-once is for a real robot"),
        (("run", "arm-small", "--hardware", *NOWHERE), "no option '--hardware'; near misses: "),
        (("run", "arm-small", "--robot-units", "degrees"), "--robot-units is for a real robot"),
        (("teleop", "--robot.type=so102"), "--robot.type must be one of bi_openarm_follower, "),
        (("teleop", *NOWHERE, "--with", "gamepad", "--arm", "later"), "argument --arm: invalid choice: 'later'"),
        (("teleop", "--robot.type=so100_follower", "--robot.port=/nowhere"), "may go is not known: run lerobot-calib"),
        (("teleop", "--robot", "hopper", *NOWHERE), "hopper cannot be read on a real robot"),
    ],
)
def test_what_a_real_robot_cannot_do_gets_one_line(args, said, capsys):
    assert main([*args]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("more", [("--with", "script"), ()])
def test_a_real_robot_that_nobody_could_arm_or_that_is_not_there_is_refused(tmp_path, more):
    steered = moves(tmp_path) if more else ()
    write_calibration(tmp_path, "emulated")
    where = (*NOWHERE, f"--robot.calibration_dir={tmp_path}")
    done = surefoot("teleop", *where, *steered, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert ("nobody is here to arm the robot" if more else "standard input is none") in done.stderr
    done = surefoot("teleop", *where, *moves(tmp_path), "--arm", "at-once", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "error: so101_follower: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_real_run_is_in_real_time_without_a_control_arm():
    options, at_once, rest = take_hardware(["arm-small", *NOWHERE, "--arm", "at-once", "--robot-units", "degrees"])
    assert at_once
    assert rest == ["arm-small"]
    cfg = replace(PRESETS["arm-small"][1], hardware=options, control_arm=True)
    real = as_real(cfg, [])
    assert (real.time, real.control_arm, real.hardware) == ("realtime", False, (*NOWHERE, "--robot-units=degrees"))


def test_what_is_known_of_an_unknown_robot_is_its_calibration(tmp_path):
    write_calibration(tmp_path, "emulated")
    spec, limits = measured(
        ["--robot.type=so100_follower", "--robot.port=x", *ARM[1:], f"--robot.calibration_dir={tmp_path}"]
    )
    assert spec.action.names == JOINTS
    assert spec.state_size == 12
    for at, entry in enumerate(calibration().values()):
        half_rad = (entry["range_max"] - entry["range_min"]) / 4095 * np.pi
        assert limits.high[at] == -limits.low[at]
        assert limits.high[at] == pytest.approx(half_rad, abs=0.002)


@pytest.mark.skipif(find_spec("dynamixel_sdk") is not None, reason="the driver is installed")
def test_a_driver_that_is_not_installed_is_named_in_one_line(capsys):
    assert main(["teleop", "--robot.type=koch_follower", "--robot.port=/nowhere"]) == 2
    told = capsys.readouterr().err
    assert "koch_follower: 'dynamixel-sdk' is required but not installed" in told
    assert told.count("\n") == 1
