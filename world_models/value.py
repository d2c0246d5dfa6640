"""How good is it to be there? An ensemble of small networks for the discounted return-to-go of a state, used through a lower bound."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from world_models.normaliser import Normaliser


@dataclass(frozen=True)
class ValueConfig:
    """Size of the ensemble and how its members are combined."""

    members: int = 5
    width: int = 128
    layers: int = 2
    caution: float = 0.5
    """The bound is mean - caution * standard deviation over the members."""
    discount: float = 0.99
    fall_penalty: float = 100.0
    """Taken from the last reward of an episode that ends in a fall."""

    def __post_init__(self) -> None:
        if self.members < 2:
            raise ValueError(f"an ensemble needs at least 2 members, got {self.members}")


def unfinished(discount: float) -> int:
    """Return for how many steps before a time limit the return-to-go says little: the reward after the limit was never seen."""
    return round(2.5 / (1.0 - discount))


class ValueEnsemble(nn.Module):
    """V_k(s), k = 1 .. K, computed together by batched matrix products."""

    def __init__(self, cfg: ValueConfig, state: Normaliser, returns: Normaliser) -> None:
        super().__init__()
        self.cfg, self.state, self.returns = cfg, state, returns
        widths = [len(state.mean), *[cfg.width] * cfg.layers, 1]
        self.weights = nn.ParameterList(torch.randn(cfg.members, i, o) * (2.0 / i) ** 0.5 for i, o in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(cfg.members, 1, o) for o in widths[1:])

    def members(self, z_ND: Tensor) -> Tensor:
        """Return each member's estimate at unit scale, (K, N)."""
        x = self.state(z_ND).to(self.weights[0].dtype).expand(self.cfg.members, -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = F.silu(x) if layer < len(self.weights) - 1 else x
        return x[..., 0].float()

    def loss(self, z_ND: Tensor, return_N: Tensor, generator: Generator) -> Tensor:
        """Return the squared error per row, mean over members, (N,); each member sees its own half of the rows."""
        error_KN = self.members(z_ND) - self.returns(return_N[:, None])[:, 0]
        seen_KN = torch.rand(error_KN.shape, generator=generator) < 0.5
        return (error_KN.square() * seen_KN).mean(0) * 2.0

    @torch.inference_mode()
    def forward(self, z: Tensor) -> Tensor:
        """Return the lower bound of the discounted return-to-go of states z (..., D), shape (...)."""
        est_KN = self.members(z.reshape(-1, z.shape[-1]))
        bound_N = est_KN.mean(0) - self.cfg.caution * est_KN.std(0)
        return self.returns.inverse(bound_N[:, None])[:, 0].view(z.shape[:-1])
