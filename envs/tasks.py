"""What the robot was asked for, frame by frame: lerobot's tasks."""

from __future__ import annotations

from pathlib import Path

from envs.episodes import Episode


def tasks(episode: Episode, otherwise: str) -> list[str]:
    """Return what the robot was asked for at each step: the goals in the episode's meta, pairs (first step, text)."""
    found = [otherwise] * episode.length
    for first, goal in episode.meta.get("goals", ()):
        found[first:] = [goal] * (episode.length - first)
    return found


def read_tasks(folder: str | Path) -> list[str]:
    """Return what the robot was asked for at each frame, in the order of `EpisodeData.load`. Raises FileNotFoundError."""
    import pyarrow.parquet as pq

    folder = Path(folder)
    files = sorted(folder.glob("data/chunk-*/file-*.parquet"))
    if not files or not (folder / "meta/tasks.parquet").is_file():
        raise FileNotFoundError(f"no LeRobotDataset v3 with tasks in {folder}")
    table = pq.read_table(folder / "meta/tasks.parquet").to_pydict()
    (names,) = (column for name, column in table.items() if name != "task_index")
    by_index = dict(zip(table["task_index"], names, strict=True))
    return [
        by_index[i] for file in files for i in pq.read_table(file, columns=["task_index"])["task_index"].to_pylist()
    ]
