"""From a latent to a picture, for people to look at; nothing is learned from it and nothing is planned with it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DecoderConfig:
    """Channels from the smallest map on; each stage doubles rows and columns."""

    stages: tuple[int, ...] = (96, 64, 32, 16)


class Decoder(nn.Module):
    """A linear layer to a small map, then convolutions on a map that grows."""

    def __init__(self, cfg: DecoderConfig, latent: int, image: int) -> None:
        """Raises ValueError for a side that the stages do not come to."""
        super().__init__()
        self.cfg, self.side = cfg, image // 2 ** len(cfg.stages)
        if self.side * 2 ** len(cfg.stages) != image:
            raise ValueError(f"image={image} must be a multiple of {2 ** len(cfg.stages)} pixels")
        self.first = nn.Linear(latent, cfg.stages[0] * self.side**2)
        pairs = pairwise((*cfg.stages, 3))
        self.stages = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for channels in cfg.stages)

    def forward(self, z_ND: Tensor) -> Tensor:
        """Return pictures (N, side, side, 3), about 0 .. 1."""
        x_NCHW = self.first(z_ND).view(len(z_ND), -1, self.side, self.side)
        for norm, stage in zip(self.norms, self.stages, strict=True):
            x_NCHW = stage(F.interpolate(F.silu(norm(x_NCHW)), scale_factor=2.0, mode="bilinear"))
        return x_NCHW.movedim(1, -1)

    def loss(self, z_ND: Tensor, frame_NHWC: Tensor) -> Tensor:
        """Return the squared error per picture, (N,)."""
        return (self(z_ND) - frame_NHWC.float() / 255).square().mean((1, 2, 3))

    @torch.inference_mode()
    def picture(self, z_ND: Tensor) -> Tensor:
        """Return pictures (N, side, side, 3) uint8."""
        return (255 * self(z_ND)).clamp(0, 255).round().to(torch.uint8)
