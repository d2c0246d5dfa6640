"""Which simulated robot, what is broken, for how long, and how it is pictured: what is asked for by name, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.drawing import make_painter
from deploy.robots.sim import SimRobot
from envs.faults import FaultWrapper, parse_faults
from envs.robots import RobotSpec, make_env, pick, robot_spec

if TYPE_CHECKING:
    from deploy.drawing import Painter
    from deploy.safety import RobotLimits

PAINTERS: Mapping[str, bool] = {"drawn": False, "mujoco": True}
"""Kind of pictures -> whether they need OpenGL (and MUJOCO_GL, set before the program starts)."""


@dataclass(frozen=True)
class Simulated:
    """One robot in simulation. Raises KeyError or ValueError, in one line, for what does not exist."""

    robot: str
    limits: Mapping[str, RobotLimits]
    """By robot."""
    version: str = "v4"
    faults: str = ""
    """KIND:TARGET:VALUE@START[-END], separated by spaces."""
    episode_steps: int | None = None
    """None: the robot's own."""
    pictures: str = "drawn"

    def __post_init__(self) -> None:
        parse_faults(self.faults.split(), self.spec)
        pick(self.limits, self.robot, "limits of a robot")
        pick(PAINTERS, self.pictures, "kind of pictures")
        if self.episode_steps is not None and not 1 <= self.episode_steps <= self.spec.max_episode_steps:
            raise ValueError(
                f"an episode of {self.robot} has 1 .. {self.spec.max_episode_steps} steps, got {self.episode_steps}"
            )

    @property
    def spec(self) -> RobotSpec:
        """The robot's constants."""
        return robot_spec(self.robot, self.version)

    @property
    def steps(self) -> int:
        """Length of an episode in control steps."""
        return self.episode_steps or self.spec.max_episode_steps

    @property
    def fps(self) -> int:
        """Control steps per second, as a whole number."""
        return round(1 / self.spec.dt_s)

    def build(self) -> SimRobot:
        """Return the robot, its faults on a clock that starts now."""
        env, faults = make_env(self.robot, self.version), parse_faults(self.faults.split(), self.spec)
        whole = FaultWrapper(env, faults) if faults else env
        return SimRobot(whole, self.spec.dt_s, self.limits[self.robot], self.steps)

    def painter(self) -> Painter:
        """Return what draws its poses, (height, width, 3) uint8."""
        return make_painter(self.robot, self.version, PAINTERS[self.pictures])
