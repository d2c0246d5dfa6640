"""What each robot's motors may be asked for.

A simulated torque may turn over within one control step; a real arm gets far less."""

from __future__ import annotations

from deploy.safety import RobotLimits
from envs.robots import ROBOTS
from envs.so101 import HOME_A, SPEED_RAD_S


def _motors(n: int, bound: float, reversal_s: float) -> RobotLimits:
    """Return symmetric limits for `n` motors that may go from one bound to the other in `reversal_s`."""
    rate = 2 * bound / reversal_s
    return RobotLimits(low=(-bound,) * n, high=(bound,) * n, max_rate=(rate,) * n, hold=(0.0,) * n)


def _positions(robot: str, hold: tuple[float, ...], max_rate: float) -> RobotLimits:
    """Return the limits of a robot that is commanded by angles: the range of each joint, and one speed for all [rad/s]."""
    action = ROBOTS[robot].action
    low, high = (tuple(float(x) for x in bound) for bound in (action.low_A, action.high_A))
    return RobotLimits(low=low, high=high, max_rate=(max_rate,) * action.size, hold=hold)


_ARM_RATE = 0.6 * SPEED_RAD_S  # what its servos can follow under load

LIMITS: dict[str, RobotLimits] = {
    "walker2d": _motors(6, 1.0, 0.008),
    "hopper": _motors(3, 1.0, 0.008),
    "halfcheetah": _motors(6, 1.0, 0.05),
    "double_integrator": _motors(1, 10.0, 0.1),
    "so101": _positions("so101", tuple(HOME_A.tolist()), _ARM_RATE),
    "so101_push": _positions("so101_push", tuple(HOME_A.tolist()), _ARM_RATE),
    "tworoom": _motors(2, 1.0, 0.1),
    "pusht": _motors(2, 1.0, 0.1),
    "cube": _motors(5, 1.0, 0.05),
    "dm_control:walker-walk+physics": _motors(6, 1.0, 0.025),
}
