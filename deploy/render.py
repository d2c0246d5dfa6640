"""Draw a storyboard in a process of its own: a graphics driver that crashes takes no run with it.

`python -m deploy.render FOLDER` reads a storyboard as JSON from its input and writes `strip-N.png` and `video.mp4` into
FOLDER. Plain drawing always works; MuJoCo's renderer is tried on EGL, then on OSMesa.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploy.drawing import SIZE, caption, make_painter
from deploy.storyboard import Scene, Shot, Storyboard
from deploy.telemetry import ROOT

if TYPE_CHECKING:
    from deploy.drawing import Painter

Backend = Literal["drawn", "egl", "osmesa"]
PICTURES: dict[str, tuple[Backend, ...]] = {"none": (), "drawn": ("drawn",), "mujoco": ("egl", "osmesa", "drawn")}
LIMIT_S = 120.0
FPS = 25
GAP = 4  # pixels between pictures
STRIP_WIDTH = 216  # of a picture in a strip: the middle of the drawn one


def draw(
    folder: Path, robot: str, version: str, story: Storyboard, backends: Sequence[Backend], limit_s: float = LIMIT_S
) -> Backend | None:
    """Draw the storyboard into `folder`; return the backend that could within `limit_s`, or None if none did."""
    if not story.rows:
        return None
    for backend in backends:
        job = {"robot": robot, "version": version, "gl": backend != "drawn", **dataclasses.asdict(story)}
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if backend != "drawn":
            environment |= {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "deploy.render", str(folder.resolve())],
                input=json.dumps(job),
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return backend
    return None


class Camera:
    """Turns shots into captioned pictures; `names` has the arms, each with its poses in a folder of its name but for main."""

    def __init__(self, folder: Path, painter: Painter, names: Mapping[str, str]) -> None:
        self._painter, self._names = painter, names
        files = {arm: (folder if arm == "main" else folder / arm) / "poses.npz" for arm in names}
        self._poses: dict[str, Any] = {arm: np.load(path) for arm, path in files.items() if path.exists()}

    def shoot(self, shot: Shot, arm_name: str = "", width: int = SIZE[0]) -> list[np.ndarray]:
        """Return one picture per step of the shot, the middle `width` pixels of it."""
        cut = (SIZE[0] - width) // 2
        poses, pictures = self._poses[shot.arm][shot.key], []
        for step, text in zip(shot.steps, shot.captions, strict=True):
            over = text.startswith("over")
            picture = self._painter(np.nan_to_num(poses[step]))[:, cut : cut + width]
            pictures.append(caption(picture, f"{arm_name}{text}", dim=over))
        return pictures

    def film(self, scene: Scene) -> list[np.ndarray]:
        """Return the frames of a scene, its shots side by side."""
        alone = len(scene.shots) == 1
        reels = [self.shoot(shot, "" if alone else f"{self._names[shot.arm]}   ") for shot in scene.shots]
        return [beside(frames) for frames in zip(*reels, strict=True)]


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures of equal height in a row."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return np.concatenate(parts, axis=1)


def fitted(frame: np.ndarray, width: int) -> np.ndarray:
    """Return the frame in the middle of a white one of `width`, as H.264 wants all frames alike."""
    missing = width - frame.shape[1]
    return np.pad(frame, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)), constant_values=255)


def _even(n: int) -> int:
    return n + n % 2


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write H.264 that browsers play."""
    import imageio.v2 as imageio

    width = _even(max(frame.shape[1] for frame in frames))
    part = path.with_name(f".{path.name}.part.mp4")
    with imageio.get_writer(part, fps=FPS, codec="libx264", macro_block_size=2, quality=7) as video:
        for frame in frames:
            video.append_data(fitted(frame, width))  # pyright: ignore[reportAttributeAccessIssue]
    part.replace(path)


def _shot(tree: dict[str, Any]) -> Shot:
    return Shot(tree["arm"], tree["episode"], tuple(tree["steps"]), tuple(tree["captions"]), tree["last_step"])


def main(argv: Sequence[str]) -> int:
    """Draw the storyboard on stdin into the folder argv[0]."""
    import imageio.v2 as imageio

    folder, job = Path(argv[0]), json.load(sys.stdin)
    camera = Camera(folder, make_painter(job["robot"], job["version"], job["gl"]), job["names"])
    for n, (_, row) in enumerate(job["rows"]):
        imageio.imwrite(folder / f"strip-{n}.png", beside(camera.shoot(_shot(row), width=STRIP_WIDTH)))
    frames = []
    for scene in job["scenes"]:
        frames += camera.film(Scene(scene["title"], tuple(_shot(s) for s in scene["shots"])))
    if frames:
        write_video(folder / "video.mp4", frames)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
