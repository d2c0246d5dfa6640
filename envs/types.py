"""What the world gives and takes. Axes: B environments, T history, S samples, H horizon, A action, O observation, D latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from envs.shapes import check

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Observation:
    """One reading of all sensors at time `t_s` [s]; `state_O` in the units of the robot's spec."""

    t_s: float
    state_O: np.ndarray
    image: np.ndarray | None = None  # (height, width, 3) uint8
    image_t_s: float | None = None  # when it was taken, where the camera says


POSITIONS = ("rad", "m")
"""Units of actuators that are told where to be; all others are told how hard to push."""


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """Legal actions: bounds, units and names, one entry per actuator."""

    low_A: np.ndarray
    high_A: np.ndarray
    unit_A: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        size = check("low_A", self.low_A, "A")["A"]
        check("high_A", self.high_A, "A", A=size)
        if not (len(self.unit_A) == len(self.names) == size):
            raise ValueError(f"{size} actuators need as many units and names, got {self.unit_A} and {self.names}")
        if not (self.low_A < self.high_A).all():
            raise ValueError(f"low_A must be below high_A, got {self.low_A} and {self.high_A}")

    @property
    def size(self) -> int:
        """Number of actuators."""
        return len(self.names)

    @property
    def positions(self) -> bool:
        """Whether an action says where to be; then the last one again means to hold still."""
        return all(unit in POSITIONS for unit in self.unit_A)


@dataclass(frozen=True, slots=True)
class Belief:
    """Recent latents and the actions between them; T = 1 for plain states, whose latent is the state itself."""

    z_BTD: Tensor
    actions_BTA: Tensor  # (B, T - 1, A): the action that led from each latent to the next

    def __post_init__(self) -> None:
        sizes = check("z_BTD", self.z_BTD, "B T D")
        if tuple(self.actions_BTA.shape[:2]) != (sizes["B"], sizes["T"] - 1):
            raise ValueError(
                f"{sizes['T']} latents need {sizes['T'] - 1} actions between, got {tuple(self.actions_BTA.shape)}"
            )

    @property
    def z_BD(self) -> Tensor:
        """The latest latent, (B, D)."""
        return self.z_BTD[:, -1]
