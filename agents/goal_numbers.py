"""Goals as numbers: which readings are asked for, how a network is told, and what a step towards them earns.

A goal is a row of targets, one per reading of READINGS, in its unit; NaN where a reading is free.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from planners.base import Readings
from planners.objectives import Alive, Effort, HeightReward, Track, WeightedSum, parse_objective
from world_models.checkpoint import GoalModel, WorldModel
from world_models.step import StepModel

READINGS = ("speed", "height", "pitch")
"""m/s, m, rad."""
TOLERANCE = (0.3, 0.02, 0.05)
"""An error of this size costs 0.7 of PRICE."""
CENTRE, SPREAD = (1.2, 1.15, 0.0), (1.3, 0.13, 0.3)
"""Of the targets that are practised: a network sees (target - centre) / spread."""
PRICE = 1 / 6
ALIKE = torch.ones(len(READINGS))
"""Weights of readings that count alike."""
PREFERENCE = 0.2
"""Terms of smaller weight are preferences: they are no goal."""


@dataclass(frozen=True)
class Targets:
    """What is asked for: targets (B, G), the weights of the readings (G,), and the price of a step's squared action."""

    target: Tensor
    weight: Tensor
    effort: float = 0.0

    @classmethod
    def of(cls, objective: WeightedSum) -> Targets | None:
        """Return the targets of an objective, or None where it asks for anything but readings, effort and not to fall.

        The published height reward is taken for the height that it is highest at.
        """
        target: dict[int, float] = {}
        weight, effort = torch.zeros(len(READINGS)), 0.0
        for share, term in flat(objective):
            if isinstance(term, Effort):
                effort += share
            elif isinstance(term, Track | HeightReward):
                at = READINGS.index(term.reading if isinstance(term, Track) else "height")
                if share >= PREFERENCE:
                    if target.setdefault(at, term.target) != term.target:
                        return None  # two speeds at once: a compromise, not a goal
                    weight[at] += share
            elif not isinstance(term, Alive):
                return None
        if not target:
            return None
        asked = torch.tensor([[target.get(at, torch.nan) for at in range(len(READINGS))]])
        return cls(asked, weight, effort / float(weight.sum()))


def goals_for(model: WorldModel, objective: str) -> tuple[GoalModel, Targets] | None:
    """Return what plans for an objective and what it asks for, or None: then it is the task's own model that plans.

    What is known about the actuators is known to both.
    """
    goal = Targets.of(parse_objective(objective)) if objective and model.goals is not None else None
    if goal is None or model.goals is None:
        return None
    return replace(model.goals, step=with_body(model.goals.step, model.step)), trimmed(goal, model.goals)


def trimmed(goal: Targets, model: GoalModel) -> Targets:
    """Return the goal to pursue so that `goal` is reached."""
    speed = float(goal.target[0, 0])
    if model.speed is None or speed != speed:
        return goal
    target = goal.target.clone()
    target[0, 0] = model.speed.ask_for(speed)
    return replace(goal, target=target)


def step_for(model: WorldModel, objective: str) -> StepModel:
    """Return the one-step model that foresees the pursuit of an objective."""
    found = goals_for(model, objective)
    return model.step if found is None else found[0].step


def with_body(step: StepModel, other: StepModel) -> StepModel:
    """Return a copy of `step` with the body of `other`."""
    made = copy.deepcopy(step)
    made.body = copy.deepcopy(other.body)
    return made


def with_goal_step(model: WorldModel, step: StepModel) -> dict[str, StepModel | GoalModel]:
    """Return the fields of a model that change when the goals' one-step model does."""
    assert model.goals is not None
    return {"goals": replace(model.goals, step=step), "step": with_body(model.step, step)}


def flat(objective: WeightedSum) -> list[tuple[float, object]]:
    """Return the terms of a sum and of the sums in it, each with its whole weight."""
    found = []
    for weight, term in objective.terms:
        inner = flat(term) if isinstance(term, WeightedSum) else [(1.0, term)]
        found += [(weight * share, one) for share, one in inner]
    return found


def context(goal_NG: Tensor) -> Tensor:
    """Return what a network is told about goals, (N, 2 G): targets at unit scale, 0 where free, and which are not free."""
    asked = goal_NG.isfinite()
    centre, spread = goal_NG.new_tensor(CENTRE), goal_NG.new_tensor(SPREAD)
    return torch.cat([((goal_NG - centre) / spread).nan_to_num(0.0), asked.float()], -1)


def targets(context_NC: Tensor) -> Tensor:
    """Return the goals (N, G) that `context` told: its inverse."""
    scaled, asked = context_NC.chunk(2, -1)
    goal = scaled * scaled.new_tensor(SPREAD) + scaled.new_tensor(CENTRE)
    return goal.masked_fill(asked < 0.5, torch.nan)


def payoff(found: Readings, goal: Tensor, weight_G: Tensor) -> Tensor:
    """Return what a step earns, shape of the readings (...): 1 less the weighted mean price of the errors; `goal` (..., G).

    The price of an error of e tolerances is PRICE log(1 + e^2): near the target every bit counts, far from it there is still a way
    down, and to stand anywhere is worth more than to fall.
    """
    seen = torch.stack([found[name] for name in READINGS], -1)
    asked = goal.isfinite() * weight_G
    error = torch.where(goal.isfinite(), (seen - goal) / seen.new_tensor(TOLERANCE), 0.0)
    price = torch.log1p(error.square())
    return 1.0 - PRICE * (price * asked).sum(-1) / asked.sum(-1).clamp(min=1e-6)


class Told(nn.Module):
    """A network that sees states and contexts side by side, told one context per environment, (B, C)."""

    def __init__(self, net: nn.Module, context_BC: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("context_BC", context_BC)

    def forward(self, z: Tensor) -> Tensor:
        """Return what the network makes of states (B, ..., O)."""
        told = self.context_BC.view(len(self.context_BC), *[1] * (z.dim() - 2), -1)  # pyright: ignore
        return self.net(torch.cat([z, told.expand(*z.shape[:-1], -1)], -1))


ENDS = 0.35
"""Share of the speeds that are fast, backward or forward: they are the hardest to learn."""


def random_goals(count: int, generator: torch.Generator) -> Tensor:
    """Return goals that a walker can pursue, (N, G): a speed, a height, both, a pitch on the spot, or to stand."""
    kind = torch.multinomial(torch.tensor([0.55, 0.15, 0.15, 0.1, 0.05]), count, True, generator=generator)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    pick = [between(-1.3, 3.4), between(0.9, 1.35), between(-0.5, 1.0), between(-0.5, 0.5)]
    end = torch.where(torch.rand(count, generator=generator) < 0.6, between(-1.3, -0.6), between(2.5, 3.4))
    pick[0] = torch.where(torch.rand(count, generator=generator) < ENDS, end, pick[0])
    free = torch.full((count,), torch.nan)
    speed = torch.where(kind == 0, pick[0], torch.where(kind == 1, free, torch.where(kind == 2, pick[2], 0.0)))
    height = torch.where((kind == 1) | (kind == 2), pick[1], free)
    return torch.stack([speed, height, torch.where(kind == 3, pick[3], free)], -1)
