"""Agents from their configuration: the only file that knows every name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agents.adaptive import AdaptiveAgent
from agents.latent import LatentConfig, build_latent
from agents.learned import LearnedConfig, build_learned
from agents.mpc import MpcAgent
from planners.cem import Cem
from planners.mppi import Mppi
from planners.objectives import parse_objective
from planners.search import SearchPlanner
from planners.warm import WarmStart

if TYPE_CHECKING:
    from torch import Tensor

    from agents.latent import LatentAgent
    from agents.oracle import TaskAgent
    from envs.robots import RobotSpec
    from planners.base import Objective, Readings


@dataclass(frozen=True)
class LinearConfig:
    """The point mass, planned with its exact model."""

    planner: Cem = field(default_factory=lambda: Cem(trust=float("inf")))
    horizon: int = 20
    """Control steps that a plan looks ahead."""
    samples: int = 64
    """Candidates per iteration."""
    pixels: bool = False
    """Whether it plans from pictures alone, and never reads the state."""


@dataclass(frozen=True)
class OracleConfig:
    """A task of dm_control's suite, planned with a simulation of its own: what it knows is in envs/oracle.py."""

    planner: Cem | Mppi = field(default_factory=lambda: Cem(trust=float("inf")))
    horizon: int = 20
    """Control steps that a plan looks ahead."""
    samples: int = 64
    """Candidates per iteration."""
    init_std: float = 0.5
    """Of the first candidates around the last plan, in half ranges of the actuators."""


AgentConfig = LinearConfig | LearnedConfig | OracleConfig | LatentConfig


def sees(cfg: AgentConfig) -> bool:
    """Return whether the agent needs pictures."""
    return isinstance(cfg, LatentConfig) or (isinstance(cfg, LinearConfig) and cfg.pixels)


@dataclass(frozen=True)
class TaskReward:
    """Minus the task's own reward, summed over the horizon."""

    spec: RobotSpec

    @property
    def reads(self) -> tuple[str, ...]:
        """The readings that the reward is made of."""
        return (*self.spec.reward_linear, *self.spec.reward_quadratic)

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the cost per candidate, (B, S)."""
        from envs.robots import reward

        return -reward(self.spec, readings, actions_BSHA).sum(-1)


def build_agent(
    cfg: AgentConfig, spec: RobotSpec, objective: str = "", adapt: bool = True, seed: int = 0
) -> MpcAgent | AdaptiveAgent | LatentAgent:
    """Return the agent; `objective` "" is the task's own. Raises ValueError for one that the robot cannot read."""
    if isinstance(cfg, LatentConfig):
        return build_latent(cfg, spec, objective, adapt)
    if isinstance(cfg, LearnedConfig):
        return build_learned(cfg, spec, objective, adapt, seed)
    return _oracle(cfg, spec, objective) if isinstance(cfg, OracleConfig) else _linear(cfg, spec, objective)


def _linear(cfg: LinearConfig, spec: RobotSpec, objective: str) -> MpcAgent:
    from agents.pixels import PixelAgent
    from envs.linear import LinearDynamics  # presets import this file, and must not load a simulator
    from envs.robots import readings

    if spec.name != "double_integrator":
        raise ValueError(f"the linear agent knows the double_integrator only, got {spec.name!r}")
    planner = SearchPlanner(
        method=cfg.planner,
        dynamics=LinearDynamics(),
        readout=lambda z_BSHD: readings(spec, z_BSHD),
        objective=_objective(spec, objective),
        action=spec.action,
        dt_s=spec.dt_s,
        horizon=cfg.horizon,
        samples=cfg.samples,
    )
    return _warm(PixelAgent if cfg.pixels else MpcAgent, planner, spec)


def _oracle(cfg: OracleConfig, spec: RobotSpec, objective: str) -> TaskAgent:
    from agents.oracle import TaskAgent
    from envs.oracle import TaskDynamics

    dynamics = TaskDynamics(spec)
    planner = SearchPlanner(
        method=cfg.planner,
        dynamics=dynamics,
        readout=dynamics.readings,
        objective=_objective(spec, objective),
        action=spec.action,
        dt_s=spec.dt_s,
        horizon=cfg.horizon,
        samples=cfg.samples,
        init_std=cfg.init_std,
        correlation=cfg.planner.correlation,
    )
    return _warm(TaskAgent, planner, spec)


def _warm[A: MpcAgent](kind: type[A], planner: SearchPlanner, spec: RobotSpec) -> A:
    """Return an agent that begins each search at its last plan, and composes the planner of another objective."""

    def planner_for(text: str) -> WarmStart:
        return WarmStart(replace(planner, objective=_objective(spec, text)))

    return kind(WarmStart(planner), planner.dynamics, spec.dt_s, spec.action.size, planner_for)


def _objective(spec: RobotSpec, text: str) -> Objective:
    if not text:
        return TaskReward(spec)
    return parse_objective(text, TaskReward(spec), shown=spec.shown)
