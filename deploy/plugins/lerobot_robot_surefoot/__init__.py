"""Our simulated robots for lerobot: `--robot.type=surefoot_sim --robot.robot=walker2d`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.robots import Robot, RobotConfig
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from configs.limits import LIMITS
from deploy.feature_names import action_keys, action_of, named, state_keys
from deploy.refusal import refused
from deploy.robots.driven import CLOCKS, DrivenRobot
from deploy.robots.simulated import Simulated
from deploy.task_env import PICTURE
from envs.robots import pick

if TYPE_CHECKING:
    from deploy.drawing import Painter

CAMERA = "side"


@RobotConfig.register_subclass("surefoot_sim")
@dataclass(kw_only=True)
class SurefootSimConfig(RobotConfig):
    """Which robot, what is broken, and how time passes."""

    robot: str = "walker2d"
    version: str = "v4"
    # KIND:TARGET:VALUE@START[-END], separated by spaces, in seconds since the robot was connected
    faults: str = ""
    # realtime: the last command is repeated until the next; stepped: a command is one control step, and nothing else is
    time: str = "realtime"
    # whether it has a camera, "side"
    camera: bool = False
    # drawn, or rendered by mujoco (where MUJOCO_GL works)
    pictures: str = "drawn"
    # of the first start; a robot that falls is put back at the next
    seed: int = 0
    # a new file for what was requested, sent and applied at each control step, as lines of JSON
    journal: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        with refused("robot"):
            pick(CLOCKS, self.time, "time")
            self.task  # noqa: B018 - the check is in its making
            if self.seed < 0:
                raise ValueError(f"seed must be >= 0, got {self.seed}")
            if self.journal and (self.journal.exists() or not self.journal.absolute().parent.is_dir()):
                raise ValueError(f"journal must be a new file in a folder that exists, got {self.journal}")

    @property
    def task(self) -> Simulated:
        """The robot by our names."""
        return Simulated(self.robot, LIMITS, self.version, self.faults, pictures=self.pictures)


class SurefootSim(Robot):
    """One simulated robot. Nothing reaches its motors but through `make_safe`."""

    config_class = SurefootSimConfig
    name = "surefoot_sim"

    def __init__(self, config: SurefootSimConfig) -> None:
        super().__init__(config)
        self.config, self._spec = config, config.task.spec
        self._robot: DrivenRobot | None = None

    @cached_property
    def cameras(self) -> dict[str, Painter]:
        """What takes the pictures: lerobot-record counts it."""
        return {CAMERA: self.config.task.painter()} if self.config.camera else {}

    @property
    def observation_features(self) -> dict[str, Any]:
        """The state's columns, and the camera if it has one."""
        camera = {CAMERA: PICTURE} if self.config.camera else {}
        return {**dict.fromkeys(state_keys(self._spec), float), **camera}

    @property
    def action_features(self) -> dict[str, Any]:
        """The actuators, in the units of the robot's ActionSpec."""
        return dict.fromkeys(action_keys(self._spec), float)

    @property
    def is_connected(self) -> bool:
        """Whether the simulation runs."""
        return self._robot is not None

    @property
    def is_calibrated(self) -> bool:
        """True: there is nothing to calibrate."""
        return True

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Start the simulation, and its clock."""
        clock = CLOCKS[self.config.time]()
        self._robot = DrivenRobot(self.config.task.build(), clock, self.config.seed, self.config.journal)

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        """Return what it sees now, by the names of `observation_features`."""
        assert self._robot is not None
        state_O = self._robot.observe().state_O
        pictures = {name: paint(np.nan_to_num(self._robot.pose())) for name, paint in self.cameras.items()}
        return {**named(state_keys(self._spec), state_O), **pictures}

    @check_if_not_connected
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Return what was really sent. Raises ValueError unless `action` has all of this robot's actuators."""
        assert self._robot is not None
        command = self._robot.command(action_of(self._spec, action))
        return named(action_keys(self._spec), command.action_A)

    @check_if_not_connected
    def disconnect(self) -> None:
        """End the simulation."""
        assert self._robot is not None
        self._robot.close()
        self._robot = None
