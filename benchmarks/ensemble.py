"""Planning with an ensemble of one-step models and a cloned policy, as MBOP (Argenson & Dulac-Arnold 2021), for comparison.

The policy is followed in one member with noise, every candidate is then predicted by each member, and what they say is averaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from agents.follow import Follow
from agents.learned import LearnedConfig, goal, search_of
from planners.mppi import Mppi
from world_models.checkpoint import fast, load_weights, save_tensors
from world_models.fit import ModelConfig, step_task
from world_models.training import Run, train

if TYPE_CHECKING:
    from envs.robots import RobotSpec
    from envs.types import Belief
    from planners.base import Readings
    from planners.search import SearchPlanner
    from world_models.checkpoint import WorldModel
    from world_models.step import StepModel

MEMBERS = 3


def trained(cfg: ModelConfig, data: Path, work: Path, first: StepModel) -> list[StepModel]:
    """Return `first` and as many more of other random numbers; they are trained once, and kept in `work`."""
    found, mark = [first], zlib.crc32((work / "step.safetensors").read_bytes())
    for seed in range(1, MEMBERS):
        path, training = work / f"step-{seed}-{mark:08x}.safetensors", replace(cfg.step.train, seed=seed)
        torch.manual_seed(seed)
        task = step_task(replace(cfg, step=replace(cfg.step, train=training)), data)
        if not path.exists():
            run = Run(task.model, training, work / f"step-{seed}-{mark:08x}")
            for _ in train(run, task.train_loss, task.heldout_loss):
                pass
            save_tensors(path, run.use_ema().state_dict())
        load_weights(task.model, path)
        found.append(task.model.eval().requires_grad_(False))  # pyright: ignore
    return found


class Ensemble:
    """Predicts by all members, their states side by side in the last axis."""

    def __init__(self, members: Sequence[StepModel]) -> None:
        self._members = members

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the states that follow, (B, S, H, K O)."""
        return torch.cat([one.rollout(belief, actions_BSHA, generators) for one in self._members], -1)


def ensemble_planner(
    cfg: LearnedConfig, spec: RobotSpec, model: WorldModel, members: Sequence[StepModel]
) -> SearchPlanner:
    """Return the planner that averages over the members."""
    objective, of_one = goal(cfg, spec, model, "")
    k = len(members)

    def readout(z_BSHD: Tensor) -> Readings:
        return of_one(torch.cat(z_BSHD.split(spec.state_size, -1), 1))  # member after member, along the candidates

    def mean_cost(found: Readings, actions_BSHA: Tensor) -> Tensor:
        return objective(found, actions_BSHA.repeat(1, k, 1, 1)).unflatten(1, (k, -1)).mean(1)

    quick = [fast(one) if cfg.bf16 else one for one in members]
    proposal = Follow(quick[0], model.policy, cfg.horizon)  # pyright: ignore
    return search_of(replace(cfg, method=Mppi()), spec, Ensemble(quick), readout, mean_cost, proposal)  # pyright: ignore
