"""A simulated robot behind the same door as a real one: nothing reaches `env.step` but through `make_safe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.build import sees
from deploy.loop import Outcome
from deploy.safety import Command, Limit, RobotLimits, make_safe
from envs.faults import FaultWrapper, parse_faults
from envs.pairs import GoalsFrom, read_pairs
from envs.poses import configuration
from envs.robots import make_env, robot_spec
from envs.types import Observation

if TYPE_CHECKING:
    import gymnasium

    from deploy.config import RunConfig
    from envs.robots import RobotSpec


class SimRobot:
    """An environment as a robot. The action applied after a simulated fault is reported beside the one sent.

    One that is commanded by angles holds by keeping its last command. Pictures come from an environment that was made
    with `render_mode="rgb_array"`.
    """

    def __init__(self, env: gymnasium.Env, dt_s: float, limits: RobotLimits, episode_steps: int | None = None) -> None:
        self.dt_s, self.hold_A = dt_s, limits.hold_A
        self.limits: Sequence[Limit] = limits.build()
        size = env.action_space.shape
        if size != self.hold_A.shape:
            raise ValueError(f"the robot has actions {size}, its limits are for {self.hold_A.shape}")
        self._env, self._episode_steps = env, episode_steps
        self._by_angles = False
        self._last_A, self._steps, self._state_O = self.hold_A, 0, np.zeros(0)
        self._rate_A = np.zeros(len(self.hold_A))
        self._result: tuple[Any, float, bool, bool, dict[str, Any]] | None = None

    @property
    def env(self) -> gymnasium.Env:
        """The simulation, for those who may look inside it."""
        return self._env

    @property
    def info(self) -> dict[str, Any]:
        """What the environment said about the last step; no agent may know it."""
        return {} if self._result is None else self._result[4]

    @property
    def last_A(self) -> np.ndarray:
        """The action that was sent last, (A,); `hold_A` after a reset."""
        return self._last_A

    def reset(self, seed: int, t_s: float, /) -> Observation:
        """Put the robot at a start drawn from `seed`."""
        state_O, info = self._env.reset(seed=seed)
        self._state_O = np.array(state_O, dtype=np.float64)
        self._by_angles = "hold" in info
        self._last_A = self.hold_A = info.get("hold", self.hold_A)
        self._steps, self._result = 0, None
        self._rate_A = np.zeros(len(self.hold_A))
        return self._observed(t_s)

    def send(self, action_A: np.ndarray, /) -> Command:
        """Make `action_A` safe, advance the simulation by one step under it, and return what was sent."""
        command = make_safe(action_A, self._last_A, self.dt_s, self.limits, self._rate_A)
        self._rate_A = (command.action_A - self._last_A) / self.dt_s
        self._last_A, self._steps = command.action_A, self._steps + 1
        if self._by_angles:
            self.hold_A = self._last_A
        state_O, reward, terminated, truncated, info = self._env.step(command.action_A.astype(np.float32))
        self._result = state_O, float(reward), terminated, truncated, info
        return command

    def read(self, t_s: float, /) -> Outcome:
        """Return what the last command led to. A diverged simulation reads as a state that is not finite."""
        if self._result is None:
            raise RuntimeError("read() comes after send()")
        state_O, reward, terminated, truncated, info = self._result
        if info.get("diverged"):
            state_O = np.full_like(state_O, np.nan)
        self._state_O = np.array(state_O, dtype=np.float64)
        applied_A = np.asarray(info.get("action_applied", self._last_A), dtype=np.float64)
        over = self._episode_steps is not None and self._steps >= self._episode_steps
        return Outcome(self._observed(t_s), reward, bool(terminated), bool(truncated) or over, applied_A)

    @property
    def camera(self) -> Mapping[str, tuple[int, int]]:
        """The camera whose pictures come with observations, and its (height, width); empty if there is none."""
        seen: Any = self._env.unwrapped
        if getattr(seen, "render_mode", None) != "rgb_array":
            return {}
        height, width, _ = np.shape(seen.render())
        return {"front": (height, width)}

    def _observed(self, t_s: float) -> Observation:
        if getattr(self._env.unwrapped, "render_mode", None) != "rgb_array":
            return Observation(t_s, self._state_O)
        return Observation(t_s, self._state_O, np.array(self._env.render()), t_s)

    def pose(self) -> np.ndarray:
        """Return MuJoCo's configuration, (P,); for a robot without MuJoCo, its state."""
        data = getattr(self._env.unwrapped, "data", None)
        return self._state_O if data is None else configuration(data)


def make_robot(cfg: RunConfig) -> tuple[SimRobot, float | None]:
    """Return the simulated robot of a run and the second at which its first fault starts (None without faults).

    Raises KeyError or ValueError, in one line, for an unknown robot, version or fault.
    """
    spec = robot_spec(cfg.robot, cfg.version)
    faults = parse_faults(list(cfg.faults), spec)
    env = make_env(cfg.robot, cfg.version, "rgb_array" if sees(cfg.agent) else None)
    if cfg.goals_from is not None:
        env = GoalsFrom(env, read_pairs(cfg.goals_from, spec, cfg.offset))
    robot = SimRobot(FaultWrapper(env, faults) if faults else env, spec.dt_s, cfg.limits, cfg.episode_steps)
    return robot, first_start(faults)


def limits_of(spec: RobotSpec) -> RobotLimits:
    """Return the whole range of each actuator, which it may cross in one control step; it holds as near to 0 as that allows."""
    low_A, high_A = spec.action.low_A.astype(float), spec.action.high_A.astype(float)
    rows = (low_A, high_A, (high_A - low_A) / spec.dt_s, np.clip(0.0, low_A, high_A))
    return RobotLimits(*(tuple(row.tolist()) for row in rows))


def first_start(faults: Sequence[Any]) -> float | None:
    """Return when the first of the faults starts [s]."""
    return min((fault.start_s for fault in faults), default=None)
