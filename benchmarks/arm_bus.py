"""The unmodified so101_follower driver, on the emulated servo bus, carries commands to the arm: how well, how fast, how safely.

The scripted demonstrator, and the model that learned from it, pursue random goals in plain simulation and through the driver
(healthy, a lossy bus, one weak servo), beside random commands. What counts as sent is what arrived at the servos' goal registers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.learned import LearnedConfig, planner_of
from agents.mpc import MpcAgent
from benchmarks.common import Interval, Options, Result, Table, parse, publish, quantiles, rate_interval
from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.clock import MonotonicClock, SimulatedClock
from deploy.machine import ROOT
from deploy.robots.lerobot_robot import DriverConfig, LeRobotRobot, lerobot_robot
from deploy.robots.servo_arm import ServoArm
from deploy.robots.servo_bus import BusFaults, ServoBus, violations, write_calibration
from deploy.robots.sim import SimRobot
from deploy.robots.tasks import ReachTask
from envs.arm import SUCCESS_M
from envs.demonstrators import Reacher
from envs.robots import ROBOTS, make_env
from envs.so101 import Kinematics
from envs.types import Observation
from world_models.checkpoint import load_model

SPEC, LIMIT = ROBOTS["so101"], LIMITS["so101"]
STEPS = 60  # of one goal: 2 s
HZ = 30.0
Act = Callable[[np.ndarray], np.ndarray]

BUSES: dict[str, tuple[str, BusFaults]] = {
    "healthy": ("demonstrator, through the driver", BusFaults()),
    "lossy": ("the same, 0.5 % of packets lost and 0.5 % garbled", BusFaults(drop=0.005, corrupt=0.005)),
    "weak": ("the same, shoulder lift at 20 % of its torque", BusFaults(strength={"shoulder_lift": 0.2})),
}


@dataclass(frozen=True)
class Outing:
    """A series of goals pursued by one arm."""

    reached: int
    goals: int
    writes: int = 0
    packets: int = 0
    errors: int = 0
    violations: int = 0

    @property
    def rate(self) -> Interval:
        """Share of goals within 2 cm at their end."""
        return rate_interval(self.reached, self.goals)


class Planned:
    """arm-small: its planner in the place of the demonstrator; a plan is there one control step after what it was made from."""

    def __init__(self) -> None:
        cfg = PRESETS["arm-small"][1].agent
        assert isinstance(cfg, LearnedConfig)
        torch.set_num_threads(1)
        model = load_model(cfg.folder)
        self._agent = MpcAgent(planner_of(cfg, SPEC, model, ""), model.step, SPEC.dt_s, SPEC.action.size)
        self._goals = 0

    def begin(self) -> None:
        """Begin the next goal."""
        self._agent.begin_episode(self._goals, self._goals)
        self._goals, self._steps = self._goals + 1, 0
        self._due_A = self._seen = None

    def act(self, state_O: np.ndarray) -> np.ndarray:
        """Return what was planned for now, and plan for the next step."""
        seen = Observation(self._steps * SPEC.dt_s, state_O)
        if self._seen is not None and self._due_A is not None:
            self._agent.observe(self._seen, self._due_A, seen, 0.0)
        first = self._due_A is None
        due_A = self._agent.plan(seen, np.empty((0, SPEC.action.size))).actions_HA[0] if first else self._next_A
        self._next_A = self._agent.plan(seen, np.array(due_A)[None]).actions_HA[0]
        self._seen, self._due_A, self._steps = seen, due_A, self._steps + 1
        return due_A


@contextmanager
def driven(faults: BusFaults) -> Iterator[tuple[LeRobotRobot, ServoBus, SimulatedClock]]:
    """The arm behind lerobot's driver, in time that passes when it is told to."""
    clock = SimulatedClock()
    with tempfile.TemporaryDirectory() as folder, ServoBus(ServoArm(), clock) as bus:
        robot = LeRobotRobot(follower(bus.port, Path(folder)), LIMIT, DriverConfig(budget_s=2.0), ReachTask())
        bus.faults = faults
        try:
            yield robot, bus, clock
        finally:
            robot.disconnect()


def follower(port: str, folder: Path) -> Any:
    """Return lerobot's follower on a port, calibrated as the emulated arm is."""
    write_calibration(folder, "emulated")
    where = [f"--robot.port={port}", f"--robot.calibration_dir={folder}"]
    return lerobot_robot(["--robot.type=so101_follower", "--robot.id=emulated", *where])


def pursue(faults: BusFaults, seeds: Sequence[int], act: Act, begin: Callable[[], None]) -> Outing:
    """Pursue one goal after another, each from where the last one ended."""
    kinematics, reached = Kinematics(), 0
    with driven(faults) as (robot, bus, clock):
        for seed in seeds:
            seen = robot.reset(seed, clock.now_s())
            begin()
            for _ in range(STEPS):
                robot.send(act(seen.state_O))
                clock.advance(SPEC.dt_s)
                bus.angles()
                seen = robot.read(clock.now_s()).observation
            away_m = np.linalg.norm(kinematics.tip(bus.angles()) - seen.state_O[15:18])
            reached += bool(away_m < SUCCESS_M)
        return Outing(
            reached,
            len(seeds),
            len(bus.goal_writes),
            bus.packets,
            robot.errors,
            len(violations(bus.goal_writes, LIMIT.max_rate[0], SPEC.dt_s)),
        )


def simulated(seeds: Sequence[int]) -> Outing:
    """Pursue the goals in plain simulation."""
    robot, teacher = SimRobot(make_env("so101"), SPEC.dt_s, LIMIT), Reacher()
    reached = 0
    for seed in seeds:
        seen = robot.reset(seed, 0.0)
        teacher.begin()
        for k in range(STEPS):
            robot.send(teacher.act(seen.state_O))
            seen = robot.read((k + 1) * SPEC.dt_s).observation
        reached += bool(robot.info["is_success"])
    return Outing(reached, len(seeds))


def cycle_times(cycles: int) -> dict[str, list[float]]:
    """Return the times [ms] of a read and a write, lerobot's and ours in turn, on a bus in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "so101"
        command = [sys.executable, "-m", "deploy.robots.servo_bus", "--port-link", str(link)]
        emulator = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert emulator.stdout is not None
            emulator.stdout.readline()
            theirs = follower(str(link), Path(folder))
            ours = LeRobotRobot(theirs, LIMIT, DriverConfig(budget_s=2.0))
            times = paced(theirs, ours, cycles)
            ours.disconnect()
        finally:
            emulator.terminate()
            emulator.communicate(timeout=30)
    return times


def paced(theirs: Any, ours: LeRobotRobot, cycles: int) -> dict[str, list[float]]:
    """Time cycles at 30 Hz on an absolute schedule."""
    clock, times, still = MonotonicClock(), {"lerobot": [], "ours": []}, theirs.get_observation()
    start_s = clock.now_s()
    for k in range(2 * cycles):
        clock.sleep_until(start_s + k / HZ)
        began_s = time.perf_counter()
        if k % 2:
            ours.send(ours.hold_A)
            ours.read(clock.now_s())
        else:
            theirs.send_action(still)
            theirs.get_observation()
        times["ours" if k % 2 else "lerobot"].append(1e3 * (time.perf_counter() - began_s))
    return times


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = parse(Options, __doc__, argv)
    seeds = range(options.seed, options.seed + (5 if options.quick else 50))
    teacher, rng = Reacher(), np.random.default_rng(options.seed)
    outings = {"in simulation": simulated(seeds)}
    for text, faults in BUSES.values():
        outings[text] = pursue(faults, seeds, teacher.act, teacher.begin)
    planned = Planned()
    for text, faults in (("arm-small, through the driver", "healthy"), ("arm-small, one weak servo", "weak")):
        outings[text] = pursue(BUSES[faults][1], seeds, planned.act, planned.begin)
    low_A, high_A = SPEC.action.low_A, SPEC.action.high_A
    outings["random commands, through the driver"] = pursue(
        BusFaults(), seeds, lambda _: rng.uniform(low_A, high_A), lambda: None
    )
    times = cycle_times(50 if options.quick else 300)
    publish(_result(outings, times, tuple(seeds)), options)
    return 0


def _result(outings: dict[str, Outing], times: dict[str, list[float]], seeds: tuple[int, ...]) -> Result:
    through = outings[BUSES["healthy"][0]]
    columns = ("who, how", "within 2 cm", "goal writes", "packets", "bus errors", "violations at the registers")
    rows = [(text, o.rate, o.writes, o.packets, o.errors, o.violations) for text, o in outings.items()]
    spread = [(name, *quantiles(ms, 0.5, 0.99), max(ms)) for name, ms in times.items()]
    return Result(
        name="arm_bus",
        claim="Through lerobot's unmodified driver the arm does what it does in simulation, and no register sees more "
        "than the limits allow.",
        headline={
            "reached through the driver": through.rate,
            "reached by arm-small through the driver": outings["arm-small, through the driver"].rate,
            "reached in simulation": outings["in simulation"].rate,
            "violations at the registers": sum(o.violations for o in outings.values()),
            "goal writes": sum(o.writes for o in outings.values()),
            "read and write, median ms": spread[1][1],
            "read and write, p99 ms": spread[1][2],
        },
        tables=(
            Table("Random goals, 2 s each, one after the other", columns, tuple(rows)),
            Table(
                "Read and write at 30 Hz, the bus in a process of its own",
                ("", "median ms", "p99 ms", "max ms"),
                tuple(spread),
            ),
        ),
        seeds=seeds,
        n=len(seeds),
        notes=("The wire takes no time in the emulator; a real bus of six servos at 1 Mbit/s adds about 0.9 ms.",),
    )


if __name__ == "__main__":
    sys.exit(main())
