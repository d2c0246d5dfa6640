"""The live view: what it draws of real sessions, what its visitors may do, and that no session ever waits for it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest

from configs.presets import PRESETS
from deploy.arms import build, open_session
from deploy.guard import GuardConfig, Mode
from deploy.interrupt import Interrupts
from deploy.realtime.feed import MODES, SOURCES, Feed, Foreseen
from deploy.view.controls import ANSWER_S
from deploy.view.instruments import gauge, panel
from deploy.view.process import Viewer, feed_of
from deploy.view.scene import Scene, foreseen_paths, segments
from deploy.view.stream import RerunView
from deploy.view.web import WebView
from envs.robots import make_env, robot_spec
from tests.visitor import Visitor, until

LINEAR = replace(
    PRESETS["linear-cem"][1], plan_latency_s=0.1, episode_steps=40, max_episodes=1, view="web", view_port=0
)
WALKER = replace(PRESETS["walker"][1], plan_latency_s=0.016, episode_steps=30, max_episodes=1, adapt=False)
MUJOCO = ("walker2d", "hopper", "halfcheetah")


def ran(cfg, folder, feed=None, each_step=lambda _: None):
    """Return a session that has run one episode; `each_step(step)` is called before each of its steps."""
    folder.mkdir(exist_ok=True)
    parts = build(cfg)
    made = open_session(cfg, parts, folder, Interrupts(), feed=feed_of(cfg, parts.robot) if feed is None else feed)
    look = made._mind.look

    def looked(step, *rest):
        each_step(step)
        look(step, *rest)

    made._mind.look = looked
    made.run(lambda episode: episode < 1)
    made.log.close()
    return made


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A session of the walker, and the feed that it has left."""
    feed = feed_of(WALKER, build(WALKER).robot)
    return ran(WALKER, tmp_path_factory.mktemp("walk"), feed), feed


# --- the scene


@pytest.mark.parametrize("name", MUJOCO)
def test_every_part_is_where_mujoco_has_it(name):
    env = make_env(name, "v4")
    env.reset(seed=1)
    for _ in range(10):
        env.step(env.action_space.sample())
    inner: Any = env.unwrapped
    model, data = inner.model, inner.data
    mujoco.mj_forward(model, data)  # pyright: ignore
    scene = Scene(robot_spec(name, "v4"))
    xyz, wxyz, under = scene.place(data.qpos)
    solid = [n for n in range(model.ngeom) if model.geom(n).name != "floor"]
    assert xyz == pytest.approx(data.geom_xpos[solid])
    assert np.array([rotation(q) for q in wxyz]).reshape(-1, 9) == pytest.approx(data.geom_xmat[solid], abs=1e-9)
    assert under.tolist() == [pytest.approx(data.qpos[0]), 0.0, 0.0]
    for part, (radius, half, _) in zip(scene.parts, model.geom_size[solid], strict=True):
        assert part.vertices_V3.max(0) == pytest.approx([radius, radius, radius + half], rel=1e-3)


def rotation(wxyz):
    w, x, y, z = wxyz
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


SHAPES = """<mujoco><asset><mesh name="tetra" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/></asset><worldbody>
  <geom type="plane" size="1 1 .1"/>
  <body pos="1 2 3"><freejoint/>
    <geom type="box" size=".1 .2 .3" rgba="1 0 0 1"/><geom type="sphere" size=".4"/><geom type="cylinder" size=".1 .5"/>
    <geom type="ellipsoid" size=".1 .2 .3"/><geom type="mesh" mesh="tetra"/><geom type="box" size="1 1 1" group="3"/>
  </body></worldbody></mujoco>"""


def test_every_kind_of_geom_has_its_size(monkeypatch):
    monkeypatch.setattr("deploy.view.scene.CART", SHAPES)
    scene = Scene(robot_spec("double_integrator", "v4"))
    assert len(scene.parts) == 5  # neither the ground nor what is there for collisions only
    spans = np.array([np.ptp(part.vertices_V3, axis=0) for part in scene.parts[:4]])
    sizes = [[0.2, 0.4, 0.6], [0.8, 0.8, 0.8], [0.2, 0.2, 1.0], [0.2, 0.4, 0.6]]
    assert spans == pytest.approx(np.array(sizes), rel=1e-3)
    assert scene.parts[0].rgb == (255, 0, 0)
    tetra = scene.parts[4]
    corners = tetra.vertices_V3[tetra.faces_F3].reshape(-1, 3)
    assert np.linalg.norm(corners[:, None] - corners[None], axis=2).max() == pytest.approx(np.sqrt(2), rel=1e-3)


def test_a_runner_is_foreseen_where_its_speed_takes_it():
    spec, scene = robot_spec("walker2d", "v4"), Scene(robot_spec("walker2d", "v4"))
    states = np.zeros((2, 5, 17))
    states[..., 0], states[0, :, spec.columns["speed"]], states[1, :, spec.columns["speed"]] = 1.25, 2.0, -1.0
    pose = np.array([7.0, 1.25, *[0.0] * 7])
    steps = 0.1 * np.arange(1, 6)
    for t_s, passed in ((3.0, 0.0), (3.2, 0.2), (2.9, -0.1)):
        paths = scene.paths(Foreseen(3.0, 0.1, states), pose, t_s)
        assert paths.shape == (2, 5, 3, 3)  # torso and both feet
        assert paths[0, :, 0, 0] == pytest.approx(7.0 + 2.0 * (steps - passed))
        assert paths[1, :, 0, 0] == pytest.approx(7.0 - 1.0 * (steps - passed))


def test_paths_become_segments_with_the_best_in_its_own_colour():
    paths = np.arange(2 * 3 * 1 * 3, dtype=float).reshape(2, 3, 1, 3)
    points, shades = segments(paths)
    assert points.tolist() == [
        [paths[f, h, 0].tolist(), paths[f, h + 1, 0].tolist()] for f in range(2) for h in range(2)
    ]
    assert len({tuple(row) for row in shades[:2].reshape(-1, 3)} | {tuple(shades[2, 0])}) == 2
    assert [part.shape for part in segments(np.zeros((0, 0, 0, 3)))] == [(0, 2, 3), (0, 2, 3)]


def test_predictions_that_are_not_finite_are_not_drawn():
    states = np.full((1, 4, 17), np.nan)
    paths = Scene(robot_spec("walker2d", "v4")).paths(Foreseen(0.0, 0.1, states), np.zeros(9), 0.0)
    assert paths.size == 0


def test_what_a_walking_walker_foresees_starts_where_it_is(walked):
    _, feed = walked
    frame, scene = feed.look()[1], Scene(robot_spec("walker2d", "v4"))
    paths = foreseen_paths(scene, feed, frame)
    assert paths.shape == (8, 16, 3, 3)
    torso = np.array([frame["pose_P"][0], 0.0, frame["pose_P"][1]])
    assert np.abs(paths[:, 0, 0] - torso).max() < 0.15
    late = frame.copy()
    late["t_s"] += 10.0
    assert foreseen_paths(scene, feed, late).size == 0


# --- the instruments


@pytest.mark.parametrize(("score", "share"), [(0.0, 0), (1.0, 38), (2.0, 75), (9.0, 100)])
def test_the_gauge_reaches_its_mark_at_the_threshold(score, share):
    drawn = gauge(score, 2.0, False)
    assert f'id="gauge" style="width: {share}%' in drawn
    assert "left: 75%" in drawn


def test_the_panel_shows_the_frame_and_escapes_what_others_wrote(walked):
    made, feed = walked
    frame = feed.look()[1]
    shown = panel(frame, feed, 0.0)
    (episode,) = made.history.episodes
    for text in (
        "RUNNING",
        "source plan",
        "limited by",
        "plan age",
        "tick late",
        f"return {episode.episode_return:.1f}",
    ):
        assert text in shown
    feed.goals.say("refused: <script>")
    odd = frame.copy()
    odd["reason"][:3] = list(b"<b>")
    shown = panel(odd, feed, 2.0)
    assert "<script>" not in shown
    assert "&lt;b&gt;" in shown
    assert "no news for 2 s" in shown


# --- the page, seen by visitors


@pytest.fixture
def page():
    """A page of the point mass, drawn until the test is over, and its feed."""
    feed = feed_of(LINEAR, build(LINEAR).robot)
    view, over = WebView(LINEAR, feed, "s3cret"), threading.Event()

    def draw():
        while not over.wait(0.02):
            view.draw()

    drawing = threading.Thread(target=draw)
    drawing.start()
    yield view, feed
    over.set()
    drawing.join()
    view.close()


def publish(feed: Feed, **values):
    frame = np.zeros((), feed.dtype)
    for name, value in values.items():
        frame[name] = value
    feed.frame.write(frame.tobytes())


def test_a_page_shows_the_newest_frame(page):
    view, feed = page
    with Visitor(view.where) as visitor:
        publish(feed, mode=MODES.index("running"), score=1.0, threshold=2.0, step=17, age_s=0.05)
        assert until(lambda: "step 17," in visitor.html)
        assert {"/robot/1", "/ground", "/foreseen"} <= visitor.nodes
        assert 'id="gauge" style="width: 38%' in visitor.html
        assert "plan age 50.0 ms" in visitor.html
        assert until(lambda: visitor.elements.keys() == {"EMERGENCY STOP", "token"})


def test_anybody_may_stop_the_robot(page):
    view, feed = page
    with Visitor(view.where) as visitor:
        assert until(lambda: "EMERGENCY STOP" in visitor.elements)
        visitor.put("EMERGENCY STOP", True)
        assert until(lambda: feed.switch.thrown)
        assert feed.switch.thrown == "web page"


def test_only_who_has_the_token_may_command(page):
    view, feed = page
    with Visitor(view.where) as stranger, Visitor(view.where) as friend:
        assert until(lambda: "token" in stranger.elements and "token" in friend.elements)
        stranger.put("token", "guess")
        friend.put("token", "s3cret")
        assert until(lambda: "objective" in friend.elements)
        assert {"take over", "force", "pursue"} <= friend.elements.keys()
        assert not until(lambda: stranger.elements.keys() != {"EMERGENCY STOP", "token"}, 0.5)
        # the elements of one page do not answer to another
        stranger.elements = friend.elements
        stranger.put("objective", "speed:3")
        stranger.put("pursue", True)
        stranger.put("take over", True)
        friend.put("objective", "speed:1")
        friend.put("pursue", True)
        assert until(lambda: feed.goals._asked.read() is not None)
        assert feed.goals.take() == "speed:1"
        assert feed.hand.wants(0.0, np.zeros(1)) is None


@pytest.mark.parametrize("gone", ["silent", "closed", "let go"])
def test_who_takes_over_is_followed_until_his_page_is_gone(page, gone):
    view, feed = page
    publish(feed, sent_A=[-2.0])

    def wanted():
        found = feed.hand.wants(0.0, np.zeros(1))
        return None if found is None else found.tolist()

    with Visitor(view.where) as visitor:
        assert until(lambda: "token" in visitor.elements)
        visitor.put("token", "s3cret")
        assert until(lambda: "take over" in visitor.elements)
        visitor.put("take over", True)
        assert until(lambda: wanted() == [-2.0])  # it begins as what is sent
        visitor.put("force", 3.5)
        assert until(lambda: wanted() == [3.5])
        if gone == "silent":
            visitor.there = False
        elif gone == "closed":
            visitor.leave()
        else:
            visitor.put("take over", False)
        assert until(lambda: wanted() is None)
        assert not until(lambda: wanted() is not None, 1.5 * ANSWER_S)


def test_one_hand_at_a_time(page):
    view, feed = page
    with Visitor(view.where) as first, Visitor(view.where) as second:
        for visitor in (first, second):
            assert until(lambda v=visitor: "token" in v.elements)
            visitor.put("token", "s3cret")
            assert until(lambda v=visitor: "take over" in v.elements)
        first.put("take over", True)
        assert until(lambda: feed.hand.wants(0.0, np.zeros(1)) is not None)
        second.put("take over", True)
        assert until(lambda: second.values["take over"] is False)
        assert until(lambda: second.notices)
        assert second.notices == ["somebody else moves the robot by hand"]
        first.leave()
        assert until(lambda: feed.hand.wants(0.0, np.zeros(1)) is None)
        second.put("take over", True)
        assert until(lambda: feed.hand.wants(0.0, np.zeros(1)) is not None)


def test_no_visitor_can_publish_the_page_on_the_internet(page, monkeypatch):
    view, _ = page
    tunnels = []
    monkeypatch.setattr("viser._viser.ViserTunnel", lambda *args: tunnels.append(args))
    with Visitor(view.where) as visitor:
        assert until(lambda: "token" in visitor.elements)
        visitor.send({"type": "ShareUrlRequest"})
        visitor.put("EMERGENCY STOP", True)  # is heard after it
        assert until(lambda: view._feed.switch.thrown)
        assert tunnels == []


# --- the process


def test_a_port_that_is_taken_is_an_error_in_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        cfg = replace(LINEAR, view_port=port)
        with pytest.raises(
            ValueError, match=rf"^the view did not come up: port {port} of 127.0.0.1 is taken"
        ) as caught:
            Viewer(cfg, feed_of(cfg, build(cfg).robot))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_a_viewer_that_hangs_or_dies_changes_nothing_of_a_run(tmp_path, blow):
    feed = feed_of(LINEAR, build(LINEAR).robot)
    viewer = Viewer(LINEAR, feed)
    ran(LINEAR, tmp_path / "seen", feed, lambda step: os.kill(viewer.process.pid, blow) if step == 10 else None)
    viewer.close()
    assert not viewer.process.is_alive()
    alone = open_session(LINEAR, build(LINEAR), made_folder(tmp_path / "alone"), Interrupts())
    alone.run(lambda episode: episode < 1)
    alone.log.close()
    assert (tmp_path / "seen/events.jsonl").read_bytes() == (tmp_path / "alone/events.jsonl").read_bytes()
    assert alone.history.episodes[0].steps == 40


def made_folder(path):
    path.mkdir()
    return path


def test_in_real_time_a_viewer_that_hangs_keeps_the_session_from_no_step(tmp_path):
    patient = GuardConfig(no_plan_s=60.0, plan_age_s=60.0)  # a busy machine is not what this is about
    cfg = replace(LINEAR, time="realtime", plan_latency_s=None, episode_steps=30, guard=patient)
    feed = feed_of(cfg, build(cfg).robot)
    viewer = Viewer(cfg, feed)
    made = ran(
        cfg, tmp_path / "run", feed, lambda step: os.kill(viewer.process.pid, signal.SIGSTOP) if step == 5 else None
    )
    viewer.close()
    (episode,) = made.history.episodes
    assert episode.ended == "truncated"
    assert episode.steps == 30
    assert made.guard.mode is Mode.RUNNING
    assert int(feed.look()[1]["step"]) == 30


# --- rerun


def printed(path) -> str:
    rrd = [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(path)]
    return subprocess.run(rrd, capture_output=True, text=True, check=True).stdout


def test_a_recording_holds_geoms_numbers_actions_and_what_was_said(tmp_path, walked):
    _, feed = walked
    cfg = replace(WALKER, view="rerun", view_out=tmp_path / "deep/view.rrd")
    view = RerunView(cfg, feed)
    view.draw()
    view.close()
    text = printed(cfg.view_out)
    for path in ("/robot/1", "/robot/7", "/robot/foreseen", "/surprise", "/reward", "/plan/age_s"):
        assert path in text, path
    for path in ("/loop/late_s", "/return", "/action/requested", "/action/sent", "/log"):
        assert path in text, path
    assert "Mesh3D" in text
    assert view.where == str(cfg.view_out)


def test_rerun_is_told_of_changes_only_once(tmp_path):
    feed = feed_of(LINEAR, build(LINEAR).robot)
    view, told = RerunView(replace(LINEAR, view="rerun", view_out=tmp_path / "view.rrd"), feed), []
    log = view._stream.log
    view._stream.log = lambda path, *rest, **more: (told.append(path), log(path, *rest, **more))  # pyright: ignore
    for mode in ("running", "running", "hold", "hold"):
        publish(feed, mode=MODES.index(mode), source=SOURCES.index("plan"))
        view.draw()
        view.draw()
    view.close()
    assert told.count("log") == 3  # the mode, what it follows, and the other mode
    assert told.count("return") == 4


@pytest.mark.parametrize("killed", [False, True])
def test_rerun_serves_on_loopback_only_and_its_server_ends_with_the_view(killed):
    feed = feed_of(LINEAR, build(LINEAR).robot)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    viewer = Viewer(replace(LINEAR, view="rerun", view_port=port), feed)
    assert viewer.where == f"http://127.0.0.1:{port}?url=rerun+http://127.0.0.1:{port + 1}/proxy"
    assert until(lambda: listens(port) and listens(port + 1))
    found = subprocess.run(["ps", "-wwo", "args=", "--ppid", str(viewer.process.pid)], capture_output=True, text=True)
    assert "/rerun --serve-web --bind 127.0.0.1 " in found.stdout
    if killed:
        os.kill(viewer.process.pid, signal.SIGKILL)
    viewer.close()
    assert until(lambda: not listens(port) and not listens(port + 1))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
