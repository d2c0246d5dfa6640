"""What leads there? The block of actions between a latent and a later one, learned from recorded episodes.

Alone it is a policy that needs no search (goal-conditioned inverse dynamics); with the predictor it proposes whole plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.normaliser import Normaliser
from world_models.temporal import mlp


@dataclass(frozen=True)
class InverseConfig:
    """Size of the network."""

    width: int = 384
    layers: int = 3


class InverseDynamics(nn.Module):
    """The mean of the blocks of actions (block * A) that lead from one latent to another, and their spread around it."""

    def __init__(self, cfg: InverseConfig, latent: int, action: Normaliser, block: int) -> None:
        """`action`: statistics of the data per control step."""
        super().__init__()
        self.cfg, self.action, self.block = cfg, action, block
        self.net = mlp(2 * latent, cfg.width, cfg.layers, block * len(action.mean))
        self.register_buffer("std", torch.ones(block * len(action.mean)))

    def unit(self, here: Tensor, goal: Tensor) -> Tensor:
        """Return the mean block, in standard deviations of the data, (..., block * A)."""
        return self.net(torch.cat(torch.broadcast_tensors(here, goal), -1))

    def forward(self, here: Tensor, goal: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        """Return a block (..., block * A) in the robot's units, `noise` standard deviations from the mean."""
        unit = self.unit(here, goal) + noise * self.std  # pyright: ignore
        steps = unit.view(*unit.shape[:-1], self.block, -1)
        return self.action.inverse(steps).view(unit.shape)

    def loss(self, here_BD: Tensor, goal_BD: Tensor, block_BX: Tensor) -> Tensor:
        """Return the squared error per pair, in shares of the variance of the data, (B,)."""
        return self.error(here_BD, goal_BD, block_BX).square().mean(-1)

    def error(self, here_BD: Tensor, goal_BD: Tensor, block_BX: Tensor) -> Tensor:
        """Return what is missing, (B, block * A)."""
        steps = block_BX.view(len(block_BX), self.block, -1)
        return self.unit(here_BD, goal_BD) - self.action(steps).flatten(1)
