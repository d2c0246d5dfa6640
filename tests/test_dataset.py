"""Data sets: lerobot opens what we wrote, and the reader returns what was put in."""

import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.dataset import EpisodeData, Layout, read_card
from envs.dataset_writer import write_dataset
from envs.episodes import Episode
from envs.robots import robot_spec

LAYOUT = Layout("toy", 50, ("x", "v", "w"), ("m", "m/s", "rad/s"), ("left", "right"), ("N", "N"))
LENGTHS = (4, 1, 7)  # the second falls at once, the last one is truncated


def episode(length, seed, terminated):
    rng = np.random.default_rng(seed)
    requested, sent, applied = rng.normal(size=(3, length, 2))
    states, rewards = rng.normal(size=(length + 1, 3)), rng.normal(size=length)
    return Episode(states, requested, sent, applied, rewards, terminated, not terminated, seed)


EPISODES = [episode(length, seed, seed < 2) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "toy"
    write_dataset(EPISODES, LAYOUT, path, {"made_by": "a test"})
    return path


@pytest.fixture
def data():
    return EpisodeData.from_episodes(EPISODES, LAYOUT)


def test_lerobot_itself_opens_what_was_written(folder):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("surefoot/toy", root=folder)
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (sum(LENGTHS), len(LENGTHS), 50)
    assert dataset.meta.robot_type == "toy"
    assert dataset.features["observation.state"]["names"] == ["x", "v", "w"]
    assert dataset.features["action"]["units"] == ["N", "N"]
    frame: Any = dataset[3]  # the last of the first episode
    np.testing.assert_array_equal(frame["observation.state"], EPISODES[0].state_TO[3])
    np.testing.assert_array_equal(frame["next.state"], EPISODES[0].state_TO[4])
    np.testing.assert_array_equal(frame["action_requested"], EPISODES[0].action_requested_TA[3])
    np.testing.assert_array_equal(frame["action"], EPISODES[0].action_TA[3])
    np.testing.assert_array_equal(frame["action_applied"], EPISODES[0].action_applied_TA[3])
    assert (frame["next.reward"].item(), frame["timestamp"].item()) == (EPISODES[0].reward_T[3], np.float32(3 / 50))
    frames: list[Any] = [dataset[i] for i in (2, 3, 4, 11)]
    flags = [(each["next.terminated"].item(), each["next.truncated"].item()) for each in frames]
    assert flags == [(False, False), (True, False), (True, False), (False, True)]


def test_the_statistics_that_lerobot_keeps_are_those_of_all_frames(folder, data):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    stats: Any = LeRobotDataset("surefoot/toy", root=folder).meta.stats
    kept = stats["observation.state"]
    np.testing.assert_allclose(kept["mean"], data.state_NO.mean(0), atol=1e-6)
    np.testing.assert_allclose(kept["std"], data.state_NO.std(0), atol=1e-6)


def test_the_reader_returns_what_was_put_in(folder, data):
    read = EpisodeData.load(folder)
    assert read.layout == LAYOUT
    assert read.episode_start.tolist() == [0, 4, 5, 12]
    for name in ("state_NO", "next_state_NO", "action_NA", "reward_N", "terminated_N", "truncated_N"):
        np.testing.assert_array_equal(getattr(read, name), getattr(data, name))
        assert getattr(read, name).flags.c_contiguous
    assert {read.state_NO.dtype, read.action_NA.dtype, read.reward_N.dtype} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(read.state_NO[5:], EPISODES[2].state_TO[:-1])
    np.testing.assert_array_equal(read.next_state_NO[4], EPISODES[1].state_TO[1])
    assert read_card(folder) == {"made_by": "a test"}


def test_the_reader_does_not_import_lerobot(folder):
    code = f"import sys; from envs.dataset import EpisodeData; EpisodeData.load({str(folder)!r}); "
    code += "assert not {'lerobot', 'torch', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_several_folders_are_read_one_after_another(folder, data):
    both = EpisodeData.load([folder, folder])
    assert both.episode_start.tolist() == [0, 4, 5, 12, 16, 17, 24]
    np.testing.assert_array_equal(both.action_NA[12:], data.action_NA)


def test_what_is_no_data_set_or_does_not_fit_is_refused(folder, data, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        EpisodeData.load(tmp_path)
    with pytest.raises(ValueError, match="different layouts"):
        EpisodeData.concatenate([data, replace(data, layout=replace(LAYOUT, robot="other"))])
    with pytest.raises(ValueError, match="at least one"):
        EpisodeData.load([])
    with pytest.raises(FileExistsError, match="delete it"):
        write_dataset(EPISODES, LAYOUT, folder, {})


def test_an_episode_of_another_size_leaves_no_data_set_behind(tmp_path):
    with pytest.raises(ValueError, match="state_TO"):
        write_dataset([replace(EPISODES[0], state_TO=np.zeros((5, 4)))], LAYOUT, tmp_path / "bad", {})
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_to_go_are_the_sums_of_their_definition(data, discount):
    expected = []
    for e, length in enumerate(LENGTHS):
        rewards = EPISODES[e].reward_T.astype(float)
        rewards[-1] -= 100.0 * EPISODES[e].terminated
        expected += [sum(discount**k * rewards[t + k] for k in range(length - t)) for t in range(length)]
    np.testing.assert_allclose(data.returns_to_go(discount, 100.0), expected, rtol=1e-5, atol=1e-5)


def test_returns_to_go_refuse_a_negative_penalty(data):
    with pytest.raises(ValueError, match="-100"):
        data.returns_to_go(0.99, -100.0)


def test_episode_returns_are_undiscounted_sums(data):
    np.testing.assert_allclose(data.episode_returns(), [e.total_reward for e in EPISODES])


def test_windows_are_all_starts_whose_steps_stay_in_their_episode(data):
    ends = np.repeat(data.episode_start[1:], LENGTHS)
    for horizon in (1, 3, 7, 8):
        expected = [t for t in range(data.frames) if t + horizon <= ends[t]]
        assert data.windows(horizon).tolist() == expected


def test_gathered_windows_are_slices_of_their_episodes(data):
    states, actions = data.gather(np.array([5, 6, 8, 0]), 4)
    for row, (e, t) in enumerate([(2, 0), (2, 1), (2, 3), (0, 0)]):
        np.testing.assert_array_equal(states[row], EPISODES[e].state_TO[t : t + 5])
        np.testing.assert_array_equal(actions[row], EPISODES[e].action_TA[t : t + 4])


@pytest.mark.parametrize(("start", "horizon"), [(3, 2), (4, 2), (-1, 1), (12, 1), (9, 4), (0, 0)])
def test_a_window_that_leaves_its_episode_is_refused(data, start, horizon):
    with pytest.raises(IndexError):
        data.gather(np.array([0, start]), horizon)


def test_gathering_is_fast_enough_for_training():
    data = EpisodeData.from_episodes([episode(1000, seed, True) for seed in range(100)], LAYOUT)
    starts = np.random.default_rng(0).choice(data.windows(32), size=1024)
    best = min(_seconds(lambda: data.gather(starts, 32)) for _ in range(10))
    assert 1024 / best > 50_000  # windows per second; half of what is promised, for busy machines


def _seconds(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def test_a_split_is_a_partition_into_whole_episodes_and_repeats_with_its_seed():
    data = EpisodeData.from_episodes([episode(1 + seed, seed, True) for seed in range(20)], LAYOUT)
    train, held = data.split(0.2, seed=3)
    assert (train.episodes, held.episodes) == (16, 4)
    lengths = [n for part in (train, held) for n in np.diff(part.episode_start)]
    assert sorted(lengths) == list(range(1, 21))
    np.testing.assert_array_equal(train.action_NA, data.split(0.2, seed=3)[0].action_NA)
    assert not np.array_equal(train.episode_start, data.split(0.2, seed=4)[0].episode_start)
    for part in (train, held):
        for begin, end in zip(part.episode_start[:-1], part.episode_start[1:], strict=True):
            source = episode(end - begin, end - begin - 1, True)  # length 1 + seed
            np.testing.assert_array_equal(part.state_NO[begin:end], source.state_TO[:-1])


def test_a_small_share_still_holds_one_episode_out_and_an_impossible_one_is_refused(data):
    assert [part.episodes for part in data.split(0.01)] == [2, 1]
    assert [part.episodes for part in data.split(0.99)] == [1, 2]
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="held_out"):
            data.split(share)
    with pytest.raises(ValueError, match="two episodes"):
        data.take(np.array([0])).split(0.5)


def test_moments_are_those_of_the_states_and_a_reading_that_never_changes_has_deviation_one(data):
    mean_O, std_O = data.moments()
    np.testing.assert_allclose(((data.state_NO - mean_O) / std_O).std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(mean_O, data.state_NO.mean(0), rtol=1e-5)
    still = replace(data, state_NO=data.state_NO * np.array([1, 0, 1], np.float32))
    assert still.moments()[1][1] == 1.0


def test_a_robot_with_one_actuator_keeps_its_axes_on_disk(tmp_path):
    zeros_TA = np.zeros((4, 1))
    one = Episode(np.ones((5, 2)), zeros_TA, zeros_TA, zeros_TA, np.zeros(4), False, True, seed=0)
    write_dataset([one], Layout.of(robot_spec("double_integrator")), tmp_path / "point", {})
    assert EpisodeData.load(tmp_path / "point").action_NA.shape == (4, 1)


def test_the_layout_of_a_robot_has_its_rate_names_and_units():
    layout = Layout.of(robot_spec("walker2d"))
    assert (layout.fps, len(layout.state_names), len(layout.action_names)) == (125, 17, 6)
    assert layout.state_units[0] == "m"
    with pytest.raises(ValueError, match="whole number"):
        Layout.of(replace(robot_spec("walker2d"), dt_s=0.03))
