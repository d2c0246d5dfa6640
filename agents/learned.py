"""From trained weights to an agent: which parts the planner searches with, and what it reads from their predictions."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from agents.adaptive import AdaptiveAgent
from agents.follow import Follow
from agents.goal_numbers import Targets, Told, context, goals_for, payoff
from agents.jobs import AdaptConfig
from agents.surprise import Calibration, SurpriseConfig
from envs.robots import RobotSpec, readings, reward
from planners.cem import Cem
from planners.objectives import Effort, ReturnToGo, WeightedSum, parse_objective
from planners.search import SearchPlanner
from planners.ssr import Ssr
from world_models.checkpoint import WorldModel, fast, load_model, read_tensors

if TYPE_CHECKING:
    from torch import Generator

    from agents.imagination import Judge
    from envs.types import Belief
    from planners.base import Dynamics, Objective, Proposal, Readings
    from world_models.checkpoint import GoalModel


CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class LearnedConfig:
    """A robot planned with a learned model that watches, and mends, its own predictions."""

    checkpoint: Path = Path("checkpoints/walker-small")
    """Folder of the weights; looked for here, then in the checkout."""
    predictor: Literal["step", "dynamics"] = "step"
    """What the planner asks for the future: the one-step model, repeated, or the diffusion model of the whole block."""
    horizon: int = 16
    """Control steps that a plan looks ahead; at most the proposal's."""
    samples: int = 48
    """Candidates per iteration of the search, the proposals being the first."""
    method: Ssr | Cem = field(default_factory=lambda: Cem(iterations=3, elites=8))
    lam: float = 0.9
    """Weight of far predictions in the return: the mixture is TD(lambda)."""
    value_every: int = 4
    """The value is read at every so many predicted steps."""
    warm: bool = False
    """Whether the last plan, shifted, joins the candidates."""
    bf16: bool = True
    surprise: SurpriseConfig = field(
        default_factory=lambda: SurpriseConfig(drift=1.0, floor=0.1, start_updates=80, settle=500, refractory=250)
    )
    adapt: AdaptConfig = field(default_factory=AdaptConfig)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.horizon < self.value_every:
            raise ValueError(
                f"need samples >= 1 and horizon >= value_every, got {self.samples}, {self.horizon} and {self.value_every}"
            )

    @property
    def folder(self) -> Path:
        """Where the checkpoint is."""
        return self.checkpoint if self.checkpoint.is_dir() else CHECKOUT / self.checkpoint


def value_steps(horizon: int, every: int) -> tuple[int, ...]:
    """Return the indices of the predictions whose value is read: the last of each group of `every`."""
    return tuple(range(every - 1, horizon, every))


def task_readout(
    spec: RobotSpec, value: Callable[[Tensor], Tensor], steps: tuple[int, ...]
) -> Callable[[Tensor], Readings]:
    """Return a readout with the task's reward (without its small price of effort) and the value of some steps."""

    def readout(z_BSHD: Tensor) -> Readings:
        found = readings(spec, z_BSHD)
        rest = z_BSHD.new_zeros(*z_BSHD.shape[:-1], spec.action.size)
        return {**found, "reward": reward(spec, found, rest), "value": value(z_BSHD[:, :, list(steps)])}

    return readout


def goal(
    cfg: LearnedConfig, spec: RobotSpec, model: WorldModel, text: str
) -> tuple[Objective, Callable[[Tensor], Readings]]:
    """Return the objective that `text` names ("": the task) and a readout of what it needs."""
    steps = value_steps(cfg.horizon, cfg.value_every)
    run = ReturnToGo(model.value.cfg.discount, cfg.lam, model.value.cfg.fall_penalty, steps)
    objective = parse_objective(text, run, shown=spec.shown) if text else run
    if "value" in objective.reads:
        return objective, task_readout(spec, model.value, steps)
    return objective, lambda z_BSHD: readings(spec, z_BSHD)


def judge_of(spec: RobotSpec) -> Judge:
    """Return what the task pays for a step to a state, and whether the robot still stands there."""

    def judge(state_NO: Tensor, action_NA: Tensor) -> tuple[Tensor, Tensor]:
        found = readings(spec, state_NO)
        return reward(spec, found, action_NA), found["alive"]

    return judge


@dataclass(frozen=True)
class Shortened:
    """A proposal of which the first `horizon` steps count."""

    proposal: Proposal
    horizon: int

    def sample(self, belief: Belief, n: int, generators: Sequence[Generator], /) -> Tensor:
        """Return n candidate action blocks, (B, S=n, H, A)."""
        return self.proposal.sample(belief, n, generators)[:, :, : self.horizon]


def goal_planner(cfg: LearnedConfig, spec: RobotSpec, model: GoalModel, goal: Targets) -> SearchPlanner:
    """Return the planner that pursues one goal per environment: targets (B, G), or (1, G) for all."""
    step, told = copy.deepcopy(model.step), context(goal.target)
    if cfg.bf16:
        fast(step)
    steps = value_steps(cfg.horizon, cfg.value_every)
    value, policy = Told(model.value, told), Told(model.policy, told)
    target_B11G = goal.target[:, None, None]

    def readout(z_BSHD: Tensor) -> Readings:
        found = readings(spec, z_BSHD)
        earned = payoff(found, target_B11G, goal.weight)
        return {**found, "reward": earned, "value": value(z_BSHD[:, :, list(steps)])}

    of = model.value.cfg
    togo = ReturnToGo(of.discount, cfg.lam, of.fall_penalty, steps)
    objective = WeightedSum(((1.0, togo), (goal.effort * cfg.horizon, Effort())))
    return search_of(cfg, spec, step, readout, objective, Follow(step, policy, cfg.horizon))


def search_of(
    cfg: LearnedConfig,
    spec: RobotSpec,
    dynamics: Dynamics,
    readout: Callable[[Tensor], Readings],
    objective: Objective,
    proposal: Proposal,
) -> SearchPlanner:
    """Return the parts of a model, an objective and the search that is configured, put together."""
    return SearchPlanner(
        method=cfg.method,
        dynamics=dynamics,
        readout=readout,
        objective=objective,
        action=spec.action,
        dt_s=spec.dt_s,
        horizon=cfg.horizon,
        samples=cfg.samples,
        proposal=proposal,
    )


def planner_of(cfg: LearnedConfig, spec: RobotSpec, model: WorldModel, text: str) -> SearchPlanner:
    """Return the planner that searches with a model; its networks are copies, in bf16 if so configured.

    Goals are pursued with the goal model, if there is one; all else with the task's.
    Raises ValueError for a horizon that the proposal does not have, or a predictor that the checkpoint does not hold.
    """
    if (asked := goals_for(model, text)) is not None:
        return goal_planner(cfg, spec, *asked)
    if cfg.horizon > model.proposal.horizon:
        raise ValueError(f"horizon must be <= {model.proposal.horizon}, which the proposal has, got {cfg.horizon}")
    predictor = getattr(model, cfg.predictor)
    if predictor is None:
        raise ValueError(f"{cfg.checkpoint} holds no part {cfg.predictor!r}: choose predictor 'step'")
    proposal, predictor = copy.deepcopy(model.proposal), copy.deepcopy(predictor)
    if cfg.bf16:
        fast(proposal)
        fast(predictor)
    objective, readout = goal(cfg, spec, model, text)
    return search_of(cfg, spec, predictor, readout, objective, Shortened(proposal, cfg.horizon))


def load_calibration(folder: Path) -> Calibration:
    """Return what healthy episodes look like to this model. Raises ValueError, in one line, where it is missing or broken."""
    path = folder / "surprise.json"
    if not path.exists():
        raise ValueError(f"no {path}: calibrate with `surefoot calibrate`")
    try:
        return Calibration.from_dict(json.loads(path.read_text())["calibration"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a calibration: {error}") from None


def load_healthy(folder: Path) -> float | None:
    """Return the mean return of the episodes that surprise was calibrated on; None where it was not noted."""
    return json.loads((folder / "surprise.json").read_text()).get("about", {}).get("return_mean")


def load_replay(folder: Path) -> tuple[Tensor, Tensor]:
    """Return windows of the training data, states (N, H + 1, O) and actions (N, H, A), kept against forgetting."""
    tensors = read_tensors(folder / "replay.safetensors")
    if set(tensors) != {"states", "actions"}:
        raise ValueError(f"{folder / 'replay.safetensors'} must hold states and actions, got {sorted(tensors)}")
    return tensors["states"], tensors["actions"]


def build_learned(
    cfg: LearnedConfig,
    spec: RobotSpec,
    objective: str = "",
    adapt: bool = True,
    seed: int = 0,
) -> AdaptiveAgent:
    """Return the agent. Raises ValueError, in one line, for a missing or broken checkpoint or one of another robot."""
    if objective:
        parse_objective(objective, shown=spec.shown)  # refused before anything is loaded
    model = load_model(cfg.folder)
    robot = model.card["proposal"]["robot"]
    if robot != spec.name:
        raise ValueError(f"{cfg.checkpoint} was trained on {robot!r}, not on {spec.name!r}")
    return AdaptiveAgent(
        model,
        partial(planner_of, cfg, spec),
        judge_of(spec),
        load_calibration(cfg.folder),
        load_replay(cfg.folder),
        cfg.surprise,
        cfg.warm,
        cfg.adapt if adapt else replace(cfg.adapt, enabled=False),
        seed,
        objective,
        load_healthy(cfg.folder),
    )
