"""Episodes to a data set on disk, LeRobotDataset v3, by lerobot's own writer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from envs.dataset import CARD_FILE, Layout, frame_columns
from envs.video import waiting_encoder

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from envs.episodes import Episode

CAMERA = "observation.images.top"
"""What the camera of a world that is seen from above is called."""


def write_dataset(
    episodes: Iterable[Episode],
    layout: Layout,
    folder: Path,
    card: Mapping[str, Any],
    report: Callable[[int], None] = lambda _: None,
    pictures: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Write the episodes as a LeRobotDataset v3 in `folder`; `report` hears the number of episodes written so far.

    With `pictures`, which draws a state as (height, width, 3) uint8, there is a video of each episode, too.

    `card` (JSON values: provenance, mean return ...) is kept in meta/surefoot.json. The folder appears when it is
    complete. Needs no network. Raises FileExistsError where the folder exists, ValueError for episodes of another size.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it to write the data set again")
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    features, waiting = layout.features(), iter(episodes)
    if pictures is not None:
        head = next(waiting)
        waiting, size = chain([head], waiting), pictures(head.state_TO[0]).shape
        features[CAMERA] = {"dtype": "video", "shape": size, "names": ["height", "width", "channels"]}
    with imageless():
        dataset = LeRobotDataset.create(
            repo_id=f"surefoot/{folder.name}",
            fps=layout.fps,
            features=features,
            root=partial,
            robot_type=layout.robot,
            use_videos=pictures is not None,
            video_backend="pyav",  # lerobot would otherwise try torchcodec, and report at length where that cannot load
            metadata_buffer_size=100,
        )
        encoder = None
        if pictures is not None:
            assert dataset.writer is not None
            dataset.meta.update_chunk_settings(video_files_size_in_mb=2)  # each episode is put in by copying its file
            dataset.writer._streaming_encoder = encoder = waiting_encoder(layout.fps, "h264")
        for index, episode in enumerate(waiting):
            if pictures is not None and encoder is not None:
                if episode.length < 2:  # of which lerobot makes no statistics, and then no data set
                    raise ValueError(f"an episode with pictures needs two steps, got {episode.length}")
                encoder.start_episode([CAMERA], partial)
                for state_O in episode.state_TO[:-1]:
                    encoder.feed_frame(CAMERA, pictures(state_O))
            # Whole episodes at once: the same writer as add_frame, without half a million calls of it.
            data = frame_columns(episode, layout, index, dataset.num_frames)
            dataset.save_episode(episode_data=data | ({} if encoder is None else {CAMERA: []}))
            report(index + 1)
        dataset.finalize()
    (partial / CARD_FILE).write_text(json.dumps(dict(card), indent=1, sort_keys=True))
    os.replace(partial, folder)


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
