"""The robots in simulation: what each one is (ROBOTS), how to make it (make_env), and how to read its state and reward.

Walker2d, hopper and half-cheetah are Gymnasium's own environments and models. The default, version "v4", is the model
that D4RL used: the walker's feet have friction 0.9 and 1.9, and the alive bonus is paid on every step, also the last.
The arm (`so101`, `so101_push`) is ours; the tasks of dm_control's suite are robots too, named `dm_control:DOMAIN-TASK` (envs/dm.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.types import ActionSpec

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor

VERSIONS = ("v4", "v5")
DM_CONTROL = "dm_control:"
"""How the names of dm_control's tasks begin."""


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
    reward_linear: Mapping[str, float]  # reading -> weight; "reward" is what a simulated task itself pays
    reward_quadratic: Mapping[str, float] = field(default_factory=dict)  # reading -> weight of its square
    reward_distance: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Weight of the distance [m] between two points; point "tip" is the readings tip_x, tip_y, tip_z, or those of them
    that the other has, too."""
    reward_constant: float = 0.0
    reward_effort: float = 0.0  # weight of the sum of squared actions
    offsets: Mapping[str, float] = field(
        default_factory=dict
    )  # reading - state column: [m] for a height from the rest pose
    rate_limit: float = float("inf")  # velocities in the state are clipped to this
    joints: tuple[str, ...] = ()  # that a fault may lock or damp
    bodies: tuple[str, ...] = ()  # of the MuJoCo model, without the world; empty if there is no such model
    geoms: tuple[str, ...] = ()
    max_episode_steps: int = 1000
    drawn: bool = False  # whether its world can draw any state: `picture(state_O)`
    objects: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # what is to be seen, and which faults it can have

    @property
    def shown(self) -> frozenset[str]:
        """Names of what `readings` reads off a state."""
        return frozenset((*self.columns, "alive"))

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
        joints=joints,
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
_ARM_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
_ARM_LOW = np.array([-1.91986, -1.74533, -1.69, -1.65806, -2.74385, -0.17453], np.float32)
_ARM_HIGH = np.array([1.91986, 1.74533, 1.69, 1.65806, 2.84121, 1.74533], np.float32)
_ARM_SCALE = (0.4, 0.3, 0.15, 0.3, 0.05, 0.1, 0.3, 0.3, 0.2, 0.3, 0.15, 0.1)  # of the scripted demonstrator


def _arm(name: str, task: Mapping[str, tuple[str, float]], **rest: Any) -> RobotSpec:
    """An SO-101 commanded by angles: state = angles, their mean rates over the last step, tip, then the task's columns."""
    points = {"tip_x": ("m", 0.04), "tip_y": ("m", 0.1), "tip_z": ("m", 0.05), **task}
    first = 2 * len(_ARM_JOINTS)
    return RobotSpec(
        name=name,
        version="v4",
        dt_s=1.0 / 30.0,
        action=ActionSpec(_ARM_LOW, _ARM_HIGH, ("rad",) * len(_ARM_JOINTS), _ARM_JOINTS),
        state_names=(*_ARM_JOINTS, *(f"{joint}_rate" for joint in _ARM_JOINTS), *points),
        state_units=(*["rad"] * 6, *["rad/s"] * 6, *(unit for unit, _ in points.values())),
        state_scale=(*_ARM_SCALE, *(scale for _, scale in points.values())),
        columns={point: first + i for i, point in enumerate(points)},
        healthy={},
        reward_linear={},
        joints=_ARM_JOINTS,
        **rest,
    )


_ARM_BODIES = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw_so101_v1")
_ARM_GEOMS = ("floor", "fixed_jaw_pad", "moving_jaw_pad")
_REACH = _arm(
    "so101",
    {"target_x": ("m", 0.05), "target_y": ("m", 0.1), "target_z": ("m", 0.07)},
    reward_distance={("tip", "target"): -1.0},
    bodies=_ARM_BODIES,
    geoms=_ARM_GEOMS,
    max_episode_steps=150,
)
_PUSH = _arm(
    "so101_push",
    {
        "block_x": ("m", 0.03),
        "block_y": ("m", 0.05),
        "target_x": ("m", 0.03),
        "target_y": ("m", 0.05),
    },
    reward_distance={("block", "target"): -1.0, ("tip", "block"): -0.1},
    bodies=(*_ARM_BODIES, "block"),
    geoms=(*_ARM_GEOMS, "block"),
    max_episode_steps=300,
)


_SEEN = ("teleport", "colour", "occlude")


def _world(
    name: str,
    action: Mapping[str, str],
    points: Mapping[str, tuple[str, float]],
    objects: Mapping[str, tuple[str, ...]],
    dt_s: float = 0.1,
) -> RobotSpec:
    """A world that is seen by a camera: action = name -> unit of what is moved by, each in [-1, 1]; state = where things are, then
    where they should be, name -> unit and scale."""
    names, size = (*points, *(f"goal_{point}" for point in points)), len(action)
    return RobotSpec(
        name=name,
        version="v4",
        dt_s=dt_s,
        action=ActionSpec(-np.ones(size, np.float32), np.ones(size, np.float32), tuple(action.values()), tuple(action)),
        state_names=names,
        state_units=tuple(points[point.removeprefix("goal_")][0] for point in names),
        state_scale=tuple(points[point.removeprefix("goal_")][1] for point in names),
        columns={point: column for column, point in enumerate(names)},
        healthy={},
        reward_linear={},
        max_episode_steps=200,
        drawn=True,
        objects=objects,
    )


_ROOMS = _world(
    "tworoom", {"right": "5 px", "down": "5 px"}, {"x": ("px", 60.0), "y": ("px", 60.0)}, {"disc": (*_SEEN, "gain")}
)
_TEE = _world(
    "pusht",
    {"right": "100 px", "down": "100 px"},
    {
        "pusher_x": ("px", 100.0),
        "pusher_y": ("px", 100.0),
        "block_x": ("px", 60.0),
        "block_y": ("px", 60.0),
        "block_angle": ("rad", 1.5),
    },
    {"pusher": (*_SEEN, "gain"), "block": (*_SEEN, "sticky")},
)

_UR5E = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
_GRIPPER = [f"{side}_{part}" for side in ("right", "left") for part in ("driver", "coupler", "spring_link", "follower")]
_CUBE = _world(
    "cube",
    {"x": "50 mm", "y": "50 mm", "z": "50 mm", "yaw": "0.3 rad", "gripper": "whole stroke"},
    {
        **dict.fromkeys(_UR5E, ("rad", 0.4)),
        **dict.fromkeys(_GRIPPER, ("rad", 0.2)),
        **{f"cube_{axis}": ("m", 0.1) for axis in "xyz"},
        **{f"cube_q{part}": ("1", 0.5) for part in "wxyz"},
    },
    {"cube": _SEEN, "arm": ("gain",)},
    dt_s=0.05,
)

_ALL = (_WALKER, _HOPPER, _CHEETAH, _DOUBLE_INTEGRATOR, _REACH, _PUSH, _ROOMS, _TEE, _CUBE)
ROBOTS: Mapping[str, RobotSpec] = {s.name: s for s in _ALL}
"""Every robot, in its default version "v4" (what D4RL used)."""


def robot_spec(name: str, version: str = "v4") -> RobotSpec:
    """Return the constants of one robot; raises KeyError for an unknown name, ValueError for an unknown version.

    Gymnasium's "v5" pays the alive bonus only while the robot is healthy. dm_control's tasks have the default alone.
    """
    if name.startswith(DM_CONTROL):
        from envs.dm import task_spec  # here, as the suite takes a second to load

        return _only_version(task_spec(name), version)
    spec = pick(ROBOTS, name, "robot")
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {VERSIONS}, got {version!r}")
    if version == "v4":
        return spec
    alive = {"alive": spec.reward_constant} if spec.reward_constant else {}
    return replace(spec, version=version, reward_constant=0.0, reward_linear={**spec.reward_linear, **alive})


def _only_version(spec: RobotSpec, version: str) -> RobotSpec:
    if version != spec.version:
        raise ValueError(f"{spec.name} has one version, {spec.version!r}, got {version!r}")
    return spec


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
    return total + distances(spec, readings)


def distances(spec: RobotSpec, readings: Mapping[str, Any]) -> Any:
    """Return the sum of weight times distance [m] over the pairs of points that the reward is about; tensors or numbers."""
    total = 0.0
    for (one, other), weight in spec.reward_distance.items():
        pairs = [(f"{one}_{axis}", f"{other}_{axis}") for axis in "xyz"]
        gaps = [readings[a] - readings[b] for a, b in pairs if a in readings and b in readings]
        total = total + weight * sum(gap * gap for gap in gaps) ** 0.5
    return total


def make_env(name: str, version: str = "v4", render_mode: str | None = None) -> gymnasium.Env:
    """Return a robot in simulation, with episodes of at most `max_episode_steps`; raises as `robot_spec` does.

    With render_mode "rgb_array", `render()` gives pictures, (height, width, 3) uint8, where MuJoCo finds OpenGL.
    """
    from envs.simulation import simulate  # here, as Gymnasium sets environment variables when imported

    return simulate(robot_spec(name, version), render_mode)


def painter(name: str, version: str = "v4") -> Callable[[np.ndarray], np.ndarray]:
    """Return what draws any state (O,) of a `drawn` world, (side, side, 3) uint8; raises as `make_env` does."""
    env = make_env(name, version, render_mode="rgb_array")
    env.reset(seed=0)
    return env.unwrapped.picture  # pyright: ignore[reportAttributeAccessIssue]


def wanted(spec: RobotSpec, state_O: np.ndarray) -> np.ndarray:
    """Return the state (O,) in which all is where the columns `goal_...` say it should be."""
    then_O = np.array(state_O)
    for name, column in spec.columns.items():
        if f"goal_{name}" in spec.columns:
            then_O[column] = state_O[spec.columns[f"goal_{name}"]]
    return then_O


def place(env: gymnasium.Env, state_O: np.ndarray) -> None:
    """Put a robot's simulation into a state, from a clean slate; where along the track does not matter."""
    core: Any = env.unwrapped
    env.reset(seed=0)
    positions = core.model.nq - 1
    core.set_state(np.concatenate([[0.0], state_O[:positions]]), state_O[positions:])
