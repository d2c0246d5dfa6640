"""One episode as a record, and a spool: a folder with one file per episode, each written whole or not at all.

A file appears under its name only after its bytes are on disk, and carries a checksum, so that a collection that was
killed can be resumed: what is valid is kept, what is torn or missing is made again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from envs.shapes import check

_ARRAYS = ("state_TO", "action_requested_TA", "action_TA", "action_applied_TA", "reward_T")


class TornEpisodeError(ValueError):
    """The file is not a whole episode."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What happened between one reset and the next; T actions lie between T + 1 states. Arrays are float32.

    The end is `terminated` (the task is over, for instance by a fall), `truncated` (time was up, or recording stopped),
    or both.
    """

    state_TO: np.ndarray  # (T + 1, O): row t is before action t, the last row after the last action
    action_requested_TA: np.ndarray  # the policy's or planner's
    action_TA: np.ndarray  # what was sent
    action_applied_TA: np.ndarray  # after simulated faults
    reward_T: np.ndarray
    terminated: bool
    truncated: bool
    seed: int
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON values

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        sizes = check("action_TA", self.action_TA, "T A")
        check("state_TO", self.state_TO, "N O", N=sizes["T"] + 1)
        check("action_requested_TA", self.action_requested_TA, "T A", **sizes)
        check("action_applied_TA", self.action_applied_TA, "T A", **sizes)
        check("reward_T", self.reward_T, "T", T=sizes["T"])
        if sizes["T"] == 0:
            raise ValueError("an episode needs at least one action, got none")
        if not (self.terminated or self.truncated):
            raise ValueError("an episode must end: terminated and truncated are both False")

    @property
    def length(self) -> int:
        """Number of actions, T."""
        return len(self.reward_T)

    @property
    def total_reward(self) -> float:
        """Undiscounted return."""
        return float(self.reward_T.sum(dtype=np.float64))


def encode(episode: Episode) -> bytes:
    """Return the episode as safetensors; equal episodes give equal bytes."""
    from safetensors.numpy import save

    arrays = {name: getattr(episode, name) for name in _ARRAYS}
    header = {
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "seed": episode.seed,
        "meta": dict(episode.meta),
        "crc32": _checksum(arrays),
    }
    # One entry only: the order of several is not fixed in safetensors' header.
    return save(arrays, metadata={"episode": json.dumps(header, sort_keys=True)})


def decode(data: bytes) -> Episode:
    """Return the episode in the bytes. Raises TornEpisodeError where they are not a whole one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["episode"])
        if header.pop("crc32") != _checksum(arrays):
            raise TornEpisodeError("checksum differs")
        return Episode(**arrays, **header)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TornEpisodeError(f"not a whole episode: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder of episodes, numbered from 0; the folder is made on the first write."""

    folder: Path

    def path(self, index: int) -> Path:
        """Where episode `index` is, or would be."""
        return self.folder / f"episode-{index:06d}.safetensors"

    def write(self, index: int, episode: Episode) -> None:
        """Put the episode on disk: whole under its name, or not there at all."""
        write_atomically(self.path(index), encode(episode))

    def read(self, index: int) -> Episode:
        """Return episode `index`. Raises FileNotFoundError, or TornEpisodeError (naming the file)."""
        path = self.path(index)
        try:
            return decode(path.read_bytes())
        except TornEpisodeError as error:
            raise TornEpisodeError(f"{path}: {error}") from None

    def read_if_whole(self, index: int) -> Episode | None:
        """Return episode `index`, or None where it is missing or torn."""
        try:
            return self.read(index)
        except (FileNotFoundError, TornEpisodeError):
            return None

    def indices(self) -> list[int]:
        """Return the numbers of the files there are, whole or not, ascending."""
        return sorted(int(p.stem.removeprefix("episode-")) for p in self.folder.glob("episode-*.safetensors"))

    def trim(self, count: int) -> None:
        """Delete what does not belong to the first `count` episodes, left-over temporary files included."""
        for index in self.indices():
            if index >= count:
                self.path(index).unlink()
        for path in self.folder.glob(".*.tmp"):
            path.unlink()

    def episodes(self, count: int) -> Iterator[Episode]:
        """Yield the first `count` episodes in order. Raises as `read` does."""
        return (self.read(index) for index in range(count))


def write_atomically(path: Path, data: bytes) -> None:
    """Write the file so that, whatever happens, its name refers to all of the old bytes or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), total))
    return total
