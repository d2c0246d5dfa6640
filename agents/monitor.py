"""From what was sent and what was seen to prediction errors: the model in use predicts each short stretch again, from its own start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from world_models.dynamics import DiffusionDynamics

STRETCH = 4
"""Control steps per prediction: one token of the dynamics, which is causal."""
SAMPLES = 2
"""Predictions averaged; their noise is fixed, so that the error changes only when the world does."""


def fixed_noise(dynamics: DiffusionDynamics, steps: int, samples: int) -> Tensor:
    """Return the noise that every prediction error is computed with, (1, K, H, O)."""
    shape = (1, samples, steps, len(dynamics.state.mean))
    return torch.randn(shape, generator=Generator().manual_seed(20_24))


def prediction_error(dynamics: DiffusionDynamics, states_BTO: Tensor, actions_BHA: Tensor) -> Tensor:
    """Return the mean squared error over lags and columns in units of the healthy error at each, (B,); T = H + 1.

    About 1 on the data that the dynamics was measured on.
    """
    b, h = actions_BHA.shape[:2]
    noise = fixed_noise(dynamics, h, SAMPLES).expand(b, -1, -1, -1)
    predicted = dynamics.denoise_block(states_BTO[:, 0], actions_BHA[:, None].expand(-1, SAMPLES, -1, -1), noise).mean(1)
    return ((predicted - states_BTO[:, 1:]) / dynamics.residual[:h]).square().mean((1, 2))


@dataclass
class Stretches:
    """Collects the steps of an episode and gives each complete stretch once."""

    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)

    def add(self, before_O: np.ndarray, action_A: np.ndarray, after_O: np.ndarray) -> tuple[Tensor, Tensor] | None:
        """Return (states (1, 5, O), actions (1, 4, A)) when the step completes a stretch."""
        if not self.states:
            self.states.append(before_O)
        self.states.append(after_O)
        self.actions.append(action_A)
        if len(self.actions) < STRETCH:
            return None
        states, actions = (np.stack(rows).astype(np.float32)[None] for rows in (self.states, self.actions))
        self.clear()
        return torch.from_numpy(states), torch.from_numpy(actions)

    def clear(self) -> None:
        """Forget an unfinished stretch: at the start of an episode."""
        self.states, self.actions = [], []


def episode_errors(dynamics: DiffusionDynamics, state_TO: np.ndarray, action_TA: np.ndarray) -> np.ndarray:
    """Return the errors of an episode's complete stretches at once, as the monitor would see them one by one."""
    n = len(action_TA) // STRETCH
    if n == 0:
        return np.zeros(0)
    index = np.arange(n)[:, None] * STRETCH + np.arange(STRETCH + 1)
    states = torch.from_numpy(state_TO[index].astype(np.float32))
    actions = torch.from_numpy(action_TA[index[:, :-1]].astype(np.float32))
    return prediction_error(dynamics, states, actions).numpy()


def errors_of(dynamics: DiffusionDynamics, episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Return the errors of many episodes, each (states (T + 1, O), actions sent (T, A))."""
    return [episode_errors(dynamics, *episode) for episode in episodes]
