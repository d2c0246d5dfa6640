"""Where things are in a picture of Push-T: for recordings that hold pictures but not the block's pose, as `lerobot/pusht` does."""

from __future__ import annotations

from functools import cache

import numpy as np

from envs.pusht import WORLD, turned
from envs.shapes import check

PUSHER_RGB, BLOCK_RGB = (65.0, 105.0, 225.0), (119.0, 136.0, 153.0)
_NEAR = 60.0  # [of 255] distance from a colour at which a pixel is no longer of it
_FINE = 4  # a drawn mask is so many times finer than the picture
_ANGLES = 72
_BAR = np.array([[-60.0, 30], [60, 30], [60, 0], [-60, 0]])
_STEM = np.array([[-15.0, 30], [-15, 120], [15, 120], [15, 30]])
_LEAST = 4.0  # [pixels of the picture] of an object, to say where it is


def pose_of(picture_HWC: np.ndarray) -> np.ndarray:
    """Return pusher x, y, block x, y [px of the world] and angle [rad] in a square picture, (5,).

    Raises ValueError, in one line, where pusher or block is not to be seen.
    """
    side = check("picture", picture_HWC, "S S C", C=3)["S"]
    pusher_SS, block_SS = (_of_colour(picture_HWC, colour) for colour in (PUSHER_RGB, BLOCK_RGB))
    for name, mask_SS in (("pusher", pusher_SS), ("block", block_SS)):
        if mask_SS.sum() < _LEAST:
            raise ValueError(f"no {name} is to be seen in a picture of {side} x {side} pixels")
    at_2, middle_2 = (_centre(mask_SS) * WORLD / side for mask_SS in (pusher_SS, block_SS))
    sure_SS = 1.0 - np.minimum(1.0, 2 * pusher_SS)  # the pusher hides the block
    angles = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    starts = [np.append(middle_2 - _turn(angle) @ _mass_centre(), angle) for angle in angles]
    from scipy.optimize import minimize

    def missed(pose_3: np.ndarray) -> float:
        return float((sure_SS * np.square(drawn(pose_3, side) - block_SS)).sum())

    best_3 = min(starts, key=missed)
    simplex = best_3 + np.concatenate([np.zeros((1, 3)), np.diag([6.0, 6.0, 0.1])])
    found_3 = minimize(missed, best_3, method="Nelder-Mead", options={"initial_simplex": simplex, "maxiter": 150}).x
    return np.array([*at_2, *found_3[:2], turned(found_3[2])])


def drawn(pose_3: np.ndarray, side: int) -> np.ndarray:
    """Return how much of each pixel the block covers, (side, side) in 0 .. 1, at x, y [px of the world], angle [rad]."""
    import cv2

    fine, shift = side * _FINE, 4
    mask = np.zeros((fine, fine), np.uint8)
    for corners in (_BAR, _STEM):
        at_42 = (corners @ _turn(pose_3[2]).T + pose_3[:2]) * fine / WORLD - 0.5
        cv2.fillConvexPoly(mask, np.round(at_42 * 2**shift).astype(np.int32), 255, cv2.LINE_AA, shift)
    return cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) / 255.0


def _of_colour(picture_HWC: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    return np.clip(1.5 - np.linalg.norm(picture_HWC.astype(float) - colour, axis=2) / _NEAR * 1.5, 0.0, 1.0)


def _centre(mask_SS: np.ndarray) -> np.ndarray:
    grid = np.arange(len(mask_SS)) + 0.5
    return np.array([mask_SS.sum(0) @ grid, mask_SS.sum(1) @ grid]) / mask_SS.sum()


def _turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


@cache
def _mass_centre() -> np.ndarray:
    """Return the centre of the area of the block, in its own axes."""
    areas = np.array([120.0 * 30, 30.0 * 90])
    return (areas[:, None] * np.array([_BAR.mean(0), _STEM.mean(0)])).sum(0) / areas.sum()
