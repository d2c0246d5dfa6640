"""Starts and goals from recorded episodes: an episode begins in a recorded state, and is to reach a later one of the same recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np

from envs.dataset import EpisodeData
from envs.robots import ROBOTS
from envs.video import camera_of, cameras, episode_frames

if TYPE_CHECKING:
    from envs.robots import RobotSpec


def halves(spec: RobotSpec) -> int:
    """Return how many columns say where things are; as many more say where they should be. Raises ValueError for other robots."""
    if not spec.drawn:
        raise ValueError(
            f"{spec.name} takes no goals from recordings: it is not a world that can be put into any state"
        )
    return spec.state_size // 2


class Pairs(Protocol):
    """Starts and goals, to be asked for by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Return a start and a goal, (2, O / 2)."""
        ...


def read_pairs(folder: Path, spec: RobotSpec, offset: int) -> Pairs:
    """Return all pairs of places `offset` control steps apart of a LeRobotDataset, as its states say, or, for Push-T, its pictures.

    Raises ValueError, in one line, where the data set is another robot's, or no episode of it is that long.
    """
    if offset < 1:
        raise ValueError(f"offset must be >= 1, got {offset}")
    size, data = halves(spec), EpisodeData.load(folder)
    if data.layout.state_names[:size] != spec.state_names[:size]:
        if spec.name == "pusht" and data.layout.robot not in ROBOTS and cameras(folder):
            return PicturedPairs(folder, offset)
        raise ValueError(
            f"{folder} has states {', '.join(data.layout.state_names)}; {spec.name} needs {', '.join(spec.state_names[:size])}"
        )
    found = []
    for episode in range(data.episodes):
        place_TX = data.states_and_actions(episode)[0][:, :size]
        if len(place_TX) > offset:
            found.append(np.stack([place_TX[:-offset], place_TX[offset:]], 1))
    if not found:
        raise ValueError(TOO_SHORT.format(folder=folder, states=offset + 1))
    return np.concatenate(found).astype(float)


TOO_SHORT = "no episode of {folder} has {states} states: ask for a smaller --offset"


class PicturedPairs:
    """Poses in pictures of Push-T, read off when they are asked for."""

    def __init__(self, folder: Path, offset: int) -> None:
        self._frames_E = [frames for frames in episode_frames(folder, camera_of(folder)) if len(frames) > offset]
        self._offset = offset
        if not self._frames_E:
            raise ValueError(TOO_SHORT.format(folder=folder, states=offset + 1))
        self._first_E = np.cumsum([0, *(len(frames) - offset for frames in self._frames_E)])

    def __len__(self) -> int:
        return int(self._first_E[-1])

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Return a start and a goal, (2, 5)."""
        from envs.pusht_pose import pose_of

        episode = int(np.searchsorted(self._first_E, index, side="right")) - 1
        first = index - int(self._first_E[episode])
        return np.stack([pose_of(self._frames_E[episode][step]) for step in (first, first + self._offset)])


class GoalsFrom(gymnasium.Wrapper):
    """Draws start and goal of each episode from pairs, by its seed; pairs that are met at the start are left out.

    A reset's info has the number of the `pair`.
    """

    def __init__(self, env: gymnasium.Env, pairs: Pairs) -> None:
        super().__init__(env)
        self._pairs = pairs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin at one of the starts."""
        rng = np.random.default_rng(seed)
        for _ in range(1000):
            pair = int(rng.integers(len(self._pairs)))
            start_X, goal_X = self._pairs[pair]
            state_O, info = self.env.reset(seed=seed, options={**(options or {}), "start": start_X, "goal": goal_X})
            if not info["is_success"]:
                return state_O, {**info, "pair": pair}
        raise ValueError(
            "in all of 1000 pairs of start and goal the goal is met at the start: ask for a larger --offset"
        )
