"""Faults on the wire between a session and an arm, judged by what arrived at the servos' goal registers.

The arm is lerobot's so101_follower on the emulated bus, its planner waves; every fault begins at FAULT_S and lasts.
"""

import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from configs.limits import LIMITS
from deploy.clock import SimulatedClock
from deploy.guard import Mode
from deploy.mind import Body, OwnMind
from deploy.orders import Orders
from deploy.robots.lerobot_robot import DriverConfig, LeRobotRobot, lerobot_robot
from deploy.robots.servo_arm import JOINTS, ServoArm
from deploy.robots.servo_bus import BusFaults, ServoBus, violations, write_calibration
from deploy.session import Session, self_armed
from deploy.telemetry import Log
from envs.robots import ROBOTS
from envs.so101 import HOME_A
from tests.plant import ARM, FAULT_S, Waving
from tests.test_lerobot_robot import CountingClock
from tests.test_servo_bus import patient

LIMIT, DT_S = LIMITS["so101"], ROBOTS["so101"].dt_s
CFG = replace(ARM, limits=LIMIT, max_s=2.0)
DRIVER = DriverConfig(budget_s=0.3)


class BusTime:
    """The session's clock: as it goes on, so does the arm; the fault begins when it is time."""

    def __init__(self, bus, clock, begin):
        self._bus, self._clock, self._begin, self.writes = bus, clock, begin, None

    def now_s(self):
        return self._clock.now_s()

    def sleep_until(self, t_s):
        self._clock.sleep_until(t_s)
        self._bus.angles()
        if self.writes is None and t_s >= FAULT_S - 1e-9:
            self.writes = len(self._bus.goal_writes)
            self._begin()


class Rearming(Orders):
    """A person who mends the bus when asked the third time after the robot was held, and arms it again."""

    def __init__(self, mend):
        super().__init__()
        self._mend, self._looks, self.guard, self.held_writes = mend, 0, None, None

    def take(self):
        if self.guard is not None and self.guard.mode is Mode.HOLD:
            self._looks += 1
            if self._looks == 3:
                self.held_writes = self._mend()
                self.give("arm")
                self.give("start")
        return super().take()


@contextmanager
def driven(tmp_path):
    """The arm behind lerobot's driver, whose time is in the test's hand; it gives answers as long as they need."""
    calibration = write_calibration(tmp_path / "calibration", "emulated").parent
    clock = SimulatedClock()
    with ServoBus(ServoArm(HOME_A), clock, seed=1) as bus:
        where = [f"--robot.port={bus.port}", "--robot.id=emulated", f"--robot.calibration_dir={calibration}"]
        theirs = lerobot_robot(["--robot.type=so101_follower", *where])
        patient(theirs.bus.port_handler)
        robot = LeRobotRobot(theirs, LIMIT, DRIVER, clock=CountingClock())
        try:
            yield robot, theirs, bus, clock
        finally:
            robot.disconnect()


def break_bus(bus, theirs, faults):
    bus.faults = faults
    patient(theirs.bus.port_handler, 50.0)


def session_of(folder, robot, clock, orders=None, swing_A=0.3):
    body = Body(DT_S, 6, None, robot.limits)
    mind = lambda tell: OwnMind(CFG, Waving(HOME_A, DT_S, swing_A), body, tell)  # noqa: E731
    guard = self_armed(CFG.guard)
    return Session(CFG, robot, mind, Log(folder), None, clock=clock, guard=guard, orders=orders)


ALL, PAN = frozenset(JOINTS), 0.3 * np.eye(6)[0]
HELD = {
    "every answer late": (BusFaults(delay_s=5.0), r"could not read|newest reading"),
    "every encoder frozen": (BusFaults(frozen=ALL), "sensors have not changed"),
    "everything dropped": (BusFaults(drop=1.0), r"could not read|newest reading"),
    "everything garbled": (BusFaults(corrupt=1.0), r"could not read|newest reading"),
    "power cut": (BusFaults(power=False), r"could not read|newest reading"),
}
SURVIVED = {
    "some dropped": BusFaults(drop=0.01),
    "some garbled": BusFaults(corrupt=0.01),
    "one encoder frozen": BusFaults(frozen=frozenset({"shoulder_pan"})),
    "one servo weak": BusFaults(strength={"elbow_flex": 0.2}),
}


@pytest.mark.parametrize("fault", HELD)
def test_a_bus_that_cannot_be_trusted_ends_in_hold_with_the_last_command_in_force(tmp_path, injected, fault):
    faults, reason = HELD[fault]
    with driven(tmp_path) as (robot, theirs, bus, clock):
        pace = BusTime(bus, clock, lambda: break_bus(bus, theirs, faults))
        session = session_of(tmp_path, robot, pace)
        session.run(lambda episode: episode < 3)
        injected(1, len(bus.goal_writes), violations(bus.goal_writes, LIMIT.max_rate[0], DT_S))
        (episode,) = session.history.episodes
        assert (session.guard.mode, episode.ended) == (Mode.HOLD, "held")
        patience_s = max(DRIVER.budget_s, CFG.guard.stale_s, CFG.guard.frozen_s)
        assert FAULT_S <= session.guard.changes[-1].t_s <= FAULT_S + patience_s + 4 * DT_S
        written = len(bus.goal_writes)
        assert written - pace.writes <= round(patience_s / DT_S) + 4
        assert re.search(reason, session.guard.reason)
        if fault == "every encoder frozen":  # then the wire is well, and what holds the arm is its last command again
            assert bus.goal_writes[-1].ticks == bus.goal_writes[-2].ticks != bus.goal_writes[-3].ticks
    assert len(bus.goal_writes) == written  # letting go of the bus moves nothing


@pytest.mark.parametrize("fault", SURVIVED)
def test_a_bus_that_is_a_little_broken_is_driven_within_the_limits(tmp_path, injected, fault):
    with driven(tmp_path) as (robot, theirs, bus, clock):
        pace = BusTime(bus, clock, lambda: break_bus(bus, theirs, SURVIVED[fault]))
        session = session_of(tmp_path, robot, pace)
        session.run(lambda episode: episode < 1)
        injected(1, len(bus.goal_writes), violations(bus.goal_writes, LIMIT.max_rate[0], DT_S))
        assert session.guard.mode in (Mode.RUNNING, Mode.HOLD)
        assert len(bus.goal_writes) > pace.writes
        if "one" in fault:
            assert session.guard.mode is Mode.RUNNING
            assert session.history.episodes[0].ended == "limit"


def test_after_a_power_cut_nothing_moves_until_a_person_arms_the_arm_where_it_sank_to(tmp_path, injected):
    with driven(tmp_path) as (robot, theirs, bus, clock):
        sunk = {}

        def mend():
            clock.advance(1.0)
            bus.angles()  # without power it sinks
            bus.faults = BusFaults()
            patient(theirs.bus.port_handler)
            sunk.update({name: bus.register(name, "Present_Position") for name in JOINTS})
            return len(bus.goal_writes)

        orders = Rearming(mend)
        pace = BusTime(bus, clock, lambda: break_bus(bus, theirs, BusFaults(power=False)))
        session = session_of(tmp_path, robot, pace, orders, PAN)
        orders.guard = session.guard
        session.run(lambda episode: episode < 2)
        modes = [change.mode for change in session.guard.changes]
        before, after = bus.goal_writes[: orders.held_writes], bus.goal_writes[orders.held_writes :]
        wrong = [text for part in (before, after) for text in violations(part, LIMIT.max_rate[0], DT_S)]
        injected(1, len(bus.goal_writes), wrong)
        assert modes == ["armed", "running", "hold", "armed", "running"]
        assert orders.held_writes == pace.writes  # with the power off nothing arrived, nor was anything sent later
        off = [max(abs(write.ticks[name] - at) for name, at in sunk.items()) for write in after[:2]]
        assert max(off) <= 4, "it was told to be elsewhere than where it sank to"
        assert max(abs(before[-1].ticks[name] - at) for name, at in sunk.items()) > 60
        pans = [write.ticks["shoulder_pan"] for write in after]
        assert np.ptp(pans) > 50
