"""A scripted operator for lerobot, for where nobody sits: `--teleop.type=surefoot_motion --teleop.robot=walker2d`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from deploy.clock import Clock, MonotonicClock
from deploy.feature_names import action_keys, named
from deploy.motions import Motion
from deploy.refusal import refused
from envs.robots import robot_spec


@TeleoperatorConfig.register_subclass("surefoot_motion")
@dataclass(kw_only=True)
class SurefootMotionConfig(TeleoperatorConfig):
    """Which robot, and how it is moved."""

    robot: str = "walker2d"
    # hold, sine or square, each actuator a share of a turn after the one before
    wave: str = "sine"
    hz: float = 1.0
    # in half ranges of the actuator
    amplitude: float = 0.3

    def __post_init__(self) -> None:
        with refused("teleop"):
            robot_spec(self.robot)
            self.motion  # noqa: B018 - the check is in its making

    @property
    def motion(self) -> Motion:
        """The motion by our names."""
        return Motion(self.wave, self.hz, self.amplitude)


class SurefootMotion(Teleoperator):
    """Moves a robot by the clock, from the moment it is connected."""

    config_class = SurefootMotionConfig
    name = "surefoot_motion"

    def __init__(self, config: SurefootMotionConfig, clock: Clock | None = None) -> None:
        super().__init__(config)
        self._action, self._motion = robot_spec(config.robot).action, config.motion
        self._keys = action_keys(robot_spec(config.robot))
        self._clock, self._start_s = clock or MonotonicClock(), None

    @property
    def action_features(self) -> dict[str, Any]:
        """The robot's actuators."""
        return dict.fromkeys(self._keys, float)

    @property
    def feedback_features(self) -> dict[str, Any]:
        """Nothing: it feels nothing."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether the motion has begun."""
        return self._start_s is not None

    @property
    def is_calibrated(self) -> bool:
        """True: there is nothing to calibrate."""
        return True

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Begin the motion."""
        self._start_s = self._clock.now_s()

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    @check_if_not_connected
    def get_action(self) -> dict[str, Any]:
        """Return the action for now."""
        assert self._start_s is not None
        return named(self._keys, self._motion.at(self._clock.now_s() - self._start_s, self._action))

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """Take no notice."""

    @check_if_not_connected
    def disconnect(self) -> None:
        """End the motion."""
        self._start_s = None
