"""What would I do? A diffusion model of the next block of actions, rho(a_{t:t+H-1} | s_t) (Zhou et al. 2024).

It may also be told what to bring about: the mean that some columns of the state shall have in the near future. In training that is
what they did have (hindsight, Andrychowicz et al. 2017), each now and then left out.
"""

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
    """Action blocks in the units of the robot, drawn from what the training policies did.

    `goals` are the columns of the state that a goal is about; a goal (B, G) is in their units, NaN where nothing is asked.
    """

    def __init__(
        self,
        net: DenoiserConfig,
        diff: DiffusionConfig,
        horizon: int,
        state: Normaliser,
        action: Normaliser,
        goals: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.diff, self.horizon, self.goals = diff, horizon, list(goals)
        self.state, self.action = state, action
        self.net = Denoiser(net, horizon, len(action.mean), len(state.mean) + 2 * len(self.goals))

    @property
    def sizes(self) -> tuple[int, int]:
        """(state size, action size)."""
        return len(self.state.mean), len(self.action.mean)

    def context(self, state_BO: Tensor, goal_BG: Tensor | None) -> Tensor:
        """Return what the network is told: the state, and of each goal its value and whether there is one."""
        told_BO = self.state(state_BO)
        if not self.goals:
            return told_BO
        if goal_BG is None:
            goal_BG = torch.full_like(state_BO[:, self.goals], torch.nan)
        value_BG = (goal_BG - self.state.mean[self.goals]) / self.state.std[self.goals]
        return torch.cat([told_BO, value_BG.nan_to_num(0.0), goal_BG.isfinite().to(told_BO.dtype)], -1)

    def loss(
        self, state_BO: Tensor, actions_BHA: Tensor, generator: Generator, goal_BG: Tensor | None = None
    ) -> Tensor:
        """Return the denoising error per window, (B,)."""
        x0 = self.action(actions_BHA)
        steps_B = diffusion.draw_levels(len(x0), self.diff, generator)
        noisy, target = diffusion.training_pair(x0, steps_B, torch.randn(x0.shape, generator=generator), self.diff)
        level_B = (steps_B + 1) / diffusion.TRAIN_LEVELS
        return (self.net(noisy, self.context(state_BO, goal_BG), None, level_B).float() - target).square().mean((1, 2))

    @torch.inference_mode()
    def sample(
        self, belief: Belief, n: int, generators: Sequence[Generator], /, goal_BG: Tensor | None = None
    ) -> Tensor:
        """Return n candidate action blocks, (B, S=n, H, A); not clipped to the actuators' range."""
        b, (_, a) = len(belief.z_BD), self.sizes
        state_BO = self.context(belief.z_BD, goal_BG)
        state_NO = state_BO.repeat_interleave(n, dim=0)

        def denoise(x_BSHA: Tensor, level: Tensor) -> Tensor:
            if diffusion.is_pure_noise(level, self.diff):  # one answer per state, instead of one per candidate
                return self.net(x_BSHA[:, 0], state_BO, None, level)[:, None].expand(x_BSHA.shape)
            return self.net(x_BSHA.flatten(0, 1), state_NO, None, level).view(x_BSHA.shape)

        noise_BSHA = diffusion.noise((n, self.horizon, a), generators)
        return self.action.inverse(diffusion.sample(denoise, noise_BSHA, self.diff, generators)).view(b, n, -1, a)
