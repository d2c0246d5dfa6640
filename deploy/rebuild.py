"""A LeRobotDataset v3 made again from whole episodes: lerobot's own metadata and statistics, videos linked, not copied."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    from deploy.salvage import Clip, Found, Whole

MADE = {"info.json", "stats.json", "tasks.parquet", "episodes"}
"""What the meta folder gets from lerobot; all else in it is copied."""
MIB = 2**20


def rebuild(found: Found, root: Path, target: Path) -> None:
    """Write the whole episodes of `root`, numbered from 0, as a data set in the new folder `target`."""
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.utils.constants import DEFAULT_FEATURES

    info = found.info
    columns = {k: {**f, "shape": tuple(f["shape"])} for k, f in info["features"].items() if k not in DEFAULT_FEATURES}
    meta = LeRobotDatasetMetadata.create(
        repo_id=f"surefoot/{root.name}",
        fps=info["fps"],
        features=columns,
        robot_type=info["robot_type"],
        root=target,
        use_videos=any(feature["dtype"] == "video" for feature in columns.values()),
        **{name: info[name] for name in ("chunks_size", "data_files_size_in_mb", "video_files_size_in_mb")},
    )
    rows = Rows(target, info["data_files_size_in_mb"] * MIB)
    for episode in found.episodes:
        _add(meta, rows, episode, root)
    rows.close()
    meta.finalize()
    _copy_others(root, target)


def _add(meta: LeRobotDatasetMetadata, rows: Rows, episode: Whole, root: Path) -> None:
    number, first, size = meta.total_episodes, meta.total_frames, len(episode.rows)
    tasks = list(dict.fromkeys(episode.tasks))
    meta.save_episode_tasks(tasks)
    table = episode.rows
    for name, values in (
        ("episode_index", np.full(size, number)),
        ("index", np.arange(first, first + size)),
        ("task_index", np.array([meta.get_task_index(task) for task in episode.tasks])),
    ):
        table = _with(table, name, values)
    place = {"data/chunk_index": 0, "data/file_index": rows.add(table)}
    place |= {"dataset_from_index": first, "dataset_to_index": first + size}
    for key, clip in episode.clips.items():
        place |= _place(meta, key, clip, size, root)
    meta.save_episode(number, size, tasks, _statistics(meta, table, episode), place)


def _with(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    import pyarrow as pa

    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


class Rows:
    """The files of rows: an episode is one row group, and a file is closed when it is large."""

    def __init__(self, root: Path, limit: int) -> None:
        self._folder, self._limit = root / "data/chunk-000", limit
        self._folder.mkdir(parents=True)
        self._file, self._bytes, self._writer = -1, 0, None

    def add(self, table: pa.Table) -> int:
        """Write the rows of an episode; return the number of their file."""
        import pyarrow.parquet as pq

        if self._writer is None or self._bytes + table.nbytes > self._limit:
            self.close()
            self._file, self._bytes = self._file + 1, 0
            path = self._folder / f"file-{self._file:03d}.parquet"
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy", use_dictionary=True)
        self._writer.write_table(table)
        self._bytes += table.nbytes
        return self._file

    def close(self) -> None:
        """Write the last footer."""
        if self._writer is not None:
            self._writer.close()


def _place(meta: LeRobotDatasetMetadata, key: str, clip: Clip, size: int, root: Path) -> dict[str, Any]:
    """Bring the clip into the new data set; return where it is, as lerobot says it."""
    from lerobot.datasets.utils import update_chunk_file_indices
    from lerobot.datasets.video_utils import encode_video_frames

    if clip.pictures:
        taken = [_numbers(path) for folder in (root, meta.root) for path in (folder / f"videos/{key}").glob("*/*.mp4")]
        chunk, number = update_chunk_file_indices(*max(taken), meta.chunks_size) if taken else (0, 0)
    else:
        chunk, number = _numbers(clip.file)
    path = meta.root / str(meta.video_path).format(video_key=key, chunk_index=chunk, file_index=number)
    path.parent.mkdir(parents=True, exist_ok=True)
    if clip.pictures:
        encode_video_frames(clip.file, path, meta.fps)
    elif not path.exists():
        _link(clip.file, path)
    return {
        f"videos/{key}/chunk_index": chunk,
        f"videos/{key}/file_index": number,
        f"videos/{key}/from_timestamp": clip.from_s,
        f"videos/{key}/to_timestamp": clip.from_s + size / meta.fps,
    }


def _numbers(path: Path) -> tuple[int, int]:
    chunk, number = (int(re.sub(r"\D", "", part)) for part in (path.parent.name, path.stem))
    return chunk, number


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


# --- statistics


def _statistics(meta: LeRobotDatasetMetadata, table: pa.Table, episode: Whole) -> dict[str, dict[str, np.ndarray]]:
    """Return lerobot's statistics of an episode: of numbers worked out again, of pictures as known or from a few of them."""
    from lerobot.datasets.compute_stats import compute_episode_stats

    pictures = [key for key, feature in meta.features.items() if feature["dtype"] in ("image", "video")]
    numbers = {k: f for k, f in meta.features.items() if k not in pictures and f["dtype"] not in ("string", "language")}
    found = compute_episode_stats({key: np.array(table[key].to_pylist()) for key in numbers}, numbers)
    for key in pictures:
        known = _known(episode.known, key)
        found[key] = known or _of_pictures(meta, key, table, episode.clips.get(key))
    return found


def _known(row: Mapping[str, Any] | None, key: str) -> dict[str, np.ndarray]:
    start = f"stats/{key}/"
    there = {k.removeprefix(start): v for k, v in (row or {}).items() if k.startswith(start) and v is not None}
    return {name: np.array(value) for name, value in there.items()}


def _of_pictures(meta: LeRobotDatasetMetadata, key: str, table: pa.Table, clip: Clip | None) -> dict[str, np.ndarray]:
    from lerobot.datasets.compute_stats import auto_downsample_height_width, get_feature_stats, sample_indices

    picked = sample_indices(len(table))
    shown = _of_table(table, key, picked) if clip is None else _of_clip(clip, picked, meta.fps)
    small = np.stack([auto_downsample_height_width(image) for image in shown])
    stats = get_feature_stats(small, axis=(0, 2, 3), keepdims=True)
    depth = (meta.features[key].get("info") or {}).get("is_depth_map", False)
    scale = 1.0 if depth else 255.0
    return {name: v if name == "count" else np.squeeze(v / scale, axis=0) for name, v in stats.items()}


def _of_table(table: pa.Table, key: str, picked: Sequence[int]) -> list[np.ndarray]:
    """Return pictures that are in the rows, (3, height, width) uint8."""
    import io

    from PIL import Image

    data = [table[key][index].as_py()["bytes"] for index in picked]
    return [np.array(Image.open(io.BytesIO(each)).convert("RGB")).transpose(2, 0, 1) for each in data]


def _of_clip(clip: Clip, picked: Sequence[int], fps: int) -> list[np.ndarray]:
    """Return pictures of a video or of a folder of pictures, (3, height, width) uint8."""
    from lerobot.datasets.io_utils import load_image_as_numpy
    from lerobot.datasets.video_utils import decode_video_frames

    if clip.pictures:
        paths = [str(clip.file / f"frame-{index:06d}.png") for index in picked]
        return [load_image_as_numpy(path, dtype=np.dtype(np.uint8)) for path in paths]
    times = [clip.from_s + index / fps for index in picked]
    return list(decode_video_frames(clip.file, times, 1e-4 + 0.5 / fps, "pyav", return_uint8=True).numpy())


def _copy_others(root: Path, target: Path) -> None:
    for path in (root / "meta").iterdir():
        if path.name not in MADE and path.is_file():
            shutil.copy2(path, target / "meta" / path.name)
    for path in root.iterdir():
        if path.is_file():
            shutil.copy2(path, target / path.name)
