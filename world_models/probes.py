"""What do latents know of the state? A linear probe reads it off them; how much of the variance it explains is the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from envs.robots import RobotSpec

STILL = 1e-3
"""Standard deviation of what does not move: there is nothing to be known of it."""


def ridge(x_ND: Tensor, y_NC: Tensor, other_ND: Tensor, penalty: float = 1.0) -> Tensor:
    """Return what a linear probe that was fitted on x and y says of others."""
    ones = torch.ones(len(x_ND), 1), torch.ones(len(other_ND), 1)
    x, other = torch.cat([x_ND, ones[0]], 1).double(), torch.cat([other_ND, ones[1]], 1).double()
    return (other @ torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ y_NC.double())).float()


def explained(guess_NC: Tensor, true_NC: Tensor) -> list[float]:
    """Return R2 per column."""
    missed = (guess_NC - true_NC).square().sum(0) / (true_NC - true_NC.mean(0)).square().sum(0)
    return (1 - missed).tolist()


def readable(spec: RobotSpec, state_NO: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Return what can be asked of states (N, O) of a world: where things are that can have a goal; names and (N, C).

    Angles are asked for by sine and cosine, and nothing that does not move is.
    """
    found: dict[str, Tensor] = {}
    columns = zip(spec.state_names, spec.state_units, state_NO.float().unbind(1), strict=True)
    for name, unit, column_N in columns:
        if f"goal_{name}" not in spec.columns:
            continue
        found |= {f"sin {name}": column_N.sin(), f"cos {name}": column_N.cos()} if unit == "rad" else {name: column_N}
    found = {name: column_N for name, column_N in found.items() if column_N.std() > STILL}
    return tuple(found), torch.stack(list(found.values()), 1) if found else state_NO.new_zeros(len(state_NO), 0)
