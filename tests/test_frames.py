"""Pictures of recorded episodes: drawn again from states, or read from a video."""

import json

import numpy as np
import pytest

from envs.dataset import Layout
from envs.dataset_writer import CAMERA, write_dataset
from envs.episodes import Episode
from envs.frames import FrameData, load_frames
from envs.robots import ROBOTS
from envs.tworoom import moved, picture
from envs.video import camera_of, episode_frames, resized

SPEC = ROBOTS["tworoom"]


def episode(index, length):
    rng = np.random.default_rng(index)
    states, actions = [np.array([40.0 + index, 60.0, 200.0, 200.0])], rng.uniform(-1, 1, (length, 2))
    for action_A in actions:
        states.append(np.concatenate([moved(states[-1][:2], 5 * action_A), [200.0, 200.0]]))
    zeros_T = np.zeros(length)
    return Episode(np.array(states), actions, actions, actions, zeros_T, False, True, seed=index)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("data") / "rooms"
    made = (episode(i, 12 + 3 * i) for i in range(3))
    write_dataset(made, Layout.of(SPEC), where, {}, pictures=lambda state_O: picture(state_O[:2]))
    return where


def test_a_world_of_ours_draws_recorded_states_again_to_the_bit(folder, tmp_path):
    heard = []
    data = load_frames([folder], 64, tmp_path, lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert data.first_E.tolist() == [0, 13, 29, 48]
    for index in range(3):
        states = episode(index, 12 + 3 * index).state_TO
        shown = data.frame_NHWC[data.first_E[index] : data.first_E[index + 1]]
        assert np.array_equal(shown, [picture(state_O[:2]) for state_O in states])


def test_pictures_are_drawn_once(folder, tmp_path):
    first = load_frames([folder], 32, tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    again = load_frames([folder], 32, tmp_path, lambda *_: pytest.fail("drawn again"))
    assert file.stat().st_mtime_ns == before
    assert np.array_equal(first.frame_NHWC, again.frame_NHWC)
    assert first.frame_NHWC.shape[1:] == (32, 32, 3)
    load_frames([folder, folder], 32, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_data_set_has_a_video_that_stock_lerobot_reads(folder):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/rooms", root=folder, video_backend="pyav")
    assert dataset.num_episodes == 3
    shown = dataset[14][CAMERA].movedim(0, -1).numpy() * 255
    assert np.abs(shown - picture(episode(1, 15).state_TO[2][:2])).mean() < 3


def test_of_any_other_data_set_the_video_is_read(folder, tmp_path):
    states = [episode(i, 12 + 3 * i).state_TO for i in range(3)]
    assert camera_of(folder) == CAMERA
    for frames, state_TO in zip(episode_frames(folder, CAMERA), states, strict=True):
        drawn = np.array([picture(state_O[:2]) for state_O in state_TO[:-1]], float)
        assert frames.shape == drawn.shape
        assert np.abs(frames - drawn).mean() < 3
    info = json.loads((folder / "meta/info.json").read_text())
    info["robot_type"] = "somebody's"
    (folder / "meta/info.json").write_text(json.dumps(info))
    try:
        data = load_frames([folder], 64, tmp_path)
    finally:
        info["robot_type"] = "tworoom"
        (folder / "meta/info.json").write_text(json.dumps(info))
    assert data.first_E.tolist() == [0, 12, 27, 45]  # the picture after the last action was not filmed
    assert np.abs(data.frame_NHWC[13].astype(float) - picture(states[1][1][:2])).mean() < 3


def test_a_data_set_without_states_that_can_be_drawn_nor_video_is_refused(tmp_path):
    spec = ROBOTS["double_integrator"]
    zeros = np.zeros((4, 1))
    one = Episode(np.zeros((5, 2)), zeros, zeros, zeros, np.zeros(4), False, True, seed=0)
    write_dataset([one], Layout.of(spec), tmp_path / "point", {})
    with pytest.raises(ValueError, match=r"point has no video: its columns are .*observation\.state"):
        load_frames([tmp_path / "point"], 32, tmp_path)


def numbered(lengths):
    first_E = np.concatenate([[0], np.cumsum(lengths)])
    size = int(first_E[-1])
    frames = np.broadcast_to(np.arange(size, dtype=np.uint8)[:, None, None, None], (size, 2, 2, 3))
    return FrameData(frames, np.arange(size)[:, None].astype(float), np.arange(2 * size).reshape(size, 2), first_E)


def test_windows_lie_inside_an_episode():
    data = numbered([10, 3, 8])
    assert data.windows(5).tolist() == [0, 1, 2, 3, 4, 13, 14, 15]
    assert data.windows(5, np.array([2])).tolist() == [13, 14, 15]
    assert data.windows(5, np.array([1])).tolist() == []


def test_a_window_has_frames_a_block_apart_and_all_actions_between():
    frames, actions = numbered([20]).gather(np.array([2, 7]), frames=3, block=4)
    assert frames[:, :, 0, 0, 0].tolist() == [[2, 6, 10], [7, 11, 15]]
    assert actions[0].tolist() == [list(range(4, 12)), list(range(12, 20))]


def test_a_split_is_of_whole_episodes_and_depends_on_the_seed_alone():
    data = numbered([4] * 10)
    train, held = data.split(0.2, seed=1)
    assert sorted([*train, *held]) == list(range(10))
    assert len(held) == 2
    assert np.array_equal(data.split(0.2, seed=1)[1], held)
    with pytest.raises(ValueError, match="two episodes"):
        numbered([4]).split(0.5)


def test_a_picture_is_cut_square_and_averaged():
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert np.array_equal(resized(wide, 2), np.full((2, 2, 3), 200, np.uint8))
    same = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert resized(same, 2) is same
