"""Our robots as the environments that lerobot evaluates policies in: observations by its names, success, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from deploy.drawing import SIZE
from envs.robots import pick

if TYPE_CHECKING:
    from deploy.drawing import Painter
    from deploy.robots.simulated import Simulated

PICTURE = (SIZE[1], SIZE[0], 3)

SHOWN: Mapping[str, tuple[str, ...]] = {
    "agent_pos": ("agent_pos",),
    "environment_state_agent_pos": ("agent_pos", "environment_state"),
    "pixels_agent_pos": ("agent_pos", "pixels"),
}
"""What an observation consists of. `agent_pos` is the state; so is `environment_state`: some of lerobot's policies are not
built without it or a picture."""


def shapes(task: Simulated, shows: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each part of an observation; raises KeyError for an unknown kind."""
    parts = pick(SHOWN, shows, "kind of observation")
    return {part: PICTURE if part == "pixels" else (task.spec.state_size,) for part in parts}


def _box(shape: tuple[int, ...]) -> spaces.Box:
    if shape == PICTURE:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float64)


class TaskEnv(gymnasium.Env):
    """A task, behind `make_safe` as every robot. Each episode is on a clock of its own: a fault at 0 breaks all of them.

    A robot that can fall succeeds by reaching the time limit without a fall: info["is_success"].
    """

    def __init__(self, task: Simulated, shows: str = "agent_pos") -> None:
        self._task, self._spec = task, task.spec
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": task.fps}
        self.render_mode = "rgb_array"
        self.task, self.task_description = task.robot, f"run: {task.robot}"
        self._max_episode_steps = task.steps
        self._shapes = shapes(task, shows)
        self.observation_space = spaces.Dict({part: _box(shape) for part, shape in self._shapes.items()})
        action = self._spec.action
        self.action_space = spaces.Box(action.low_A, action.high_A, dtype=np.float32)
        self._painter: Painter | None = None
        self._robot = task.build()
        self._state_O = np.zeros(self._spec.state_size)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode; without a seed, at a start that this environment draws."""
        super().reset(seed=seed)
        if self._task.faults:  # their clock outlives a reset
            self._robot.env.close()
            self._robot = self._task.build()
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        self._state_O = self._robot.reset(start, 0.0).state_O
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        """Advance one control step. A simulation that diverged ends the episode in the last state that was finite."""
        command = self._robot.send(np.asarray(action, dtype=np.float64))
        outcome = self._robot.read(0.0)
        diverged = not np.isfinite(outcome.observation.state_O).all()
        if not diverged:
            self._state_O = outcome.observation.state_O
        info: dict[str, Any] = {"action_sent": command.action_A, "diverged": diverged}
        if self._spec.healthy:
            info["is_success"] = outcome.truncated and not outcome.terminated
        return self._observation(), outcome.reward, outcome.terminated, outcome.truncated, info

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the picture of this moment, (height, width, 3) uint8."""
        if self._painter is None:
            self._painter = self._task.painter()
        return self._painter(np.nan_to_num(self._robot.pose()))

    def close(self) -> None:
        """Close the simulation."""
        self._robot.env.close()

    def _observation(self) -> dict[str, np.ndarray]:
        return {part: self.render() if part == "pixels" else self._state_O.copy() for part in self._shapes}
