"""The live view as a stream to rerun: into a file, or to a page that rerun's own server serves and keeps a bounded past for."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.realtime.feed import SOURCES
from deploy.view.instruments import mode_of, reason_of
from deploy.view.scene import Scene, colours, foreseen_paths
from envs.robots import robot_spec

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.realtime.feed import Feed

KEPT = "256MB"
"""What the server keeps for those who look later; the oldest goes first."""
FILE_TICK = timedelta(seconds=2)
"""How often a file is written to: half the size of one that is written at rerun's pace, and as much is lost when killed."""
PR_SET_PDEATHSIG = 1
NUMBERS = {
    "plan/age_s": "age_s",
    "plan/made_in_ms": "plan_ms",
    "loop/late_s": "late_s",
    "reward": "reward",
    "return": "return",
}
"""Where each number of a frame goes."""


class RerunView:
    """A recording that is written while it happens; nothing of it is kept in this process."""

    def __init__(self, cfg: RunConfig, feed: Feed) -> None:
        import rerun as rr

        spec = robot_spec(cfg.robot, cfg.version)
        self._rr, self._feed, self._scene, self._names = rr, feed, Scene(spec), list(spec.action.names)
        self._seen, self._said = 0, ("", "")
        self._server: subprocess.Popen[bytes] | None = None
        batches = rr.ChunkBatcherConfig.DEFAULT()
        if cfg.view_out is not None:
            batches.flush_tick = FILE_TICK
        self._stream = rr.RecordingStream("surefoot", batcher_config=batches)
        if cfg.view_out is not None:
            cfg.view_out.parent.mkdir(parents=True, exist_ok=True)
            self._stream.save(cfg.view_out)
            self.where = str(cfg.view_out)
        else:
            self._serve(cfg.view_host, cfg.view_port)
        self._describe()

    def _serve(self, host: str, port: int) -> None:
        """Start rerun's server beside this process; its own, inside the SDK, would listen on every address."""
        import rerun_cli

        from deploy.view.web import refuse_taken

        refuse_taken(host, port)
        refuse_taken(host, port + 1)
        ports = ["--web-viewer-port", str(port), "--port", str(port + 1)]
        program = Path(rerun_cli.__file__).with_name("rerun")  # `python -m rerun` would leave it behind when killed
        command = [program, "--serve-web", "--bind", host, *ports, "--server-memory-limit", KEPT]
        null = subprocess.DEVNULL
        self._server = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, preexec_fn=_end_with_parent)
        address = f"rerun+http://{host}:{port + 1}/proxy"
        self._stream.connect_grpc(address)
        self.where = f"http://{host}:{port}?url={address}"

    def _describe(self) -> None:
        """Log what does not change."""
        rr, log = self._rr, self._stream.log
        log("robot", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for part in self._scene.parts:
            mesh = rr.Mesh3D(vertex_positions=part.vertices_V3, triangle_indices=part.faces_F3, albedo_factor=part.rgb)
            log(f"robot/{part.name}", mesh, static=True)
        series = {"surprise": ["score", "threshold"], "action/requested": self._names, "action/sent": self._names}
        for path, names in series.items():
            log(path, rr.SeriesLines(names=names), static=True)

    def draw(self) -> None:
        """Log the newest frame, if it is new; those between are dropped."""
        found = self._feed.look(self._seen)
        if found is None:
            return
        self._seen, frame = found
        rr, log = self._rr, self._stream.log
        self._stream.set_time("robot", duration=float(frame["t_s"]))
        self._stream.set_time("step", sequence=int(frame["step"]))
        for path, name in NUMBERS.items():
            if np.isfinite(frame[name]):
                log(path, rr.Scalars(float(frame[name])))
        log("surprise", rr.Scalars([float(frame["score"]), float(frame["threshold"])]))
        log("action/requested", rr.Scalars(frame["requested_A"]))
        log("action/sent", rr.Scalars(frame["sent_A"]))
        self._say(frame)
        self._place(frame)

    def close(self) -> None:
        """Write what is left, and end the server."""
        self._stream.flush()
        self._stream.disconnect()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()

    def _say(self, frame: Any) -> None:
        """Log what the robot does and why, whenever it changes."""
        mode, reason = mode_of(frame), reason_of(frame)
        source, limited = SOURCES[int(frame["source"])], ", ".join(self._feed.names(int(frame["flags"])))
        now = f"{mode.value}: {reason}", f"follows {source}" + (f", limited by {limited}" if limited else "")
        for text, before in zip(now, self._said, strict=True):
            if text != before:
                self._stream.log("log", self._rr.TextLog(text, level="INFO"))
        self._said = now

    def _place(self, frame: Any) -> None:
        rr, log = self._rr, self._stream.log
        xyz_N3, wxyz_N4, _ = self._scene.place(frame["pose_P"])
        for part, xyz, (w, x, y, z) in zip(self._scene.parts, xyz_N3, wxyz_N4, strict=True):
            log(f"robot/{part.name}", rr.Transform3D(translation=xyz, quaternion=[x, y, z, w]))
        paths_FHL3 = foreseen_paths(self._scene, self._feed, frame)
        f, h, ends = paths_FHL3.shape[:3]
        lines = paths_FHL3.swapaxes(1, 2).reshape(f * ends, h, 3)
        log("robot/foreseen", rr.LineStrips3D(list(lines), colors=np.repeat(colours(f), ends, 0), radii=0.004))


def _end_with_parent() -> None:
    """Let Linux end this process when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
