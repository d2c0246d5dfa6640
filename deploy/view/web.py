"""The live view as a web page: the scene, what is foreseen, the instruments, and for each visitor controls of his own.

Whoever sees the page may stop the robot; to ask for anything else takes the token.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.view.controls import Controls
from deploy.view.instruments import panel
from deploy.view.scene import Scene, foreseen_paths, segments
from envs.robots import robot_spec

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.realtime.feed import Feed

PANEL_S = 0.1
"""Least time between two looks of the instruments."""


def refuse_taken(host: str, port: int) -> None:
    """Raise ValueError, in one line, for an address that cannot be had: viser would silently take the next port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror or error}"
            raise ValueError(f"port {port} of {host} {why}: choose another --view-port or --view-host") from None


class WebView:
    """A viser server and what it shows."""

    def __init__(self, cfg: RunConfig, feed: Feed, token: str) -> None:
        import viser

        refuse_taken(cfg.view_host, cfg.view_port)
        spec = robot_spec(cfg.robot, cfg.version)
        self._feed, self._scene = feed, Scene(spec)
        self._server = server = viser.ViserServer(cfg.view_host, cfg.view_port, label="surefoot", verbose=False)
        server.request_share_url = _shared_with_nobody
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.initial_camera.position, server.initial_camera.look_at = (0.5, -3.0, 1.3), (0.0, 0.0, 0.7)
        self._ground: Any = server.scene.add_grid("/ground", 12.0, 12.0, cell_size=0.5, section_size=1.0)
        self._parts: list[Any] = [
            server.scene.add_mesh_simple(f"/robot/{part.name}", part.vertices_V3, part.faces_F3, color=part.rgb)
            for part in self._scene.parts
        ]
        nothing = np.zeros((0, 2, 3))
        self._paths: Any = server.scene.add_line_segments(
            "/foreseen", nothing, nothing.astype(np.uint8), thickness=0.008
        )
        self._panel = server.gui.add_html("no frame yet")
        self._seen, self._new_s, self._drawn_s = 0, time.monotonic(), 0.0
        self._frame: Any = None
        steering = threading.Lock()

        @server.on_client_connect
        def _(client: viser.ClientHandle) -> None:
            Controls(client, feed, token, spec, cfg.limits, steering)

    @property
    def where(self) -> str:
        """The address of the page."""
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    def draw(self) -> None:
        """Show the newest frame, if it is new; those between are dropped."""
        now_s, found = time.monotonic(), self._feed.look(self._seen)
        if found is not None:
            (self._seen, self._frame), self._new_s = found, now_s
        if self._frame is None:
            return
        with self._server.atomic():
            if found is not None:
                self._move()
            if now_s - self._drawn_s >= PANEL_S:
                self._drawn_s = now_s
                self._panel.content = panel(self._frame, self._feed, now_s - self._new_s)

    def close(self) -> None:
        """Close the page."""
        self._server.stop()

    def _move(self) -> None:
        """Place the robot; the scene moves under it, so that it stays where the camera looks."""
        xyz_N3, wxyz_N4, under = self._scene.place(self._frame["pose_P"])
        for part, xyz, wxyz in zip(self._parts, xyz_N3 - under, wxyz_N4, strict=True):
            part.position, part.wxyz = xyz, wxyz
        self._ground.position = -np.mod(under, 1.0)
        paths_FHL3 = foreseen_paths(self._scene, self._feed, self._frame)
        points, shades = segments(paths_FHL3 - under)
        self._paths.points, self._paths.colors = points.astype(np.float32), shades


def _shared_with_nobody(verbose: bool = True) -> None:
    """Viser lets any visitor publish the page through a relay on the internet; nobody may publish a robot's controls."""
