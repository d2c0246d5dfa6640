"""What a planner needs from a model and from a goal.

All arrays are torch tensors; device and dtype come from the inputs.
One generator per environment (`generators[b]` for row b), so that a plan is the same alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from envs.types import Belief

Readings = Mapping[str, "Tensor"]
"""Named physical quantities in SI units, each (B, S, H): speed, height, pitch, alive (1 or 0), value ..."""

Readout = Callable[["Tensor"], Readings]
"""z_BSHD -> Readings."""


class Proposal(Protocol):
    """What would I do?"""

    def sample(self, belief: Belief, n: int, generators: Sequence[Generator], /) -> Tensor:
        """Return n candidate action blocks, (B, S=n, H, A)."""
        ...


class Dynamics(Protocol):
    """What would then happen?"""

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the predicted latents after each action, (B, S, H, D); row h follows action h."""
        ...


class Objective(Protocol):
    """How good would that be?"""

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return one cost per candidate, (B, S). Lower is better."""
        ...
