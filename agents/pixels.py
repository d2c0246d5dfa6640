"""Plan from pictures alone: a point mass is found in each picture, a Kalman filter says how fast it goes; the state is never read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agents.mpc import MpcAgent
from agents.types import AgentEvent
from envs.linear import A_DD, B_DA, COLUMNS, EDGE_M
from envs.types import Belief, Observation

START_DD = np.diag([4.0, 1.0])
"""Covariance of position [m] and speed [m/s] before the first picture."""
NOISE_DD = np.diag([1e-6, 1e-4])
"""What a step adds: a force may be other than the one that was sent."""
SEEN_VAR = 1e-6
"""Variance of a position that is read off a picture [m^2]."""


def locate(image: np.ndarray) -> float | None:
    """Return the position [m] of the bright mass in a picture (H, 128, 3): its centroid; None where it is out of sight.

    Raises ValueError for pictures of another size.
    """
    if image.ndim != 3 or image.shape[1] != COLUMNS:
        raise ValueError(f"pictures must be (height, {COLUMNS}, 3), got {image.shape}")
    bright = image.astype(float).sum((0, 2))
    if not bright.any():
        return None
    column = float(bright @ np.arange(COLUMNS)) / float(bright.sum())
    return (2 * column / (COLUMNS - 1) - 1) * EDGE_M


class PixelAgent(MpcAgent):
    """The point mass's planner on an estimate: the Kalman filter (Kalman 1960) of what pictures show."""

    _at: Observation | None = None
    _x_D, _P_DD = np.zeros(2), START_DD

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Know nothing of where the mass is."""
        super().begin_episode(episode, seed)
        self._at, self._x_D, self._P_DD = None, np.zeros(2), START_DD

    def belief(self, observation: Observation) -> Belief:
        """Return what is known once `observation` is taken in (B = 1). Raises ValueError for one without a picture."""
        self._see(observation)
        return Belief(torch.as_tensor(self._x_D, dtype=torch.float32).view(1, 1, -1), torch.zeros(1, 0, 1))

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Predict where the action led, and correct that by what is seen."""
        self._see(before)
        self._x_D = A_DD @ self._x_D + B_DA @ action_A
        self._P_DD = A_DD @ self._P_DD @ A_DD.T + NOISE_DD
        self._see(after)
        return super().observe(before, action_A, after, reward)

    def _see(self, seen: Observation) -> None:
        if seen is self._at:
            return
        if seen.image is None:
            raise ValueError(f"this agent plans from pictures, and the observation at {seen.t_s:.3f} s has none")
        self._at, position_m = seen, locate(seen.image)
        if position_m is None:
            return  # what was predicted is all that is known
        gain_D = self._P_DD[:, 0] / (self._P_DD[0, 0] + SEEN_VAR)
        self._x_D = self._x_D + gain_D * (position_m - self._x_D[0])
        self._P_DD = self._P_DD - np.outer(gain_D, self._P_DD[0])
