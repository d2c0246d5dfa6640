"""Any robot that lerobot drives as ours: radians in and out, `make_safe` before every command, errors within a budget.

What lerobot leaves open is closed here: numbers that are not finite or out of range never reach its driver, nothing moves
on connecting, on disconnecting or after a fault, and an answer that comes late is not taken for the next one.
"""

from __future__ import annotations

import io
import logging
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field, make_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.clock import Clock, MonotonicClock
from deploy.loop import Outcome
from deploy.robots.fault import RobotFault
from deploy.robots.lerobot_units import Unit, calibrated_reach, joint_scale, joint_units, serial_buses
from deploy.robots.tasks import JointTask, Task
from deploy.safety import Command, Limit, RobotLimits, make_safe
from envs.types import Observation

if TYPE_CHECKING:
    from lerobot.robots import Robot

_log = logging.getLogger(__name__)
_WAIT_S = 0.002  # a serial port's read waits so long for bytes; the SDK would spin, and take the core from the planner
_PATIENCE_MS = 200.0
_ROUNDING_RAD = 1e-6
# What drivers raise for a packet that was lost or garbled, a device that went away. The SDK indexes into short answers.
_LOST = (OSError, RuntimeError, IndexError, termios.error)
_TRANSIENT = (*_LOST, ValueError)  # nonsense was read, or a picture that is too old


@dataclass(frozen=True)
class DriverConfig:
    """How a driver is treated."""

    dt_s: float = 1.0 / 30.0
    """Control step; bus errors are retried for so long within one."""
    budget_s: float = 0.3
    """Without one good reading, or one command that went out, for so long: a fault."""
    connect_tries: int = 3
    slack: float = 0.05
    """How far beyond its limits a joint may be found on connecting; it is then held at the limit [rad]."""
    release: bool = False
    """Whether the motors let go on disconnecting. An arm that is let go sinks."""
    camera: str = ""
    """The camera whose newest picture goes with each observation; empty for the first, if there is one."""
    units: Mapping[str, Unit] = field(default_factory=dict)
    """Units of action features, where the robot's motors do not say."""
    episode_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("dt_s", "budget_s", "connect_tries"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


def lerobot_robot(options: Sequence[str]) -> Robot:
    """Return lerobot's robot, not yet connected, from lerobot's own options: `--robot.type=... --robot.port=...`.

    Raises ValueError, in one line, for options that lerobot refuses.
    """
    import draccus
    import lerobot.scripts.lerobot_teleoperate  # registers every robot and camera that lerobot ships  # noqa: F401
    from lerobot.robots import RobotConfig, make_robot_from_config
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    kinds = [option.split("=", 1)[1] for option in options if option.startswith("--robot.type=")]
    if len(kinds) != 1 or kinds[0] not in RobotConfig.get_known_choices():
        raise ValueError(
            f"--robot.type must be one of {', '.join(sorted(RobotConfig.get_known_choices()))}, got {kinds}"
        )
    shape: Any = make_dataclass("Options", [("robot", RobotConfig)])
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            config = draccus.parse(shape, args=list(options)).robot
    except (draccus.ParsingError, SystemExit) as error:
        said = complaint.getvalue().strip().splitlines()[-1:] or str(error).split("\n")
        raise ValueError(f"lerobot refuses {' '.join(options)}: {' '.join(said)}") from None
    try:
        return make_robot_from_config(config)
    except ImportError as error:  # a driver that is not installed
        raise ValueError(f"{kinds[0]}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True, slots=True)
class _Reading:
    q_A: np.ndarray
    image: np.ndarray | None
    image_age_s: float | None


class LeRobotRobot:
    """A connected lerobot robot behind `deploy.loop.Robot`; it holds still by keeping its last command.

    A reading that fails leaves the last observation, with its old time, so that whoever watches its age can hold; after
    `budget_s` of failures `read` and `send` raise RobotFault, and go on raising it until `reset`. Raises ValueError for
    a robot that is not calibrated, whose joints stand outside their limits, or whose units are unknown; ConnectionError
    where lerobot cannot connect.
    """

    def __init__(
        self,
        robot: Robot,
        limits: RobotLimits,
        cfg: DriverConfig | None = None,
        task: Task | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._robot, self._cfg, self._task = robot, cfg or DriverConfig(), task or JointTask()
        self.dt_s, self._clock, self._buses = self._cfg.dt_s, clock or MonotonicClock(), serial_buses(robot)
        units = joint_units(robot, self._cfg.units)
        if len(units) != len(limits.low):
            raise ValueError(f"the robot has actions {', '.join(units)}, its limits are for {len(limits.low)}")
        low_A, high_A = np.array(limits.low), np.array(limits.high)
        self._scale, reach_A = joint_scale(units, low_A, high_A), calibrated_reach(robot, units)
        self._low_A, self._high_A = np.maximum(low_A, -reach_A), np.minimum(high_A, reach_A)
        low, high, hold = (tuple(x.tolist()) for x in (self._low_A, self._high_A, self._clip(limits.hold_A)))
        self.limits: Sequence[Limit] = replace(limits, low=low, high=high, hold=hold).build()
        self.errors = 0
        """Bus errors so far, those that a retry mended among them."""
        self._fault, self._failing_since_s = "", dict[str, float]()
        self.hold_A = self._clip(limits.hold_A)
        """Where it was told to be last, (A,) [rad]: that again, and it holds still."""
        _settle(robot, self._cfg.release)
        self._connect()

    @property
    def last_A(self) -> np.ndarray:
        """The action that was sent last, (A,) [rad]; where the arm stood when it was connected."""
        return self.hold_A

    def reset(self, seed: int, t_s: float, /) -> Observation:
        """Draw the task of an episode; nothing moves. After a fault, connect again and hold where the robot stands."""
        if self._fault:
            self.disconnect()
            self._connect()
        self._task.begin(seed)
        self._steps, self._reading, self._stamp_s = 0, self._wait_for_reading(), t_s
        self._observation = self._observe(np.zeros_like(self.hold_A))
        return self._observation

    def send(self, action_A: np.ndarray, /) -> Command:
        """Make `action_A` [rad] safe and send it; return what the driver says it sent.

        A driver may change it ("driver": lerobot's max_relative_target); where it fails, the last command holds ("bus").
        """
        command = make_safe(action_A, self.hold_A, self.dt_s, self.limits)
        wanted = self._scale.action(command.action_A)
        self._steps += 1
        sent_A = self._attempt("send", lambda: self._scale.radians(self._robot.send_action(wanted)))
        if sent_A is None:
            return Command(self.hold_A.copy(), (*command.altered_by, "bus"))
        if not np.allclose(sent_A, command.action_A, rtol=0.0, atol=_ROUNDING_RAD):
            command = Command(sent_A, (*command.altered_by, "driver"))
        self.hold_A = command.action_A
        return command

    def read(self, t_s: float, /) -> Outcome:
        """Return what the robot reports, stamped `t_s`; the last observation, as it was, if it reports nothing."""
        reading = self._attempt("read", self._read)
        if reading is not None:
            rate_A = (reading.q_A - self._reading.q_A) / max(t_s - self._stamp_s, 1e-6)
            self._reading, self._stamp_s = reading, t_s
            self._observation = self._observe(rate_A)
        over = self._cfg.episode_steps is not None and self._steps >= self._cfg.episode_steps
        reward = self._task.reward(self._observation.state_O)
        return Outcome(self._observation, reward, False, over, self.hold_A)

    @property
    def camera(self) -> Mapping[str, tuple[int, int]]:
        """The camera whose pictures come with observations, and its (height, width); empty if there is none."""
        image = self._reading.image
        return {} if image is None else {self._camera: (image.shape[0], image.shape[1])}

    @property
    def _cameras(self) -> Mapping[str, Any]:
        return getattr(self._robot, "cameras", {})

    @property
    def _camera(self) -> str:
        return self._cfg.camera or next(iter(self._cameras), "")

    def pose(self) -> np.ndarray:
        """Return the joint angles, (A,) [rad]."""
        return self._reading.q_A

    def disconnect(self) -> None:
        """Let go of the bus. Nothing moves, and the motors go on holding unless `release` was asked for."""
        parts = [self._robot, *self._buses.values(), *self._cameras.values()]
        for part in parts:
            try:
                if part.is_connected and part in self._buses.values():
                    part.disconnect(disable_torque=False)
                elif part.is_connected:
                    part.disconnect()
            except _TRANSIENT as error:
                _log.warning("while disconnecting: %s", _one_line(error))

    def _connect(self) -> None:
        with ExitStack() as undo:
            undo.callback(self.disconnect)
            self._open()
            self._fault, self._steps, self._stamp_s = "", 0, self._clock.now_s()
            self._failing_since_s.clear()
            self._reading = self._wait_for_reading()
            self.hold_A = self._standing(self._reading.q_A)
            self._robot.send_action(self._scale.action(self.hold_A))
            self._observation = self._observe(np.zeros_like(self.hold_A))
            undo.pop_all()

    def _open(self) -> None:
        """Connect lerobot's robot. It asks its motors a hundred things, each once: one lost answer must not end it."""
        for left in reversed(range(self._cfg.connect_tries)):
            try:
                with _patience(self._buses.values()):
                    for bus in self._buses.values():
                        _aim_where_it_is(bus)
                    self._robot.connect(calibrate=False)
                for bus in self._buses.values():
                    bus.port_handler.ser.timeout = _WAIT_S
                return
            except _LOST as error:
                self.disconnect()
                if not left:
                    raise ConnectionError(f"cannot connect to {self._robot}: {_one_line(error)}") from error
                time.sleep(_PATIENCE_MS / 1e3)  # what is still under way would be taken for an answer

    def _standing(self, q_A: np.ndarray) -> np.ndarray:
        """Return where to hold a robot that stands at `q_A`. Raises ValueError if that is well outside its limits."""
        held_A = self._clip(q_A)
        joint = int(np.abs(q_A - held_A).argmax())
        if abs(q_A[joint] - held_A[joint]) > self._cfg.slack:
            bounds = f"[{self._low_A[joint]:.3f}, {self._high_A[joint]:.3f}]"
            raise ValueError(
                f"{self._scale.names[joint]} is at {q_A[joint]:.3f} rad, outside {bounds}: move it by hand"
            )
        return held_A

    def _clip(self, q_A: np.ndarray) -> np.ndarray:
        return np.clip(q_A, self._low_A, self._high_A)

    def _wait_for_reading(self) -> _Reading:
        while (reading := self._attempt("read", self._read)) is None:
            pass  # the budget ends it
        return reading

    def _read(self) -> _Reading:
        seen = self._robot.get_observation()
        name = self._camera
        taken_s = getattr(self._cameras.get(name), "latest_timestamp", None)
        age_s = None if taken_s is None else time.perf_counter() - taken_s
        return _Reading(self._scale.radians(seen), seen.get(name), age_s)

    def _observe(self, rate_A: np.ndarray) -> Observation:
        reading, t_s = self._reading, self._stamp_s
        taken_s = None if reading.image_age_s is None else t_s - reading.image_age_s
        return Observation(t_s, self._task.state(reading.q_A, rate_A), reading.image, taken_s)

    def _attempt[T](self, what: str, do: Callable[[], T]) -> T | None:
        """Return what `do` returns; None if it failed for a control step, RobotFault if for longer than the budget."""
        if self._fault:
            raise RobotFault(self._fault)
        began_s = self._clock.now_s()
        while True:
            try:
                for bus in self._buses.values():
                    _forget_answers(bus)
                result = do()
            except _TRANSIENT as error:
                self.errors += 1
                failing_s = self._clock.now_s() - self._failing_since_s.setdefault(what, began_s)
                if failing_s > self._cfg.budget_s:
                    self._fault = f"could not {what} for {failing_s:.2f} s: {_one_line(error)}"
                    raise RobotFault(self._fault) from error
                if self._clock.now_s() - began_s >= self.dt_s:
                    return None
            else:
                self._failing_since_s.pop(what, None)
                return result


def _settle(robot: Robot, release: bool) -> None:
    """Retry here, within the budget, rather than in the driver; let motors go on disconnecting only where asked to."""
    for part in (robot, getattr(robot, "left_arm", None), getattr(robot, "right_arm", None)):
        config = getattr(part, "config", None)
        for name, value in (("disable_torque_on_disconnect", release), ("num_read_retries", 0)):
            if hasattr(config, name):
                setattr(config, name, value)


def _aim_where_it_is(bus: Any) -> None:
    """Tell each servo to be where it is: lerobot switches torque on with whatever goal was left in the register."""
    try:
        bus.connect()
        if not bus.is_calibrated:
            raise ValueError(f"the motors on {bus.port} are not calibrated as the file says: run lerobot-calibrate")
        present = bus.sync_read("Present_Position", normalize=False, num_retry=2)
        bus.sync_write("Goal_Position", present, normalize=False)
    finally:
        if bus.is_connected:
            bus.disconnect(disable_torque=False)


@contextmanager
def _patience(buses: Iterable[Any]) -> Iterator[None]:
    """Let drivers wait for each answer as long as nothing moves, and drop what comes after all before they ask again."""
    handlers = [bus.port_handler for bus in buses]
    usual = [(handler.setPacketTimeout, handler.clearPort) for handler in handlers]
    for handler in handlers:
        handler.setPacketTimeout = lambda _, wait=handler.setPacketTimeoutMillis: wait(_PATIENCE_MS)
        handler.clearPort = lambda of=handler: of.ser.reset_input_buffer()
    try:
        yield
    finally:
        for handler, (wait, clear) in zip(handlers, usual, strict=True):
            handler.setPacketTimeout, handler.clearPort = wait, clear


def _forget_answers(bus: Any) -> None:
    """Drop what came too late for the last request, and the SDK's mark of a request under way that an error left behind."""
    bus.port_handler.ser.reset_input_buffer()
    bus.port_handler.is_using = False


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
