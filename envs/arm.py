"""The SO-101 in simulation at 30 Hz, commanded by joint angles: bring the tip to a point, or push a block to one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.robots import RobotSpec, distances
from envs.so101 import ARM, BLOCK_M, HOME_A, TIP, build_model, mujoco_module

SUCCESS_M = 0.02
REACH_BOX = np.array([[0.16, -0.2, 0.03], [0.32, 0.2, 0.25]])  # [m] every point of it can be reached
PUSH_BOX = np.array([[0.20, -0.1], [0.28, 0.1]])  # [m] of the block and of its target, on the table
PUSH_M = (0.05, 0.12)  # how far the block starts from its target
SPREAD_RAD = 0.15  # of the angles at the start, around HOME_A
IMAGE = (240, 320)


def arm_state(q_A: np.ndarray, rate_A: np.ndarray, tip_3: np.ndarray, task_X: np.ndarray) -> np.ndarray:
    """Return the state vector: angles [rad], their mean rates over the last control step [rad/s], tip [m], task.

    The rate is a difference of two readings, so that a real arm, which reports positions alone, has the same state.
    """
    return np.concatenate([q_A, rate_A, tip_3, task_X])


class ArmEnv(gymnasium.Env):
    """Reach (`so101`) or push (`so101_push`): reward minus the distances [m] that the spec charges.

    An action is the angle of each joint [rad], held by its position servo for one control step. An episode does not
    end on success: info["is_success"] says whether the goal is met now, within 2 cm; info["hold"] of a reset is the
    action that keeps the arm where it is. `render()` returns the picture of the camera "front".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, spec: RobotSpec, render_mode: str | None = None) -> None:
        self._mujoco = mujoco_module()
        self._spec = spec
        self._pushes = "block_x" in spec.columns
        self.render_mode = render_mode
        self.model = build_model(self._pushes)
        self.data = self._mujoco.MjData(self.model)
        self.dt = spec.dt_s
        self.frame_skip = round(spec.dt_s / self.model.opt.timestep)
        low_A, high_A = spec.action.low_A, spec.action.high_A
        self.action_space = gymnasium.spaces.Box(low_A, high_A, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float64)
        self._last_A = HOME_A.copy()
        self._renderer: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Put arm, block and target at random; `options={"target": (x, y[, z])}` [m] chooses the target."""
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self.model, self.data)
        target = self._draw_task()
        if options and "target" in options:
            target = np.asarray(options["target"], np.float64)
        self.data.mocap_pos[0, : len(target)] = target
        self._draw_angles()
        return self._state(), {"hold": self.data.qpos[: len(HOME_A)].copy(), **self._info()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold joint angles, (6,) [rad], clipped to the action space, for one control step."""
        self.data.ctrl[:] = np.clip(action, self._spec.action.low_A, self._spec.action.high_A)
        self._mujoco.mj_step(self.model, self.data, self.frame_skip)
        self._mujoco.mj_kinematics(self.model, self.data)
        state_O = self._state()
        return state_O, self._reward(state_O), False, False, self._info()

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the camera's picture, (240, 320, 3) uint8; None unless render_mode is "rgb_array"."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = self._mujoco.Renderer(self.model, *IMAGE)
        self._renderer.update_scene(self.data, camera="front")
        return self._renderer.render()

    def close(self) -> None:
        """Let go of the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _draw_task(self) -> np.ndarray:
        """Place the block, if there is one; return the target, (3,), or (2,) for the block."""
        if not self._pushes:
            return self.np_random.uniform(*REACH_BOX)
        while True:
            block_2, target_2 = self.np_random.uniform(*PUSH_BOX), self.np_random.uniform(*PUSH_BOX)
            if PUSH_M[0] < np.linalg.norm(block_2 - target_2) < PUSH_M[1]:
                break
        self.data.joint("block").qpos[:] = (*block_2, BLOCK_M[1], 1.0, 0.0, 0.0, 0.0)
        return target_2

    def _draw_angles(self) -> None:
        noise_A = np.append(self.np_random.uniform(-SPREAD_RAD, SPREAD_RAD, ARM), 0.0)
        self.data.qpos[: len(HOME_A)] = HOME_A + noise_A
        self.data.ctrl[:] = self._last_A = HOME_A + noise_A
        self._mujoco.mj_forward(self.model, self.data)

    def _state(self) -> np.ndarray:
        q_A = self.data.qpos[: len(HOME_A)].copy()
        rate_A, self._last_A = (q_A - self._last_A) / self.dt, q_A
        return arm_state(q_A, rate_A, self.data.site(TIP).xpos, self._task())

    def _task(self) -> np.ndarray:
        target_3 = self.data.mocap_pos[0]
        if not self._pushes:
            return target_3
        return np.concatenate([self.data.body("block").xpos[:2], target_3[:2]])

    def _reward(self, state_O: np.ndarray) -> float:
        return float(distances(self._spec, {name: state_O[at] for name, at in self._spec.columns.items()}))

    def _info(self) -> dict[str, Any]:
        target_3 = self.data.mocap_pos[0]
        away = self.data.body("block").xpos[:2] - target_3[:2] if self._pushes else self.data.site(TIP).xpos - target_3
        distance = float(np.linalg.norm(away))
        return {"distance": distance, "is_success": distance < SUCCESS_M}
