"""Data sets on disk: written as LeRobotDataset v3 by lerobot's own writer, read back with pyarrow alone.

Frame t of an episode holds s_t, a_t, r_t, the termination flags after a_t, and s_{t+1} as `next.state`, so that the
state after the last action is kept too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.episodes import Episode
from envs.shapes import check
from envs.tasks import tasks

if TYPE_CHECKING:
    import pyarrow

    from envs.robots import RobotSpec

CARD_FILE = Path("meta/surefoot.json")
_STD_FLOOR = 1e-6  # a reading that never changed is left unscaled


@dataclass(frozen=True, slots=True)
class Layout:
    """What the numbers of a data set mean: the robot, its rate, and name and unit of each state and action."""

    robot: str
    fps: int
    state_names: tuple[str, ...]
    state_units: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.state_names) != len(self.state_units) or len(self.action_names) != len(self.action_units):
            raise ValueError(f"each state and action needs one name and one unit, got {self}")

    @classmethod
    def of(cls, spec: RobotSpec) -> Layout:
        """Return the layout of a robot's data. Raises ValueError where its rate is not a whole number of Hz."""
        fps = round(1.0 / spec.dt_s)
        if abs(fps * spec.dt_s - 1.0) > 1e-9:
            raise ValueError(f"a data set needs a whole number of frames per second, got dt_s={spec.dt_s}")
        return cls(
            spec.name,
            fps,
            tuple(spec.state_names),
            tuple(spec.state_units),
            tuple(spec.action.names),
            tuple(spec.action.unit_A),
        )

    def features(self) -> dict[str, dict[str, Any]]:
        """Return lerobot's description of the columns."""
        state = {"dtype": "float32", "shape": (len(self.state_names),)}
        state |= {"names": list(self.state_names), "units": list(self.state_units)}
        action = {"dtype": "float32", "shape": (len(self.action_names),)}
        action |= {"names": list(self.action_names), "units": list(self.action_units)}
        scalar = {"shape": (1,), "names": None}
        return {
            "observation.state": state,
            "next.state": state,
            "action": action,
            "action_requested": action,
            "action_applied": action,
            "next.reward": {"dtype": "float32", **scalar},
            "next.terminated": {"dtype": "bool", **scalar},
            "next.truncated": {"dtype": "bool", **scalar},
        }


def write_dataset(
    episodes: Iterable[Episode],
    layout: Layout,
    folder: Path,
    card: Mapping[str, Any],
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the episodes as a LeRobotDataset v3 in `folder`; `report` hears the number of episodes written so far.

    `card` (JSON values: provenance, mean return ...) is kept in meta/surefoot.json. The folder appears when it is
    complete. Needs no network. Raises FileExistsError where the folder exists, ValueError for episodes of another size.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it to write the data set again")
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    with imageless():
        dataset = LeRobotDataset.create(
            repo_id=f"surefoot/{folder.name}",
            fps=layout.fps,
            features=layout.features(),
            root=partial,
            robot_type=layout.robot,
            use_videos=False,
            video_backend="pyav",  # lerobot would otherwise try torchcodec, and report at length where that cannot load
            metadata_buffer_size=100,
        )
        for index, episode in enumerate(episodes):
            # Whole episodes at once: the same writer as add_frame, without half a million calls of it.
            dataset.save_episode(episode_data=_buffer(episode, layout, index, dataset.num_frames))
            report(index + 1)
        dataset.finalize()
    (partial / CARD_FILE).write_text(json.dumps(dict(card), indent=1, sort_keys=True))
    os.replace(partial, folder)


def _buffer(episode: Episode, layout: Layout, index: int, first_frame: int) -> dict[str, Any]:
    """The episode as lerobot's writer collects it."""
    check("state_TO", episode.state_TO, "T O", O=len(layout.state_names))
    check("action_TA", episode.action_TA, "T A", A=len(layout.action_names))
    size = episode.length
    last_T = np.arange(size) == size - 1
    frame_T = np.arange(size)
    return {
        "size": size,
        "task": tasks(episode, layout.robot),
        "episode_index": index,
        "index": frame_T + first_frame,
        "task_index": np.zeros(size, dtype=np.int64),
        "frame_index": frame_T,
        "timestamp": (frame_T / layout.fps).astype(np.float32),
        "observation.state": episode.state_TO[:-1],
        "next.state": episode.state_TO[1:],
        "action": episode.action_TA,
        "action_requested": episode.action_requested_TA,
        "action_applied": episode.action_applied_TA,
        "next.reward": episode.reward_T,
        "next.terminated": last_T & episode.terminated,
        "next.truncated": last_T & episode.truncated,
    }


@contextmanager
def imageless() -> Iterator[None]:
    """Spare lerobot's writer, within the context, its pass over each frame that puts images into the table.

    There are none here, and the pass takes a millisecond a frame and a progress bar an episode.
    """
    from lerobot.datasets import dataset_writer

    embed = dataset_writer.embed_images
    dataset_writer.embed_images = lambda dataset: dataset
    try:
        yield
    finally:
        dataset_writer.embed_images = embed


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Mean and standard deviation of each state, with its name and unit: (x - mean) / std has no unit."""

    mean_O: np.ndarray
    std_O: np.ndarray
    units: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = check("mean_O", self.mean_O, "O", O=len(self.names))
        check("std_O", self.std_O, "O", **sizes)
        if len(self.units) != len(self.names):
            raise ValueError(f"{len(self.names)} names need as many units, got {self.units}")
        if not (np.isfinite(self.mean_O).all() and np.isfinite(self.std_O).all() and (self.std_O > 0).all()):
            raise ValueError(f"mean must be finite and std finite and > 0, got {self.mean_O} and {self.std_O}")

    def normalise(self, x: np.ndarray) -> np.ndarray:
        """Return (..., O) without units, from physical units."""
        return (x - self.mean_O) / self.std_O

    def denormalise(self, x: np.ndarray) -> np.ndarray:
        """Return (..., O) in physical units."""
        return x * self.std_O + self.mean_O

    def to_card(self) -> dict[str, Any]:
        """Return plain lists for a JSON card; `from_card` restores them to the bit."""
        mean, std = self.mean_O.astype(np.float64).tolist(), self.std_O.astype(np.float64).tolist()
        return {"mean": mean, "std": std, "units": list(self.units), "names": list(self.names)}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Normaliser:
        """Return the normaliser of a card. Raises KeyError for a missing entry and ValueError for a bad one."""
        mean_O, std_O = np.asarray(card["mean"], np.float32), np.asarray(card["std"], np.float32)
        return cls(mean_O, std_O, tuple(card["units"]), tuple(card["names"]))


@dataclass(frozen=True, slots=True)
class EpisodeData:
    """All frames of all episodes, one after another, in memory; float32 and bool, C-contiguous."""

    state_NO: np.ndarray
    next_state_NO: np.ndarray
    action_NA: np.ndarray  # as sent
    reward_N: np.ndarray
    terminated_N: np.ndarray
    truncated_N: np.ndarray
    episode_start: np.ndarray  # (episodes + 1,) int64: episode e is frames episode_start[e] to episode_start[e + 1]
    layout: Layout

    def __post_init__(self) -> None:
        sizes = check("state_NO", self.state_NO, "N O", O=len(self.layout.state_names))
        check("next_state_NO", self.next_state_NO, "N O", **sizes)
        check("action_NA", self.action_NA, "N A", N=sizes["N"], A=len(self.layout.action_names))
        for name in ("reward_N", "terminated_N", "truncated_N"):
            check(name, getattr(self, name), "N", N=sizes["N"])
        if (
            self.episode_start[0] != 0
            or self.episode_start[-1] != sizes["N"]
            or (np.diff(self.episode_start) < 1).any()
        ):
            raise ValueError(f"episode_start must rise from 0 to {sizes['N']}, got {self.episode_start}")

    @classmethod
    def load(cls, folders: str | Path | Sequence[str | Path]) -> EpisodeData:
        """Return the data set in a folder, or several, one after another.

        Raises FileNotFoundError for a folder without a data set and ValueError where their layouts differ.
        """
        if isinstance(folders, str | Path):
            return _load(Path(folders))
        return cls.concatenate([_load(Path(folder)) for folder in folders])

    @classmethod
    def from_episodes(cls, episodes: Iterable[Episode], layout: Layout) -> EpisodeData:
        """Return the same arrays straight from episodes in memory. Raises ValueError where there are none."""
        return cls.concatenate([_single(episode, layout) for episode in episodes])

    @classmethod
    def concatenate(cls, parts: Sequence[EpisodeData]) -> EpisodeData:
        """Return the episodes of all parts. Raises ValueError where there are none or their layouts differ."""
        if not parts:
            raise ValueError("need at least one data set, got none")
        if different := {part.layout for part in parts} - {parts[0].layout}:
            raise ValueError(f"data sets of different layouts: {parts[0].layout} and {different.pop()}")
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.episode_start) for part in parts])
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return cls(**arrays, episode_start=_offsets(lengths), layout=parts[0].layout)

    @property
    def frames(self) -> int:
        """Number of control steps, N."""
        return len(self.reward_N)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_start) - 1

    def states_and_actions(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the states (T + 1, O), the last one included, and the actions (T, A) of one episode."""
        start, end = self.episode_start[episode : episode + 2]
        return np.concatenate([self.state_NO[start:end], self.next_state_NO[end - 1 : end]]), self.action_NA[start:end]

    def episode_returns(self) -> np.ndarray:
        """Return the undiscounted return of each episode, (episodes,) float64."""
        return np.add.reduceat(self.reward_N.astype(np.float64), self.episode_start[:-1])

    def normaliser(self) -> Normaliser:
        """Return mean and standard deviation of the states."""
        mean_O, std_O = self.state_NO.mean(0, dtype=np.float64), self.state_NO.std(0, dtype=np.float64)
        std_O = np.where(std_O < _STD_FLOOR, 1.0, std_O)
        names, units = self.layout.state_names, self.layout.state_units
        return Normaliser(mean_O.astype(np.float32), std_O.astype(np.float32), units, names)

    def returns_to_go(self, discount: float = 0.99, terminal_penalty: float = 100.0) -> np.ndarray:
        """Return the discounted sum of rewards from each frame to the END of its episode, (N,) float32.

        `terminal_penalty` is subtracted from the last reward of episodes that terminated (not of truncated ones).
        Raises ValueError for a discount outside [0, 1] or a negative penalty.
        Source: the value target of D-MPC, Zhou et al. 2024 (arXiv 2410.05364), as in Diffuser.
        """
        if not 0.0 <= discount <= 1.0 or terminal_penalty < 0.0:
            raise ValueError(f"need discount in [0, 1] and penalty >= 0, got {discount} and {terminal_penalty}")
        reward_N = self.reward_N - terminal_penalty * self.terminated_N.astype(np.float64)
        togo_N = np.empty_like(reward_N)
        lengths, last = np.diff(self.episode_start), self.episode_start[1:] - 1
        togo = np.zeros(self.episodes)
        for back in range(lengths.max()):  # all episodes at once, from their ends
            long = np.flatnonzero(lengths > back)
            togo[long] = reward_N[last[long] - back] + discount * togo[long]
            togo_N[last[long] - back] = togo[long]
        return togo_N.astype(np.float32)

    def take(self, episodes: np.ndarray) -> EpisodeData:
        """Return the episodes with these numbers, in that order. Raises IndexError for one that there is not."""
        starts, lengths = self.episode_start[:-1][episodes], np.diff(self.episode_start)[episodes]
        offsets = _offsets(lengths)
        rows_N = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        arrays = {name: getattr(self, name)[rows_N] for name in _COLUMNS}
        return EpisodeData(**arrays, episode_start=offsets, layout=self.layout)

    def split(self, held_out: float, seed: int = 0) -> tuple[EpisodeData, EpisodeData]:
        """Return (training, held-out) episodes: whole ones, drawn with `seed`; `held_out` is the share of the second.

        Each part has at least one episode. Raises ValueError for a share outside (0, 1) or fewer than two episodes.
        """
        if not 0.0 < held_out < 1.0 or self.episodes < 2:
            raise ValueError(f"need held_out in (0, 1) and two episodes, got {held_out} and {self.episodes}")
        held = min(max(round(held_out * self.episodes), 1), self.episodes - 1)
        order = np.random.default_rng(seed).permutation(self.episodes)
        return self.take(np.sort(order[held:])), self.take(np.sort(order[:held]))

    def windows(self, horizon: int) -> np.ndarray:
        """Return all frames from which `horizon` steps lie inside one episode, ascending int64; may be empty."""
        left_N = np.repeat(self.episode_start[1:], np.diff(self.episode_start)) - np.arange(self.frames)
        return np.flatnonzero(left_N >= horizon)

    def gather(self, starts: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Return states (B, H + 1, O) and the actions sent between them (B, H, A), from each of the frames `starts`.

        Raises IndexError where a window leaves the data or its episode.
        """
        self._check_windows(starts, horizon)
        rows_BH = starts[:, None] + np.arange(horizon)
        states = np.empty((len(starts), horizon + 1, self.state_NO.shape[1]), dtype=np.float32)
        states[:, :-1] = self.state_NO[rows_BH]
        states[:, -1] = self.next_state_NO[rows_BH[:, -1]]
        return states, self.action_NA[rows_BH]

    def _check_windows(self, starts: np.ndarray, horizon: int) -> None:
        check("starts", starts, "B")
        if horizon < 1:
            raise IndexError(f"horizon must be >= 1, got {horizon}")
        outside = (starts < 0) | (starts >= self.frames)
        if not outside.any():
            episode_B = np.searchsorted(self.episode_start, starts, side="right")
            outside = starts + horizon > self.episode_start[episode_B]
        if outside.any():
            raise IndexError(f"{horizon} steps from frame {starts[outside][0]} leave its episode")


# Array of EpisodeData -> column on disk.
_COLUMNS = {
    "state_NO": "observation.state",
    "next_state_NO": "next.state",
    "action_NA": "action",
    "reward_N": "next.reward",
    "terminated_N": "next.terminated",
    "truncated_N": "next.truncated",
}


def read_card(folder: str | Path) -> dict[str, Any]:
    """Return what `write_dataset` was given as card. Raises FileNotFoundError where there is none."""
    return json.loads((Path(folder) / CARD_FILE).read_text())


def _load(folder: Path) -> EpisodeData:
    import pyarrow.parquet as pq

    files = sorted(folder.glob("data/chunk-*/file-*.parquet"))
    if not files or not (folder / "meta/info.json").is_file():
        raise FileNotFoundError(f"no LeRobotDataset v3 in {folder}")
    layout = _layout(json.loads((folder / "meta/info.json").read_text()))
    tables = [pq.read_table(file, columns=[*_COLUMNS.values(), "episode_index"]) for file in files]
    arrays = {name: np.concatenate([_column(table, key) for table in tables]) for name, key in _COLUMNS.items()}
    episode_N = np.concatenate([_column(table, "episode_index") for table in tables])
    lengths = np.diff(np.flatnonzero(np.diff(episode_N, prepend=-1, append=-1)))
    return EpisodeData(**arrays, episode_start=_offsets(lengths), layout=layout)


def _layout(info: Mapping[str, Any]) -> Layout:
    state, action = info["features"]["observation.state"], info["features"]["action"]
    names = tuple(state["names"]), tuple(action["names"])
    units = (tuple(x.get("units") or [""] * x["shape"][0]) for x in (state, action))
    return Layout(info["robot_type"], info["fps"], names[0], next(units), names[1], next(units))


def _column(table: pyarrow.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    if str(column.type).startswith(("list", "fixed_size_list")):
        return column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32, copy=False)
    return column.to_numpy(zero_copy_only=False)


def _single(episode: Episode, layout: Layout) -> EpisodeData:
    buffer = _buffer(episode, layout, 0, 0)
    arrays = {name: buffer[key] for name, key in _COLUMNS.items()}
    return EpisodeData(**arrays, episode_start=_offsets(np.array([episode.length])), layout=layout)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
