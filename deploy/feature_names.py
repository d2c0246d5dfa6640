"""Our actuators and state columns by the names that lerobot's programs route by.

`lerobot-rollout` drops whatever does not end in ".pos" or ".vel", and when it ends it drives the robot back by sending the
".pos" values that it measured as actions of the same name. So every name ends in one of the two, and an actuator is ".pos"
only where its command is a position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.robots import RobotSpec

POSITIONS = ("m", "rad", "deg", "px")


def state_keys(spec: RobotSpec) -> tuple[str, ...]:
    """Return one name per state column: `height.pos`, `speed.vel` ..."""
    units = zip(spec.state_names, spec.state_units, strict=True)
    return tuple(f"{name}.{'vel' if unit.endswith('/s') else 'pos'}" for name, unit in units)


def action_keys(spec: RobotSpec) -> tuple[str, ...]:
    """Return one name per actuator: `shoulder_pan.pos` for a position, `foot_joint_command.vel` for anything else."""
    units = zip(spec.action.names, spec.action.unit_A, strict=True)
    return tuple(f"{name}.pos" if unit in POSITIONS else f"{name}_command.vel" for name, unit in units)


def named(keys: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    """Return the values by their names."""
    return dict(zip(keys, values.tolist(), strict=True))


def action_of(spec: RobotSpec, action: Mapping[str, Any]) -> np.ndarray:
    """Return the action, (A,), from numbers by name, among others. Raises ValueError unless every actuator has its own."""
    keys = action_keys(spec)
    if missing := [key for key in keys if key not in action]:
        raise ValueError(f"no action for {', '.join(missing)} of {spec.name}; got {', '.join(action) or 'none'}")
    return np.array([float(action[key]) for key in keys])
