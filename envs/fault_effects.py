"""What faults do to commands, sensors and the body. Each effect is computed afresh from the list of active faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from envs.faults import Fault
    from envs.robots import RobotSpec


def values_of(faults: Sequence[Fault], kind: str, target: str | None = None) -> list[float]:
    """Return the values of the active faults of a kind that concern `target` (None: any)."""
    return [f.value for f in faults if f.kind == kind and target in (None, f.target) and f.value is not None]


def _factors(faults: Sequence[Fault], kind: str, names: Sequence[str]) -> np.ndarray:
    """Product of the values per name, where "all" concerns every one."""
    everything = np.prod(values_of(faults, kind, "all"))
    return np.array([everything * np.prod(values_of(faults, kind, name)) for name in names])


class ActionEffects:
    """Commands on their way to the actuators: clipped to the action space, delayed, multiplied, limited."""

    def __init__(self, spec: RobotSpec, faults: Sequence[Fault]) -> None:
        self._spec = spec.action
        self._memory = int(sum(values_of(faults, "action_delay")))
        self.reset()

    def reset(self) -> None:
        """Forget the commands on their way: before the first of an episode, a delayed actuator gets zeros."""
        self._past_KA = np.zeros((self._memory, self._spec.size))

    def applied(self, actions_SHA: np.ndarray, faults: Sequence[Fault]) -> np.ndarray:
        """Return what reaches the actuators, (S, H, A), in the dtype of the commands."""
        low_A, high_A = self._spec.low_A, self._spec.high_A
        commands_SHA = np.clip(actions_SHA, low_A, high_A)
        delay = int(sum(values_of(faults, "action_delay")))
        if delay:
            past_SKA = np.broadcast_to(self._past_KA[-delay:], (len(commands_SHA), delay, self._spec.size))
            horizon = commands_SHA.shape[1]
            commands_SHA = np.concatenate([past_SKA.astype(commands_SHA.dtype), commands_SHA], axis=1)[:, :horizon]
        gain_A = _factors(faults, "actuator_gain", self._spec.names).astype(commands_SHA.dtype)
        limit_A = [self._limit(faults, name) for name in self._spec.names]
        limit_A = np.array(limit_A, commands_SHA.dtype)
        return np.clip(np.clip(commands_SHA * gain_A, -limit_A, limit_A), low_A, high_A)

    def send(self, action_A: np.ndarray, faults: Sequence[Fault]) -> np.ndarray:
        """Return what reaches the actuators now, (A,), and remember the command."""
        action_A = np.asarray(action_A)
        applied_A = self.applied(action_A[None, None], faults)[0, 0]
        if self._memory:
            command_A = np.clip(action_A, self._spec.low_A, self._spec.high_A)
            self._past_KA = np.concatenate([self._past_KA[1:], command_A[None]])
        return applied_A

    @staticmethod
    def _limit(faults: Sequence[Fault], name: str) -> float:
        limits = values_of(faults, "actuator_limit", name) + values_of(faults, "actuator_limit", "all")
        return min(limits, default=np.inf)


class SensorEffects:
    """Readings on their way from the sensors: noise is added, then a lost or stuck reading gives way to an old one."""

    def __init__(self, spec: RobotSpec, faults: Sequence[Fault]) -> None:
        self._scale_O = np.array(spec.state_scale)
        self._faults = [f for f in faults if f.kind.startswith("obs_")]
        self._columns = {f: _columns(f.target, spec.state_names) for f in self._faults}
        self._stuck: dict[Fault, np.ndarray] = {}
        self._last_O: np.ndarray | None = None
        self._seed(0)

    def reset(self, seed: int | None) -> None:
        """Begin an episode: its first reading is never lost, but a stuck sensor stays stuck."""
        self._last_O = None
        if seed is not None:
            self._seed(seed)

    def _seed(self, seed: int) -> None:
        # One generator per fault: adding a fault leaves the draws of the others as they are.
        self._generators = [np.random.default_rng((seed, i)) for i in range(len(self._faults))]

    def read(self, state_O: np.ndarray, active: Sequence[Fault]) -> np.ndarray:
        """Return what the sensors report, (O,)."""
        out_O = np.array(state_O)
        live = [(f, g) for f, g in zip(self._faults, self._generators, strict=True) if f in active]
        for fault, generator in live:
            if fault.kind == "obs_noise":
                columns = self._columns[fault]
                out_O[columns] += fault.value * self._scale_O[columns] * generator.standard_normal(len(columns))
        for fault, generator in live:
            # One draw for all columns of a fault: a message is lost as a whole.
            if fault.kind == "obs_drop" and generator.random() < (fault.value or 0.0) and self._last_O is not None:
                out_O[self._columns[fault]] = self._last_O[self._columns[fault]]
        self._hold([f for f, _ in live if f.kind == "obs_freeze"], out_O)
        self._last_O = out_O.copy()
        return out_O

    def _hold(self, freezes: Sequence[Fault], out_O: np.ndarray) -> None:
        previous_O = out_O if self._last_O is None else self._last_O
        self._stuck = {f: self._stuck.get(f, previous_O[self._columns[f]]) for f in freezes}
        for fault, values in self._stuck.items():
            out_O[self._columns[fault]] = values


def _columns(target: str, names: Sequence[str]) -> np.ndarray:
    if target == "all":
        return np.arange(len(names))
    return np.array([int(target) if target.isdigit() else names.index(target)])


_SHAPES = ("mesh_", "bvh_", "tex_")  # never changed by a fault, and sixty megabytes of an arm


def _is_mutable(name: str, value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.flags.writeable and not name.startswith(_SHAPES)


class ModelEffects:
    """The body in MuJoCo: masses, frictions, dampings, locks and pushes of one environment's model and data."""

    def __init__(self, env: Any) -> None:
        self._model, self._data = env.model, env.data
        arrays = {name: getattr(self._model, name) for name in dir(self._model)}
        self._pristine = {name: value.copy() for name, value in arrays.items() if _is_mutable(name, value)}
        self._angles: dict[str, float] = {}  # of the locked joints
        self._applied: tuple[Fault, ...] = ()
        self._pushing = False
        self._written = {name: value.copy() for name, value in self._pristine.items()}

    def learn(self) -> None:
        """Take what a reset has changed in the model, say where the target is, for the body as it should be."""
        for name, before in self._written.items():
            now = getattr(self._model, name)
            changed = now != before
            self._pristine[name][changed] = before[changed] = now[changed]

    def apply(self, faults: Sequence[Fault]) -> None:
        """Make the model that of the active faults; a joint whose lock begins is held at its present angle."""
        wanted = tuple(f for f in faults if f.kind in ("joint_lock", "joint_damping", "mass", "friction"))
        if wanted == self._applied:
            return
        locked = {f.target for f in wanted if f.kind == "joint_lock"}
        self._angles = {j: self._angles.get(j, float(self._data.joint(j).qpos[0])) for j in sorted(locked)}
        self._write(wanted, self._angles)
        self._applied = wanted

    def unlock(self) -> None:
        """Free the locked joints until the next `apply`, so that what they were does not leak into a reset."""
        if self._angles:
            self._angles = {}
            self._applied = tuple(f for f in self._applied if f.kind != "joint_lock")
            self._write(self._applied, {})

    def push(self, faults: Sequence[Fault], t_s: float, dt_s: float) -> None:
        """Set the outer forces for the control step from t on, such that the impulse of a push is exact."""
        pushes = [f for f in faults if f.kind == "push"]
        if not (pushes or self._pushing):
            return
        self._data.xfrc_applied[:] = 0.0
        for fault in pushes:
            part = np.clip((fault.end_s - t_s) / dt_s, 0.0, 1.0)
            self._data.body(fault.target).xfrc_applied[0] += fault.value * part
        self._pushing = bool(pushes)

    def _write(self, faults: Sequence[Fault], angles: dict[str, float]) -> None:
        import mujoco

        for name, value in self._pristine.items():
            np.copyto(getattr(self._model, name), value)
        self._scale(faults)
        for joint, angle in angles.items():
            self._lock(joint, angle)
        if angles or any(f.kind == "mass" for f in faults):
            # Masses and rotor inertias enter the softness of contacts and limits through derived constants.
            mujoco.mj_setConst(self._model, mujoco.MjData(self._model))  # pyright: ignore[reportAttributeAccessIssue]
        self._written = {name: getattr(self._model, name).copy() for name in self._pristine}

    def _scale(self, faults: Sequence[Fault]) -> None:
        model = self._model
        bodies = [model.body(i).name for i in range(model.nbody)]
        mass_factor = _factors(faults, "mass", bodies)
        model.body_mass *= mass_factor
        model.body_inertia *= mass_factor[:, None]
        for fault in faults:
            if fault.kind == "joint_damping":
                model.dof_damping[model.joint(fault.target).dofadr[0]] *= fault.value
        if any(f.kind == "friction" for f in faults):
            self._scale_friction(faults)

    def _scale_friction(self, faults: Sequence[Fault]) -> None:
        # A contact takes the larger friction of its two geoms, so the floor would hide a slippery foot. Contacts with
        # friction are between a geom of the robot and one of the world (Gymnasium's robots have no others; where a
        # task of dm_control has, a slippery geom slips on the world alone): give the world none, and each geom of the
        # robot what results for the pair.
        model = self._model
        if all(f.target == "all" for f in faults if f.kind == "friction"):
            model.geom_friction *= np.prod(values_of(faults, "friction"))
            return
        names = [model.geom(i).name for i in range(model.ngeom)]
        floor_G = model.geom_bodyid == 0
        floor_factor = np.prod([v for g in np.flatnonzero(floor_G) for v in values_of(faults, "friction", names[g])])
        factor_G = floor_factor * _factors(faults, "friction", names)
        pair = np.maximum(model.geom_friction, model.geom_friction[floor_G].max(0, initial=0.0))
        model.geom_friction[:] = factor_G[:, None] * pair
        model.geom_friction[floor_G] = 0.0

    def _lock(self, joint: str, angle: float) -> None:
        # A range of one angle, as stiff as the integrator allows. The lock, not the motor, then carries the torque;
        # the rotor inertia keeps light links from ringing.
        model = self._model
        index, dof = model.joint(joint).id, model.joint(joint).dofadr[0]
        model.jnt_limited[index] = 1
        model.jnt_range[index] = angle
        model.jnt_solref[index] = (2.0 * model.opt.timestep, 1.0)
        model.jnt_solimp[index] = (0.99, 0.999, 0.001, 0.5, 2.0)
        model.jnt_stiffness[index] = 0.0
        model.dof_armature[dof] += 1.0
        on_joint = model.actuator_trntype == 0  # mjTRN_JOINT
        model.actuator_gear[on_joint & (model.actuator_trnid[:, 0] == index)] = 0.0
