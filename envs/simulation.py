"""Simulated robots as ours: they know their spec, and end an episode whose simulation diverged."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np

from envs.robots import DM_CONTROL, RobotSpec


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


def simulate(spec: RobotSpec, render_mode: str | None) -> gymnasium.Env:
    """Return the robot of a spec in simulation, in episodes of at most `max_episode_steps`."""
    return gymnasium.wrappers.TimeLimit(RobotEnv(_core(spec, render_mode), spec), spec.max_episode_steps)


def _quiet_mujoco() -> None:
    """Otherwise MuJoCo writes MUJOCO_LOG.TXT into the working directory; RobotEnv reports what matters."""
    import mujoco

    mujoco.set_mju_user_warning(logging.getLogger("mujoco").debug)  # pyright: ignore[reportAttributeAccessIssue]


def _bad_warnings() -> list[int]:
    import mujoco

    kinds = mujoco.mjtWarning  # pyright: ignore[reportAttributeAccessIssue]
    return [int(k) for k in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC, kinds.mjWARN_BADCTRL)]


def _core(spec: RobotSpec, render_mode: str | None) -> gymnasium.Env:
    if spec.name == "double_integrator":
        from envs.linear import DoubleIntegrator

        return DoubleIntegrator(render_mode)
    if spec.name == "tworoom":
        from envs.tworoom import TwoRoom

        return TwoRoom(spec, render_mode)
    if spec.name == "pusht":
        from envs.pusht import PushT

        return PushT(spec, render_mode)
    _quiet_mujoco()
    if spec.name == "cube":
        from envs.cube import Cube

        return Cube(spec, render_mode)
    if spec.name.startswith(DM_CONTROL):
        from envs.dm import DmEnv

        return DmEnv(spec, render_mode)
    return _arm(spec, render_mode) if spec.name.startswith("so101") else _mujoco_env(spec, render_mode)


def _arm(spec: RobotSpec, render_mode: str | None) -> gymnasium.Env:
    from envs.arm import ArmEnv

    return ArmEnv(spec, render_mode)


def _mujoco_env(spec: RobotSpec, render_mode: str | None) -> gymnasium.Env:
    # The classes rather than gymnasium.make, whose deprecation notice for v4 does not concern a D4RL-equivalent model.
    from gymnasium.envs.mujoco import (
        half_cheetah_v4,
        half_cheetah_v5,
        hopper_v4,
        hopper_v5,
        walker2d_v4,
        walker2d_v5,
    )

    classes = {
        ("walker2d", "v4"): walker2d_v4.Walker2dEnv,
        ("walker2d", "v5"): walker2d_v5.Walker2dEnv,
        ("hopper", "v4"): hopper_v4.HopperEnv,
        ("hopper", "v5"): hopper_v5.HopperEnv,
        ("halfcheetah", "v4"): half_cheetah_v4.HalfCheetahEnv,
        ("halfcheetah", "v5"): half_cheetah_v5.HalfCheetahEnv,
    }
    return classes[spec.name, spec.version](render_mode=render_mode)
