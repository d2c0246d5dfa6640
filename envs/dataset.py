"""Data sets on disk: LeRobotDataset v3 (envs/dataset_writer.py writes them), read back with pyarrow alone.

Frame t of an episode holds s_t, a_t, r_t, the termination flags after a_t, and s_{t+1} as `next.state`, so that the
state after the last action is kept too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    ends_filmed: bool = field(default=False, compare=False)
    """Whether videos show where an episode ended, too: recordings by others do, ours end with its last action."""

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


def frame_columns(episode: Episode, layout: Layout, index: int, first_frame: int) -> dict[str, Any]:
    """Return an episode as lerobot's writer collects it."""
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

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the states, each (O,) float64; 1 for a reading that never changed."""
        mean_O, std_O = self.state_NO.mean(0, dtype=np.float64), self.state_NO.std(0, dtype=np.float64)
        return mean_O, np.where(std_O < _STD_FLOOR, 1.0, std_O)

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
        train, held = split_episodes(self.episodes, held_out, seed)
        return self.take(train), self.take(held)

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


def split_episodes(count: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training and of the held-out episodes, each ascending; raises as `EpisodeData.split` does."""
    if not 0.0 < held_out < 1.0 or count < 2:
        raise ValueError(f"need held_out in (0, 1) and two episodes, got {held_out} and {count}")
    held = min(max(round(held_out * count), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


# Array of EpisodeData -> column on disk.
_COLUMNS = {
    "state_NO": "observation.state",
    "next_state_NO": "next.state",
    "action_NA": "action",
    "reward_N": "next.reward",
    "terminated_N": "next.terminated",
    "truncated_N": "next.truncated",
}
_VECTORS = ("state_NO", "next_state_NO", "action_NA")


def steered(folder: str | Path) -> np.ndarray:
    """Return whether a person acted in each episode, (episodes,) bool; False where nobody noted it; raises as `EpisodeData.load`."""
    import pyarrow.parquet as pq

    files = _files(Path(folder))
    there = [key for key in ("episode_index", "intervention") if key in pq.read_schema(files[0]).names]
    tables = [pq.read_table(file, columns=there) for file in files]
    episode_N, *acted = (np.concatenate([_column(table, key) for table in tables]).ravel() for key in there)
    return np.bincount(episode_N, *(acted_N.astype(float) for acted_N in acted)) * bool(acted) > 0


def read_card(folder: str | Path) -> dict[str, Any]:
    """Return what `write_dataset` was given as card. Raises FileNotFoundError where there is none."""
    return json.loads((Path(folder) / CARD_FILE).read_text())


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("data/chunk-*/file-*.parquet"))
    if not files or not (folder / "meta/info.json").is_file():
        raise FileNotFoundError(f"no LeRobotDataset v3 in {folder}")
    return files


def _load(folder: Path) -> EpisodeData:
    import pyarrow.parquet as pq

    files = _files(folder)
    there = {key: name for name, key in _COLUMNS.items() if key in pq.read_schema(files[0]).names}
    for key in ("observation.state", "action"):
        if key not in there:
            raise ValueError(f"{folder} has no column {key!r}: nothing can be learned from it")
    tables = [pq.read_table(file, columns=[*there, "episode_index"]) for file in files]
    arrays = {name: np.concatenate([_column(table, key) for table in tables]) for key, name in there.items()}
    for name in _VECTORS:  # lerobot writes vectors of one number as numbers
        if name in arrays:
            arrays[name] = arrays[name].reshape(len(arrays[name]), -1)
    episode_N = np.concatenate([_column(table, "episode_index") for table in tables])
    lengths = np.diff(np.flatnonzero(np.diff(episode_N, prepend=-1, append=-1)))
    whole = len(there) == len(_COLUMNS)
    layout = _layout(json.loads((folder / "meta/info.json").read_text()), ends_filmed=not whole)
    if not whole:
        if (lengths < 2).any():
            raise ValueError(
                f"episode {int((lengths < 2).argmax())} of {folder} has a single frame: nothing was done there"
            )
        arrays, lengths = _completed(arrays, lengths)
    return EpisodeData(**arrays, episode_start=_offsets(lengths), layout=layout)


def _completed(arrays: dict[str, np.ndarray], lengths: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns of a recording by others, which keeps no next state: the last frame of an episode is only where it ends."""
    end_N = np.zeros(len(arrays["state_NO"]), bool)
    end_N[np.cumsum(lengths) - 1] = True
    rows = np.flatnonzero(~end_N)
    last_N = end_N[rows + 1]
    kept = {name: x[rows] for name, x in arrays.items() if name in ("state_NO", "action_NA", "reward_N")}
    kept["next_state_NO"] = arrays["state_NO"][rows + 1]
    kept.setdefault("reward_N", np.zeros(len(rows), np.float32))
    # nobody said whether an episode came to its own end: none is taken for a failure
    return kept | {"terminated_N": np.zeros(len(rows), bool), "truncated_N": last_N}, lengths - 1


def _layout(info: Mapping[str, Any], ends_filmed: bool) -> Layout:
    state, action = info["features"]["observation.state"], info["features"]["action"]
    units = (tuple(x.get("units") or [""] * x["shape"][0]) for x in (state, action))
    names = _names(state), _names(action)
    robot = info.get("robot_type") or "unknown"
    return Layout(robot, info["fps"], names[0], next(units), names[1], next(units), ends_filmed)


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a vector's numbers: a list, or a list under some heading, or none."""
    names = feature.get("names") or [str(i) for i in range(feature["shape"][0])]
    return tuple(next(iter(names.values())) if isinstance(names, Mapping) else names)


def _column(table: pyarrow.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    if str(column.type).startswith(("list", "fixed_size_list")):
        return column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32, copy=False)
    return column.to_numpy(zero_copy_only=False)


def _single(episode: Episode, layout: Layout) -> EpisodeData:
    buffer = frame_columns(episode, layout, 0, 0)
    arrays = {name: buffer[key] for name, key in _COLUMNS.items()}
    return EpisodeData(**arrays, episode_start=_offsets(np.array([episode.length])), layout=layout)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
