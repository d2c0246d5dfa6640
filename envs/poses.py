"""A configuration for drawing: joint positions, and after them the places of what is only a mark."""

from __future__ import annotations

from typing import Any

import numpy as np

ASIDE = "aside"
"""Name of a model's camera through which people watch it, where it has one."""


def configuration(data: Any) -> np.ndarray:
    """Return a copy of the joint positions and of the mocap bodies' places, (P,)."""
    return np.concatenate([data.qpos, np.ravel(data.mocap_pos)])


def configure(data: Any, pose_P: np.ndarray) -> None:
    """Put joints and mocap bodies where `configuration` found them; a shorter pose leaves the rest where it is."""
    joints = min(len(pose_P), len(data.qpos))
    data.qpos[:joints] = pose_P[:joints]
    marks_3 = pose_P[joints : joints + np.size(data.mocap_pos)]
    data.mocap_pos.ravel()[: len(marks_3)] = marks_3
