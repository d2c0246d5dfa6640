"""The robots in simulation: what each one is (ROBOTS), how to make it (make_env), and how to read its state and reward.

Walker2d, hopper and half-cheetah are Gymnasium's own environments and models. The default, version "v4", is the model
that D4RL used: the walker's feet have friction 0.9 and 1.9, and the alive bonus is paid on every step, also the last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from envs.types import ActionSpec

if TYPE_CHECKING:
    from torch import Tensor

VERSIONS = ("v4", "v5")


@dataclass(frozen=True)
class RobotSpec:
    """Constants of one robot. `state` is its observation vector (O,); every table speaks of physical units."""

    name: str
    version: str
    dt_s: float  # one control step
    action: ActionSpec  # named by the joint that each actuator drives
    state_names: tuple[str, ...]
    state_units: tuple[str, ...]
    state_scale: tuple[float, ...]  # typical standard deviation of each sensor while it moves; one "normalised unit"
    columns: Mapping[str, int]  # reading -> state column
    healthy: Mapping[str, tuple[float, float]]  # reading -> open interval; outside, the episode ends
    reward_linear: Mapping[str, float]  # reading -> weight
    reward_quadratic: Mapping[str, float] = field(default_factory=dict)  # reading -> weight of its square
    reward_constant: float = 0.0
    reward_effort: float = 0.0  # weight of the sum of squared actions
    offsets: Mapping[str, float] = field(
        default_factory=dict
    )  # reading - state column: [m] for a height from the rest pose
    rate_limit: float = float("inf")  # velocities in the state are clipped to this
    bodies: tuple[str, ...] = ()  # of the MuJoCo model, without the world; empty if there is no such model
    geoms: tuple[str, ...] = ()
    max_episode_steps: int = 1000

    @property
    def state_size(self) -> int:
        """Number of state columns."""
        return len(self.state_names)


def pick[T](table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`; raises KeyError naming `name` and the legal names."""
    try:
        return table[name]
    except KeyError:
        raise KeyError(f"no {kind} named {name!r}; choose from {sorted(table)}") from None


def _motors(gear_by_joint: Mapping[str, float]) -> ActionSpec:
    """Motors whose command 1.0 is a torque of `gear` newton metre."""
    size = len(gear_by_joint)
    units = tuple(f"{gear:g} N m" for gear in gear_by_joint.values())
    return ActionSpec(-np.ones(size, np.float32), np.ones(size, np.float32), units, tuple(gear_by_joint))


def _locomotor(
    name: str, gears: Mapping[str, float], state_scale: tuple[float, ...], dt_s: float, **rest: Any
) -> RobotSpec:
    """A planar runner: state = height, pitch, joint angles, then speed and the rates of the same, as in Gymnasium."""
    joints = tuple(gears)
    positions = ("height", "pitch", *joints)
    return RobotSpec(
        name=name,
        version="v4",
        dt_s=dt_s,
        action=_motors(gears),
        state_names=(*positions, "speed", *(f"{p}_rate" for p in positions)),
        state_units=("m", *["rad"] * (1 + len(joints)), "m/s", "m/s", *["rad/s"] * (1 + len(joints))),
        state_scale=state_scale,
        columns={"height": 0, "pitch": 1, "speed": len(positions)},
        reward_linear={"speed": 1.0},
        **rest,
    )


def _parts(*names: str, suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{name}{suffix}" for name in names)


_LEG = ("thigh", "leg", "foot")
_LEGS = (*_LEG, "thigh_left", "leg_left", "foot_left")
_PAWS = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")

# Per-dimension deviations of the D4RL *-medium-v2 states (nikhilbarhate99/min-decision-transformer@36b9f9b).
_WALKER_SCALE = (0.1231, 0.3242, 0.1146, 0.2623, 0.564, 0.2272, 0.3837, 0.7374, 1.2388, 0.798, 1.5664)
_WALKER_SCALE += (1.8093, 3.0256, 4.0625, 1.4587, 3.7446, 5.5851)
_HOPPER_SCALE = (0.1779, 0.0544, 0.213, 0.1453, 0.6124, 0.8517, 1.4515, 0.6752, 1.5362, 1.6161, 5.6073)
_CHEETAH_SCALE = (0.0747, 0.3023, 0.3021, 0.3442, 0.1762, 0.5072, 0.2567, 0.3295, 1.2574, 0.7601, 1.9801)
_CHEETAH_SCALE += (6.5654, 7.4664, 4.4722, 10.567, 5.6719, 7.4983)

_WALKER = _locomotor(
    "walker2d",
    {f"{part}_joint": 100.0 for part in _LEGS},
    _WALKER_SCALE,
    0.008,
    healthy={"height": (0.8, 2.0), "pitch": (-1.0, 1.0)},
    reward_constant=1.0,
    reward_effort=1e-3,
    rate_limit=10.0,
    bodies=("torso", *_LEGS),
    geoms=("floor", *_parts("torso", *_LEGS, suffix="_geom")),
)
# Gymnasium also ends a hop when a rate leaves +-100; the state clips rates to +-10, so no reading can tell.
_HOPPER = _locomotor(
    "hopper",
    {f"{part}_joint": 200.0 for part in _LEG},
    _HOPPER_SCALE,
    0.008,
    healthy={"height": (0.7, float("inf")), "pitch": (-0.2, 0.2)},
    reward_constant=1.0,
    reward_effort=1e-3,
    rate_limit=10.0,
    bodies=("torso", *_LEG),
    geoms=("floor", *_parts("torso", *_LEG, suffix="_geom")),
)
_CHEETAH = _locomotor(
    "halfcheetah",
    dict(zip(_PAWS, (120.0, 90.0, 60.0, 120.0, 60.0, 30.0), strict=True)),
    _CHEETAH_SCALE,
    0.05,
    healthy={},
    reward_effort=0.1,
    offsets={"height": 0.7},
    bodies=("torso", *_PAWS),
    geoms=("floor", "torso", "head", *_PAWS),
)
_DOUBLE_INTEGRATOR = RobotSpec(
    name="double_integrator",
    version="v4",
    dt_s=0.1,
    action=ActionSpec(np.full(1, -10.0, np.float32), np.full(1, 10.0, np.float32), ("N",), ("force",)),
    state_names=("position", "speed"),
    state_units=("m", "m/s"),
    state_scale=(1.0, 1.0),
    columns={"position": 0, "speed": 1},
    healthy={},
    reward_linear={},
    reward_quadratic={"position": -1.0, "speed": -0.1},
    reward_effort=0.1,
)

ROBOTS: Mapping[str, RobotSpec] = {s.name: s for s in (_WALKER, _HOPPER, _CHEETAH, _DOUBLE_INTEGRATOR)}
"""Every robot, in its default version "v4" (what D4RL used)."""


def robot_spec(name: str, version: str = "v4") -> RobotSpec:
    """Return the constants of one robot; raises KeyError for an unknown name, ValueError for an unknown version.

    Gymnasium's "v5" pays the alive bonus only while the robot is healthy.
    """
    spec = pick(ROBOTS, name, "robot")
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {VERSIONS}, got {version!r}")
    if version == "v4":
        return spec
    alive = {"alive": spec.reward_constant} if spec.reward_constant else {}
    return replace(spec, version=version, reward_constant=0.0, reward_linear={**spec.reward_linear, **alive})


def readings(spec: RobotSpec, z: Tensor) -> dict[str, Tensor]:
    """Return speed [m/s], height [m], pitch [rad], each (...), and alive (1.0 or 0.0) from states (..., O).

    Speed is that of the torso, forward positive; height is that of the torso's origin above the floor; pitch is
    positive when it leans forward. A state with a non-finite number is not alive. The double integrator has
    position [m] and speed instead.
    """
    if z.shape[-1] != spec.state_size:
        raise ValueError(f"{spec.name} has states of {spec.state_size} columns, got {tuple(z.shape)}")
    values = {key: z[..., column] + spec.offsets.get(key, 0.0) for key, column in spec.columns.items()}
    alive = z.isfinite().all(-1)
    for key, (low, high) in spec.healthy.items():
        alive = alive & (values[key] > low) & (values[key] < high)
    return {**values, "alive": alive.to(z.dtype)}


def reward(spec: RobotSpec, readings: Mapping[str, Tensor], actions: Tensor) -> Tensor:
    """Return the task's reward per step, (...), from readings (...) after each action and actions (..., A).

    As the environment gives it, except that the environment pays the mean speed over the control step (dx/dt) and
    this the speed at its end, which is all that a state shows; over an episode the difference telescopes away.
    """
    total = spec.reward_constant - spec.reward_effort * actions.square().sum(-1)
    for key, weight in spec.reward_linear.items():
        total = total + weight * readings[key]
    for key, weight in spec.reward_quadratic.items():
        total = total + weight * readings[key].square()
    return total


class RobotEnv(gymnasium.Wrapper):
    """Carries `robot_spec` and ends an episode whose simulation diverged.

    MuJoCo answers a diverging state by silently putting the robot back at its start, and a non-finite command by
    zeros. Then, and for any non-finite state: terminated, info["diverged"] = True, reward 0 and the last good state.
    `divergences` counts them.
    """

    def __init__(self, env: gymnasium.Env, spec: RobotSpec) -> None:
        super().__init__(env)
        self.robot_spec = spec
        self.divergences = 0
        self._last_O = np.zeros(spec.state_size)
        self._data = getattr(env.unwrapped, "data", None)
        self._bad = _bad_warnings() if self._data is not None else []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; the same seed gives the same one, whatever was done before."""
        state_O, info = self.env.reset(seed=seed, options=options)
        self._last_O = state_O
        return state_O, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control step of `dt_s`."""
        state_O, reward, terminated, truncated, info = self.env.step(action)
        diverged = self._was_reset_by_mujoco() or not np.isfinite(state_O).all()
        if diverged:
            self.divergences += 1
            state_O, reward, terminated = self._last_O.copy(), 0.0, True
        self._last_O = state_O
        return state_O, float(reward), bool(terminated), truncated, {**info, "diverged": diverged}

    def _was_reset_by_mujoco(self) -> bool:
        return self._data is not None and bool(self._data.warning.number[self._bad].any())


def _bad_warnings() -> list[int]:
    import mujoco

    kinds = mujoco.mjtWarning  # pyright: ignore[reportAttributeAccessIssue]
    return [int(k) for k in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC, kinds.mjWARN_BADCTRL)]


def make_env(name: str, version: str = "v4", render_mode: str | None = None) -> gymnasium.Env:
    """Return a robot in simulation, with episodes of at most `max_episode_steps`; raises as `robot_spec` does."""
    spec = robot_spec(name, version)
    core = _double_integrator() if spec.name == "double_integrator" else _mujoco_env(spec, render_mode)
    return gymnasium.wrappers.TimeLimit(RobotEnv(core, spec), spec.max_episode_steps)


def _double_integrator() -> gymnasium.Env:
    from envs.linear import DoubleIntegrator

    return DoubleIntegrator()


def _mujoco_env(spec: RobotSpec, render_mode: str | None) -> gymnasium.Env:
    # The classes rather than gymnasium.make, whose deprecation notice for v4 does not concern a D4RL-equivalent model.
    import mujoco
    from gymnasium.envs.mujoco import (
        half_cheetah_v4,
        half_cheetah_v5,
        hopper_v4,
        hopper_v5,
        walker2d_v4,
        walker2d_v5,
    )

    # Otherwise MuJoCo writes MUJOCO_LOG.TXT into the working directory; RobotEnv reports what matters.
    mujoco.set_mju_user_warning(logging.getLogger("mujoco").debug)  # pyright: ignore[reportAttributeAccessIssue]
    classes = {
        ("walker2d", "v4"): walker2d_v4.Walker2dEnv,
        ("walker2d", "v5"): walker2d_v5.Walker2dEnv,
        ("hopper", "v4"): hopper_v4.HopperEnv,
        ("hopper", "v5"): hopper_v5.HopperEnv,
        ("halfcheetah", "v4"): half_cheetah_v4.HalfCheetahEnv,
        ("halfcheetah", "v5"): half_cheetah_v5.HalfCheetahEnv,
    }
    return classes[spec.name, spec.version](render_mode=render_mode)
