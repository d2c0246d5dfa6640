"""The planner of a preset, step by step, for whoever brings the states."""

from dataclasses import replace

import numpy as np
import pytest

from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.evaluate import run_episode
from deploy.pilot import Pilot
from deploy.robots.simulated import Simulated
from deploy.session import env_seed
from deploy.task_env import TaskEnv

CART = replace(PRESETS["linear-cem"][1], faults=())


def episode(pilot, task, seed):
    """Return the rewards of an episode, and its states and actions."""
    env = TaskEnv(task)
    state_O, states, actions, rewards, over = env.reset(seed=seed)[0]["agent_pos"], [], [], [], False
    while not over:
        states.append(state_O)
        actions.append(pilot.act(state_O[None])[0])
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        state_O, over = observation["agent_pos"], terminated or truncated
        rewards.append(reward)
    return rewards, np.stack(states), np.stack(actions)


@pytest.mark.parametrize(("preset", "steps"), [("linear-cem", 60), ("walker", 30)])
def test_it_earns_what_surefoot_evaluate_earns_without_latency(preset, steps):
    cfg = replace(PRESETS[preset][1], plan_latency_s=0.0, episode_steps=steps, adapt=False, seed=3)
    expected = run_episode(cfg, 0)
    rewards, *_ = episode(Pilot(cfg), Simulated(cfg.robot, LIMITS, episode_steps=steps), env_seed(3, 0))
    assert len(rewards) == expected.steps == steps
    assert np.sum(rewards) == pytest.approx(expected.episode_return, rel=1e-12)


def test_a_robot_gets_the_same_actions_alone_and_in_a_batch():
    states_BO = np.array([[2.0, 0.0], [-1.5, 0.2], [1.0, 1.0]])
    together, alone = Pilot(CART), Pilot(CART)
    batch_BA = together.act(states_BO)
    one_by_one = []
    for state_O in states_BO:
        alone.reset()
        one_by_one.append(alone.act(state_O[None])[0])
    assert np.array_equal(batch_BA, np.stack(one_by_one))
    assert len(np.unique(batch_BA)) == 3


def test_after_a_reset_an_episode_of_another_number_begins():
    state_BO = np.array([[1.0, 0.0]])
    pilot, again = Pilot(CART), Pilot(CART)
    first = [pilot.act(state_BO).item() for _ in range(2)]
    pilot.reset()
    assert pilot.act(state_BO).item() != first[0]
    assert [again.act(state_BO).item() for _ in range(2)] == first


def test_a_state_that_is_not_finite_is_answered_from_the_plan_there_is_and_then_by_holding():
    pilot = Pilot(CART)
    plan_HA = pilot.plan(np.array([[1.0, 0.0]]))[0]
    pilot.reset()
    pilot.act(np.array([[1.0, 0.0]]))
    blind = [pilot.act(np.full((1, 2), np.nan)).item() for _ in range(len(plan_HA) + 3)]
    assert np.isfinite(blind).all()
    assert len(set(blind[: len(plan_HA) - 1])) > 1
    assert blind[len(plan_HA) :] == [0.0] * 3
    assert np.isfinite(pilot.act(np.array([[1.0, 0.0]]))).all()


def test_actions_are_inside_the_limits_of_the_preset():
    limits = replace(CART.limits, low=(-0.25,), high=(0.25,))
    pilot = Pilot(replace(CART, limits=limits))
    assert pilot.act(np.array([[5.0, 0.0]])).item() == -0.25


def test_the_plan_is_the_action_for_now_and_those_after_it():
    state_BO = np.array([[1.0, 0.0], [-1.0, 0.0]])
    plans_BHA, actions_BA = Pilot(CART).plan(state_BO), Pilot(CART).act(state_BO)
    assert plans_BHA.shape == (2, CART.agent.horizon, 1)
    assert np.array_equal(plans_BHA[:, 0], actions_BA)


def test_states_of_another_robot_are_refused():
    with pytest.raises(ValueError, match=r"states_BO: expected \(B O\)"):
        Pilot(CART).act(np.zeros((1, 17)))
