"""Poses of Push-T read off pictures: from our renderer, at the size of the public recordings, and from their own frames."""

import numpy as np
import pytest

from envs.pusht import turned
from envs.pusht_pose import pose_of
from envs.robots import make_env
from envs.video import resized


@pytest.fixture(scope="module")
def env():
    made = make_env("pusht", render_mode="rgb_array")
    made.reset(seed=0)
    return made.unwrapped


@pytest.mark.parametrize("side", [96, 80])
def test_a_pose_is_read_off_a_picture_to_a_fifth_of_what_success_allows(env, side):
    rng = np.random.default_rng(0)
    for _ in range(25):
        pose = np.array([*rng.uniform(60, 450, 2), *rng.uniform(140, 370, 2), rng.uniform(-np.pi, np.pi)])
        found = pose_of(resized(env.picture(np.concatenate([pose, pose])), side))
        assert np.linalg.norm(found[:2] - pose[:2]) < 4
        assert np.linalg.norm(found[2:4] - pose[2:4]) < 3
        assert abs(turned(found[4] - pose[4])) < 0.04


def test_a_picture_of_nothing_is_refused_in_one_line():
    with pytest.raises(ValueError, match="no pusher is to be seen in a picture of 96 x 96"):
        pose_of(np.full((96, 96, 3), 255, np.uint8))
    blue = np.full((96, 96, 3), 255, np.uint8)
    blue[40:50, 40:50] = (65, 105, 225)
    with pytest.raises(ValueError, match="no block is to be seen"):
        pose_of(blue)
