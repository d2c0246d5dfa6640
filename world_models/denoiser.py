"""One transformer that denoises a block of tokens, given a state and (for the dynamics) the actions.

Tokens are patches of several control steps. Noise level enters by adaptive layer norm (adaLN-zero, Peebles & Xie 2023). `fused`
adds the embeddings of state and condition to every token (short sequences, fast); otherwise they are tokens of their own, as in
the published D-MPC (Zhou et al. 2024, appendix E).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.shapes import check

SHORT = 16
"""Longest sequence that is attended to without the fused kernel."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Size and layout; `qkv` is the total width of queries (and of keys, and of values)."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    qkv: int = 128
    mlp: int = 512
    patch: int = 4
    """Control steps per token."""
    fused: bool = True
    causal: bool = False
    """Token j sees tokens up to j only: then a shorter horizon is a prefix of a longer one. Needs `fused`."""

    def __post_init__(self) -> None:
        if self.qkv % self.heads:
            raise ValueError(f"qkv={self.qkv} must be a multiple of heads={self.heads}")
        if self.causal and not self.fused:
            raise ValueError("causal=True needs fused=True: separate condition tokens come before the noisy ones")


class Block(nn.Module):
    """Attention and MLP, each behind a modulated layer norm and a gate that starts at zero."""

    def __init__(self, cfg: DenoiserConfig) -> None:
        super().__init__()
        self.heads, self.causal = cfg.heads, cfg.causal
        self.qkv = nn.Linear(cfg.width, 3 * cfg.qkv)
        self.out = nn.Linear(cfg.qkv, cfg.width)
        self.mlp = nn.Sequential(nn.Linear(cfg.width, cfg.mlp), nn.SiLU(), nn.Linear(cfg.mlp, cfg.width))
        self.modulate = nn.Linear(cfg.width, 6 * cfg.width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x_BTW: Tensor, level_BW: Tensor) -> Tensor:
        """Return (B, T, W); `level_BW` may have one row for all."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulate(level_BW)[:, None].chunk(6, dim=-1)
        size = (x_BTW.shape[-1],)
        x_BTW = x_BTW + gate_1 * self.attend(F.layer_norm(x_BTW, size) * (1 + scale_1) + shift_1)
        return x_BTW + gate_2 * self.mlp(F.layer_norm(x_BTW, size) * (1 + scale_2) + shift_2)

    def attend(self, x_BTW: Tensor) -> Tensor:
        """Multi-head self-attention, (B, T, W)."""
        b, t, _ = x_BTW.shape
        q, k, v = self.qkv(x_BTW).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = (attend_short if t <= SHORT else F.scaled_dot_product_attention)(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


def attend_short(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v: on a CPU, less than half the time of the fused kernel when sequences are short."""
    score = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if is_causal:
        t = q.shape[-2]
        score = score + torch.full((t, t), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    share = score.float()
    share = (
        share - share.amax(-1, keepdim=True)
    ).exp()  # a softmax over so few takes half the time of the library's, to the bit
    return (share / share.sum(-1, keepdim=True)).to(v.dtype) @ v


def fourier(level_B: Tensor, width: int) -> Tensor:
    """Return sinusoidal features of a noise level in [0, 1], (B, width)."""
    freq_F = torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2, device=level_B.device))
    phase_BF = level_B[:, None].float() * freq_F
    return torch.cat([phase_BF.sin(), phase_BF.cos()], dim=-1)


class Denoiser(nn.Module):
    """x, state, condition, noise level -> the clean x (or the noise), of the shape of x."""

    def __init__(self, cfg: DenoiserConfig, steps: int, channels: int, state_size: int, cond_channels: int = 0) -> None:
        super().__init__()
        if steps % cfg.patch:
            raise ValueError(f"horizon {steps} must be a multiple of patch={cfg.patch}")
        self.cfg, self.channels, self.cond_channels = cfg, channels, cond_channels
        tokens, p, w = steps // cfg.patch, cfg.patch, cfg.width
        self.embed_x = nn.Linear(p * channels, w)
        self.embed_state = nn.Linear(state_size, w)
        self.embed_cond = nn.Linear(p * cond_channels, w) if cond_channels else None
        sequence = tokens if cfg.fused else 1 + tokens * (2 if cond_channels else 1)
        self.position = nn.Parameter(0.02 * torch.randn(sequence, w))
        self.level = nn.Sequential(nn.Linear(w, w), nn.SiLU(), nn.Linear(w, w), nn.SiLU())
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.modulate = nn.Linear(w, 2 * w)
        self.read = nn.Linear(w, p * channels)
        for module in (self.modulate, self.read):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, x_BHC: Tensor, state_BO: Tensor, cond_BHA: Tensor | None, level_B: Tensor) -> Tensor:
        """Return (B, H, C). `level_B` in [0, 1] (1 is pure noise) may have one entry for all."""
        sizes = check("x", x_BHC, "B H C", C=self.channels)
        check("state", state_BO, "B O", B=sizes["B"])
        b, h = sizes["B"], sizes["H"]
        dtype = self.read.weight.dtype
        x_BTW = self.tokens(x_BHC.to(dtype), state_BO.to(dtype), None if cond_BHA is None else cond_BHA.to(dtype))
        level_BW = self.level(fourier(level_B, self.cfg.width).to(dtype))
        for block in self.blocks:
            x_BTW = block(x_BTW, level_BW)
        x_BTW = x_BTW[:, -(h // self.cfg.patch) :]
        shift, scale = self.modulate(level_BW)[:, None].chunk(2, dim=-1)
        y_BTW = F.layer_norm(x_BTW, x_BTW.shape[-1:]) * (1 + scale) + shift
        return self.read(y_BTW).reshape(b, h, self.channels)

    def tokens(self, x_BHC: Tensor, state_BO: Tensor, cond_BHA: Tensor | None) -> Tensor:
        """Return the embedded sequence, (B, T, W)."""
        b, h, _ = x_BHC.shape
        t = h // self.cfg.patch
        x_BTW = self.embed_x(x_BHC.reshape(b, t, -1))
        state_B1W = self.embed_state(state_BO)[:, None]
        cond = self.embed_cond(cond_BHA.reshape(b, t, -1)) if self.embed_cond and cond_BHA is not None else None
        if self.cfg.fused:
            x_BTW = x_BTW + state_B1W + self.position[:t]
            return x_BTW if cond is None else x_BTW + cond
        parts = [state_B1W, x_BTW] if cond is None else [state_B1W, cond, x_BTW]
        return torch.cat(parts, dim=1) + self.position


def flops(cfg: DenoiserConfig, steps: int, separate_cond: bool = False) -> float:
    """Return the multiply-adds x 2 of one pass for one candidate (matrix products only, embeddings left out)."""
    tokens = steps // cfg.patch
    sequence = tokens if cfg.fused else 1 + tokens * (2 if separate_cond else 1)
    weights = 4 * cfg.width * cfg.qkv + 2 * cfg.width * cfg.mlp
    return cfg.layers * (2.0 * sequence * weights + 4.0 * sequence**2 * cfg.qkv)
