"""Starts and goals from recorded episodes: an episode begins in a recorded state, and is to reach a later one of the same recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from envs.dataset import EpisodeData

if TYPE_CHECKING:
    from envs.robots import RobotSpec


def halves(spec: RobotSpec) -> int:
    """Return how many columns say where things are; as many more say where they should be. Raises ValueError for other robots."""
    if not spec.drawn:
        raise ValueError(
            f"{spec.name} takes no goals from recordings: it is not a world that can be put into any state"
        )
    return spec.state_size // 2


def read_pairs(folder: Path, spec: RobotSpec, offset: int) -> np.ndarray:
    """Return all pairs of places `offset` control steps apart, (N, 2, O / 2), of a LeRobotDataset.

    Raises ValueError, in one line, where the data set is another robot's, or no episode of it is that long.
    """
    if offset < 1:
        raise ValueError(f"offset must be >= 1, got {offset}")
    size, data = halves(spec), EpisodeData.load(folder)
    if data.layout.state_names[:size] != spec.state_names[:size]:
        raise ValueError(
            f"{folder} has states {', '.join(data.layout.state_names)}; {spec.name} needs {', '.join(spec.state_names[:size])}"
        )
    found = []
    for episode in range(data.episodes):
        place_TX = data.states_and_actions(episode)[0][:, :size]
        if len(place_TX) > offset:
            found.append(np.stack([place_TX[:-offset], place_TX[offset:]], 1))
    if not found:
        raise ValueError(f"no episode of {folder} has {offset + 1} states: ask for a smaller --offset")
    return np.concatenate(found).astype(float)


class GoalsFrom(gymnasium.Wrapper):
    """Draws start and goal of each episode from pairs, by its seed; pairs that are met at the start are left out."""

    def __init__(self, env: gymnasium.Env, pairs_N2X: np.ndarray) -> None:
        super().__init__(env)
        self._pairs_N2X = pairs_N2X

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin at one of the starts."""
        rng = np.random.default_rng(seed)
        for _ in range(1000):
            start_X, goal_X = self._pairs_N2X[rng.integers(len(self._pairs_N2X))]
            state_O, info = self.env.reset(seed=seed, options={**(options or {}), "start": start_X, "goal": goal_X})
            if not info["is_success"]:
                return state_O, info
        raise ValueError(
            "in all of 1000 pairs of start and goal the goal is met at the start: ask for a larger --offset"
        )
