"""How far is it? The time that lies between two latents, learned from recorded episodes.

Squared distance between latents follows the distance in the world only nearby: it saturates, and may fall again far away. What a
search should make small is the number of blocks of actions from the one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class TemporalConfig:
    """Size of the network."""

    width: int = 256
    layers: int = 3


def mlp(before: int, width: int, layers: int, after: int) -> nn.Sequential:
    """Return `layers` hidden layers, each with a layer norm, and a linear one."""
    sizes = [before, *[width] * layers]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(width, after))


class TemporalDistance(nn.Module):
    """Blocks between two latents, the same in both directions."""

    def __init__(self, cfg: TemporalConfig, latent: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.net = mlp(2 * latent, cfg.width, cfg.layers, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the number of blocks, >= 0, between latents a and b (..., D) that may be broadcast, shape (...)."""
        a, b = torch.broadcast_tensors(a, b)
        both = torch.stack([torch.cat([a, b], -1), torch.cat([b, a], -1)])
        return F.softplus(self.net(both)[..., 0].float()).mean(0)

    def loss(self, here_BD: Tensor, goal_BD: Tensor, blocks_B: Tensor) -> Tensor:
        """Return the error per pair, (B,): squared below a block, linear above, where noise rules."""
        return F.smooth_l1_loss(self(here_BD, goal_BD), blocks_B, reduction="none")
