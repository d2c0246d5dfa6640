"""SIGReg: latents are pushed towards an isotropic Gaussian, direction by direction (Balestriero & LeCun 2025; Maes et al. 2026).

By Cramer and Wold a distribution is Gaussian if all its projections on a line are. Along each random unit direction the
Epps-Pulley statistic compares the empirical characteristic function with that of a unit Gaussian:

    B * integral over t in [-3, 3] of exp(-t^2 / 2) |mean_b exp(i t h_b) - exp(-t^2 / 2)|^2,  h_b = z_b . direction

by the trapezoid rule on 17 knots of [0, 3], doubled as the integrand is even. For Gaussian latents its mean tends to 1.0525 for
any B; for latents that have all collapsed to 0 it is 0.402 B.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributed import get_world_size, is_initialized
from torch.distributed.nn.functional import all_reduce

KNOTS, REACH = 17, 3.0


def directions(size: int, count: int, generator: Generator, like: Tensor) -> Tensor:
    """Return random unit columns, (D=size, M=count); processes that train together must draw the same ones."""
    drawn_DM = torch.randn(size, count, generator=generator, device=generator.device)
    return (drawn_DM / drawn_DM.norm(dim=0)).to(like)


def sigreg(z_TBD: Tensor, directions_DM: Tensor) -> Tensor:
    """Return the mean statistic over time steps and directions, a scalar >= 0; B >= 1 latents per time step.

    Under data parallelism the batch is that of all processes together.
    """
    h_TBM = z_TBD @ directions_DM
    batch = h_TBM.shape[1]
    t_K = torch.linspace(0.0, REACH, KNOTS, device=h_TBM.device, dtype=h_TBM.dtype)
    gaussian_K = (-0.5 * t_K.square()).exp()
    weight_K = torch.full_like(t_K, 2 * REACH / (KNOTS - 1)) * gaussian_K
    weight_K[[0, -1]] /= 2
    phase_KTBM = t_K[:, None, None, None] * h_TBM
    parts_2KTM = torch.stack([phase_KTBM.cos().mean(2), phase_KTBM.sin().mean(2)])
    if is_initialized():
        batch *= get_world_size()
        parts_2KTM = all_reduce(parts_2KTM) / get_world_size()
    real_KTM, imaginary_KTM = parts_2KTM
    away_KTM = (real_KTM - gaussian_K[:, None, None]).square() + imaginary_KTM.square()
    return batch * (weight_K[:, None, None] * away_KTM).sum(0).mean()
