"""Starts and goals from recorded episodes."""

from dataclasses import replace

import numpy as np
import pytest

from configs.presets import PRESETS
from deploy.collect import main as collect
from deploy.robots.sim import make_robot
from envs.dataset import EpisodeData, Layout
from envs.dataset_writer import write_dataset
from envs.episodes import Episode
from envs.pairs import GoalsFrom, read_pairs
from envs.robots import ROBOTS, make_env

SPEC = ROBOTS["tworoom"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    assert collect(["tworoom-expert", "--episodes", "5", "--workers", "1", "--out", str(out)]) == 0
    return out / "tworoom-expert"


def test_pairs_are_states_of_one_episode_so_many_steps_apart(folder):
    data, pairs_N2X = EpisodeData.load(folder), read_pairs(folder, SPEC, 10)
    lengths = np.diff(data.episode_start)
    assert len(pairs_N2X) == sum(max(0, n + 1 - 10) for n in lengths)
    last_TO, _ = data.states_and_actions(4)
    assert pairs_N2X[-1] == pytest.approx(last_TO[[-11, -1], :2])


def test_an_episode_begins_and_is_to_end_where_its_seed_says(folder):
    pairs_N2X = read_pairs(folder, SPEC, 25)
    env = GoalsFrom(make_env("tworoom"), pairs_N2X)
    drawn = [env.reset(seed=seed)[0] for seed in (*range(20), *range(20))]
    assert np.array_equal(drawn[:20], drawn[20:])
    assert len({state_O.tobytes() for state_O in drawn}) > 10
    for state_O in drawn:
        assert np.abs(pairs_N2X.reshape(-1, 4) - state_O).max(1).min() < 1e-6


def test_pairs_that_are_met_at_the_start_are_left_out():
    near, far = [[50.0, 50.0], [51.0, 50.0]], [[50.0, 50.0], [50.0, 150.0]]
    env = GoalsFrom(make_env("tworoom"), np.array([near, near, near, far]))
    for seed in range(10):
        assert env.reset(seed=seed)[0] == pytest.approx([50, 50, 50, 150])
    hopeless = GoalsFrom(make_env("tworoom"), np.array([near]))
    with pytest.raises(ValueError, match="met at the start: ask for a larger --offset"):
        hopeless.reset(seed=0)


def test_a_run_takes_its_goals_from_recordings(folder):
    preset = replace(PRESETS["lewm-tworoom-small"][1], goals_from=folder, offset=25)
    robot, _ = make_robot(preset)
    state_O = robot.reset(3, 0.0).state_O
    assert np.abs(read_pairs(folder, SPEC, 25).reshape(-1, 4) - state_O).max(1).min() < 1e-6


@pytest.mark.parametrize(
    ("robot", "offset", "said"),
    [
        ("tworoom", 500, "has 501 states: ask for a smaller --offset"),
        ("tworoom", 0, "offset must be >= 1, got 0"),
        ("pusht", 5, "pusht needs pusher_x, pusher_y, block_x, block_y, block_angle"),
        ("walker2d", 5, "walker2d takes no goals from recordings"),
    ],
)
def test_recordings_that_cannot_serve_get_one_line(folder, robot, offset, said):
    with pytest.raises(ValueError, match=said) as error:
        read_pairs(folder, ROBOTS[robot], offset)
    assert "\n" not in str(error.value)


def test_an_episode_with_pictures_needs_two_steps(tmp_path):
    one = np.zeros((1, 2))
    short = Episode(np.zeros((2, 4)), one, one, one, np.zeros(1), False, True, seed=0)
    with pytest.raises(ValueError, match="needs two steps, got 1"):
        write_dataset(
            [short], Layout.of(SPEC), tmp_path / "x", {}, pictures=lambda state_O: np.zeros((8, 8, 3), np.uint8)
        )
