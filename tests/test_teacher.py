"""The oracle pursues goals, and its plan follows what is already due."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from agents.oracle import After, OracleAgent
from agents.teacher import TeacherConfig, planner_for, random_goal, teach
from deploy.collect import GoalsConfig, run_goals
from envs.dataset import EpisodeData
from envs.oracle import SimulatorDynamics
from envs.robots import make_env, readings, robot_spec
from envs.types import Belief, Observation
from planners.objectives import parse_objective

SMALL = TeacherConfig(episode_steps=24, goal_steps=12, horizon=6, samples=8, iterations=1)
SPEC = robot_spec("walker2d")


def test_every_goal_is_a_legal_objective():
    rng = np.random.default_rng(0)
    goals = [random_goal(rng) for _ in range(300)]
    for goal in goals:
        parse_objective(goal)
    assert {goal.split(":")[0] for goal in goals} == {"speed", "height", "pitch"}


def test_an_episode_depends_on_its_number_alone_and_names_its_goals():
    one, same, other = teach(SMALL, 3), teach(SMALL, 3), teach(SMALL, 4)
    assert np.array_equal(one.state_TO, same.state_TO)
    assert not np.array_equal(one.action_TA[0], other.action_TA[0])
    assert [start for start, _ in one.meta["goals"]] == [0, 12][: len(one.meta["goals"])]


def test_the_oracle_raises_the_height_it_is_asked_for():
    cfg = TeacherConfig(horizon=24, samples=24, noise=0.0)
    env = make_env("walker2d")
    state, _ = env.reset(seed=0)
    agent = OracleAgent(planner_for(cfg, "height:1.0+0.3*speed:0"), env, warm=True, quick=True)
    agent.begin_episode(0, 0)
    for t in range(40):
        if t % 4 == 0:
            plan = agent.plan(Observation(t * SPEC.dt_s, state), np.zeros((0, 6)))
        state, *_ = env.step(plan.actions_HA[t % 4].astype(np.float32))
    assert float(readings(SPEC, torch.as_tensor(state))["height"]) == pytest.approx(1.0, abs=0.1)


def test_after_the_actions_that_are_due_the_simulator_goes_on_from_there():
    env = make_env("walker2d")
    env.reset(seed=0)
    simulator = SimulatorDynamics(env)
    any_belief = Belief(torch.zeros(1, 1, 17), torch.zeros(1, 0, 6))
    block = torch.rand(1, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    block[:, :, :3] = block[:, :1, :3]
    whole = simulator.rollout(any_belief, block, [])
    rest = After(simulator, block[0, 0, :3]).rollout(any_belief, block[:, :, 3:], [])
    assert torch.equal(whole[:, :, 3:], rest)


def test_quick_steps_are_near_the_exact_ones_and_leave_the_model_as_it_was():
    env = make_env("walker2d")
    env.reset(seed=0)
    own = env.get_wrapper_attr("model").opt.integrator
    any_belief = Belief(torch.zeros(1, 1, 17), torch.zeros(1, 0, 6))
    block = 0.5 * torch.rand(1, 4, 12, 6, generator=torch.Generator().manual_seed(0))
    exact, quick = (SimulatorDynamics(env, quick=q).rollout(any_belief, block, []) for q in (False, True))
    moved = (exact - exact[:, :, :1]).abs().mean()
    assert 0 < float((exact - quick).abs().mean()) < 0.05 * float(moved)
    assert env.get_wrapper_attr("model").opt.integrator == own


def test_goals_become_a_data_set_with_each_goal_as_its_task(tmp_path, capsys):
    from rich.console import Console

    cfg = GoalsConfig(name="walker-goals", teacher=SMALL, episodes=2, out=tmp_path, workers=1)
    assert "2 episodes" in run_goals(cfg, Console(stderr=True))
    data = EpisodeData.load([tmp_path / "walker-goals"])
    assert data.episodes == 2
    goals = {goal for i in range(2) for _, goal in teach(SMALL, i).meta["goals"]}
    assert set(pq.read_table(tmp_path / "walker-goals/meta/tasks.parquet").to_pandas().index) == goals
    assert not (tmp_path / "walker-goals.spool").exists()
    with pytest.raises(FileExistsError, match="delete it"):
        run_goals(cfg, Console(stderr=True))
