"""Pictures in data sets: written as lerobot's videos, read back as plain arrays."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from envs.shapes import check


def waiting_encoder(fps: int, codec: str | None = None) -> Any:
    """Return lerobot's encoder, but one that waits for room in its queue instead of leaving out a picture.

    `codec` None is lerobot's own choice, AV1; "h264" is larger, and for small pictures many times faster.
    """
    import av.logging
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.video_utils import StreamingVideoEncoder

    os.environ["SVT_LOG"] = "1"  # the codecs would report every episode
    av.logging.set_libav_level(av.logging.ERROR)

    class Waiting(StreamingVideoEncoder):
        def feed_frame(self, video_key: str, image: np.ndarray) -> None:
            while self._frame_queues[video_key].full() and self._threads[video_key].is_alive():
                time.sleep(0.001)
            super().feed_frame(video_key, image)

    return Waiting(fps, None if codec is None else RGBEncoderConfig(vcodec=codec, crf=18, preset="veryfast"))


def resized(picture_HWC: np.ndarray, side: int) -> np.ndarray:
    """Return a picture as (side, side, 3) uint8, averaged over areas; the square in its middle where it is not square."""
    height, width, _ = picture_HWC.shape
    if height == width == side:
        return picture_HWC
    import cv2

    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = picture_HWC[top : top + edge, left : left + edge]
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def cameras(folder: Path) -> list[str]:
    """Return the cameras of a LeRobotDataset v3 that were filmed, as the data set names them."""
    info = json.loads((folder / "meta/info.json").read_text())
    return sorted(key for key, feature in info["features"].items() if feature["dtype"] == "video")


def camera_of(folder: Path) -> str:
    """Return the first camera. Raises ValueError where there is none."""
    keys = cameras(folder)
    if not keys:
        info = json.loads((folder / "meta/info.json").read_text())
        raise ValueError(f"{folder} has no video: its columns are {', '.join(sorted(info['features']))}")
    return keys[0]


def episode_frames(folder: Path, key: str) -> Iterator[np.ndarray]:
    """Yield the pictures of one episode after another, (T, height, width, 3) uint8. Raises ValueError for a video cut short."""
    import pyarrow.parquet as pq

    info = json.loads((folder / "meta/info.json").read_text())
    columns = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted(folder.glob("meta/episodes/chunk-*/file-*.parquet"))
    for row in (r for file in files for r in pq.read_table(file, columns=[*columns, "length"]).to_pylist()):
        chunk, number, start_s = (row[column] for column in columns)
        path = folder / info["video_path"].format(video_key=key, chunk_index=chunk, file_index=number)
        first, length = round(start_s * info["fps"]), row["length"]
        frames = np.stack(list(_decoded(path, first, length, info["fps"])) or [np.zeros((0, 0, 3), np.uint8)])
        if len(frames) < length:
            raise ValueError(f"{path} ends {length - len(frames)} pictures too early: try surefoot repair {folder}")
        check("frames", frames, "T H W C", T=length, C=3)
        yield frames


def _decoded(path: Path, first: int, count: int, fps: float) -> Iterator[np.ndarray]:
    """Yield so many pictures of a video from number `first` on."""
    import av

    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        video.seek(max(0, int(first / fps / stream.time_base) - 1), stream=stream)  # pyright: ignore
        for frame in video.decode(stream):
            index = round(float(frame.time or 0.0) * fps)
            if first <= index < first + count:
                yield frame.to_ndarray(format="rgb24")
            elif index >= first + count:
                return
