"""What do the actuators make of a command? A map of four numbers per actuator, in front of a model of all the rest.

Most of what breaks in a robot's drive is such a map: a weak motor (gain), a bent horn (offset), a jammed or limited joint (low, high).
It is found in seconds of motion, leaves what the model knows of the world untouched, and says in plain words what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

UNLIMITED = 1e6
"""Range of an actuator that nothing limits; finite, as all that a checkpoint holds."""
NOTABLE = 0.1
"""A gain, offset or limit this far (in shares of the range) from where it should be is worth a word."""


class Body(nn.Module):
    """clamp(gain * command + offset, low, high) per actuator, in the units of the commands. A new one changes nothing."""

    numbers: Tensor  # (4, A): gain, offset, low, high

    def __init__(self, actuators: int) -> None:
        super().__init__()
        whole = torch.tensor([1.0, 0.0, -UNLIMITED, UNLIMITED])
        self.register_buffer("numbers", whole[:, None].repeat(1, actuators), persistent=False)

    def forward(self, command: Tensor) -> Tensor:
        """Return what the actuators do at commands (..., A)."""
        gain, offset, low, high = self.numbers.unbind(0)
        return torch.maximum(torch.minimum(gain * command + offset, high), low)

    def explain(self, names: Sequence[str], low_A: Sequence[float], high_A: Sequence[float]) -> str:
        """Return in words what is wrong with which actuator, whose sound range is given; "" if nothing is."""
        found = []
        for name, (gain, offset, low, high), least, most in zip(
            names, self.numbers.T.tolist(), low_A, high_A, strict=True
        ):
            notable = NOTABLE * (most - least) / 2
            if abs(gain - 1) > NOTABLE:
                found.append(f"{name} moves {gain:.0%} of what it is told")
            if abs(offset) > notable:
                found.append(f"{name} is off by {offset:+.2f}")
            least, most = sorted((gain * least + offset, gain * most + offset))  # where it would get without limits
            if low > least + notable or high < most - notable:
                found.append(f"{name} stays within {max(low, least):.2f} .. {min(high, most):.2f}")
        return ", ".join(found)
