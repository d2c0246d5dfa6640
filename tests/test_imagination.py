"""Imagined stretches: their returns against closed forms, their noise against the model's, and a fall that ends what counts."""

import pytest
import torch

from agents.imagination import ImagineConfig, Imagined, imagine, lambda_returns
from world_models.checkpoint import blank
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig
from world_models.step import StepConfig, StepModel


def stretch(rewards, alive):
    reward, stands = (torch.tensor(x)[:, None] for x in (rewards, alive))
    return Imagined(torch.zeros(len(rewards) + 1, 1, 2), reward, stands)


def test_returns_with_lam_1_are_discounted_rewards_and_one_value_at_the_end():
    found = lambda_returns(stretch([1.0, 2.0], [1.0, 1.0]), torch.tensor([[7.0], [10.0]]), 0.5, 100.0, 1.0)
    assert found[:, 0].tolist() == [1 + 0.5 * (2 + 0.5 * 10), 2 + 0.5 * 10]


def test_returns_with_lam_0_look_one_step_ahead():
    found = lambda_returns(stretch([1.0, 2.0], [1.0, 1.0]), torch.tensor([[7.0], [10.0]]), 0.5, 100.0, 0.0)
    assert found[:, 0].tolist() == [1 + 0.5 * 7, 2 + 0.5 * 10]


def test_a_fall_costs_its_penalty_and_nothing_counts_after_it():
    found = lambda_returns(stretch([1.0, 2.0], [0.0, 1.0]), torch.tensor([[7.0], [10.0]]), 0.5, 100.0, 0.9)
    assert found[0].item() == 1 - 100


def parts(scale):
    torch.manual_seed(0)
    step = StepModel(StepConfig(8, 1), blank((2,)), blank((1,)), Normaliser(torch.zeros(2), torch.ones(2)))
    step.net[-1].weight.data.zero_()
    step.net[-1].bias.data = torch.tensor([1.0, 0.0, scale, -8.0])
    return step, Policy(PolicyConfig(8, 1), blank((2,)), blank((1,)))


def judge(states, actions):
    assert actions.abs().max() <= 1
    return states[:, 0], (states[:, 0] < 2.5).float()


def test_an_imagined_stretch_follows_the_model_and_is_judged_where_it_arrives():
    step, policy = parts(-8.0)
    starts = torch.zeros(5, 2, 2), torch.zeros(5, 1, 1)
    seen = imagine(step, policy, starts, judge, ImagineConfig(horizon=3), torch.Generator().manual_seed(0))
    assert seen.states.shape == (4, 5, 2)
    assert seen.states[:, :, 0].mean(1).tolist() == pytest.approx([0, 1, 2, 3], abs=0.01)
    assert seen.reward.mean(1).tolist() == pytest.approx([1, 2, 3], abs=0.01)
    assert seen.alive.mean(1).tolist() == [1, 1, 0]


def test_the_noise_is_the_one_that_the_model_predicts():
    step, policy = parts(0.0)
    starts = torch.zeros(4000, 2, 2), torch.zeros(4000, 1, 1)
    seen = imagine(step, policy, starts, judge, ImagineConfig(horizon=1), torch.Generator().manual_seed(0))
    assert seen.states[1, :, 0].std() == pytest.approx(1.0, abs=0.05)
    assert seen.states[1, :, 1].std() == pytest.approx(0.0, abs=0.01)
