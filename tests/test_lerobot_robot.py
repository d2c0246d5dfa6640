"""The unmodified so101_follower, with Feetech's SDK, on the emulated bus: as lerobot drives it, and as our robot.

The oracle is what arrived at the servos' goal registers.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lerobot.cameras import Camera, CameraConfig
from lerobot.robots.so_follower import SO101FollowerConfig

from configs.limits import LIMITS
from deploy.clock import SimulatedClock
from deploy.robots.fault import RobotFault
from deploy.robots.joint_limits import joint_limits
from deploy.robots.lerobot_robot import DriverConfig, LeRobotRobot, _patience, lerobot_robot
from deploy.robots.servo_arm import JOINTS, ServoArm, calibration, centre_ticks
from deploy.robots.servo_bus import BusFaults, GoalWrite, ServoBus, violations, write_calibration
from deploy.robots.sts3215 import Packet
from deploy.robots.tasks import ReachTask
from envs.demonstrators import Reacher
from envs.robots import ROBOTS, make_env
from envs.so101 import HOME_A, model_file
from tests.test_servo_bus import home, patient

ROOT = Path(__file__).parents[1]
LIMIT, DT_S = LIMITS["so101"], ROBOTS["so101"].dt_s
RANGES = {name: (entry["range_min"], entry["range_max"]) for name, entry in calibration().items()}


LOST = ("There is no status packet", "Missing motor IDs")


class CountingClock(SimulatedClock):
    """Looking at it takes 10 ms: what waits for it ends, whatever the machine does."""

    def now_s(self):
        self.advance(0.01)
        return super().now_s()


@pytest.fixture(scope="module")
def calibrations(tmp_path_factory):
    return write_calibration(tmp_path_factory.mktemp("calibration"), "emulated").parent


def options(bus, calibrations, *more):
    kind = ["--robot.type=so101_follower", f"--robot.port={bus.port}", "--robot.id=emulated"]
    return [*kind, f"--robot.calibration_dir={calibrations}", *more]


@dataclass
class Rig:
    """Our robot, lerobot's robot in it, the emulator behind it, and the arm's time."""

    ours: LeRobotRobot
    theirs: object
    bus: ServoBus
    time: SimulatedClock

    def step(self, action_A, t_s=0.0):
        command = self.ours.send(action_A)
        self.time.advance(DT_S)
        self.bus.angles()  # the emulator has caught up
        return command, self.ours.read(t_s)


def stock(bus, calibrations, *more):
    """lerobot's follower, which here waits for an answer as long as it takes."""
    robot = lerobot_robot(options(bus, calibrations, *more))
    patient(robot.bus.port_handler)
    return robot


def until_fault(step):
    for _ in range(100):
        step()


@contextmanager
def rig(calibrations, start_A=HOME_A, cfg=None, task=None, limits=LIMIT):
    clock = SimulatedClock()
    with ServoBus(ServoArm(start_A), clock) as bus:
        theirs = stock(bus, calibrations)
        ours = LeRobotRobot(theirs, limits, cfg, task, CountingClock())
        try:
            yield Rig(ours, theirs, bus, clock)
        finally:
            ours.disconnect()


def assert_registers_were_legal(bus):
    assert violations(bus.goal_writes, LIMIT.max_rate[0], DT_S) == []


# --- lerobot alone: the emulator is good enough for the real thing


def test_the_stock_follower_connects_calibrated_configures_and_streams(calibrations):
    clock = SimulatedClock()
    with ServoBus(clock=clock) as bus:
        robot = stock(bus, calibrations)
        robot.connect()
        assert robot.is_calibrated
        assert {bus.register(name, "P_Coefficient") for name in JOINTS} == {16}
        assert bus.register("gripper", "Max_Torque_Limit") == 500
        assert {bus.register(name, "Torque_Enable") for name in JOINTS} == {1}
        start = robot.get_observation()
        for _ in range(60):
            robot.send_action({**start, "shoulder_pan.pos": 20.0, "gripper.pos": 50.0})
            clock.advance(1 / 60)
            bus.angles()
            seen = robot.get_observation()
        assert seen["shoulder_pan.pos"] == pytest.approx(20.0, abs=1.0)
        assert seen["gripper.pos"] == pytest.approx(50.0, abs=2.0)
        assert np.degrees(bus.angles()[0]) == pytest.approx(20.0, abs=1.0)
        assert len(bus.goal_writes) == 60
        robot.disconnect()
        assert {bus.register(name, "Torque_Enable") for name in JOINTS} == {0}  # lerobot's habit: the arm sinks


def at_leisure(command):
    """Run a stock program; again, where it gave up because this machine let it wait 50 ms for one of 300 answers."""
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        if done.returncode == 0 or not any(text in done.stderr for text in LOST):
            break
    return done


@pytest.mark.timeout(600)
def test_the_stock_teleoperate_program_moves_a_follower_as_a_leader_is_moved(tmp_path, calibrations):
    links = {side: tmp_path / side for side in ("follower", "leader")}
    log = tmp_path / "goals.jsonl"
    more = {"follower": ["--log", log], "leader": ["--hand"]}
    buses = [
        subprocess.Popen(
            [sys.executable, "-m", "deploy.robots.servo_bus", "--port-link", str(link), *map(str, more[side])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side, link in links.items()
    ]
    try:
        assert all("SO-101 on" in bus.stdout.readline() for bus in buses)
        done = at_leisure(
            [
                str(Path(sys.executable).parent / "lerobot-teleoperate"),
                *("--robot.type=so101_follower", f"--robot.port={links['follower']}", "--robot.id=emulated"),
                *("--teleop.type=so101_leader", f"--teleop.port={links['leader']}", "--teleop.id=emulated"),
                *(f"--robot.calibration_dir={calibrations}", f"--teleop.calibration_dir={calibrations}"),
                *("--fps=30", "--teleop_time_s=2", "--display_data=false"),
            ]
        )
        assert done.returncode == 0, done.stderr
        said = [bus.communicate("", timeout=1)[0] if bus.poll() is not None else "" for bus in buses]
        assert said == ["", ""]  # both still serve
    finally:
        for bus in buses:
            bus.terminate()
        ends = [bus.communicate(timeout=30) for bus in buses]
    assert [bus.returncode for bus in buses] == [0, 0], ends
    rows = [json.loads(line)["ticks"]["shoulder_pan"] for line in log.read_text().splitlines()]
    assert len(rows) > 10
    assert max(rows) - min(rows) > 50


def test_the_oracle_sees_what_is_out_of_range_and_what_jumps_but_not_what_time_allows():
    def of(*rows):
        return violations([GoalWrite(t_s, {"shoulder_pan": ticks}) for t_s, ticks in rows], 3.0, DT_S)

    assert of((0.0, 2047), (DT_S, 2047 + 65), (2 * DT_S, 2047)) == []
    assert of((0.0, 2047), (2 * DT_S, 2047 + 130)) == []
    assert ["from 2047 to 2117" in text for text in of((0.0, 2047), (DT_S, 2117))] == [True]
    assert ["to 4000 at 0.000 s: outside" in text for text in of((0.0, 4000))] == [True]


# --- as our robot


def test_connecting_moves_nothing_although_an_old_goal_was_left_in_the_registers(calibrations):
    clock = SimulatedClock()
    with ServoBus(clock=clock) as bus:
        for servo in bus.arm.servos:
            servo["Goal_Position"] = 2047  # far from where the arm is
        ours = LeRobotRobot(stock(bus, calibrations), LIMIT)
        clock.advance(1.0)
        assert np.abs(bus.angles() - HOME_A).max() < 0.06  # it sags a little
        assert np.allclose(ours.hold_A, HOME_A, atol=0.002)
        ours.disconnect()
        clock.advance(1.0)
        assert np.abs(bus.angles() - HOME_A).max() < 0.06
        assert {bus.register(name, "Torque_Enable") for name in JOINTS} == {1}


def test_releasing_on_disconnect_has_to_be_asked_for(calibrations):
    with rig(calibrations, cfg=DriverConfig(release=True)) as r:
        r.ours.disconnect()
        assert {r.bus.register(name, "Torque_Enable") for name in JOINTS} == {0}


def test_angles_in_radians_arrive_at_the_joints_and_are_read_back(calibrations):
    with rig(calibrations) as r:
        goal_A = home(shoulder_pan=0.5, wrist_roll=-0.4, gripper=0.9)
        for k in range(60):
            _, outcome = r.step(goal_A, k * DT_S)
        assert np.abs(r.bus.angles() - goal_A).max() < 0.06
        assert np.allclose(outcome.observation.state_O[:6], r.bus.angles(), atol=0.002)
        assert np.allclose(outcome.observation.state_O[6:], 0.0, atol=0.05)
        assert np.array_equal(r.ours.pose(), outcome.observation.state_O[:6])
        assert_registers_were_legal(r.bus)


def test_rates_are_those_of_the_simulated_arm(calibrations):
    with rig(calibrations) as r:
        r.ours.reset(0, 0.0)
        before_A = r.bus.angles()
        for k in range(1, 6):
            _, outcome = r.step(home(shoulder_pan=0.8), k * DT_S)
            after_A = r.bus.angles()
            assert np.allclose(outcome.observation.state_O[6:], (after_A - before_A) / DT_S, atol=0.08)
            before_A = after_A


def test_the_scripted_demonstrator_reaches_through_the_real_driver_as_in_simulation(calibrations):
    target = np.array([0.25, 0.12, 0.12])
    env, teacher = make_env("so101"), Reacher()
    state, _ = env.reset(seed=0, options={"target": target})
    with rig(calibrations, start_A=state[:6], task=ReachTask(target)) as r:
        seen = r.ours.reset(0, 0.0)
        assert seen.state_O.shape == (18,)
        assert np.allclose(seen.state_O, state, atol=0.01)
        for k in range(45):
            _, outcome = r.step(teacher.act(seen.state_O), (k + 1) * DT_S)
            seen = outcome.observation
        assert outcome.reward > -0.02
        assert_registers_were_legal(r.bus)


def test_what_the_drivers_own_cap_changed_is_reported_as_sent(calibrations):
    clock = SimulatedClock()
    with ServoBus(clock=clock) as bus:
        ours = LeRobotRobot(stock(bus, calibrations, "--robot.max_relative_target=2.0"), LIMIT, clock=CountingClock())
        command = ours.send(home(shoulder_pan=0.09))
        assert command.altered_by == ("driver",)
        assert command.action_A[0] == pytest.approx(np.radians(2.0), abs=0.002)
        assert np.array_equal(ours.last_A, command.action_A)
        assert ours.send(home(shoulder_pan=0.03)).altered_by == ()
        ours.disconnect()


def test_a_target_is_drawn_from_the_seed_and_nothing_moves(calibrations):
    with rig(calibrations, task=ReachTask()) as r:
        first = r.ours.reset(1, 0.0).state_O[15:]  # the bus answers in order: what was written on connecting is there
        written = len(r.bus.goal_writes)
        second, again = (r.ours.reset(seed, 0.0).state_O[15:] for seed in (2, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, second)
        assert len(r.bus.goal_writes) == written


def test_whatever_is_asked_for_no_register_sees_a_value_out_of_range_or_a_jump(calibrations):
    anything = arrays(np.float64, 6, elements=st.floats(width=64))
    near = arrays(np.float64, 6, elements=st.floats(-4, 4))
    with rig(calibrations) as r:

        @settings(max_examples=60, deadline=None, database=None, derandomize=True)
        @given(st.lists(anything | near, min_size=1, max_size=12))
        def check(actions):
            for action_A in actions:
                command, _ = r.step(action_A)
                assert np.isfinite(command.action_A).all()
                if not np.isfinite(action_A).all():
                    assert command.altered_by == ("nonfinite",)

        check()
        assert len(r.bus.goal_writes) > 150
        assert_registers_were_legal(r.bus)


def test_the_extremes_of_every_joint_are_reached_but_not_passed(calibrations):
    with rig(calibrations) as r:
        for extreme in (1e9, -1e9):
            for _ in range(60):
                r.step(np.full(6, extreme))
        for name in set(JOINTS) - {"wrist_roll"}:  # whose calibration is its whole turn
            written = [write.ticks[name] for write in r.bus.goal_writes if name in write.ticks]
            assert max(written) - min(written) > RANGES[name][1] - RANGES[name][0] - 10, name
        assert_registers_were_legal(r.bus)


@pytest.mark.parametrize("kind", ["drop", "corrupt"])
def test_lost_packets_are_survived_within_the_budget(calibrations, kind):
    with rig(calibrations, cfg=DriverConfig(budget_s=5.0)) as r:
        r.bus.faults = replace(BusFaults(), **{kind: 0.02})
        patient(r.theirs.bus.port_handler, 50.0)
        stale, stamps = 0, []
        for k in range(40):
            _, outcome = r.step(HOME_A + 0.3, (k + 1) * DT_S)
            stale += outcome.observation.t_s < (k + 1) * DT_S
            stamps.append(outcome.observation.t_s)
        assert r.ours.errors > 0
        assert stale < 40
        assert stamps == sorted(stamps)
        r.bus.faults = BusFaults()
        patient(r.theirs.bus.port_handler)
        _, outcome = r.step(HOME_A + 0.3, 9.0)
        assert outcome.observation.t_s == 9.0
        assert_registers_were_legal(r.bus)


def test_an_answer_that_came_late_is_not_taken_for_the_next_one(calibrations):
    with rig(calibrations, cfg=DriverConfig(budget_s=60.0)) as r:
        r.step(HOME_A)
        r.bus.faults = BusFaults(delay_s=0.4)
        patient(r.theirs.bus.port_handler, 50.0)
        assert r.ours.read(1.0).observation.t_s < 1.0
        r.bus.faults = BusFaults()
        patient(r.theirs.bus.port_handler)
        time.sleep(0.6)  # the late answers arrive
        for k in range(30):
            _, outcome = r.step(home(shoulder_pan=1.0), 2.0 + k * DT_S)
            assert outcome.observation.state_O[0] == pytest.approx(r.bus.angles()[0], abs=0.002)


class LateBus(ServoBus):
    """Its first servo answers the first question after its ping with what answers a ping: nothing but that it is there."""

    late = True

    def _reply(self, servos, data):
        if self.late and data and len(data[0]) == 2:
            self.late, data = False, [b""]
        super()._reply(servos, data)


def test_a_late_answer_to_something_else_while_connecting_only_costs_another_try(calibrations):
    with LateBus(clock=SimulatedClock()) as bus:
        ours = LeRobotRobot(stock(bus, calibrations), LIMIT, clock=CountingClock())
        assert not bus.late
        assert ours.read(DT_S).observation.state_O[0] == pytest.approx(bus.angles()[0], abs=0.002)
        assert_registers_were_legal(bus)
        ours.disconnect()


def test_what_lies_on_the_line_is_dropped_before_a_driver_that_connects_asks_again(calibrations):
    with ServoBus(clock=SimulatedClock()) as bus:
        theirs = stock(bus, calibrations)
        theirs.bus.connect()
        os.write(bus._master, Packet(1, 0, b"").encode() * 2)
        with _patience([theirs.bus]):
            assert theirs.bus.ping(1) == 777
        theirs.bus.disconnect(disable_torque=False)


def test_a_power_cut_ends_in_a_fault_within_the_budget_and_nothing_is_sent_after_it(calibrations):
    cfg = DriverConfig(budget_s=0.3)
    clock = CountingClock()
    with ServoBus(clock=SimulatedClock()) as bus:
        theirs = stock(bus, calibrations)
        ours = LeRobotRobot(theirs, LIMIT, cfg, clock=clock)
        ours.send(HOME_A + 0.1)
        good = ours.read(1.0).observation
        bus.faults = BusFaults(power=False)
        patient(theirs.bus.port_handler, 50.0)
        cut_s, stale = clock.now_s(), []

        def step():
            ours.send(HOME_A + 0.2)
            stale.append(ours.read(2.0).observation)

        with pytest.raises(RobotFault, match=r"^could not read for 0\.\d\d s: .*no status packet") as caught:
            until_fault(step)
        assert "\n" not in str(caught.value)
        assert clock.now_s() - cut_s <= cfg.budget_s + 2 * DT_S + 0.1
        assert all(seen is good for seen in stale)
        bus.faults = BusFaults()
        written = len(bus.goal_writes)
        for call in (lambda: ours.send(HOME_A), lambda: ours.read(3.0)):
            with pytest.raises(RobotFault, match="could not read"):
                call()
        assert len(bus.goal_writes) == written


def test_after_a_fault_a_reset_connects_again_and_holds_where_the_arm_sank_to(calibrations):
    with rig(calibrations) as r:
        r.step(HOME_A)
        r.bus.faults = BusFaults(power=False)
        patient(r.theirs.bus.port_handler, 50.0)
        with pytest.raises(RobotFault):
            until_fault(lambda: r.step(HOME_A))
        with pytest.raises(ConnectionError, match=r"^cannot connect to emulated SOFollower: .*Missing motor IDs"):
            r.ours.reset(0, 0.0)
        with pytest.raises(RobotFault):
            r.ours.send(HOME_A)
        r.time.advance(1.0)
        r.bus.angles()
        r.bus.faults = BusFaults()
        patient(r.theirs.bus.port_handler)
        sunk_A = r.bus.angles()
        assert np.abs(sunk_A - HOME_A).max() > 0.1
        r.ours.reset(0, 5.0)
        assert np.allclose(r.ours.hold_A, sunk_A, atol=0.003)
        _, outcome = r.step(r.ours.hold_A, 5.1)
        assert np.allclose(outcome.observation.state_O[:6], sunk_A, atol=0.05)


def test_an_unplugged_cable_is_a_fault_too(calibrations):
    bus = ServoBus(clock=SimulatedClock())
    with bus:
        ours = LeRobotRobot(stock(bus, calibrations), LIMIT, clock=CountingClock())
    commands = []
    with pytest.raises(RobotFault, match="could not send"):
        until_fault(lambda: commands.append(ours.send(HOME_A)))
    assert all("bus" in command.altered_by for command in commands)
    ours.disconnect()


def test_a_driver_that_goes_on_reporting_nonsense_is_a_fault_and_one_such_reading_is_not(calibrations, monkeypatch):
    with rig(calibrations) as made:
        seen, true = made.theirs.get_observation, iter([True, False])
        wrong = {"elbow_flex.pos": float("nan")}
        monkeypatch.setattr(made.theirs, "get_observation", lambda: seen() | ({} if next(true, True) else wrong))
        made.step(made.ours.hold_A)
        _, outcome = made.step(made.ours.hold_A)
        assert np.isfinite(outcome.observation.state_O).all()
        assert made.ours.errors == 1
        monkeypatch.setattr(made.theirs, "get_observation", lambda: seen() | wrong)
        with pytest.raises(RobotFault, match=r"could not read for .* s: ValueError: the robot reports .*nan"):
            until_fault(lambda: made.step(made.ours.hold_A))


@pytest.mark.parametrize(
    ("start_A", "message"),
    [(home(elbow_flex=2.0), r"elbow_flex.pos is at 2\.\d+ rad, outside .*: move it by hand")],
)
def test_an_arm_that_stands_outside_its_limits_is_refused(calibrations, start_A, message):
    with ServoBus(ServoArm(start_A), SimulatedClock()) as bus, pytest.raises(ValueError, match=message):
        LeRobotRobot(stock(bus, calibrations), LIMIT)


def test_an_arm_that_is_calibrated_otherwise_is_refused_before_torque(calibrations):
    with ServoBus(ServoArm(calibrated=False), SimulatedClock()) as bus:
        with pytest.raises(ValueError, match="not calibrated as the file says: run lerobot-calibrate"):
            LeRobotRobot(stock(bus, calibrations), LIMIT)
        assert {bus.register(name, "Torque_Enable") for name in JOINTS} == {0}


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        (["--robot.port=/dev/null"], r"--robot.type must be one of .*so101_follower.*, got \[\]"),
        (["--robot.type=so101_folower"], r"--robot.type must be one of .*, got \['so101_folower'\]"),
        (["--robot.type=so101_follower"], r"lerobot refuses .*Missing required field\(s\) `port`"),
        (["--robot.type=so101_follower", "--robot.prt=x"], r"lerobot refuses .*unrecognized arguments: --robot.prt=x$"),
    ],
)
def test_options_that_lerobot_refuses_are_refused_in_one_line(given_options, message):
    with pytest.raises(ValueError, match=message) as caught:
        lerobot_robot(given_options)
    assert "\n" not in str(caught.value)


def test_limits_for_another_robot_and_unknown_units_are_refused(calibrations):
    with ServoBus(clock=SimulatedClock()) as bus:
        robot = stock(bus, calibrations)
        with pytest.raises(
            ValueError, match=r"the robot has actions shoulder_pan.pos, .*, its limits are for 6|are for 3"
        ):
            LeRobotRobot(robot, LIMITS["hopper"])
        with pytest.raises(ValueError, match=r"the unit of 'gripper.pos' is inches: give one of degrees"):
            LeRobotRobot(robot, LIMIT, DriverConfig(units={"gripper.pos": "inches"}))


@pytest.mark.parametrize("share", [True, False])
def test_shares_of_the_range_mean_the_same_angles_as_degrees(calibrations, share):
    with ServoBus(clock=SimulatedClock()) as bus:
        ours = LeRobotRobot(stock(bus, calibrations, f"--robot.use_degrees={not share}"), LIMIT)
        roll = 0.0488 if share else 0.0  # the calibration gives the roll its whole turn, the model does not
        assert np.allclose(ours.pose()[:4], HOME_A[:4], atol=0.003)
        assert ours.pose()[4] == pytest.approx(roll, abs=0.003)
        ours.disconnect()


# --- cameras


@CameraConfig.register_subclass("drawn")
@dataclass
class DrawnCameraConfig(CameraConfig):
    pass


class DrawnCamera(Camera):
    """A camera as lerobot knows it, whose newest frame a test draws."""

    def __init__(self, config):
        super().__init__(config)
        self.frame, self.latest_timestamp, self.open = np.zeros((4, 6, 3), np.uint8), time.perf_counter(), False

    is_connected = property(lambda self: self.open)
    find_cameras = staticmethod(list)

    def connect(self, warmup=True):
        self.open = True

    def read(self):
        return self.frame

    def async_read(self, timeout_ms=200):
        return self.frame

    def read_latest(self, max_age_ms=500):
        if time.perf_counter() - self.latest_timestamp > max_age_ms / 1e3:
            raise TimeoutError("latest frame is too old")
        return self.frame

    def disconnect(self):
        self.open = False


def test_the_newest_picture_comes_with_the_time_it_was_taken_and_an_old_one_is_a_fault(calibrations):
    with ServoBus(clock=SimulatedClock()) as bus:
        theirs = stock(bus, calibrations)
        camera = DrawnCamera(DrawnCameraConfig(fps=30, width=6, height=4))
        theirs.cameras = {"front": camera}
        camera.latest_timestamp = time.perf_counter() + 1000.0
        ours = LeRobotRobot(theirs, LIMIT, clock=CountingClock())
        camera.frame = np.full((4, 6, 3), 7, np.uint8)
        seen = ours.read(50.0).observation
        assert (seen.image == 7).all()
        assert 1000.0 > seen.image_t_s - 50.0 > 900.0  # taken in the future, by the camera's own account
        camera.latest_timestamp = -1000.0
        assert ours.read(51.0).observation is seen
        with pytest.raises(RobotFault, match="frame is too old"):
            until_fault(lambda: ours.read(52.0))
        ours.disconnect()


# --- limits from descriptions


@pytest.mark.parametrize("suffix", [".xml", ".urdf"])
def test_limits_are_read_from_the_arms_description(suffix):
    limits = joint_limits(model_file(suffix), JOINTS, max_rate=3.0)
    assert np.allclose(limits.low, ROBOTS["so101"].action.low_A, atol=1e-4)
    assert np.allclose(limits.high, ROBOTS["so101"].action.high_A, atol=1e-4)
    assert limits.max_rate == (3.0,) * 6
    assert joint_limits(model_file(".urdf"), JOINTS, 99.0).max_rate == (10.0,) * 6  # what the file says


def test_descriptions_without_the_joint_or_its_range_are_refused(tmp_path):
    path = tmp_path / "arm.xml"
    path.write_text(
        '<mujoco><worldbody><body><joint name="free_spin"/><geom size="1"/></body></worldbody></mujoco>',
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="has no joint 'elbow'; choose from free_spin"):
        joint_limits(path, ["elbow"], 1.0)
    with pytest.raises(ValueError, match=r"joint 'free_spin' of .* has no range"):
        joint_limits(path, ["free_spin"], 1.0)
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="is no MJCF or URDF"):
        joint_limits(path, ["elbow"], 1.0)
    with pytest.raises(FileNotFoundError, match="no model file"):
        joint_limits(tmp_path / "none.xml", ["elbow"], 1.0)


def test_the_emulated_arm_is_the_one_that_the_tests_think_it_is():
    assert np.array_equal(centre_ticks()[:5], [2047] * 5)
    assert SO101FollowerConfig(port="x").use_degrees
