"""Data sets that others recorded: lerobot's columns alone, names under a heading, pictures instead of poses."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from deploy.collect import main as collect
from envs.dataset import EpisodeData
from envs.frames import load_frames
from envs.pairs import read_pairs
from envs.pusht import turned
from envs.robots import ROBOTS

OURS = ("next.state", "action_requested", "action_applied", "next.terminated", "next.truncated")


def demonstrations(path, count=3, steps=40):
    """A file like that of Diffusion Policy: pushers that wander about a block."""
    rng, states, actions = np.random.default_rng(0), [], []
    for _ in range(count):
        at = rng.uniform(100, 400, 2)
        for _ in range(steps):
            states.append([*at, 256, 300, 0.3])
            at = np.clip(at + rng.uniform(-25, 25, 2), 60, 450)
            actions.append(at)
    ends = steps * (1 + np.arange(count))
    np.savez(path, state=np.array(states), action=np.array(actions), episode_ends=ends)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    demos = demonstrations(out / "demos.npz")
    args = ["pusht-heldout", "--demos", str(demos), "--episodes", "3", "--workers", "1", "--out", str(out)]
    assert collect(args) == 0
    return out / "pusht-heldout"


@pytest.fixture(scope="module")
def foreign(own, tmp_path_factory):
    """The same as stock lerobot would have recorded it: no columns of ours, two numbers of state, names under a heading."""
    import shutil

    folder = tmp_path_factory.mktemp("foreign") / "pusht"
    shutil.copytree(own, folder)
    for file in folder.glob("data/chunk-*/file-*.parquet"):
        table = pq.read_table(file).drop_columns(list(OURS))
        state = np.stack(table["observation.state"].to_numpy())[:, :2]
        import pyarrow as pa

        column = pa.array(state.astype(np.float32).tolist(), pa.list_(pa.float32(), 2))
        table = table.set_column(table.column_names.index("observation.state"), "observation.state", column)
        pq.write_table(table, file)
    info = json.loads((folder / "meta/info.json").read_text())
    for key in OURS:
        del info["features"][key]
    info["features"]["observation.state"] |= {"shape": [2], "names": {"motors": ["motor_0", "motor_1"]}, "units": None}
    info["features"]["action"] |= {"names": None, "units": None}
    (folder / "meta/info.json").write_text(json.dumps(info | {"robot_type": None}))
    return folder


def test_the_last_frame_of_an_episode_is_where_it_ends(own, foreign):
    ours, theirs = EpisodeData.load(own), EpisodeData.load(foreign)
    assert theirs.episodes == ours.episodes == 3
    assert np.diff(theirs.episode_start).tolist() == (np.diff(ours.episode_start) - 1).tolist()
    for episode in range(3):
        (state_TO, action_TA), (other_TO, other_TA) = (d.states_and_actions(episode) for d in (ours, theirs))
        assert np.array_equal(other_TO, state_TO[:-1, :2])
        assert np.array_equal(other_TA, action_TA[:-1])
    assert theirs.truncated_N.sum() == 3
    assert not theirs.terminated_N.any()
    assert theirs.layout.state_names == ("motor_0", "motor_1")
    assert theirs.layout.action_names == ("0", "1")


def test_its_pictures_are_those_of_its_video_and_the_last_one_is_there(foreign, tmp_path):
    frames = load_frames([foreign], 32, tmp_path)
    data = EpisodeData.load(foreign)
    assert np.array_equal(np.diff(frames.first_E), np.diff(data.episode_start) + 1)
    assert frames.frame_NHWC.shape[1:] == (32, 32, 3)
    assert (frames.action_NA[frames.first_E[1:] - 1] == 0).all()


def test_starts_and_goals_are_read_off_its_pictures(own, foreign):
    exact, seen = (read_pairs(folder, ROBOTS["pusht"], 10) for folder in (own, foreign))
    ours = EpisodeData.load(own)
    assert len(seen) == sum(n - 10 for n in np.diff(ours.episode_start))
    for index in (0, 7, len(seen) - 1):
        start, goal = seen[index]
        gaps = [np.abs(p[:, :4] - seen[index][:, :4]).max() for p in exact]
        assert min(gaps) < 6
        assert abs(turned(start[4] - exact[int(np.argmin(gaps))][0, 4])) < 0.1
        assert goal.shape == (5,)
    with pytest.raises(ValueError, match=r"no episode of .* has 1000 states"):
        read_pairs(foreign, ROBOTS["pusht"], 999)
    with pytest.raises(ValueError, match="has states motor_0, motor_1; tworoom needs x, y"):
        read_pairs(foreign, ROBOTS["tworoom"], 5)


def test_a_data_set_without_actions_is_refused_in_one_line(foreign, tmp_path):
    import shutil

    folder = tmp_path / "mute"
    shutil.copytree(foreign, folder)
    for file in folder.glob("data/chunk-*/file-*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["action"]), file)
    with pytest.raises(ValueError, match=r"mute has no column 'action': nothing can be learned from it"):
        EpisodeData.load(folder)
