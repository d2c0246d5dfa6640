"""Proposals of a policy: it is followed in the model from the state at hand, with smooth noise that makes the candidates differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from planners.sampling import smooth_noise

if TYPE_CHECKING:
    from envs.types import Belief
    from world_models.step import StepModel


@dataclass(frozen=True)
class Follow:
    """The first candidate is the policy's own; noise grows evenly up to `noise` (action units) in the last."""

    step: StepModel
    policy: Callable[[Tensor], Tensor]
    """States (B, S, O) -> actions (B, S, A)."""
    horizon: int
    noise: float = 0.35
    correlation: float = 0.7

    @torch.inference_mode()
    def sample(self, belief: Belief, n: int, generators: Sequence[Generator], /) -> Tensor:
        """Return n candidate action blocks, (B, S=n, H, A), within -1 .. 1."""
        b, a = len(belief.z_BD), belief.actions_BTA.shape[-1]
        noise_BSHA = smooth_noise(generators, n, belief.z_BD.new_zeros(b, self.horizon, a), self.correlation)
        noise_BSHA = noise_BSHA * torch.linspace(0, self.noise, n)[:, None, None]
        now = belief.z_BD.repeat_interleave(n, 0)
        before, past, known = now, now.new_zeros(b * n, a), now.new_zeros(b * n, 1)
        if belief.z_BTD.shape[1] > 1:
            before = belief.z_BTD[:, -2].repeat_interleave(n, 0)
            past, known = belief.actions_BTA[:, -1].repeat_interleave(n, 0), known + 1
        found = []
        for h in range(self.horizon):
            action = (self.policy(now.view(b, n, -1)) + noise_BSHA[:, :, h]).clamp(-1.0, 1.0).flatten(0, 1)
            mean, _ = self.step.predict(now, action, before, past, known)
            before, past, known = now, action, torch.ones_like(known)
            now = (now + self.step.change.inverse(mean)).clamp(self.step.low, self.step.high)
            found.append(action)
        return torch.stack(found, 1).view(b, n, self.horizon, a)
