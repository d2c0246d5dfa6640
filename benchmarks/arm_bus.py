"""The unmodified so101_follower driver, on the emulated servo bus, carries commands to the arm: how well, how fast, how safely.

The scripted demonstrator, and the model that learned from it, pursue random goals in plain simulation and through the driver
(healthy, a lossy bus, one weak servo), beside random commands. What counts as sent is what arrived at the servos' goal registers.
The weak servo is to be noticed and adapted to (benchmarks/arm_surprise.py).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.adaptation import Candidate, Play
from agents.calibration import episodes_needed
from agents.jobs import accepts
from agents.learned import LearnedConfig, planner_of
from agents.mpc import MpcAgent
from benchmarks.arm_surprise import PLAYED, Alarms, adapted, alarms
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
from world_models.checkpoint import WorldModel, load_model

SPEC, LIMIT = ROBOTS["so101"], LIMITS["so101"]
FALSE_ALARMS = 0.05  # of goals: what 100 recorded ones suffice for
STEPS = 60  # of one goal: 2 s
HZ = 30.0
Act = Callable[[np.ndarray], np.ndarray]

RANDOM = "random commands, through the driver"
SOUND, WEAK = "arm-small, through the driver", "arm-small, one weak servo"
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
    away_mm: tuple[float, ...] = ()
    """From each goal, at its end."""
    plays: tuple[Play, ...] = ()

    @property
    def rate(self) -> Interval:
        """Share of goals within 2 cm at their end."""
        return rate_interval(self.reached, self.goals)


class Planned:
    """arm-small: its planner in the place of the demonstrator; a plan is there one control step after what it was made from."""

    def __init__(self, cfg: LearnedConfig, model: WorldModel) -> None:
        torch.set_num_threads(1)
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
    kinematics, away_mm, plays = Kinematics(), [], []
    with driven(faults) as (robot, bus, clock):
        for seed in seeds:
            seen = robot.reset(seed, clock.now_s())
            begin()
            states, actions, rewards = [seen.state_O], [], []
            for _ in range(STEPS):
                wanted_A, before = act(seen.state_O), bus.packets
                actions.append(robot.send(wanted_A).action_A)
                arrive(bus, before)
                clock.advance(SPEC.dt_s)
                bus.angles()
                outcome = robot.read(clock.now_s())
                seen = outcome.observation
                states.append(seen.state_O)
                rewards.append(outcome.reward)
            away_mm.append(1e3 * float(np.linalg.norm(kinematics.tip(bus.angles()) - seen.state_O[15:18])))
            plays.append(Play(np.array(states), np.array(actions), np.array(rewards), False))
        return Outing(
            sum(mm < 1e3 * SUCCESS_M for mm in away_mm),
            len(seeds),
            len(bus.goal_writes),
            bus.packets,
            robot.errors,
            len(violations(bus.goal_writes, LIMIT.max_rate[0], SPEC.dt_s)),
            tuple(away_mm),
            tuple(plays),
        )


def arrive(bus: ServoBus, before: int, longest_s: float = 0.1) -> None:
    """Wait for a command, which nobody acknowledges, to reach the servos, so that it is stamped with its own time; it may be lost."""
    until_s = time.monotonic() + longest_s
    while bus.packets == before and time.monotonic() < until_s:
        time.sleep(2e-4)


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
    base = PRESETS["arm-small"][1].agent
    assert isinstance(base, LearnedConfig)
    cfg = replace(base, surprise=replace(base.surprise, false_alarm_rate=FALSE_ALARMS))
    noticed, tried = learn(cfg, load_model(cfg.folder), outings, options)
    low_A, high_A = SPEC.action.low_A, SPEC.action.high_A
    outings[RANDOM] = pursue(BusFaults(), seeds, lambda _: rng.uniform(low_A, high_A), lambda: None)
    times = cycle_times(50 if options.quick else 300)
    spread = [(name, *quantiles(ms, 0.5, 0.99), max(ms)) for name, ms in times.items()]
    tables = _tables(outings, spread, noticed, tried, cfg.adapt.margin)
    publish(_result(outings, times, noticed, tables, tuple(seeds)), options)
    return 0


def learn(
    cfg: LearnedConfig, model: WorldModel, outings: dict[str, Outing], options: Options
) -> tuple[dict[str, Alarms], list[Candidate]]:
    """Let arm-small pursue goals, healthy and weak, before and after adaptation; return the alarms and what was tried."""
    few, first = (5, options.seed) if options.quick else (50, options.seed)
    healthy, more, again = range(first, first + few), range(first + few, first + 3 * few), range(first, first + few)
    planned = Planned(cfg, model)
    known = pursue(BusFaults(), more, planned.act, planned.begin)
    for text, faults, seeds in ((SOUND, "healthy", healthy), (WEAK, "weak", again)):
        outings[text] = pursue(BUSES[faults][1], seeds, planned.act, planned.begin)
    groups = (outings[SOUND].plays, outings[WEAK].plays)
    least = episodes_needed(cfg.surprise.false_alarm_rate)
    found = alarms(model, cfg, known.plays, groups, SPEC.dt_s) if len(known.plays) >= least else []
    mended, tried = adapted(model, cfg, outings[WEAK].plays[:PLAYED], "so101")
    after = Planned(cfg, mended)
    outings["the same, after adaptation"] = pursue(BUSES["weak"][1], again, after.act, after.begin)
    return dict(zip((SOUND, WEAK), found, strict=False)), tried


def _tables(
    outings: dict[str, Outing],
    spread: Sequence[tuple[Any, ...]],
    noticed: dict[str, Alarms],
    tried: Sequence[Candidate],
    margin: float,
) -> tuple[Table, ...]:
    counts = ("goal writes", "packets", "bus errors", "violations at the registers")
    rows = [
        (text, o.rate, quantiles(o.away_mm, 0.5)[0] if o.away_mm else None, o.writes, o.packets, o.errors, o.violations)
        for text, o in outings.items()
    ]
    found = [
        (text, rate_interval(len(a.seconds), a.goals), quantiles(a.seconds, 0.5)[0] if a.seconds else None)
        for text, a in noticed.items()
    ]
    fitted = [(c.part, c.before, c.after, accepts(c, margin)) for c in tried]
    learned = "Alarms of arm-small; what surprise looks like was learned from other healthy goals through the driver"
    return (
        Table(
            "Random goals, 2 s each, one after the other",
            ("who, how", "within 2 cm", "median mm", *counts),
            tuple(rows),
        ),
        Table(
            "Read and write at 30 Hz, the bus in a process of its own",
            ("", "median ms", "p99 ms", "max ms"),
            tuple(spread),
        ),
        Table(learned, ("arm", "goals with an alarm", "median s until it came"), tuple(found)),
        Table(
            f"What adaptation to {PLAYED} goals of the weak arm tried; held-out error",
            ("part", "before", "after", "accepted"),
            tuple(fitted),
        ),
    )


def _result(
    outings: dict[str, Outing],
    times: dict[str, list[float]],
    noticed: dict[str, Alarms],
    tables: tuple[Table, ...],
    seeds: tuple[int, ...],
) -> Result:
    return Result(
        name="arm_bus",
        claim="Through lerobot's unmodified driver the arm does what it does in simulation, and no register sees more "
        "than the limits allow.",
        headline={
            "reached through the driver": outings[BUSES["healthy"][0]].rate,
            "reached by arm-small through the driver": outings[SOUND].rate,
            "reached in simulation": outings["in simulation"].rate,
            "reached by random commands": outings[RANDOM].rate,
            **{f"goals with an alarm, {text}": rate_interval(len(a.seconds), a.goals) for text, a in noticed.items()},
            "violations at the registers": sum(o.violations for o in outings.values()),
            "goal writes": sum(o.writes for o in outings.values()),
            "read and write, median ms": quantiles(times["ours"], 0.5)[0],
            "read and write, p99 ms": quantiles(times["ours"], 0.99)[0],
        },
        tables=tables,
        seeds=seeds,
        n=len(seeds),
        notes=("The wire takes no time in the emulator; a real bus of six servos at 1 Mbit/s adds about 0.9 ms.",),
    )


if __name__ == "__main__":
    sys.exit(main())
