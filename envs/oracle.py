"""The simulator itself as a model: the upper bound on what a learned one can do, never part of an agent on a real robot.

`SimulatorDynamics` looks into the running robot, and knows everything: positions that sensors do not report, the warm
start of the solver, and the faults of the moment. `TaskDynamics` is a simulation of its own of a dm_control task. It
knows the healthy body, what the task pays, and what the sensors report: neither a fault nor the truth behind a noisy
reading, so that plant and model differ as they would on a real robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from envs.faults import FaultWrapper
from envs.robots import DM_CONTROL, RobotSpec, readings
from envs.shapes import check

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from envs.types import Belief


class SimulatorDynamics:
    """Predicts by simulating one environment's own model, on `nthread` threads.

    Faults that hold now are taken to hold for the whole horizon, and pushes are not foreseen. States are the true
    ones, without sensor faults. Raises ValueError if the environment has no MuJoCo model.
    """

    def __init__(self, env: gymnasium.Env, nthread: int = 1, quick: bool = False) -> None:
        """`quick`: by Euler steps, whatever the environment takes; a quarter of the time of Runge and Kutta's, and not exact."""
        mujoco = _mujoco()
        if nthread < 1:
            raise ValueError(f"nthread must be at least 1, got {nthread}")
        self._spec: RobotSpec = env.get_wrapper_attr("robot_spec")
        if not self._spec.bodies:
            raise ValueError(f"{self._spec.name} has no MuJoCo model to roll out")
        if self._spec.reward_distance:
            raise ValueError(f"the state of {self._spec.name} is not that of its simulation: it cannot be the model")
        if self._spec.name.startswith(DM_CONTROL):
            raise ValueError(f"{self._spec.name} is rolled out by TaskDynamics, which knows its reward")
        self._env = env
        self._faults = _fault_wrapper(env)
        self._quick = quick
        model = env.get_wrapper_attr("model")
        self._scratch = [mujoco.MjData(model) for _ in range(nthread)]
        self._pool = mujoco.rollout.Rollout(nthread=nthread if nthread > 1 else 0)

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the states after each action, (B=1, S, H, O), NaN from where the simulation diverges.

        The start is the state of the environment at this moment, whatever the belief says.
        """
        sizes = check("actions", actions_BSHA, "B S H A", B=1, A=self._spec.action.size)
        commands_SHA = actions_BSHA[0].detach().cpu().numpy()
        spec = self._spec.action
        if self._faults is None:
            applied_SHA = np.clip(commands_SHA, spec.low_A, spec.high_A)
        else:
            applied_SHA = self._faults.applied(commands_SHA)
        z_SHO = self._simulate(applied_SHA.astype(np.float64), sizes["H"])
        return actions_BSHA.new_tensor(z_SHO)[None]

    def _simulate(self, applied_SHA: np.ndarray, horizon: int) -> np.ndarray:
        mujoco = _mujoco()
        core: Any = self._env.unwrapped
        model, data, skip = core.model, core.data, core.frame_skip
        full = mujoco.mjtState.mjSTATE_FULLPHYSICS
        start = np.empty(mujoco.mj_stateSize(model, full))
        mujoco.mj_getState(model, data, start, full)
        own = model.opt.integrator
        model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER if self._quick else own
        try:
            states, _ = self._pool.rollout(
                model,
                self._scratch,
                np.tile(start, (len(applied_SHA), 1)),
                np.repeat(applied_SHA, skip, axis=1),
                initial_warmstart=np.tile(data.qacc_warmstart, (len(applied_SHA), 1)),
            )
        finally:
            model.opt.integrator = own
        due_H = data.time + self._spec.dt_s * np.arange(1, horizon + 1)
        return self._observe(states[:, skip - 1 :: skip], model.nq, model.nv, due_H, 0.5 * model.opt.timestep)

    def _observe(self, states_SHX: np.ndarray, nq: int, nv: int, due_H: np.ndarray, slack_s: float) -> np.ndarray:
        """Full physics states (time, positions, velocities ..) as the environment's observations."""
        positions = states_SHX[..., 2 : 1 + nq]  # without that along the track
        limit = self._spec.rate_limit
        velocities = np.clip(states_SHX[..., 1 + nq : 1 + nq + nv], -limit, limit)
        z_SHO = np.concatenate([positions, velocities], axis=-1)
        # A diverging simulation starts over at time 0 and then stands still: its clock gives it away.
        z_SHO[np.abs(states_SHX[..., 0] - due_H) > slack_s] = np.nan
        return z_SHO


class TaskDynamics:
    """Predicts by running a dm_control task from the state that the belief ends in, one candidate after the other.

    Its latents are the robot's states with the task's reward behind them. Each rollout begins from a clean slate: the
    same state and actions give the same prediction, alone and among others. Raises ValueError for a robot whose state
    is not all that its physics depends on.
    """

    def __init__(self, spec: RobotSpec) -> None:
        from envs.dm import WHOLE, Simulation

        if not (spec.name.startswith(DM_CONTROL) and spec.name.endswith(WHOLE)):
            raise ValueError(
                f"a simulation needs the whole state: use {DM_CONTROL}DOMAIN-TASK{WHOLE}, got {spec.name!r}"
            )
        self._spec, self._simulation = spec, Simulation(spec.name)
        self._simulation.reset(0)
        self._physics = len(self._simulation.physics.get_state())

    def begin_episode(self, seed: int) -> None:
        """Make the simulation that of the episode with this seed: some tasks place targets or draw the terrain anew."""
        self._simulation.reset(seed)

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return states and rewards after each action, (B, S, H, O + 1), NaN from where the simulation diverges."""
        sizes = check("actions", actions_BSHA, "B S H A", B=len(belief.z_BTD), A=self._spec.action.size)
        size = self._spec.state_size
        start_BX = belief.z_BD[:, size - self._physics : size].detach().cpu().numpy().astype(np.float64)
        action = self._spec.action
        commands = np.clip(actions_BSHA.detach().cpu().numpy().astype(np.float64), action.low_A, action.high_A)
        z_BSHD = np.full((sizes["B"], sizes["S"], sizes["H"], size + 1), np.nan)
        for b, s in np.ndindex(sizes["B"], sizes["S"]):
            self._simulate(start_BX[b], commands[b, s], z_BSHD[b, s])
        return actions_BSHA.new_tensor(z_BSHD)

    def _simulate(self, start_X: np.ndarray, commands_HA: np.ndarray, z_HD: np.ndarray) -> None:
        """Write what follows into `z_HD`, (H, O + 1)."""
        self._simulation.place(start_X)
        for action_A, z_D in zip(commands_HA, z_HD, strict=True):
            if not self._simulation.step(action_A):
                return
            z_D[:-1], z_D[-1] = self._simulation.state(), self._simulation.reward()

    def readings(self, z: Tensor) -> dict[str, Tensor]:
        """Return the readings of predicted latents, (...) each; `reward` is what the task pays."""
        return {**readings(self._spec, z[..., :-1]), "reward": z[..., -1]}


def _mujoco() -> Any:
    """The bindings, which come without type information."""
    import mujoco
    import mujoco.rollout

    return mujoco


def _fault_wrapper(env: gymnasium.Env) -> FaultWrapper | None:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, FaultWrapper):
            return env
        env = env.env
    return None
