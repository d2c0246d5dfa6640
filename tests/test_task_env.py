"""Our robots as environments for lerobot: Gymnasium's contract, success, and clocks of their own."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from configs.limits import LIMITS
from deploy.robots.simulated import Simulated
from deploy.task_env import PICTURE, SHOWN, TaskEnv
from envs.robots import ROBOTS


@pytest.mark.filterwarnings("ignore:.*Box")
@pytest.mark.parametrize("robot", ROBOTS)
def test_gymnasium_accepts_every_robot(robot):
    check_env(TaskEnv(Simulated(robot, LIMITS)), skip_render_check=True)


@pytest.mark.parametrize("shows", SHOWN)
def test_every_kind_of_observation_is_what_its_space_says(shows):
    env = TaskEnv(Simulated("walker2d", LIMITS), shows)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert set(observation) == set(SHOWN[shows])


def test_the_picture_shows_the_robot_where_it_is():
    env = TaskEnv(Simulated("walker2d", LIMITS), "pixels_agent_pos")
    first, _ = env.reset(seed=0)
    for _ in range(20):
        then, *_ = env.step(np.ones(6, np.float32))
    assert first["pixels"].shape == PICTURE
    assert np.array_equal(then["pixels"], env.render())
    assert not np.array_equal(first["pixels"], then["pixels"])


def last_step(robot, action_A, steps=None):
    env = TaskEnv(Simulated(robot, LIMITS, episode_steps=steps))
    env.reset(seed=0)
    for step in range(1, 1001):
        *_, terminated, truncated, info = env.step(action_A)
        if terminated or truncated:
            return step, terminated, info
    raise AssertionError("the episode does not end")


def test_a_walker_that_stands_until_the_time_limit_has_succeeded_at_that_step():
    step, terminated, info = last_step("walker2d", np.zeros(6), steps=25)
    assert (step, terminated, info["is_success"]) == (25, False, True)


def test_a_walker_that_falls_has_not():
    step, terminated, info = last_step("walker2d", np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0]))
    assert step < 1000
    assert (terminated, info["is_success"]) == (True, False)


def test_a_robot_that_cannot_fall_has_no_success_to_report():
    assert "is_success" not in last_step("double_integrator", np.zeros(1), steps=5)[2]


def test_a_fault_starts_at_its_second_of_every_episode():
    task = Simulated("double_integrator", LIMITS, faults="actuator_gain:force:0@0.2")
    env, healthy = TaskEnv(task), TaskEnv(Simulated("double_integrator", LIMITS))
    for seed in (1, 2):
        env.reset(seed=seed)
        healthy.reset(seed=seed)
        same = []
        for _ in range(4):
            broken, whole = (e.step(np.ones(1))[0]["agent_pos"] for e in (env, healthy))
            same.append(bool(np.array_equal(broken, whole)))
        assert same == [True, True, False, False]


def test_what_is_not_finite_is_not_applied_and_no_observation_is_not_finite():
    env = TaskEnv(Simulated("walker2d", LIMITS))
    env.reset(seed=0)
    env.step(np.full(6, 0.25))
    for bad in (np.nan, np.inf):
        observation, reward, *_, info = env.step(np.full(6, bad))
        assert info["action_sent"].tolist() == [0.25] * 6
        assert np.isfinite(observation["agent_pos"]).all()
        assert np.isfinite(reward)


def test_an_unknown_kind_of_observation_lists_the_legal_ones():
    with pytest.raises(KeyError, match="no kind of observation named 'smells'; choose from"):
        TaskEnv(Simulated("walker2d", LIMITS), "smells")


def test_the_limits_are_those_of_the_robot_not_of_who_acts():
    env = TaskEnv(Simulated("walker2d", LIMITS))
    env.reset(seed=0)
    *_, info = env.step(np.full(6, 50.0))
    assert info["action_sent"].tolist() == [1.0] * 6
    assert isinstance(env.action_space, gymnasium.spaces.Box)
