"""What would I do next, in one glance? A small network from state to action, distilled from what a planner (or a data set) did.

It is one-step behaviour cloning. The planner does not act by it: it is quick enough to be followed inside the one-step model, where it
says what a state is worth with a body as it is now (agents/imagination.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.normaliser import Normaliser


@dataclass(frozen=True)
class PolicyConfig:
    """Size of the network."""

    width: int = 256
    layers: int = 2

    def __post_init__(self) -> None:
        if self.width < 1 or self.layers < 1:
            raise ValueError(f"width and layers must be >= 1, got {self.width} and {self.layers}")


class Policy(nn.Module):
    """The mean action of a state, in the units of the robot; not clipped to the actuators' range."""

    def __init__(self, cfg: PolicyConfig, state: Normaliser, action: Normaliser) -> None:
        super().__init__()
        self.cfg, self.state, self.action = cfg, state, action
        widths = [len(state.mean), *[cfg.width] * cfg.layers]
        hidden = [m for i in range(cfg.layers) for m in (nn.Linear(widths[i], widths[i + 1]), nn.SiLU())]
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], len(action.mean)))

    def forward(self, z: Tensor) -> Tensor:
        """Return the actions, (..., A), of states z (..., O)."""
        return self.action.inverse(self.net(self.state(z)).float())

    def loss(self, z_NO: Tensor, action_NA: Tensor) -> Tensor:
        """Return the squared error at unit scale per row, (N,)."""
        return (self.net(self.state(z_NO)).float() - self.action(action_NA)).square().mean(1)


def distance(policy: Policy, z_NO: Tensor, action_NA: Tensor) -> float:
    """Return the mean squared error of its actions, in shares of their variance."""
    with torch.inference_mode():
        return float(policy.loss(z_NO, action_NA).mean())
