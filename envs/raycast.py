"""Pictures of a MuJoCo scene without OpenGL: one ray per pixel, shaded by how the surface faces the camera."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

_DARKEST = 0.45
"""Share of its colour that a surface shows that is seen edge on."""
_NOTHING = np.ones(3)


def raycast(
    model: Any, data: Any, camera: str | int, height: int, width: int, groups: tuple[int, ...] = (0, 1, 2)
) -> np.ndarray:
    """Return what a camera of the model sees of the geoms in these groups, (height, width, 3) uint8; white where there is nothing.

    `data` knows where things are: after a step, or after `mj_fwdPosition`. What is wholly transparent is not seen.
    """
    which = model.camera(camera).id
    rays_NX = _rays(model.cam_fovy[which], height, width) @ data.cam_xmat[which].reshape(3, 3).T
    seen = np.isin(np.arange(mujoco.mjNGROUP), groups).astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    geom_N, normal_NX = np.zeros(len(rays_NX), np.int32), np.zeros_like(rays_NX)
    cast, eye_3 = mujoco.mj_ray, data.cam_xpos[which]  # pyright: ignore[reportAttributeAccessIssue]
    # one by one: mj_multiRay (3.17) leaves out what is only to be seen, where no part of the same body near it can be touched
    for row, ray_3 in enumerate(rays_NX):
        cast(model, data, eye_3, ray_3, seen, True, -1, geom_N[row : row + 1], normal_NX[row])
    facing_N = np.abs((normal_NX * rays_NX).sum(1))
    shade_N = _DARKEST + (1.0 - _DARKEST) * facing_N
    shown_NC = np.where(geom_N[:, None] >= 0, _colours(model)[geom_N] * shade_N[:, None], _NOTHING)
    return (255 * shown_NC).round().astype(np.uint8).reshape(height, width, 3)


def pixel_of(model: Any, data: Any, camera: str, point_3: np.ndarray) -> np.ndarray:
    """Return where a camera sees a point, (2,): to the right and down, in sides of the picture."""
    which = model.camera(camera).id
    right, up, back = data.cam_xmat[which].reshape(3, 3).T @ (point_3 - data.cam_xpos[which])
    return 0.5 + _focal(model.cam_fovy[which]) * np.array([right, -up]) / -back


def _focal(fovy: float) -> float:
    """Focal length in heights of the picture; `fovy` in degrees."""
    return 0.5 / float(np.tan(np.deg2rad(fovy) / 2))


def _rays(fovy: float, height: int, width: int) -> np.ndarray:
    """Directions of the rays, (height * width, 3), row by row, in the camera's axes: right, up, back."""
    right, down = np.meshgrid(*((np.arange(n) + 0.5 - n / 2) / height for n in (width, height)))
    rays = np.stack([right, -down, np.full_like(right, -_focal(fovy))], -1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _colours(model: Any) -> np.ndarray:
    """Colour of each geom, (G, 3) in [0, 1]: its material's if it has one."""
    material_G = model.geom_matid[:, None]
    if not len(model.mat_rgba):
        return model.geom_rgba[:, :3]
    return np.where(material_G >= 0, model.mat_rgba[material_G[:, 0], :3], model.geom_rgba[:, :3])
