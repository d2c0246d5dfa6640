"""What can be saved of a LeRobotDataset v3: its whole episodes, and in words what is wrong with the rest.

An episode is whole when all its rows are there, and as many frames of each of its videos. Rows are read from parquet
files, with or without their footers; what the metadata say is believed only as far as rows and videos bear it out.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.footers import with_footer

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Clip:
    """Where an episode is in a video; `pictures`, where it is still a folder of single pictures."""

    file: Path
    from_s: float = 0.0
    pictures: bool = False


@dataclass(frozen=True)
class Whole:
    """One whole episode."""

    rows: pa.Table
    tasks: tuple[str, ...]
    """What was asked for at each row."""
    clips: Mapping[str, Clip]
    known: Mapping[str, Any] | None
    """Its row of metadata, statistics included, where there is one."""


@dataclass
class Found:
    """What there is."""

    info: dict[str, Any]
    episodes: list[Whole] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What is wrong with the data set, one line each."""


def salvage(root: Path) -> Found:
    """Return what there is in the data set. Raises ValueError, in one line, where nothing tells what its columns are."""
    found = Found(_info(root))
    known, tasks = _metadata(root, found), _tasks(root, found)
    reels = {key: Reel(root, key, found.info["fps"]) for key in _keys(found.info, "video")}
    expected = 0
    for where, rows in _episodes(root, found):
        number = rows["episode_index"][0].as_py()
        row = known.get(number)
        clips = {} if (wrong := _unfit(rows, row)) else _clips(root, reels, rows, row, number == expected)
        if clips is None:
            wrong = f"a video of it lacks frames: {', '.join(reels)}"
        if wrong or clips is None:
            found.wrong.append(f"episode {number} in {where} is left out: {wrong}")
            continue
        found.wrong += [f"episode {number}: its {k} is still single pictures" for k, c in clips.items() if c.pictures]
        names = tuple(tasks.get(index, f"task {index}") for index in rows["task_index"].to_pylist())
        found.episodes.append(Whole(rows, names, clips, row))
        expected = number + 1
    _compare(root, found, known)
    return found


def _info(root: Path) -> dict[str, Any]:
    path = root / "meta/info.json"
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} tells what the columns are and cannot be read ({error}): beyond repair") from None
    if info.get("codebase_version") != "v3.0":
        raise ValueError(f"{path} is of version {info.get('codebase_version')!r}: only v3.0 can be mended")
    return info


def _keys(info: Mapping[str, Any], *kinds: str) -> list[str]:
    return [key for key, feature in info["features"].items() if feature["dtype"] in kinds]


def _files(root: Path, folder: str, suffix: str) -> list[Path]:
    return sorted((root / folder).glob(f"chunk-*/file-*.{suffix}"))


# --- rows


def _episodes(root: Path, found: Found) -> Iterator[tuple[str, pa.Table]]:
    """Yield the name of its file and the rows of each episode, which begins wherever `frame_index` is 0."""
    for path in _files(root, "data", "parquet"):
        table = _table(path, found, path.relative_to(root).as_posix())
        if table is None or not len(table):
            continue
        starts = np.flatnonzero(table["frame_index"].to_numpy() == 0).tolist()
        for begin, end in zip([0, *(s for s in starts if s)], [*(s for s in starts if s), len(table)], strict=True):
            yield path.relative_to(root).as_posix(), table.slice(begin, end - begin)


def _table(path: Path, found: Found, name: str) -> pa.Table | None:
    """Return the rows of a parquet file, with a new footer where it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from lerobot.datasets.feature_utils import get_hf_features_from_features

    data = path.read_bytes()
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError):
        pass
    features = {key: {**f, "shape": tuple(f["shape"])} for key, f in found.info["features"].items()}
    kinds = get_hf_features_from_features(features)
    per_row = [n for key in kinds for n in _values_per_row(features[key])]
    try:
        table = pq.read_table(io.BytesIO(with_footer(data, kinds.arrow_schema, per_row)))
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        found.wrong.append(f"{name} cannot be read, and its rows are lost: {' '.join(str(error).split())}")
        return None
    found.wrong.append(f"{name} has no footer; its pages hold {len(table)} whole rows")
    return table


def _values_per_row(feature: Mapping[str, Any]) -> list[int]:
    """Return how many values a row has in each column of the file that the feature takes."""
    return [1, 1] if feature["dtype"] == "image" else [math.prod(feature["shape"])]


def _unfit(rows: pa.Table, row: Mapping[str, Any] | None) -> str | None:
    """Return why these rows are no whole episode, None where they are."""
    frames, numbers = rows["frame_index"].to_numpy(), rows["episode_index"].to_numpy()
    if not np.array_equal(frames, np.arange(len(frames))) or (numbers != numbers[0]).any():
        return f"its rows {frames[0]} to {frames[-1]} are not one after another from 0"
    if row is not None and row["length"] > len(rows):
        return f"{len(rows)} of its {row['length']} rows are there"
    return None


# --- videos


class Reel:
    """The videos of one camera, file after file; a place in them moves on as episodes take their frames."""

    def __init__(self, root: Path, key: str, fps: int) -> None:
        self.key, self._fps, self._root = key, fps, root
        self.files = [(path, frames_in(path)) for path in _files(root, f"videos/{key}", "mp4")]
        self._file, self._frame = 0, 0

    def take(self, count: int, row: Mapping[str, Any] | None, in_order: bool) -> Clip | None:
        """Return where the next `count` frames are, or those that `row` names; None where they are not there."""
        if row is not None and row.get(f"videos/{self.key}/file_index") is not None:
            if not self._seek(row):
                return None
        elif not in_order:
            return None
        if self._file < len(self.files) and self._frame == self.files[self._file][1]:
            self._file, self._frame = self._file + 1, 0
        if self._file == len(self.files) or self._frame + count > self.files[self._file][1]:
            return None
        clip = Clip(self.files[self._file][0], self._frame / self._fps)
        self._frame += count
        return clip

    def _seek(self, row: Mapping[str, Any]) -> bool:
        chunk, number = (row[f"videos/{self.key}/{part}_index"] for part in ("chunk", "file"))
        path = self._root / f"videos/{self.key}/chunk-{chunk:03d}/file-{number:03d}.mp4"
        places = [index for index, (file, _) in enumerate(self.files) if file == path]
        if places:
            self._file, self._frame = places[0], round(row[f"videos/{self.key}/from_timestamp"] * self._fps)
        return bool(places)


def frames_in(path: Path) -> int:
    """Return how many frames of a video can be read; 0 for a file that is none."""
    import av
    from av.error import FFmpegError

    count = 0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                count += packet.size > 0
    except (FFmpegError, IndexError):
        pass
    return count


def _clips(
    root: Path, reels: Mapping[str, Reel], rows: pa.Table, row: Mapping[str, Any] | None, in_order: bool
) -> dict[str, Clip] | None:
    """Return where the episode is in each video, None where it is not in all."""
    clips: dict[str, Clip] = {}
    for key, reel in reels.items():
        pictures = root / f"images/{key}/episode-{rows['episode_index'][0].as_py():06d}"
        clip = reel.take(len(rows), row, in_order)
        if clip is None and len(list(pictures.glob("frame-*.png"))) == len(rows):
            clip = Clip(pictures, pictures=True)
        if clip is None:
            return None
        clips[key] = clip
    return clips


# --- metadata


def _metadata(root: Path, found: Found) -> dict[int, dict[str, Any]]:
    """Return the rows about episodes that can be read, by number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[int, dict[str, Any]] = {}
    for path in _files(root, "meta/episodes", "parquet"):
        try:
            rows |= {row["episode_index"]: row for row in pq.read_table(path).to_pylist()}
        except (pa.ArrowInvalid, OSError):
            found.wrong.append(f"{path.relative_to(root)} has no footer: what it said is worked out again")
    return rows


def _tasks(root: Path, found: Found) -> dict[int, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    except (pa.ArrowInvalid, OSError):
        found.wrong.append("meta/tasks.parquet cannot be read: the texts of the tasks are lost, their numbers stay")
        return {}
    (names,) = (values for name, values in columns.items() if name != "task_index")
    return dict(zip(columns["task_index"], names, strict=True))


def _compare(root: Path, found: Found, known: Mapping[int, Mapping[str, Any]]) -> None:
    """Note what the metadata say that rows and videos do not."""
    frames = sum(len(episode.rows) for episode in found.episodes)
    said, there = [found.info["total_episodes"], found.info["total_frames"]], [len(found.episodes), frames]
    if said != there:
        found.wrong.append("meta/info.json counts {} episodes and {} rows, there are {} and {}".format(*said, *there))
    ends = np.cumsum([len(episode.rows) for episode in found.episodes])
    lost = [
        n for n, (episode, end) in enumerate(zip(found.episodes, ends, strict=True)) if not _placed(episode, n, end)
    ]
    if lost:
        found.wrong.append(f"meta/episodes does not say where {len(lost)} of {len(ends)} episodes are")
    if len(known) > len(found.episodes):
        found.wrong.append(f"meta/episodes tells of {len(known)} episodes, there are {len(found.episodes)}")
    if not _is_json(root / "meta/stats.json"):
        found.wrong.append("meta/stats.json cannot be read")


def _placed(episode: Whole, number: int, end: int) -> bool:
    """Return whether the metadata say that the episode has this number and ends before this row."""
    row, size = episode.known, len(episode.rows)
    told = row and [row[key] for key in ("episode_index", "length", "dataset_from_index", "dataset_to_index")]
    return told == [number, size, end - size, end]


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True
