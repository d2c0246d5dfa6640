"""And the very next instant? A Gaussian with learned mean and scale, p(s_{t+1} | s_t, a_t, s_{t-1}, a_{t-1}).

On the next step it is several times as exact as the multi-step diffusion model (`error_at_1` of their cards); over many its errors
compound. So it says where the robot will be when the next plan takes effect, and how surprising what just happened was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from envs.shapes import check
from world_models.body import Body
from world_models.normaliser import Normaliser

if TYPE_CHECKING:
    from envs.types import Belief

LOG_SCALE = (-8.0, 3.0)
"""Bounds of the log of the predicted scale, in standard deviations of a one-step change."""
BETA = 0.5
"""Each row's Gaussian loss is weighted by scale^(2 BETA): else what is hard to predict is never learned (Seitzer et al. 2022)."""
FORGOTTEN = 0.05
"""Share of training rows whose past is hidden, as it is at the start of an episode."""
UNBOUNDED = 1e6
"""Range of the states before one is known; finite, as all that a checkpoint holds."""
OUTLIER = 6.0
"""Scales beyond which one column's error counts no more."""


@dataclass(frozen=True)
class StepConfig:
    """Size of the network."""

    width: int = 384
    layers: int = 3

    def __post_init__(self) -> None:
        if self.width < 1 or self.layers < 1:
            raise ValueError(f"width and layers must be >= 1, got {self.width} and {self.layers}")


class StepModel(nn.Module):
    """Gaussian one-step predictions; states in physical units outside, changes at unit scale inside. `body` comes before all."""

    low: Tensor
    high: Tensor

    def __init__(self, cfg: StepConfig, state: Normaliser, action: Normaliser, change: Normaliser) -> None:
        super().__init__()
        self.cfg, self.state, self.action, self.change = cfg, state, action, change
        o = len(state.mean)
        widths = [2 * (o + len(action.mean)) + 1, *[cfg.width] * cfg.layers]
        hidden = [m for i in range(cfg.layers) for m in (nn.Linear(widths[i], widths[i + 1]), nn.SiLU())]
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], 2 * o))
        self.body = Body(len(action.mean))
        self.register_buffer("low", torch.full((o,), -UNBOUNDED))  # range of the training states
        self.register_buffer("high", torch.full((o,), UNBOUNDED))

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; states stay float32."""
        return next(self.net.parameters()).dtype

    def predict(
        self, state_NO: Tensor, action_NA: Tensor, before_NO: Tensor, past_NA: Tensor, known_N1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log scale of the next change at unit scale, each (N, O), as `inputs` are told."""
        x = self.inputs(state_NO, action_NA, before_NO, past_NA, known_N1)
        mean_NO, log_NO = self.net(x.to(self.dtype)).float().chunk(2, -1)
        return mean_NO, log_NO.clamp(*LOG_SCALE)

    def inputs(
        self, state_NO: Tensor, action_NA: Tensor, before_NO: Tensor, past_NA: Tensor, known_N1: Tensor
    ) -> Tensor:
        """Return what the network is given, (N, inputs).

        `before_NO` and `past_NA` are the state and action one step ago; where `known_N1` is 0 they do not count.
        """
        past = torch.cat([self.change(state_NO - before_NO), self.action(self.body(past_NA))], -1) * known_N1
        return torch.cat([self.state(state_NO), self.action(self.body(action_NA)), past, known_N1], -1)

    def residuals(
        self, states_N3O: Tensor, actions_N2A: Tensor, known_N1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (observed - predicted) of the third state at unit scale, and the log scale that was predicted for it."""
        known = torch.ones_like(states_N3O[:, 0, :1]) if known_N1 is None else known_N1
        before, now, then = states_N3O.unbind(1)
        mean_NO, log_NO = self.predict(now, actions_N2A[:, 1], before, actions_N2A[:, 0], known)
        return (then - now - self.change.mean) / self.change.std - mean_NO, log_NO

    def loss(self, states_N3O: Tensor, actions_N2A: Tensor, generator: Generator) -> Tensor:
        """Return the weighted negative log-likelihood per window of two steps, (N,)."""
        known_N1 = (torch.rand(len(states_N3O), 1, generator=generator) >= FORGOTTEN).float()
        error_NO, log_NO = self.residuals(states_N3O, actions_N2A, known_N1)
        nll_NO = 0.5 * error_NO.square() * torch.exp(-2 * log_NO) + log_NO
        return (nll_NO * torch.exp(2 * BETA * log_NO).detach()).mean(1)

    @torch.inference_mode()
    def errors(self, states_N3O: Tensor, actions_N2A: Tensor) -> Tensor:
        """Return the mean squared error of the third state in predicted scales, (N,): about 1 if right, inf if not finite."""
        error_NO, log_NO = self.residuals(states_N3O, actions_N2A)
        found_N = (error_NO * torch.exp(-log_NO)).clamp(-OUTLIER, OUTLIER).square().mean(1)
        finite_N = states_N3O.isfinite().all((1, 2)) & actions_N2A.isfinite().all((1, 2))
        return torch.where(finite_N, found_N, torch.inf)

    @torch.inference_mode()
    def nll(self, states_N3O: Tensor, actions_N2A: Tensor) -> Tensor:
        """Return the negative log-likelihood of the third state, mean over columns, without its constant, (N,)."""
        error_NO, log_NO = self.residuals(states_N3O, actions_N2A)
        return (0.5 * (error_NO * torch.exp(-log_NO)).clamp(-OUTLIER, OUTLIER).square() + log_NO).mean(1)

    @torch.inference_mode()
    def crps(self, states_N3O: Tensor, actions_N2A: Tensor) -> Tensor:
        """Return the continuous ranked probability score, mean over columns at unit scale, (N,); lower is better.

        The energy score of one column, in closed form for a Gaussian (Gneiting & Raftery 2007, section 4.2).
        """
        error_NO, log_NO = self.residuals(states_N3O, actions_N2A)
        scale_NO = torch.exp(log_NO)
        z_NO = error_NO / scale_NO
        density_NO = torch.exp(-0.5 * z_NO.square()) / math.sqrt(2 * math.pi)
        return (scale_NO * (z_NO * torch.erf(z_NO / math.sqrt(2)) + 2 * density_NO - 1 / math.sqrt(math.pi))).mean(1)

    @torch.inference_mode()
    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the states that follow one another by the mean prediction, (B, S, H, O); draws nothing at random."""
        sizes = check("actions", actions_BSHA, "B S H A", A=len(self.action.mean))
        b, s, h, o = sizes["B"], sizes["S"], sizes["H"], len(self.state.mean)
        action_NHA = self.action(self.body(actions_BSHA.flatten(0, 1)))
        state_NO = belief.z_BD.repeat_interleave(s, 0)
        remembers = belief.z_BTD.shape[1] > 1
        change_NO, past_NA = torch.zeros_like(state_NO), torch.zeros_like(action_NHA[:, 0])
        if remembers:
            change_NO = self.change(belief.z_BTD[:, -1] - belief.z_BTD[:, -2]).repeat_interleave(s, 0)
            past_NA = self.action(self.body(belief.actions_BTA[:, -1])).repeat_interleave(s, 0)
        known_N1 = torch.full_like(state_NO[:, :1], float(remembers))
        found = []
        for action_NA in action_NHA.unbind(1):
            x = torch.cat([self.state(state_NO), action_NA, change_NO, past_NA, known_N1], -1)
            change_NO = self.net(x.to(self.dtype))[:, :o].float()  # at unit scale, as the next step wants it
            state_NO = (state_NO + self.change.inverse(change_NO)).clamp(self.low, self.high)
            past_NA, known_N1 = action_NA, torch.ones_like(known_N1)
            found.append(state_NO)
        return torch.stack(found, 1).view(b, s, h, -1)
