"""Recorded episodes with their pictures, as a model that learns from pixels wants them: plain bytes, read in place."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.dataset import EpisodeData, split_episodes
from envs.robots import ROBOTS, painter
from envs.shapes import check
from envs.video import camera_of, episode_frames, resized

CACHE = ".frames"
"""Folder beside the data sets in which their pictures are kept."""


@dataclass(frozen=True, slots=True)
class FrameData:
    """All pictures of all episodes, one after another, and what was seen and done there.

    Frame i of an episode is followed by action i; the action after an episode's last frame is zero and never used.
    """

    frame_NHWC: np.ndarray  # uint8, square; perhaps in a file
    state_NO: np.ndarray
    action_NA: np.ndarray
    first_E: np.ndarray  # (episodes + 1,) int64: episode e is frames first_E[e] to first_E[e + 1]

    def __post_init__(self) -> None:
        sizes = check("frame_NHWC", self.frame_NHWC, "N S S C", C=3)
        check("state_NO", self.state_NO, "N O", N=sizes["N"])
        check("action_NA", self.action_NA, "N A", N=sizes["N"])
        if self.first_E[-1] != sizes["N"]:
            raise ValueError(f"first_E must end with {sizes['N']}, got {self.first_E[-1]}")

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.first_E) - 1

    def split(self, held_out: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the episodes to learn from and of those held out: whole episodes, at least one each."""
        return split_episodes(self.episodes, held_out, seed)

    def windows(self, steps: int, episodes: np.ndarray | None = None) -> np.ndarray:
        """Return all frames from which `steps` steps on there is still one of the same episode; may be empty."""
        chosen = range(self.episodes) if episodes is None else episodes
        spans = [np.arange(self.first_E[e], max(self.first_E[e], self.first_E[e + 1] - steps)) for e in chosen]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def starts(self, steps: int, episodes: np.ndarray) -> np.ndarray:
        """Return `windows`. Raises ValueError, in one line, where there is none."""
        found = self.windows(steps, episodes)
        if not len(found):
            raise ValueError(f"no episode of {steps} steps among {len(episodes)}: collect longer ones")
        return found

    def gather(self, starts: np.ndarray, frames: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pictures (B, T, S, S, 3) `block` steps apart, and all actions of the T - 1 blocks between, (B, T - 1, block * A)."""
        rows_BT = starts[:, None] + block * np.arange(frames)
        steps_BK = starts[:, None] + np.arange(block * (frames - 1))
        actions = self.action_NA[steps_BK].reshape(len(starts), frames - 1, -1)
        return self.frame_NHWC[rows_BT], actions


def load_frames(
    folders: Sequence[Path], side: int, cache: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> FrameData:
    """Return the episodes of data sets, their pictures `side` pixels wide, kept in a file in `cache` from the first time on.

    A world of ours draws the pictures of recorded states again, exactly; of any other data set the first camera's video
    is read. `report` hears of episodes done. Raises ValueError, in one line, for a data set with neither.
    """
    parts = [EpisodeData.load(folder) for folder in folders]
    data = EpisodeData.concatenate(parts)
    drawn = _draws(data)
    if not drawn and len({part.layout.ends_filmed for part in parts}) > 1:
        raise ValueError(
            f"some of {', '.join(map(str, folders))} show where episodes end, and others do not: learn from one kind"
        )
    ends = drawn or data.layout.ends_filmed
    lengths = np.diff(data.episode_start) + ends
    first_E = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shape = (int(first_E[-1]), side, side, 3)
    stamp = zlib.crc32(data.state_NO.tobytes() + data.action_NA.tobytes() + repr((shape, drawn)).encode())
    path = cache / f"{'-'.join(f.name for f in folders)}-{side}px-{stamp:08x}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        frames = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        for episode, pictures in enumerate(_drawn(data) if drawn else _filmed(folders)):
            rows = slice(first_E[episode], first_E[episode + 1])
            frames[rows] = [resized(picture, side) for picture in pictures]
            report(episode + 1, data.episodes)
        frames.flush()
        part.rename(path)
    states, actions = [], []
    for episode in range(data.episodes):
        state_TO, action_TA = data.states_and_actions(episode)
        rest_TA = np.zeros((int(ends), action_TA.shape[1]), np.float32)
        states.append(state_TO if ends else state_TO[:-1])
        actions.append(np.concatenate([action_TA, rest_TA]))
    return FrameData(np.load(path, mmap_mode="r"), np.concatenate(states), np.concatenate(actions), first_E)


def _draws(data: EpisodeData) -> bool:
    """Return whether the robot of the data is a world of ours that can draw its states, all of which were recorded."""
    spec = ROBOTS.get(data.layout.robot)
    return spec is not None and spec.drawn and data.layout.state_names == spec.state_names


def _drawn(data: EpisodeData) -> Iterator[Iterator[np.ndarray]]:
    picture = painter(data.layout.robot)
    for episode in range(data.episodes):
        yield (picture(state_O) for state_O in data.states_and_actions(episode)[0])


def _filmed(folders: Sequence[Path]) -> Iterator[np.ndarray]:
    for folder in folders:
        yield from episode_frames(folder, camera_of(folder))
