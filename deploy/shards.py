"""A LeRobotDataset v3 that grows by whole episodes and opens with lerobot at every moment between, kill -9 included.

lerobot writes each episode into a folder of its own beside the data set, as complete files (parquet with footer, mp4 with
index, metadata that counts it). Renaming that folder to `.NAME.ready` commits it; its files are then moved in, what counts
the episode last. Whoever opens the data set next finishes the moves that a kill has interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.dataset import Layout
from envs.dataset_writer import imageless
from envs.video import waiting_encoder

if TYPE_CHECKING:
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

LAST = ("tasks.parquet", "stats.json", "episodes", "info.json")
"""The order in which metadata are moved in, after data and videos: info.json counts the episode."""


@dataclass(frozen=True)
class Form:
    """What the columns of a recording are."""

    layout: Layout
    limits: tuple[str, ...] = ()
    """Names of the limits that may change an action."""
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Name -> (height, width) of its pictures."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the entries of the column `limiter`; a limit that nobody announced counts as the last."""
        return tuple(dict.fromkeys(("nonfinite", *self.limits, "other")))

    def features(self) -> dict[str, dict[str, Any]]:
        """Return lerobot's description of the columns; vectors are float64, so that a replay is exact."""
        given = {key: value for key, value in self.layout.features().items() if key != "action_applied"}
        vectors = ("observation.state", "next.state", "action", "action_requested")
        given |= {key: {**given[key], "dtype": "float64"} for key in vectors}
        flags = {"dtype": "bool", "shape": (len(self.flags),), "names": list(self.flags)}
        kinds = {
            "next.done": "bool",
            "intervention": "bool",
            "plan_age_s": "float32",
            "measured_time_s": "float64",
            "episode_seed": "int64",
        }
        columns = {name: {"dtype": kind, "shape": (1,), "names": None} for name, kind in kinds.items()}
        axes = ["height", "width", "channels"]
        pictures = {
            f"observation.images.{name}": {"dtype": "video", "shape": (*size, 3), "names": axes}
            for name, size in self.cameras.items()
        }
        return {**given, "limiter": flags, **columns, **pictures}


def check_folder(root: Path, form: Form) -> None:
    """Raise ValueError where `root` holds anything but a data set of this form."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        try:
            root.resolve().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{root} cannot be made: {error.strerror}") from None
        return
    try:
        info = json.loads((root / "meta/info.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"{root} is no LeRobotDataset: name a new folder, or try surefoot repair {root}") from None
    layout = form.layout
    for name, have, want in (("robot", info["robot_type"], layout.robot), ("fps", info["fps"], layout.fps)):
        if have != want:
            raise ValueError(f"{root} has {name} {have!r}, this recording has {want!r}: name a new folder")
    for key, want in form.features().items():
        have = info["features"].get(key, {})
        if [have.get("dtype"), have.get("shape"), have.get("names")] != [
            want["dtype"],
            [*want["shape"]],
            want["names"],
        ]:
            raise ValueError(f"{root} has another column {key!r} than this recording: name a new folder")


@contextmanager
def alone(root: Path, wait_s: float = 10.0) -> Iterator[None]:
    """Be the only process that changes the data set. Raises ValueError where another one still does after `wait_s`."""
    name = f"surefoot-{zlib.crc32(str(root.resolve()).encode()):08x}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as file:
        until_s = time.monotonic() + wait_s
        while not _locked(file.fileno()):
            if time.monotonic() > until_s:
                raise ValueError(f"{root} is being recorded or repaired by another process")
            time.sleep(0.05)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def staging(root: Path) -> Path:
    """Where the episode under way is."""
    return root.with_name(f".{root.name}.recording")


def ready(root: Path) -> Path:
    """Where a finished episode is that has not been moved in yet."""
    return root.with_name(f".{root.name}.ready")


def recover(root: Path) -> list[str]:
    """Finish what a kill has interrupted; return what was done, one line each."""
    done = []
    if ready(root).exists():
        publish(root)
        done.append("moved in an episode that was finished, but not yet part of the data set")
    if staging(root).exists():
        shutil.rmtree(staging(root))
        done.append("dropped the unfinished episode that was being recorded")
    return done


def publish(root: Path) -> None:
    """Move the finished episode into the data set; may be interrupted and called again."""
    source = ready(root)
    if not (root / "meta/info.json").exists() and (source / "meta/info.json").exists():
        os.replace(source, root)
    else:
        files = sorted((p for p in source.rglob("*") if p.is_file()), key=lambda p: _rank(p.relative_to(source)))
        for file in files:
            target = root / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
            sync(target.parent)
        shutil.rmtree(source)
    sync(root.parent)


def _rank(path: Path) -> int:
    return LAST.index(path.parts[1]) if path.parts[0] == "meta" and path.parts[1] in LAST else -1


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Shards:
    """Adds episodes to the data set in `root`; lives in the writer's process. Raises OSError where the disk is full."""

    def __init__(self, root: Path, form: Form, notes: Mapping[str, str]) -> None:
        self._root, self._form, self._notes = root, form, notes
        self._dataset: LeRobotDataset | None = None
        recover(root)
        if (root / "meta/info.json").exists():
            last_episode(root)  # a data set that cannot go on is refused now, not after the first episode

    def begin(self) -> None:
        """Open an episode."""
        self.drop()
        self._dataset = opened(self._root, self._form)

    def add(self, frame: dict[str, np.ndarray | str]) -> None:
        """Add one frame to the episode under way."""
        assert self._dataset is not None
        self._dataset.add_frame(frame)

    def keep(self) -> None:
        """Make the episode part of the data set."""
        assert self._dataset is not None
        with imageless():
            self._dataset.save_episode()
        self._dataset.finalize()
        self._dataset = None
        if not (self._root / "meta/info.json").exists():
            for name, text in self._notes.items():
                (staging(self._root) / "meta" / name).write_text(text)
        for path in staging(self._root).rglob("*"):
            sync(path)
        os.replace(staging(self._root), ready(self._root))
        sync(self._root.parent)
        publish(self._root)

    def drop(self) -> None:
        """Forget the episode under way, if there is one."""
        if self._dataset is not None and self._dataset.has_pending_frames():
            self._dataset.clear_episode_buffer()
        self._dataset = None
        shutil.rmtree(staging(self._root), ignore_errors=True)


def opened(root: Path, form: Form) -> LeRobotDataset:
    """Return a writer in the staging folder whose next episode continues the data set in `root`, in files of its own.

    The same as lerobot's `resume`, which reads all episodes for it (0.2 s) and leaves a copy of them in a cache.
    """
    from lerobot.datasets.io_utils import load_info, load_stats, load_tasks
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        repo_id=f"surefoot/{root.name}",
        fps=form.layout.fps,
        features=form.features(),
        root=staging(root),
        robot_type=form.layout.robot,
        use_videos=bool(form.cameras),
        video_backend="pyav",
    )
    if form.cameras:
        assert dataset.writer is not None
        dataset.writer._streaming_encoder = waiting_encoder(form.layout.fps)
    if (root / "meta/info.json").exists():
        meta: Any = dataset.meta
        meta.info, meta.stats, meta.tasks = load_info(root), load_stats(root), load_tasks(root)
        meta.episodes = [last_episode(root)]
        dataset.clear_episode_buffer()  # the next one has the number that follows
    return dataset


def last_episode(root: Path) -> dict[str, Any]:
    """Return lerobot's row of metadata about the last episode, without statistics."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(max(root.glob("meta/episodes/chunk-*/file-*.parquet")))
    columns = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
    return file.read(columns).slice(file.metadata.num_rows - 1).to_pylist()[0]
