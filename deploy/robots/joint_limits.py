"""Limits of a robot that is commanded by joint angles, from what describes it: its MJCF or its URDF."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.safety import RobotLimits


def joint_limits(
    model: Path, joints: Sequence[str], max_rate: float, hold: Sequence[float] | None = None
) -> RobotLimits:
    """Return the limits [rad, rad/s] of `joints`, in that order, from an MJCF or URDF file.

    `max_rate` is what the motors are trusted with; a URDF's own velocity limit holds where it is lower. Without `hold`
    the middle of each range is held until the robot says where it is. Raises FileNotFoundError, or ValueError for a file
    that is no model, a joint that it has not, or one without a range.
    """
    import mujoco

    if not model.is_file():
        raise FileNotFoundError(f"no model file {model}")
    try:
        compiled = mujoco.MjModel.from_xml_path(str(model))  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError as error:
        raise ValueError(f"{model} is no MJCF or URDF: {' '.join(str(error).split())}") from None
    known = [compiled.joint(i).name for i in range(compiled.njnt)]
    missing = [name for name in joints if name not in known]
    if missing:
        raise ValueError(f"{model} has no joint {missing[0]!r}; choose from {', '.join(known)}")
    endless = [name for name in joints if not compiled.joint(name).limited]  # pyright: ignore[reportAttributeAccessIssue]
    if endless:
        raise ValueError(f"joint {endless[0]!r} of {model} has no range: give it one")
    low, high = np.array([compiled.joint(name).range for name in joints]).T
    rates = _urdf_velocities(model)
    return RobotLimits(
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        max_rate=tuple(min(max_rate, rates.get(name, max_rate)) for name in joints),
        hold=tuple(((low + high) / 2).tolist() if hold is None else hold),
    )


def _urdf_velocities(model: Path) -> dict[str, float]:
    """Return the velocity limit of each joint [rad/s] in a URDF; nothing for an MJCF, which has none."""
    found = {}
    for joint in ET.parse(model).getroot().iter("joint"):
        limit = joint.find("limit")
        velocity = 0.0 if limit is None else float(limit.get("velocity", "0"))
        if velocity > 0:
            found[joint.get("name", "")] = velocity
    return found
