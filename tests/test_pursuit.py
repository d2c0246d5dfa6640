"""A proposal that is told what to bring about does so, and is free where nothing is asked."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from agents.adaptation import FitConfig, fit
from agents.learned import REACH, LearnedConfig, Pursuit, Shortened, proposal_of
from envs.robots import robot_spec
from envs.types import Belief
from planners.objectives import parse_objective, targets
from tests.test_adaptive import HORIZON, NET, model
from world_models.checkpoint import blank
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.normaliser import Normaliser
from world_models.proposal import DiffusionProposal


def lived(n, generator):
    """States of two columns, blocks of four actions, and what column 1 then was: the mean of the actions."""
    states = torch.randn(n, 2, generator=generator)
    level = torch.rand(n, 1, 1, generator=generator) * 2 - 1
    return states, level.expand(-1, 4, 1) + 0.05 * torch.randn(n, 4, 1, generator=generator), level[:, :, 0]


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    state = Normaliser(torch.zeros(2), torch.tensor([1.0, 0.6]))
    net = DenoiserConfig(width=32, layers=1, heads=2, qkv=32, mlp=64, patch=2)
    made = DiffusionProposal(net, DiffusionConfig(2), 4, state, blank((1,)), goals=[1])

    def loss(model, generator):
        states, actions, goal = lived(256, generator)
        goal = torch.where(torch.rand(goal.shape, generator=generator) < 0.5, goal, torch.nan)
        return model.loss(states, actions, generator, goal).mean()

    return fit(made, loss, FitConfig(steps=600, learning_rate=3e-3), 0)


def drawn(made, goal, n=200):
    belief = Belief(torch.zeros(1, 1, 2), torch.zeros(1, 0, 1))
    found = made.sample(belief, n, [Generator().manual_seed(0)], None if goal is None else torch.tensor([[goal]]))
    return found[0, :, :, 0].mean(1)


@pytest.mark.parametrize("goal", [-0.7, 0.0, 0.6])
def test_what_is_asked_for_is_proposed(trained, goal):
    assert float(drawn(trained, goal).mean()) == pytest.approx(goal, abs=0.15)
    assert float(drawn(trained, goal).std()) < 0.25


def test_where_nothing_is_asked_anything_may_be_proposed(trained):
    assert float(drawn(trained, None).std()) > 2 * float(drawn(trained, 0.0).std())
    assert torch.equal(drawn(trained, None), drawn(trained, float("nan")))


def test_the_targets_of_an_objective_are_those_it_tracks():
    assert targets(parse_objective("height:1.2+0.3*speed:0.5+0.1*effort")) == {"height": 1.2, "speed": 0.5}
    assert targets(parse_objective("height_reward:1.4")) == {"height": 1.4}
    assert targets(parse_objective("run")) == {}


def test_far_goals_are_approached_by_stages():
    asked = []

    class Spy(DiffusionProposal):
        def sample(self, belief, n, generators, /, goal_BG=None):
            asked.append(goal_BG)
            return torch.zeros(1, n, 4, 1)

    state = Normaliser(torch.zeros(2), torch.tensor([1.0, 0.5]))
    spy = Spy(replace(NET, patch=1), DiffusionConfig(2), 4, state, blank((1,)), goals=[0, 1])
    belief = Belief(torch.tensor([[[0.2, 0.1]]]), torch.zeros(1, 0, 1))
    assert Pursuit(spy, 2, {1: 3.0}).sample(belief, 5, [Generator()]).shape == (1, 5, 2, 1)
    assert asked[0][0, 0].isnan()
    assert float(asked[0][0, 1]) == pytest.approx(0.1 + REACH * 0.5)


def test_a_goal_is_pursued_by_the_part_for_it_and_the_task_is_not():
    spec, cfg = robot_spec("walker2d"), LearnedConfig(horizon=4, value_every=4)
    own = model()
    parts = (blank((17,)), blank((6,)))
    both = replace(own, pursuit=DiffusionProposal(NET, DiffusionConfig(2), HORIZON, *parts, goals=[0, 1, 8]))
    height = parse_objective("height:1.2")
    assert isinstance(proposal_of(cfg, spec, both, height), Pursuit)
    assert isinstance(proposal_of(cfg, spec, both, parse_objective("run")), Shortened)
    assert isinstance(proposal_of(cfg, spec, own, height), Shortened)
