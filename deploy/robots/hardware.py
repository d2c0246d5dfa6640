"""A real robot for our own commands: how it is named, what is known of it, and its connection while a run lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deploy.robots.fault import RobotFault
from deploy.robots.tasks import JointTask, ReachTask, Task
from deploy.safety import RobotLimits
from envs.robots import RobotSpec, robot_spec
from envs.types import ActionSpec

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.robots.lerobot_robot import LeRobotRobot
    from deploy.robots.lerobot_units import Unit

HELP = """real robot:
  --robot.type=TYPE    what lerobot calls it, then lerobot's own options: --robot.type=so101_follower
                       --robot.port=/dev/ttyACM0 --robot.id=my_arm; calibrate it with lerobot-calibrate first
  --robot-units U      what its joints count in, where its motors do not say: degrees, radians, range_0_100,
                       range_m100_100; or JOINT=UNIT,...
  --arm by-hand        nothing moves until a person presses a, then p for the planner or a key that moves it
        at-once        it moves as soon as it is connected: only where nobody is within its reach
"""
BY_HAND, AT_ONCE = "by-hand", "at-once"
BODIES: Mapping[str, str] = {"so101_follower": "so101"}
"""lerobot's type -> the robot of ours that has this body."""
TASKS: Mapping[str, Callable[[], Task]] = {"so101": ReachTask}
"""Robot whose state can be read on a real one -> what its readings mean."""
CAUTION_RAD_S = 1.0
"""Fastest joint of a robot of which nothing is known but its calibration."""
EPISODE_STEPS = 1800
"""Length of an episode of such a robot: a minute."""
DT_S = 1.0 / 30.0
_TYPE, _UNITS = "--robot.type=", "--robot-units="


def take_hardware(argv: Sequence[str]) -> tuple[tuple[str, ...], bool, list[str]]:
    """Return the options that name a real robot, whether it is armed at once, and the other arguments.

    Raises ValueError, in one line, for options that do not name one.
    """
    from deploy.commandline import Options

    parser = Options()
    parser.add_argument("--robot-units", default="")
    parser.add_argument("--arm", choices=(BY_HAND, AT_ONCE))
    own, rest = parser.parse_known_args(argv)
    options = tuple(arg for arg in rest if arg.startswith("--robot."))
    rest = [arg for arg in rest if arg not in options]
    bare = [option for option in options if "=" not in option]
    if bare:
        raise ValueError(f"{bare[0]} needs its value in the same word: {bare[0]}=VALUE")
    if options and not any(option.startswith(_TYPE) for option in options):
        raise ValueError(f"{options[0]} needs --robot.type=TYPE, for example --robot.type=so101_follower")
    if own.robot_units:
        if not options:
            raise ValueError("--robot-units is for a real robot: --robot.type=TYPE")
        options = (*options, f"{_UNITS}{own.robot_units}")
    return options, own.arm == AT_ONCE, rest


def kind_of(options: Sequence[str]) -> str:
    """Return what lerobot calls the robot."""
    return next(option.removeprefix(_TYPE) for option in options if option.startswith(_TYPE))


def as_real(cfg: RunConfig, args: Sequence[str]) -> RunConfig:
    """Return the config of a run on the real robot that it names, in real time and without a control arm.

    Raises ValueError, in one line, for what only a simulated robot can do; `args` are the command's.
    """
    if cfg.robot not in (*TASKS, kind_of(cfg.hardware)):
        raise ValueError(f"{cfg.robot} cannot be read on a real robot; {', '.join(TASKS)} can")
    if cfg.faults:
        raise ValueError(f"faults are for simulated robots, a real one cannot be given {cfg.faults[0]}")
    if cfg.time == "lockstep" and any(arg.partition("=")[0] == "--time" for arg in args):
        raise ValueError("a real robot does not wait: leave out --time lockstep")
    if cfg.view != "none" and cfg.robot not in TASKS:
        raise ValueError(f"--view {cfg.view} draws a robot that it has a model of, and has none of {cfg.robot}")
    return replace(cfg, time="realtime", control_arm=False)


def spec_of(cfg: RunConfig) -> RobotSpec:
    """Return what is known of the robot of a run, simulated or real. Raises KeyError or ValueError, in one line."""
    if cfg.hardware and cfg.robot not in TASKS:
        return measured(cfg.hardware)[0]
    return robot_spec(cfg.robot, cfg.version)


def measured(options: Sequence[str]) -> tuple[RobotSpec, RobotLimits]:
    """Return what a robot's calibration says of it: joints about the middles of their ranges [rad], moved with caution.

    Raises ValueError, in one line, for options that lerobot refuses, or a robot without a calibration.
    """
    from deploy.robots.lerobot_robot import lerobot_robot
    from deploy.robots.lerobot_units import SUFFIX, half_ranges, joint_units

    lerobots, said = _split(options)
    driver = lerobot_robot(lerobots)
    units, half = joint_units(driver, _units(driver.action_features, said)), half_ranges(driver)
    unknown = [name for name in units if name not in half]
    if unknown:
        raise ValueError(
            f"how far {unknown[0]} of {kind_of(options)} may go is not known: run lerobot-calibrate, or name a preset"
        )
    names = tuple(name.removesuffix(SUFFIX) for name in units)
    high_A, n = np.array([half[name] for name in units]), len(units)
    spec = RobotSpec(
        name=kind_of(options),
        version="v4",
        dt_s=DT_S,
        action=ActionSpec((-high_A).astype(np.float32), high_A.astype(np.float32), ("rad",) * n, names),
        state_names=(*names, *(f"{name}_rate" for name in names)),
        state_units=(*["rad"] * n, *["rad/s"] * n),
        state_scale=(1.0,) * (2 * n),
        columns={},
        healthy={},
        reward_linear={},
        joints=names,
        max_episode_steps=EPISODE_STEPS,
    )
    high = tuple(high_A.tolist())
    return spec, RobotLimits(tuple(-x for x in high), high, (CAUTION_RAD_S,) * n, (0.0,) * n)


@contextmanager
def connected(
    cfg: RunConfig, spec: RobotSpec, shield: Callable[[], AbstractContextManager[None]]
) -> Iterator[LeRobotRobot]:
    """Connect the real robot of a run, which holds still then; it holds on after the end. `shield` puts interrupts off.

    Raises ValueError, in one line, where it cannot be connected.
    """
    from deploy.robots.lerobot_robot import DriverConfig, LeRobotRobot, lerobot_robot

    lerobots, said = _split(cfg.hardware)
    driver = lerobot_robot(lerobots)
    steps = cfg.episode_steps or spec.max_episode_steps
    how = DriverConfig(spec.dt_s, units=_units(driver.action_features, said), episode_steps=steps)
    try:
        robot = LeRobotRobot(driver, cfg.limits, how, TASKS.get(cfg.robot, JointTask)())
    except (OSError, RobotFault) as error:
        raise ValueError(f"{kind_of(cfg.hardware)}: {error}") from None
    try:
        yield robot
    finally:
        with shield():
            robot.disconnect()


def _split(options: Sequence[str]) -> tuple[list[str], str]:
    """Return lerobot's own options, and what was said of units."""
    said = [option.removeprefix(_UNITS) for option in options if option.startswith(_UNITS)]
    return [option for option in options if not option.startswith(_UNITS)], ",".join(said)


def _units(features: Mapping[str, type], said: str) -> dict[str, Unit]:
    from deploy.robots.lerobot_units import parse_units, units_of

    return units_of(features, parse_units(said, "--robot-units"))
