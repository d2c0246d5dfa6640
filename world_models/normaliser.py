"""Statistics that take states and actions to unit scale and back, kept in the checkpoint beside the weights."""

from __future__ import annotations

from torch import Tensor, nn


class Normaliser(nn.Module):
    """(x - mean) / std per column, clipped to +-10 standard deviations; moves and saves with its model."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    @staticmethod
    def fit(x_NC: Tensor, floor: float = 1e-3) -> Normaliser:
        """Return the statistics of the rows of `x_NC`; a column that never moves gets std `floor`."""
        return Normaliser(x_NC.mean(0), x_NC.std(0).clamp_min(floor))

    def forward(self, x: Tensor) -> Tensor:
        """Return x at unit scale."""
        return ((x - self.mean) / self.std).clamp(-10.0, 10.0)

    def inverse(self, x: Tensor) -> Tensor:
        """Return x in its own units."""
        return x * self.std + self.mean
