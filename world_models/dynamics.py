"""What would then happen? A multi-step diffusion model of the states after a block of actions, p_d(s_{t+1:t+H} | s_t, a_{t:t+H-1}).

The network predicts the change from s_t, divided by the standard deviation that such a change has at that lag: the first steps, which
change little, are learned as exactly as the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from envs.shapes import check
from world_models import diffusion
from world_models.denoiser import Denoiser, DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.normaliser import Normaliser

if TYPE_CHECKING:
    from envs.types import Belief


class DiffusionDynamics(nn.Module):
    """State blocks in physical units."""

    def __init__(
        self, net: DenoiserConfig, diff: DiffusionConfig, state: Normaliser, action: Normaliser, change: Normaliser
    ) -> None:
        super().__init__()
        self.diff, self.horizon = diff, len(change.mean)
        self.state, self.action, self.change = state, action, change  # change: per lag and column, (H, O)
        self.net = Denoiser(net, self.horizon, len(state.mean), len(state.mean), len(action.mean))

    def target(self, state_BO: Tensor, next_BHO: Tensor) -> Tensor:
        """Return the lag-normalised changes, (B, H, O)."""
        h = next_BHO.shape[1]
        return ((next_BHO - state_BO[:, None]) - self.change.mean[:h]) / self.change.std[:h]

    def loss(self, state_BO: Tensor, actions_BHA: Tensor, next_BHO: Tensor, generator: Generator) -> Tensor:
        """Return the denoising error per window, (B,)."""
        x0 = self.target(state_BO, next_BHO)
        steps_B = diffusion.draw_levels(len(x0), self.diff, generator)
        noisy, target = diffusion.training_pair(x0, steps_B, torch.randn(x0.shape, generator=generator), self.diff)
        level_B = (steps_B + 1) / diffusion.TRAIN_LEVELS
        out = self.net(noisy, self.state(state_BO), self.action(actions_BHA), level_B)
        return (out.float() - target).square().mean((1, 2))

    @torch.inference_mode()
    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the predicted states after each action, (B, S, H, O).

        H may be any multiple of the patch up to the trained horizon. Candidates of one environment share their noise
        (common random numbers): their ranking then reflects the actions and not the draw.
        """
        sizes = check("actions", actions_BSHA, "B S H A", A=len(self.action.mean))
        b, s, h, o = sizes["B"], sizes["S"], sizes["H"], len(self.state.mean)
        if h > self.horizon:
            raise ValueError(f"the dynamics was trained on {self.horizon} steps, got a block of {h}")
        noise_BSHO = diffusion.noise((1, h, o), generators).expand(b, s, h, o)
        return self.denoise_block(belief.z_BD, actions_BSHA, noise_BSHO, generators)

    @torch.inference_mode()
    def denoise_block(
        self, z_BD: Tensor, actions_BSHA: Tensor, noise_BSHO: Tensor, generators: Sequence[Generator] = ()
    ) -> Tensor:
        """Return the predicted states, (B, S, H, O), that the solver reaches from the given noise."""
        s, h = noise_BSHO.shape[1:3]
        state_NO = self.state(z_BD).repeat_interleave(s, dim=0)
        actions_NHA = self.action(actions_BSHA).flatten(0, 1)

        def denoise(x_BSHO: Tensor, level: Tensor) -> Tensor:
            return self.net(x_BSHO.flatten(0, 1), state_NO, actions_NHA, level).view(x_BSHO.shape)

        x_BSHO = diffusion.sample(denoise, noise_BSHO, self.diff, generators)
        return z_BD[:, None, None] + x_BSHO * self.change.std[:h] + self.change.mean[:h]
