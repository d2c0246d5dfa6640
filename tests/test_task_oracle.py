"""A task's own simulation as a model: what it predicts, reward included, is what then happens on a healthy robot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.build import OracleConfig, build_agent
from agents.oracle import TaskAgent
from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.arms import build, unlogged
from deploy.cli import main as surefoot
from deploy.commandline import resolve
from deploy.robots.sim import limits_of
from envs.faults import FaultWrapper, parse_faults
from envs.oracle import SimulatorDynamics, TaskDynamics
from envs.robots import make_env, robot_spec
from envs.types import Belief, Observation
from planners.base import Dynamics

WALKER = "dm_control:walker-walk+physics"
PRESET = PRESETS["dm-walker-oracle"][1]


def running(name, seed=1, steps=15):
    """A robot in the middle of an episode, and its state."""
    env = make_env(name)
    state_O, _ = env.reset(seed=seed)
    for action_A in commands(name, steps, seed=0):
        state_O, *_ = env.step(action_A)
    return env, state_O


def commands(name, *shape, seed=2):
    spec = robot_spec(name)
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, spec.action.size)).astype(np.float32).astype(float)


def belief(*states):
    z_BTD = torch.tensor(np.array(states))[:, None]
    return Belief(z_BTD, torch.zeros(len(states), 0, 1))


@pytest.mark.parametrize("task", ["walker-walk", "cheetah-run", "acrobot-swingup", "quadruped-run", "point_mass-hard"])
def test_replaying_the_actions_reproduces_the_predicted_states_and_rewards(task):
    name = f"dm_control:{task}+physics"
    env, state_O = running(name)
    dynamics = TaskDynamics(robot_spec(name))
    dynamics.begin_episode(1)
    actions_SHA = commands(name, 3, 8)
    z_SHD = dynamics.rollout(belief(state_O), torch.tensor(actions_SHA)[None], [])[0].numpy()
    assert z_SHD.shape == (3, 8, len(state_O) + 1)
    for predicted_D, action_A in zip(z_SHD[2], actions_SHA[2], strict=True):
        seen_O, reward, *_ = env.step(action_A)
        assert np.allclose(predicted_D, [*seen_O, reward], rtol=1e-6, atol=1e-6)


def test_the_model_is_told_where_the_target_of_an_episode_is():
    name = "dm_control:reacher-easy+physics"
    spec, dynamics = robot_spec(name), TaskDynamics(robot_spec(name))
    paid = {}
    for seed in (1, 4):
        env = make_env(name)
        env.reset(seed=seed)
        target = env.unwrapped.model.geom("target").pos  # pyright: ignore
        shoulder, radius = np.arctan2(target[1], target[0]), np.hypot(*target[:2])
        bend = 2 * np.arccos(min(1.0, radius / 0.24))
        state_O = env.reset(seed=seed)[0]
        state_O[-4:] = [shoulder - bend / 2, bend, 0.0, 0.0]
        for told in (1, 4):
            dynamics.begin_episode(told)
            z = dynamics.rollout(belief(state_O), torch.zeros(1, 1, 1, spec.action.size), [])
            paid[seed, told] = z[0, 0, 0, -1].item()
    assert paid == {(1, 1): 1.0, (4, 4): 1.0, (1, 4): 0.0, (4, 1): 0.0}


def test_a_candidate_is_predicted_the_same_alone_and_among_others_from_each_state():
    _, one = running(WALKER)
    _, other = running(WALKER, seed=2)
    dynamics, actions = TaskDynamics(robot_spec(WALKER)), torch.tensor(commands(WALKER, 2, 4, 5))
    together = dynamics.rollout(belief(one, other), actions, [])
    alone = dynamics.rollout(belief(other), actions[1:, 3:], [])
    assert torch.equal(together[1:, 3:], alone)


def test_a_prediction_is_where_the_next_one_begins():
    _, state_O = running(WALKER)
    dynamics, actions = TaskDynamics(robot_spec(WALKER)), torch.tensor(commands(WALKER, 1, 1, 6))
    whole = dynamics.rollout(belief(state_O), actions, [])
    first = dynamics.rollout(belief(state_O), actions[:, :, :2], [])
    rest = dynamics.rollout(Belief(first[:, 0, -1:], torch.zeros(1, 0, 6)), actions[:, :, 2:], [])
    assert torch.allclose(rest, whole[:, :, 2:], atol=1e-9)


def test_prediction_is_nan_from_where_the_simulation_diverges_and_only_there():
    _, state_O = running(WALKER)
    dynamics = TaskDynamics(robot_spec(WALKER))
    actions = torch.zeros(1, 3, 4, 6)
    actions[0, 1, 2] = float("nan")
    z = dynamics.rollout(belief(state_O), actions, [])[0]
    assert z[[0, 2]].isfinite().all()
    assert z[1, :2].isfinite().all()
    assert z[1, 2:].isnan().all()


def test_it_knows_the_healthy_body_and_not_the_fault():
    name = WALKER
    env = FaultWrapper(make_env(name), parse_faults(["mass:all:3@0"], robot_spec(name)))
    healthy = make_env(name)
    state_O, _ = env.reset(seed=1)
    healthy.reset(seed=1)
    predicted = TaskDynamics(robot_spec(name)).rollout(belief(state_O), torch.ones(1, 1, 1, 6).double(), [])[0, 0, 0]
    assert np.allclose(predicted[:-1], healthy.step(np.ones(6))[0], atol=1e-6)
    assert not np.allclose(predicted[:-1], env.step(np.ones(6))[0], atol=1.0)


def test_it_offers_what_a_planner_asks_of_a_model():
    dynamics: Dynamics = TaskDynamics(robot_spec(WALKER))
    _, state_O = running(WALKER)
    out = dynamics.rollout(belief(state_O), torch.zeros(1, 2, 3, 6, dtype=torch.float32), [torch.Generator()])
    assert (tuple(out.shape), out.dtype) == ((1, 2, 3, 43), torch.float32)
    found = TaskDynamics(robot_spec(WALKER)).readings(out)
    assert torch.equal(found["reward"], out[..., -1])
    assert torch.equal(found["height"], out[..., 14])


def test_what_it_cannot_do_is_refused():
    for name in ("dm_control:walker-walk", "walker2d"):
        with pytest.raises(ValueError, match=r"use dm_control:DOMAIN-TASK\+physics, got"):
            build_agent(OracleConfig(), robot_spec(name))
    with pytest.raises(ValueError, match="is rolled out by TaskDynamics"):
        SimulatorDynamics(make_env(WALKER))
    with pytest.raises(ValueError, match=r"needs \['speed'\]"):
        build_agent(OracleConfig(), robot_spec(WALKER), "speed:1")


# --- the agent


def test_objectives_are_made_of_the_tasks_reward_and_its_sensors():
    spec = robot_spec(WALKER)
    _, state_O = running(WALKER)
    seen, none = Observation(0.0, state_O), np.zeros((0, 6))
    found = {}
    for text in ("", "run", "2*run", "height:1.2"):
        agent = build_agent(OracleConfig(horizon=4, samples=16), spec, text)
        agent.begin_episode(0, 1)
        found[text] = agent.plan(seen, none)
    assert found[""].cost == found["run"].cost < 0
    assert found["2*run"].cost == pytest.approx(2 * found["run"].cost)
    assert np.array_equal(found[""].actions_HA, found["run"].actions_HA)
    assert not np.array_equal(found[""].actions_HA, found["height:1.2"].actions_HA)


def test_the_preset_gets_up_and_walks_by_plans_that_are_never_late():
    cfg = replace(PRESET, episode_steps=60)
    session = unlogged(cfg, build(cfg), lambda history, _: not history.episodes)
    (done,) = session.history.episodes
    assert done.reward_T[0] < 0.3
    assert done.reward_T[-20:].mean() > 0.9
    assert done.altered == {}
    assert done.planned_T.all()
    assert done.age_T.max() == pytest.approx((cfg.plan_every - 1) * robot_spec(cfg.robot).dt_s)


def test_limits_of_a_robot_are_those_of_its_actuators_crossed_in_one_step():
    assert limits_of(robot_spec(WALKER)) == LIMITS[WALKER] == PRESET.limits
    assert limits_of(robot_spec("dm_control:quadruped-run")).high[2] == pytest.approx(0.8)


def test_another_task_takes_the_walkers_place():
    args = ["dm-walker-oracle", "--env", "dm_control:cartpole-swingup+physics", "--seed", "3"]
    cfg = resolve(args, PRESETS, "surefoot run")
    assert (cfg.robot, cfg.seed, cfg.limits.low) == (args[2], 3, (-1.0,))
    agent = build(cfg).agent
    assert isinstance(agent, TaskAgent)
    assert agent.action_size == 1


def test_a_run_leaves_its_report_behind(tmp_path):
    out = tmp_path / "run"
    short = ["--episode-steps", "4", "--max-episodes", "1"]
    assert surefoot(["run", "dm-walker-oracle", *short, "--out", str(out)]) == 0
    assert (out / "report.html").stat().st_size > 0
    again = ["--config", str(out / "config.yaml"), "--pictures", "none", "--out", str(tmp_path / "again")]
    assert surefoot(["run", *again]) == 0
    assert (tmp_path / "again" / "events.jsonl").read_bytes() == (out / "events.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--env"], "--env needs a robot"),
        (["--env", "dm_control:walker-wlak"], "near misses: walker-walk"),
        (["--env", "dm_control:walker-walk"], "use dm_control:DOMAIN-TASK+physics, got 'dm_control:walker-walk'"),
        (["--evn", "walker2d"], "no option '--evn'; near misses: --env"),
    ],
)
def test_a_bad_env_is_refused_in_one_line(args, said, capsys):
    assert surefoot(["run", "dm-walker-oracle", *args]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert said in errors[0]
