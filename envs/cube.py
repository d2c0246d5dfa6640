"""A cube on a table and an arm with a gripper (OGBench's cube-single): the goal is where the cube should be.

The state is the configuration of arm, gripper and cube; an action moves the gripper relative to where it is: along x, y and z, about
its axis, and closes or opens it, each in [-1, 1]. Success is the cube within 4 cm of its place, however it is turned (Maes et al.
2026). Pictures are cast by rays: they need no OpenGL, and differ from OGBench's in light and shadow, and in that the arm is opaque.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import gymnasium
import mujoco
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # glfw's own, where there is no screen
    from ogbench.manipspace.envs.cube_env import CubeEnv
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

from envs.collect import run_episode
from envs.raycast import pixel_of, raycast
from envs.robots import RobotSpec, make_env
from envs.shapes import check
from envs.world_effects import hued, patched

if TYPE_CHECKING:
    from envs.episodes import Episode

NEAR_M = 0.04
SIDE = 64
"""Of a picture [pixels]."""
CAMERA, GEOM = "front_pixels", "object_0"
TABLE = np.array([[0.28, -0.32], [0.57, 0.32]])
"""Where a cube may be put: lowest and highest x and y [m]."""


class _Core(CubeEnv):
    """OGBench's world, that is drawn when it is asked for and not at every step."""

    def compute_observation(self) -> np.ndarray:
        return np.zeros(0)


class Cube(gymnasium.Env):
    """State: qpos of arm, gripper and cube, and the same of the goal; success ends an episode.

    Reset options `start` and `goal`, a qpos each, set them; a random goal is what another reset would have drawn. Reward is minus the
    cube's distance from its place, in units of what success allows.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, spec: RobotSpec, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the precision of bounds that are not used
            self.core = _Core(
                "single",
                ob_type="pixels",
                visualize_info=False,
                pixel_transparent_arm=False,
                mode="data_collection",
                terminate_at_goal=False,
            )
        self.size = spec.state_size // 2
        self.cube = slice(spec.columns["cube_x"], spec.columns["cube_x"] + 3)
        self.action_space = gymnasium.spaces.Box(spec.action.low_A, spec.action.high_A, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float64)
        self.goal_Q = np.zeros(self.size)
        self.hues: dict[str, float] = {}
        self.patches: list[tuple[np.ndarray, float]] = []
        self.gain, self.friction = 1.0, 0.0
        self._elsewhere: Any = None  # data in which other states are drawn
        self.core.reset(seed=0)  # it can be seen before its first reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start anywhere, with a goal anywhere. Raises ValueError for a configuration that is none."""
        super().reset(seed=seed)
        draws = self.np_random.integers(2**31, size=2)
        asked = options or {}
        found = {}
        for name, draw in (("goal", draws[0]), ("start", draws[1])):
            self.core.reset(seed=int(draw))
            found[name] = np.array(asked.get(name, self.core.data.qpos), float)
            check(name, found[name], "Q", Q=self.size)
            if not np.isfinite(found[name]).all():
                raise ValueError(f"{name} must be finite, got {found[name].tolist()}")
        self.goal_Q = found["goal"]
        self.core.set_state(found["start"], np.zeros(self.core.model.nv))
        return self.state_O, self.outcome()

    @property
    def state_O(self) -> np.ndarray:
        """The configuration and the goal's."""
        return np.concatenate([self.core.data.qpos, self.goal_Q])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the gripper for 0.05 s."""
        self.core.step(self.gain * np.clip(np.asarray(action, float), -1.0, 1.0))
        info = self.outcome()
        return self.state_O, -info["distance"] / NEAR_M, info["is_success"], False, info

    def outcome(self) -> dict[str, Any]:
        """Return how far the cube is from its place [m], and whether that is near enough."""
        distance = float(np.linalg.norm((self.core.data.qpos - self.goal_Q)[self.cube]))
        return {"distance": distance, "is_success": distance <= NEAR_M}

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what the camera in front sees, (SIDE, SIDE, 3) uint8: the goal is not to be seen."""
        return self._draw(self.core.data)

    def picture(self, state_O: np.ndarray) -> np.ndarray:
        """Return what it would see in another state; the world stays as it is."""
        if self._elsewhere is None or self._elsewhere.model is not self.core.model:
            self._elsewhere = mujoco.MjData(self.core.model)  # pyright: ignore[reportAttributeAccessIssue]
        self._elsewhere.qpos[:] = state_O[: self.size]
        mujoco.mj_fwdPosition(self.core.model, self._elsewhere)  # pyright: ignore[reportAttributeAccessIssue]
        return self._draw(self._elsewhere)

    def _draw(self, data: Any) -> np.ndarray:
        colour_4 = self.core.model.geom(GEOM).rgba
        before_4 = colour_4.copy()
        colour_4[:3] = hued(255 * before_4, self.hues.get("cube", 0.0)) / 255
        shown = raycast(self.core.model, data, CAMERA, SIDE, SIDE)
        colour_4[:] = before_4
        return patched(shown, self.patches)

    def place(self, name: str) -> np.ndarray:
        """Return where the cube is seen, (2,), in sides of the picture."""
        return pixel_of(self.core.model, self.core.data, CAMERA, self.core.data.qpos[self.cube])

    def jump(self, name: str, by_2: np.ndarray) -> bool:
        """Put the cube elsewhere on the table, by so many millimetres, if there is room."""
        data = self.core.data
        before = data.qpos.copy(), data.qvel.copy()
        there_2 = before[0][self.cube][:2] + by_2 / 1000
        if (there_2 < TABLE[0]).any() or (there_2 > TABLE[1]).any():
            return False
        qpos_Q, qvel_V = before[0].copy(), before[1].copy()
        qpos_Q[self.cube] = *there_2, 0.02
        qvel_V[-6:] = 0.0
        self.core.set_state(qpos_Q, qvel_V)
        if self._touched() <= {"floor"}:
            return True
        self.core.set_state(*before)
        return False

    def _touched(self) -> set[str]:
        """Names of the geoms that the cube touches; "" for those that have none."""
        model, pairs = self.core.model, self.core.data.contact.geom
        cube = model.geom(GEOM).id
        return {model.geom(int(g)).name for pair in pairs if cube in pair for g in pair if g != cube}


def played(index: int, seed: int = 0, noise: float = 0.2, steps: int = 200) -> Episode:
    """Return episode `index` of OGBench's oracle, which brings the cube to one random place after another; a function of the arguments.

    Its goal columns are zero: a place that no cube can be in.
    """
    rng = np.random.default_rng([seed, index])
    env = make_env("cube")
    core: _Core = env.unwrapped.core  # pyright: ignore[reportAttributeAccessIssue]
    oracle = CubeMarkovOracle(env=core)

    def begin() -> None:
        oracle.reset(None, None)
        # which drew from numpy's global generator
        oracle._final_pos = rng.uniform(*core._arm_sampling_bounds)
        oracle._final_yaw = rng.uniform(-np.pi, np.pi)

    def act(state_O: np.ndarray, step: int) -> np.ndarray:
        if step == 0 or oracle.done:
            core.set_new_target(return_info=False)
            begin()
        action_A = oracle.select_action(None, core.compute_ob_info())
        return np.clip(action_A + noise * rng.standard_normal(len(action_A)), -1.0, 1.0).astype(np.float32)

    nowhere_Q = np.zeros(env.unwrapped.size)  # pyright: ignore[reportAttributeAccessIssue]
    return run_episode(env, act, int(rng.integers(2**31)), steps, {"index": index}, {"goal": nowhere_Q})
