"""The planner of a preset for whoever brings the states of robots and sends the actions himself, without latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from agents.build import build_agent
from deploy.commandline import resolve
from deploy.safety import make_safe
from deploy.session import env_seed
from deploy.streamer import setpoint_at
from envs.robots import robot_spec
from envs.shapes import check
from envs.types import Observation
from planners.types import ActionPlan, PlanStatus

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from envs.robots import RobotSpec


PLANNING = ("agent", "limits", "objective", "plan_every", "seed", "version")
"""What of a run concerns the planner alone."""


def planning_config(args: Sequence[str], presets: Mapping[str, tuple[str, RunConfig]], prog: str) -> RunConfig:
    """Return the config of `PRESET [--overrides]`. Raises ValueError, in one line, also for an override of anything else."""
    if args and args[0] == "--config":
        raise ValueError("a planner is named by its preset, not by a file")
    cfg = resolve(args, presets, prog)
    base = presets[cfg.preset][1]
    names = [f.name for f in fields(cfg) if f.name not in PLANNING]
    if other := [name for name in names if getattr(cfg, name) != getattr(base, name)]:
        raise ValueError(f"{', '.join(other)}: not the planner's; it takes {', '.join(PLANNING)}")
    return cfg


class Seat:
    """One robot's agent; every call of `act` is one control step of that robot."""

    def __init__(self, cfg: RunConfig, spec: RobotSpec) -> None:
        self._cfg, self._spec, self._limits = cfg, spec, cfg.limits.build()
        self._agent = build_agent(cfg.agent, spec, cfg.objective, adapt=False, seed=cfg.seed)
        self.begin(0)

    def begin(self, episode: int) -> None:
        """Forget the last episode; the same number gives the same random numbers."""
        self._agent.begin_episode(episode, env_seed(self._cfg.seed, episode))
        self._step, self._last_A = 0, self._cfg.limits.hold_A
        self._plan: ActionPlan | None = None

    def plan(self, state_O: np.ndarray) -> ActionPlan:
        """Return the plan that starts now."""
        seen = Observation(self._step * self._spec.dt_s, np.array(state_O, dtype=np.float64))
        return self._agent.plan(seen, np.empty((0, self._spec.action.size)))

    def act(self, state_O: np.ndarray) -> np.ndarray:
        """Return the action for now, (A,), inside the limits. A state that is not finite is not planned from."""
        if self._step % self._cfg.plan_every == 0 and np.isfinite(state_O).all():
            plan = self.plan(state_O)
            self._plan = self._plan if plan.status is PlanStatus.FAILED else plan
        due = setpoint_at(self._plan, self._step * self._spec.dt_s, self._cfg.limits.hold_A)
        self._last_A = make_safe(due.action_A, self._last_A, self._spec.dt_s, self._limits).action_A
        self._step += 1
        return self._last_A


class Pilot:
    """As many seats as there are robots. Raises ValueError or KeyError, in one line, as `build_agent` does."""

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg, self.spec = cfg, robot_spec(cfg.robot, cfg.version)
        self._seats = [Seat(cfg, self.spec)]
        self._episodes, self._fresh = 0, True

    def reset(self) -> None:
        """Begin new episodes, one per robot, with the next call."""
        self._fresh = True

    def act(self, states_BO: np.ndarray) -> np.ndarray:
        """Return the actions for now, (B, A), from states in the units of the robot's spec."""
        return np.stack([seat.act(state_O) for seat, state_O in self._seated(states_BO)])

    def plan(self, states_BO: np.ndarray) -> np.ndarray:
        """Return the plans that start now, (B, H, A); where none was found, NaN. No control step passes."""
        plans = [seat.plan(state_O) for seat, state_O in self._seated(states_BO)]
        return np.stack([p.actions_HA * (np.nan if p.status is PlanStatus.FAILED else 1.0) for p in plans])

    def _seated(self, states_BO: np.ndarray) -> list[tuple[Seat, np.ndarray]]:
        count = check("states_BO", states_BO, "B O", O=self.spec.state_size)["B"]
        while len(self._seats) < count:
            self._seats.append(Seat(self._cfg, self.spec))
            self._fresh = True
        if self._fresh:
            for seat in self._seats[:count]:
                seat.begin(self._episodes)
                self._episodes += 1
            self._fresh = False
        return list(zip(self._seats, states_BO, strict=False))
