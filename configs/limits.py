"""What each robot's motors may be asked for.

A simulated torque may turn over within one control step; a real arm gets far less."""

from __future__ import annotations

from deploy.safety import RobotLimits


def _motors(n: int, bound: float, reversal_s: float) -> RobotLimits:
    """Return symmetric limits for `n` motors that may go from one bound to the other in `reversal_s`."""
    rate = 2 * bound / reversal_s
    return RobotLimits(low=(-bound,) * n, high=(bound,) * n, max_rate=(rate,) * n, hold=(0.0,) * n)


LIMITS: dict[str, RobotLimits] = {
    "walker2d": _motors(6, 1.0, 0.008),
    "hopper": _motors(3, 1.0, 0.008),
    "halfcheetah": _motors(6, 1.0, 0.05),
    "double_integrator": _motors(1, 10.0, 0.1),
    "dm_control:walker-walk+physics": _motors(6, 1.0, 0.025),
}
