"""Pictures of a MuJoCo scene without OpenGL: one ray per pixel, shaded by how the surface faces the camera."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

_DARKEST = 0.45
"""Share of its colour that a surface shows that is seen edge on."""
_NOTHING = np.ones(3)


def raycast(model: Any, data: Any, camera: str, side: int, groups: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Return what a camera of the model sees of the geoms in these groups, (side, side, 3) uint8; white where there is nothing.

    `data` knows where things are: after a step, or after `mj_fwdPosition`. What is wholly transparent is not seen.
    """
    which = model.camera(camera).id
    rays_NX = _rays(model.cam_fovy[which], side) @ data.cam_xmat[which].reshape(3, 3).T
    seen = np.isin(np.arange(mujoco.mjNGROUP), groups).astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    size = len(rays_NX)
    geom_N, distance_N, normal_NX = np.zeros((size, 1), np.int32), np.zeros((size, 1)), np.zeros((3 * size, 1))
    mujoco.mj_multiRay(  # pyright: ignore[reportAttributeAccessIssue]
        model,
        data,
        data.cam_xpos[which].reshape(3, 1),
        rays_NX.reshape(-1, 1),
        seen.reshape(-1, 1),
        True,
        -1,
        geom_N,
        distance_N,
        normal_NX,
        size,
        np.inf,
    )
    facing_N = np.abs((normal_NX.reshape(-1, 3) * rays_NX).sum(1))
    shade_N = _DARKEST + (1.0 - _DARKEST) * facing_N
    shown_NC = np.where(geom_N >= 0, _colours(model)[geom_N[:, 0]] * shade_N[:, None], _NOTHING)
    return (255 * shown_NC).round().astype(np.uint8).reshape(side, side, 3)


def pixel_of(model: Any, data: Any, camera: str, point_3: np.ndarray) -> np.ndarray:
    """Return where a camera sees a point, (2,): to the right and down, in sides of the picture."""
    which = model.camera(camera).id
    right, up, back = data.cam_xmat[which].reshape(3, 3).T @ (point_3 - data.cam_xpos[which])
    return 0.5 + _focal(model.cam_fovy[which]) * np.array([right, -up]) / -back


def _focal(fovy: float) -> float:
    """Focal length in sides of the picture; `fovy` in degrees."""
    return 0.5 / float(np.tan(np.deg2rad(fovy) / 2))


def _rays(fovy: float, side: int) -> np.ndarray:
    """Directions of the rays, (side * side, 3), row by row, in the camera's axes: right, up, back."""
    middle = (np.arange(side) + 0.5) / side - 0.5
    right, down = np.meshgrid(middle, middle)
    rays = np.stack([right, -down, np.full_like(right, -_focal(fovy))], -1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _colours(model: Any) -> np.ndarray:
    """Colour of each geom, (G, 3) in [0, 1]: its material's if it has one."""
    material_G = model.geom_matid[:, None]
    if not len(model.mat_rgba):
        return model.geom_rgba[:, :3]
    return np.where(material_G >= 0, model.mat_rgba[material_G[:, 0], :3], model.geom_rgba[:, :3])
