"""The emulated bus through Feetech's SDK as lerobot drives it; the arm's time is in the test's hand."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus

from deploy.clock import SimulatedClock
from deploy.robots.servo_arm import JOINTS, TICKS_PER_RAD, ServoArm, calibration, centre_ticks
from deploy.robots.servo_bus import BusFaults, ServoBus, command
from deploy.robots.sts3215 import PING, Packet
from envs.robots import ROBOTS
from envs.so101 import HOME_A

ROOT = Path(__file__).parents[1]
MOTORS = {name: Motor(i + 1, "sts3215", MotorNormMode.DEGREES) for i, name in enumerate(JOINTS)}


def patient(handler, wait_ms=3000.0):
    """Let the SDK wait longer than its 50 ms: here an answer is late only if the emulator is told to be."""
    handler.setPacketTimeout = lambda _: handler.setPacketTimeoutMillis(wait_ms)


def home(**offsets):
    """The home angles with some of them changed by so much [rad]."""
    return HOME_A + [offsets.get(name, 0.0) for name in JOINTS]


@contextmanager
def connected(arm=None, seed=0):
    """The emulator, its clock, and lerobot's bus on it."""
    clock = SimulatedClock()
    with ServoBus(arm, clock, seed) as emulator:
        table = {name: MotorCalibration(**entry) for name, entry in calibration().items()}
        bus = FeetechMotorsBus(emulator.port, MOTORS, table)
        patient(bus.port_handler)
        bus.connect()
        try:
            yield emulator, clock, bus
        finally:
            bus.disconnect(disable_torque=False)


def ticks(bus, register="Present_Position"):
    return np.array([*bus.sync_read(register, normalize=False, num_retry=3).values()])


def wait(emulator, clock, seconds):
    """Let time pass, and the emulator catch up with it: a driver that waits for that would take its answer as lost."""
    clock.advance(seconds)
    emulator.angles()


def expected_ticks(angles_A):
    return np.round(centre_ticks() + angles_A * TICKS_PER_RAD).astype(int)


def hold(bus, angles_A):
    bus.sync_write("Goal_Position", dict(zip(JOINTS, expected_ticks(angles_A).tolist(), strict=True)), normalize=False)
    bus.enable_torque()


def test_handshake_calibration_and_readings_are_those_of_the_arm():
    with connected() as (emulator, _, bus):
        assert bus.is_calibrated
        assert bus.broadcast_ping() == dict.fromkeys(range(1, 7), 777)
        assert np.array_equal(ticks(bus), expected_ticks(emulator.angles()))
        assert [*bus.sync_read("Present_Voltage").values()] == [120] * 6


def test_time_is_the_clocks_and_a_joint_goes_where_it_is_told_no_faster_than_it_can():
    with connected() as (emulator, clock, bus):
        goal_A = home(shoulder_pan=0.6, wrist_roll=-0.5, gripper=0.4)
        hold(bus, goal_A)
        assert np.array_equal(emulator.angles(), HOME_A)
        wait(emulator, clock, 0.05)
        assert 0 < emulator.angles()[0] < 4.7 * 0.05
        assert emulator.register("shoulder_pan", "Moving") == 1
        assert ticks(bus, "Present_Velocity")[0] > 0
        wait(emulator, clock, 2.0)
        assert np.abs(emulator.angles() - goal_A).max() < 0.05
        assert emulator.register("shoulder_pan", "Moving") == 0
        assert np.abs(ticks(bus) - expected_ticks(goal_A)).max() < 0.05 * TICKS_PER_RAD


def test_the_goal_velocity_limits_the_speed():
    with connected() as (emulator, clock, bus):
        bus.write("Goal_Velocity", "shoulder_pan", 200)
        hold(bus, home(shoulder_pan=0.6))
        wait(emulator, clock, 1.0)
        assert emulator.angles()[0] == pytest.approx(200 / TICKS_PER_RAD, abs=0.05)


def test_without_torque_or_power_the_arm_sinks_and_a_lost_power_forgets_torque():
    with connected() as (emulator, clock, bus):
        hold(bus, HOME_A)
        wait(emulator, clock, 0.5)
        held_A = emulator.angles()
        emulator.faults = BusFaults(power=False)
        patient(bus.port_handler, 50.0)
        assert bus.ping("gripper") is None
        wait(emulator, clock, 0.5)
        assert np.abs(emulator.angles() - held_A).max() > 0.1
        emulator.faults = BusFaults()
        patient(bus.port_handler)
        assert bus.ping("gripper") == 777
        assert bus.is_calibrated
        assert not ticks(bus, "Torque_Enable").any()


def test_the_servo_stays_within_its_own_limits_while_the_record_shows_what_was_asked():
    with connected() as (emulator, clock, bus):
        bus.enable_torque()
        bus.write("Goal_Position", "shoulder_pan", 4000, normalize=False)
        wait(emulator, clock, 2.0)
        top = calibration()["shoulder_pan"]["range_max"]
        assert abs(emulator.register("shoulder_pan", "Present_Position") - top) < 20
        assert emulator.goal_writes[-1].ticks == {"shoulder_pan": 4000}


def test_a_weak_servo_does_not_lift_what_a_healthy_one_does():
    ends = []
    for strength in ({}, {"shoulder_lift": 0.05}):
        with connected() as (emulator, clock, bus):
            emulator.faults = BusFaults(strength=strength)
            hold(bus, HOME_A)
            wait(emulator, clock, 1.0)
            ends.append(emulator.angles()[1] - HOME_A[1])
    assert abs(ends[0]) < 0.06
    assert abs(ends[1]) > 0.15


def test_a_frozen_encoder_reports_what_it_did_while_the_joint_moves():
    with connected() as (emulator, clock, bus):
        emulator.faults = BusFaults(frozen=frozenset({"shoulder_pan"}))
        before = ticks(bus)
        hold(bus, home(shoulder_pan=0.5, wrist_roll=0.5))
        wait(emulator, clock, 2.0)
        after = ticks(bus)
        assert emulator.angles()[0] > 0.4
        assert after[0] == before[0]
        assert after[4] > before[4] + 200
        emulator.faults = BusFaults()
        assert ticks(bus)[0] > before[0] + 200


def test_calibrating_shifts_what_a_servo_reads():
    with connected(ServoArm(calibrated=False)) as (_, _, bus):
        assert not bus.is_calibrated
        bus.disable_torque()
        bus.set_half_turn_homings()
        assert (ticks(bus) == 2047).all()


@pytest.mark.parametrize("kind", ["drop", "corrupt"])
def test_lost_and_garbled_packets_are_errors_for_the_driver_never_wrong_numbers(kind):
    with connected(seed=1) as (emulator, _, bus):
        right = ticks(bus)
        patient(bus.port_handler, 50.0)
        emulator.faults = replace(BusFaults(), **{kind: 0.05})
        failed = 0
        for _ in range(60):
            bus.port_handler.ser.reset_input_buffer()
            try:
                read = bus.sync_read("Present_Position", normalize=False)
            except ConnectionError:
                failed += 1
            else:
                assert np.array_equal([*read.values()], right)
        assert 3 < failed < 60


def test_a_late_answer_comes_late():
    with connected() as (emulator, _, bus):
        emulator.faults = BusFaults(delay_s=0.5)
        patient(bus.port_handler, 50.0)
        with pytest.raises(ConnectionError, match="no status packet"):
            bus.sync_read("Present_Position")
        emulator.faults = BusFaults(delay_s=0.01)
        patient(bus.port_handler)
        time.sleep(0.6)
        bus.port_handler.ser.reset_input_buffer()
        assert np.array_equal(ticks(bus), expected_ticks(emulator.angles()))


def test_no_packet_ends_the_service():
    rng = np.random.default_rng(0)
    with connected() as (emulator, clock, bus):
        wire = bus.port_handler.ser
        for _ in range(300):
            data = rng.bytes(rng.integers(0, 12))
            code = int(rng.choice([0, 1, 2, 3, 4, 5, 6, 0x82, 0x83, 0xAA]))
            wire.write(Packet(int(rng.choice([0, 1, 6, 9, 254])), code, data).encode())
            wire.write(rng.bytes(rng.integers(0, 6)))
            wire.reset_input_buffer()
        wait(emulator, clock, 0.5)
        assert np.isfinite(emulator.angles()).all()
        before = emulator.packets
        wire.write(Packet(77, PING).encode() * 3)  # nobody answers, but it is read
        while emulator.packets < before + 2:
            pass


def test_a_leader_is_moved_by_hand():
    clock = SimulatedClock()
    with ServoBus(ServoArm(hand=lambda t_s: HOME_A + 0.1 * t_s), clock) as emulator:
        wait(emulator, clock, 2.0)
        assert np.allclose(emulator.angles(), HOME_A + 0.2, atol=1e-3)


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("drop 0.1", BusFaults(drop=0.1)),
        ("delay 0.02", BusFaults(delay_s=0.02)),
        ("freeze gripper", BusFaults(frozen=frozenset({"gripper"}))),
        ("weak elbow_flex 0.3", BusFaults(strength={"elbow_flex": 0.3})),
        ("power off", BusFaults(power=False)),
    ],
)
def test_a_line_of_input_breaks_the_bus_and_heal_mends_it(line, faults):
    assert command(BusFaults(), line) == faults
    assert command(faults, "heal") == BusFaults()


@pytest.mark.parametrize(
    "line", ["drop", "drop 2", "drop often", "freeze thumb", "weak gripper 3", "explode", "power up"]
)
def test_a_line_that_means_nothing_is_refused_in_one_line(line):
    with pytest.raises(ValueError, match=r"^cannot (read|do) .*$"):
        command(BusFaults(), line)


def test_the_program_serves_obeys_and_leaves_its_record(tmp_path):
    link, log = tmp_path / "arm", tmp_path / "goals.jsonl"
    options = ["--port-link", link, "--calibration-dir", tmp_path / "calibration", "--log", log]
    program = subprocess.Popen(
        [sys.executable, "-m", "deploy.robots.servo_bus", *map(str, options)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert str(link) in program.stdout.readline()
        bus = FeetechMotorsBus(str(link), MOTORS)
        patient(bus.port_handler)
        bus.connect()
        bus.write("Goal_Position", "gripper", 2000, normalize=False)
        program.stdin.write("explode\npower off\n")
        program.stdin.flush()
        patient(bus.port_handler, 50.0)
        assert "cannot read 'explode'" in program.stderr.readline()
        while bus.ping("gripper") is not None:
            pass
        bus.disconnect(disable_torque=False)
        program.send_signal(signal.SIGTERM)
        said, _ = program.communicate(timeout=30)
    finally:
        program.kill()
    assert program.returncode == 0
    assert "1 writes of goal positions" in said
    assert [json.loads(line)["ticks"] for line in log.read_text().splitlines()] == [{"gripper": 2000}]
    assert json.loads((tmp_path / "calibration/emulated.json").read_text()) == calibration()
    assert not link.is_symlink()


def test_the_calibration_covers_the_range_of_each_joint():
    spec = ROBOTS["so101"].action
    for i, (name, entry) in enumerate(calibration().items()):
        low, high = ((entry[end] - centre_ticks()[i]) / TICKS_PER_RAD for end in ("range_min", "range_max"))
        if name == "wrist_roll":
            assert (entry["range_min"], entry["range_max"]) == (0, 4095)
        else:
            assert low == pytest.approx(spec.low_A[i], abs=0.002)
            assert high == pytest.approx(spec.high_A[i], abs=0.002)
