"""Denoising diffusion: noise levels and solver are diffusers' DDIM (Song et al. 2021); eta = 1 makes it DDPM (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

TRAIN_LEVELS = 1000


@dataclass(frozen=True)
class DiffusionConfig:
    """How a block is noised in training and denoised in use."""

    sample_steps: int = 2
    prediction: Literal["sample", "epsilon", "v_prediction"] = "sample"
    """What the network returns: the clean block, the noise, or the velocity of Salimans & Ho (2022)."""
    eta: float = 0.0
    """0: deterministic given the first noise (DDIM); 1: DDPM."""
    top_share: float = 0.25
    """Share of the training batch at the highest noise level: the first step of every few-step solve."""

    def __post_init__(self) -> None:
        if not 1 <= self.sample_steps <= TRAIN_LEVELS:
            raise ValueError(f"sample_steps must be in 1 .. {TRAIN_LEVELS}, got {self.sample_steps}")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must be in 0 .. 1, got {self.eta}")


@lru_cache(maxsize=32)
def scheduler(cfg: DiffusionConfig) -> DDIMScheduler:
    """Return diffusers' DDIM on the cosine schedule (Nichol & Dhariwal 2021), set to `cfg.sample_steps`.

    With a network that predicts the noise the highest level keeps a trace of signal, for there the clean block is undefined.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # slow to import, and changes the environment

    made = DDIMScheduler(
        num_train_timesteps=TRAIN_LEVELS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=cfg.prediction,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=cfg.prediction != "epsilon",
    )
    made.set_timesteps(cfg.sample_steps)
    return made


def noise(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Return standard normal noise (B, *shape), row b from `generators[b]`."""
    return torch.stack([torch.randn(*shape, generator=g, device=g.device) for g in generators])


def draw_levels(n: int, cfg: DiffusionConfig, generator: Generator) -> Tensor:
    """Return training time steps, (n,) int64 in 0 .. 999; `top_share` of them at the top."""
    steps_N = torch.randint(0, TRAIN_LEVELS, (n,), generator=generator)
    steps_N[: int(n * cfg.top_share)] = TRAIN_LEVELS - 1
    return steps_N


def training_pair(x0: Tensor, steps_B: Tensor, eps: Tensor, cfg: DiffusionConfig) -> tuple[Tensor, Tensor]:
    """Return the noised block and what the network should return for it, both of the shape of x0."""
    made = scheduler(cfg)
    noisy = made.add_noise(x0, eps, steps_B)  # pyright: ignore[reportArgumentType]
    if cfg.prediction == "sample":
        return noisy, x0
    if cfg.prediction == "epsilon":
        return noisy, eps
    return noisy, made.get_velocity(x0, eps, steps_B)  # pyright: ignore[reportArgumentType]


def is_pure_noise(level: Tensor, cfg: DiffusionConfig) -> bool:
    """Return whether a block at this level holds no trace of signal: then what the network returns depends on no draw."""
    return cfg.prediction == "sample" and float(level) == 1.0


Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x, level (1,) in [0, 1]) -> the network's prediction, of the shape of x."""


def sample(denoise: Denoise, x: Tensor, cfg: DiffusionConfig, generators: Sequence[Generator] = ()) -> Tensor:
    """Return the clean block that the solver reaches from the noise `x` (B, ...); `generators` are used when eta > 0."""
    made = scheduler(cfg)
    for step in made.timesteps:
        level = torch.full((1,), (int(step) + 1) / TRAIN_LEVELS, device=x.device)
        extra = noise(x.shape[1:], generators) if cfg.eta > 0 else None
        x = made.step(denoise(x, level).float(), int(step), x, eta=cfg.eta, variance_noise=extra).prev_sample  # pyright: ignore
    return x
