"""What would I do? A diffusion model of the next block of actions, rho(a_{t:t+H-1} | s_t) (Zhou et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from world_models import diffusion
from world_models.denoiser import Denoiser, DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.normaliser import Normaliser

if TYPE_CHECKING:
    from envs.types import Belief


class DiffusionProposal(nn.Module):
    """Action blocks in the units of the robot, drawn from what the training policies did."""

    def __init__(
        self, net: DenoiserConfig, diff: DiffusionConfig, horizon: int, state: Normaliser, action: Normaliser
    ) -> None:
        super().__init__()
        self.diff, self.horizon = diff, horizon
        self.state, self.action = state, action
        self.net = Denoiser(net, horizon, len(action.mean), len(state.mean))

    @property
    def sizes(self) -> tuple[int, int]:
        """(state size, action size)."""
        return len(self.state.mean), len(self.action.mean)

    def loss(self, state_BO: Tensor, actions_BHA: Tensor, generator: Generator) -> Tensor:
        """Return the denoising error per window, (B,)."""
        x0 = self.action(actions_BHA)
        steps_B = diffusion.draw_levels(len(x0), self.diff, generator)
        noisy, target = diffusion.training_pair(x0, steps_B, torch.randn(x0.shape, generator=generator), self.diff)
        level_B = (steps_B + 1) / diffusion.TRAIN_LEVELS
        return (self.net(noisy, self.state(state_BO), None, level_B).float() - target).square().mean((1, 2))

    @torch.inference_mode()
    def sample(self, belief: Belief, n: int, generators: Sequence[Generator], /) -> Tensor:
        """Return n candidate action blocks, (B, S=n, H, A); not clipped to the actuators' range."""
        b, (_, a) = len(belief.z_BD), self.sizes
        state_BO = self.state(belief.z_BD)
        state_NO = state_BO.repeat_interleave(n, dim=0)

        def denoise(x_BSHA: Tensor, level: Tensor) -> Tensor:
            if diffusion.is_pure_noise(level, self.diff):  # one answer per state, instead of one per candidate
                return self.net(x_BSHA[:, 0], state_BO, None, level)[:, None].expand(x_BSHA.shape)
            return self.net(x_BSHA.flatten(0, 1), state_NO, None, level).view(x_BSHA.shape)

        noise_BSHA = diffusion.noise((n, self.horizon, a), generators)
        return self.action.inverse(diffusion.sample(denoise, noise_BSHA, self.diff, generators)).view(b, n, -1, a)
