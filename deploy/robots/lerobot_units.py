"""lerobot's joint units against ours, and how far a joint may go by its calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from lerobot.robots import Robot
    from lerobot.teleoperators import Teleoperator

Unit = Literal["degrees", "range_0_100", "range_m100_100", "radians"]
UNITS: tuple[Unit, ...] = ("degrees", "range_0_100", "range_m100_100", "radians")
SUFFIX = ".pos"


@dataclass(frozen=True)
class JointScale:
    """radians = gain * lerobot's number + offset, per joint; `names` are lerobot's features."""

    names: tuple[str, ...]
    gain_A: np.ndarray
    offset_A: np.ndarray

    def radians(self, reading: Mapping[str, Any]) -> np.ndarray:
        """Return the angles of an observation, (A,) [rad]. Raises ValueError for one that is missing or not finite."""
        values_A = np.array([float(reading.get(name, math.nan)) for name in self.names])
        if not np.isfinite(values_A).all():
            raise ValueError(f"the robot reports {dict(zip(self.names, values_A.tolist(), strict=True))}")
        return self.gain_A * values_A + self.offset_A

    def action(self, q_A: np.ndarray) -> dict[str, float]:
        """Return angles (A,) [rad] as lerobot's action."""
        values = ((q_A - self.offset_A) / self.gain_A).tolist()
        return dict(zip(self.names, values, strict=True))


def serial_buses(robot: Robot | Teleoperator) -> dict[str, Any]:
    """Return the robot's serial motor buses by the prefix that their joints carry ("left_" of two arms); none for others."""
    from lerobot.motors.motors_bus import SerialMotorsBus

    arms = {"": robot, **{f"{side}_": getattr(robot, f"{side}_arm", None) for side in ("left", "right")}}
    buses = {prefix: getattr(arm, "bus", None) for prefix, arm in arms.items()}
    return {prefix: bus for prefix, bus in buses.items() if isinstance(bus, SerialMotorsBus)}


def joint_units(robot: Robot | Teleoperator, given: Mapping[str, Unit]) -> dict[str, Unit]:
    """Return the unit of each action feature: as given, or as the robot's motors say. Raises ValueError for an unknown one."""
    found: dict[str, str] = {
        f"{prefix}{name}{SUFFIX}": motor.norm_mode.value
        for prefix, bus in serial_buses(robot).items()
        for name, motor in bus.motors.items()
    }
    units: dict[str, Unit] = {}
    for name in robot.action_features:
        said = {**found, **given}.get(name)
        if said not in UNITS:
            raise ValueError(f"the unit of {name!r} is {said}: give one of {', '.join(UNITS)}")
        units[name] = said
    return units


def parse_units(text: str, option: str = "--operator-units") -> dict[str, Unit]:
    """Return joint -> unit from UNIT or JOINT=UNIT, separated by commas. Raises ValueError for an unknown unit."""
    found: dict[str, Unit] = {}
    for part in filter(None, text.split(",")):
        joint, _, said = part.rpartition("=")
        if said not in UNITS:
            raise ValueError(f"{option} {text}: no unit {said!r}; choose from {', '.join(UNITS)}")
        found[joint] = next(unit for unit in UNITS if unit == said)
    return found


def units_of(features: Iterable[str], said: Mapping[str, Unit]) -> dict[str, Unit]:
    """Return feature -> unit of what was said of joints ("": of all); features of which nothing was said are left out."""
    units: dict[str, Unit] = {}
    for feature in features:
        unit = said.get(feature.removesuffix(SUFFIX)) or said.get("")
        if unit is not None:
            units[feature] = unit
    return units


def joint_scale(units: Mapping[str, Unit], low_A: np.ndarray, high_A: np.ndarray) -> JointScale:
    """Return the conversion for joints whose ranges, in radians, are [low_A, high_A].

    Degrees count from the middle of a joint's calibrated range, which is angle 0; shares of the range span it.
    """
    middle_A, span_A = (low_A + high_A) / 2, high_A - low_A
    rows = []
    for unit, low, middle, span in zip(units.values(), low_A, middle_A, span_A, strict=True):
        of = {
            "degrees": (math.pi / 180, 0.0),
            "range_0_100": (span / 100, low),
            "range_m100_100": (span / 200, middle),
            "radians": (1.0, 0.0),
        }
        rows.append(of[unit])
    gain_A, offset_A = np.array(rows).T
    return JointScale(tuple(units), gain_A, offset_A)


def calibrated_reach(robot: Robot, units: Mapping[str, Unit]) -> np.ndarray:
    """Return how far from 0 a joint in degrees may go by its calibration, (A,) [rad]; infinite for other units.

    lerobot does not clip degrees.
    """
    reach = half_ranges(robot)
    return np.array([reach.get(name, math.inf) if unit == "degrees" else math.inf for name, unit in units.items()])


def half_ranges(robot: Robot) -> dict[str, float]:
    """Return half the calibrated range of each joint on a serial bus [rad]; one tick is kept back, as lerobot rounds down."""
    found = {}
    for prefix, bus in serial_buses(robot).items():
        for name, entry in bus.calibration.items():
            full = bus.model_resolution_table[bus.motors[name].model] - 1
            half_ticks = (entry.range_max - entry.range_min) / 2 - 1
            found[f"{prefix}{name}{SUFFIX}"] = half_ticks / full * 2 * math.pi
    return found
