"""Every task of dm_control's suite as a robot of ours: `dm_control:walker-walk` is the task walk of the domain walker.

Its state is the task's observation, flattened in the order of its specification. With `+physics` behind the name,
positions, velocities and activations follow: then the state is all that the simulation depends on (envs/oracle.py).
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import gymnasium
import numpy as np

from envs.robots import DM_CONTROL, RobotSpec
from envs.types import ActionSpec

WHOLE = "+physics"
_SIZE = (240, 320)  # of a picture: height, width
_TRIED_STEPS = 200


def tasks() -> tuple[str, ...]:
    """Return every task of the suite, as DOMAIN-TASK."""
    return tuple(f"{domain}-{task}" for domain, task in _suite().ALL_TASKS)


def _suite() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a screen, and complains where there is none
        from dm_control import suite
    return suite


def _mujoco() -> Any:
    """The bindings, which come without type information."""
    import mujoco

    return mujoco


class Simulation:
    """One task on a physics of its own, which the task itself resets, reads and rewards.

    dm_control's time limit and its reset after the last step are left out: they are the business of the environment.
    """

    def __init__(self, name: str, draws: bool = False) -> None:
        """`name` as `make_env` takes it; raises KeyError for a task that is not in the suite."""
        found, suite = name.removeprefix(DM_CONTROL).removesuffix(WHOLE), _suite()
        known = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if found not in known:
            near = difflib.get_close_matches(found, known, n=3) or sorted(known)
            raise KeyError(f"no task {found!r} in dm_control's suite; near misses: {', '.join(near)}")
        self._env = suite.load(*known[found], task_kwargs={"random": 0})
        self._whole = name.endswith(WHOLE)
        self.physics, self.task = self._env.physics, self._env.task
        self.dt_s = float(self._env.control_timestep())
        self._substeps = round(self.dt_s / self.physics.timestep())
        if not draws:  # some tasks ask for an OpenGL context at each reset
            self.physics.__class__ = type("Physics", (type(self.physics),), {"contexts": None})

    @property
    def steps(self) -> float:
        """Control steps in an episode; may be infinite."""
        return self._env._step_limit

    @property
    def model(self) -> Any:
        """MuJoCo's model."""
        return self.physics.model.ptr

    @property
    def data(self) -> Any:
        """MuJoCo's data."""
        return self.physics.data.ptr

    def reset(self, seed: int | None) -> None:
        """Begin an episode; a seed gives the one that dm_control gives for it, None the next.

        The lqr tasks draw their model when they are made: it is that of seed 0.
        """
        if seed is not None:
            self.task.random.seed(seed % 2**32)
        with self.physics.reset_context():
            self.task.initialize_episode(self.physics)

    def place(self, physics_X: np.ndarray) -> None:
        """Put the simulation into a state of its physics, from a clean slate."""
        _mujoco().mj_resetData(self.model, self.data)
        self.physics.set_state(physics_X)
        _mujoco().mj_step1(self.model, self.data)

    def step(self, action_A: np.ndarray) -> bool:
        """Advance by one control step; return whether the physics held."""
        from dm_control.rl.control import PhysicsError

        try:
            self.task.before_step(action_A, self.physics)
            self.physics.step(self._substeps)
            self.task.after_step(self.physics)
        except PhysicsError:
            return False
        return True

    def state(self) -> np.ndarray:
        """Return what the robot reports, (O,)."""
        parts = [np.ravel(part) for part in self.task.get_observation(self.physics).values()]
        return np.concatenate([*parts, *([self.physics.get_state()] if self._whole else [])], dtype=np.float64)

    def state_names(self) -> tuple[str, ...]:
        """Return the name of each number that the robot reports."""
        observed = self.task.get_observation(self.physics)
        names = [each for name, part in observed.items() for each in _numbered(name, np.size(part), np.ndim(part))]
        return (*names, *(_physics_names(self.model) if self._whole else ()))

    def reward(self) -> float:
        """Return what the task pays for the present state."""
        return float(self.task.get_reward(self.physics))


class DmEnv(gymnasium.Env):
    """A task of the suite with Gymnasium's API; it is truncated by the wrapper that `make_env` puts around it."""

    def __init__(self, spec: RobotSpec, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / spec.dt_s)}
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{spec.name} can be rendered as 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float64)
        self.action_space = gymnasium.spaces.Box(spec.action.low_A, spec.action.high_A, dtype=np.float32)
        self._action, self.simulation = spec.action, Simulation(spec.name, render_mode is not None)
        self.model, self.data = self.simulation.model, self.simulation.data

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode as the task draws it."""
        super().reset(seed=seed)
        self.simulation.reset(seed)
        return self.simulation.state(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by one control step; a physics that did not hold reads as a state that is not finite."""
        action_A = np.clip(np.asarray(action, np.float64), self._action.low_A, self._action.high_A)
        if not self.simulation.step(action_A):
            return np.full(self.observation_space.shape or (), np.nan), 0.0, True, False, {}
        ended = self.simulation.task.get_termination(self.simulation.physics)
        return self.simulation.state(), self.simulation.reward(), ended == 0.0, ended not in (None, 0.0), {}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a picture, (height, width, 3) uint8, from the task's own camera. Raises RuntimeError without OpenGL."""
        if self.render_mode is None:
            return None
        try:
            return self.simulation.physics.render(*_SIZE, camera_id=0 if self.model.ncam else -1)
        except (RuntimeError, _mujoco().FatalError) as error:
            raise RuntimeError(f"no picture: set MUJOCO_GL=egl or osmesa before Python starts ({error})") from None


@cache
def task_spec(name: str) -> RobotSpec:
    """Return the constants of a task, read off its model; raises KeyError, naming near misses, if there is no such task."""
    simulation = Simulation(name)
    simulation.reset(0)
    model, names = simulation.model, simulation.state_names()
    steps = simulation.steps
    return RobotSpec(
        name=name,
        version="v4",
        dt_s=simulation.dt_s,
        action=_actuators(model, simulation.task.action_spec(simulation.physics)),
        state_names=names,
        state_units=("",) * len(names),
        state_scale=_scale(simulation),
        columns={name: column for column, name in enumerate(names)},
        healthy={},
        reward_linear={"reward": 1.0},
        joints=tuple(model.joint(i).name for i in range(model.njnt) if model.jnt_type[i] in _scalar_joints()),
        bodies=tuple(model.body(i).name for i in range(1, model.nbody)),
        geoms=tuple(model.geom(i).name for i in range(model.ngeom)),
        max_episode_steps=round(steps) if math.isfinite(steps) else 1000,
    )


def _scale(simulation: Simulation) -> tuple[float, ...]:
    """Standard deviation of each sensor under random actions; 1 where it does not move."""
    rng, bounds = np.random.default_rng(0), simulation.task.action_spec(simulation.physics)
    low_A, high_A = bounds.minimum.clip(-1.0), bounds.maximum.clip(max=1.0)
    seen = []
    for step in range(_TRIED_STEPS):
        if step and not simulation.step(rng.uniform(low_A, high_A)):
            break
        seen.append(simulation.state())
    std_O = np.std(seen, axis=0)
    return tuple(np.where(std_O > 1e-6, std_O, 1.0).tolist())


def _actuators(model: Any, bounds: Any) -> ActionSpec:
    """Actuators named by the joint that each drives, or by themselves where they drive none or share it."""
    driven = dict(_driven(model))
    alone = {joint for joint in driven.values() if list(driven.values()).count(joint) == 1}
    names = [driven[i] if driven.get(i) in alone else model.actuator(i).name for i in range(model.nu)]
    low_A, high_A = (np.asarray(x, np.float32) for x in (bounds.minimum, bounds.maximum))
    return ActionSpec(low_A, high_A, tuple(_unit(model, i) for i in range(model.nu)), tuple(names))


def _driven(model: Any) -> Iterator[tuple[int, str]]:
    for i in range(model.nu):
        if model.actuator_trntype[i] == _mujoco().mjtTrn.mjTRN_JOINT:
            yield i, model.joint(model.actuator_trnid[i, 0]).name


def _unit(model: Any, i: int) -> str:
    """What a command of 1 is: a torque or a force for a plain motor on one joint, else nothing that has a name."""
    kinds = _mujoco()
    plain = model.actuator_biastype[i] == kinds.mjtBias.mjBIAS_NONE
    plain = plain and model.actuator_dyntype[i] == kinds.mjtDyn.mjDYN_NONE
    if not (plain and model.actuator_trntype[i] == kinds.mjtTrn.mjTRN_JOINT):
        return ""
    turns = model.jnt_type[model.actuator_trnid[i, 0]] == kinds.mjtJoint.mjJNT_HINGE
    return f"{model.actuator_gear[i, 0] * model.actuator_gainprm[i, 0]:g} {'N m' if turns else 'N'}"


def _scalar_joints() -> tuple[int, int]:
    kinds = _mujoco().mjtJoint
    return int(kinds.mjJNT_SLIDE), int(kinds.mjJNT_HINGE)


def _numbered(name: str, size: int, ndim: int) -> list[str]:
    return [name] if ndim == 0 else [f"{name}_{i}" for i in range(size)]


def _physics_names(model: Any) -> list[str]:
    """Names of positions and velocities, joint by joint, and of the activations."""
    sizes: Mapping[str, tuple[Any, int]] = {"qpos": (model.jnt_qposadr, model.nq), "qvel": (model.jnt_dofadr, model.nv)}
    names = []
    for kind, (starts, total) in sizes.items():
        for i, size in enumerate(np.diff(starts, append=total)):
            names += _numbered(f"{kind}.{model.joint(i).name}", size, int(size > 1))
    return names + _numbered("act", model.na, 1)
