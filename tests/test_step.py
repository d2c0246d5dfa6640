"""The one-step model: exact on a system it can know, honest about what it cannot, and the same alone and in a row."""

import copy
import math

import pytest
import torch
from torch import Generator

from agents.monitor import episode_errors, evidence, step_error
from envs.types import Belief
from world_models.checkpoint import blank, load_part, save_part
from world_models.normaliser import Normaliser
from world_models.step import OUTLIER, StepConfig, StepModel


def data(n=4000, seed=0):
    """x' = x + 0.1 a + (x - x_before) / 2 in two dimensions; the second also gets noise of std |a_0| / 20."""
    generator = Generator().manual_seed(seed)
    before = torch.randn(n, 2, generator=generator)
    now = before + 0.2 * torch.randn(n, 2, generator=generator)
    actions = torch.rand(n, 2, 2, generator=generator) * 2 - 1
    then = now + 0.1 * actions[:, 1] + (now - before) / 2
    then[:, 1] += actions[:, 1, 0].abs() / 20 * torch.randn(n, generator=generator)
    return torch.stack([before, now, then], 1), actions


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    states, actions = data()
    model = StepModel(
        StepConfig(width=64, layers=2),
        Normaliser.fit(states[:, 1]),
        Normaliser.fit(actions[:, 1]),
        Normaliser.fit(states[:, 2] - states[:, 1]),
    )
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1500)
    for step in range(1500):
        generator = Generator().manual_seed(step)
        pick = torch.randint(0, len(states), (256,), generator=generator)
        model.loss(states[pick], actions[pick], generator).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return model.eval().requires_grad_(False)


def test_mean_and_scale_are_those_of_the_system(trained):
    states, actions = data(seed=1)
    error, log_scale = trained.residuals(states, actions)
    assert float(error[:, 0].square().mean()) < 0.01
    true = actions[:, 1, 0].abs() / 20 / trained.change.std[1]
    clear = true > 0.1  # where the noise is above what the mean misses
    ratio = log_scale[clear, 1] - true[clear].log()
    assert abs(float(ratio.median())) < 0.25


def test_the_error_is_about_one_where_the_model_is_right_and_large_for_another_body(trained):
    states, actions = data(seed=1)
    right = trained.errors(states, actions)
    assert 0.7 < float(right.mean()) < 1.6
    weak = states.clone()
    weak[:, 2] -= 0.1 * actions[:, 1] * 0.5
    wrong = trained.errors(weak, actions)
    assert float(wrong.median()) > 3 * float(right.median())
    assert float(wrong.max()) <= OUTLIER**2


def test_what_happens_is_evidence_for_the_model_that_explains_it(trained):
    other = copy.deepcopy(trained)
    other.net[-1].bias.data[0] += 0.5
    states, actions = (x.numpy() for x in data(n=200, seed=1))
    found = [evidence(other, trained, s, a) for s, a in zip(states, actions, strict=True)]
    assert sum(found) / len(found) > 0.3
    assert evidence(trained, trained, states[0], actions[0]) == 0.0


def test_without_its_past_it_predicts_worse_but_it_predicts(trained):
    states, actions = data(seed=1)
    with_past, _ = trained.residuals(states, actions)
    without, _ = trained.residuals(states, actions, torch.zeros(len(states), 1))
    assert float(with_past[:, 0].square().mean()) < float(without[:, 0].square().mean()) < 1.0


def test_the_past_does_not_count_where_it_is_not_known(trained):
    states, actions = data(n=8, seed=1)
    other = states.clone()
    other[:, 0] += 5.0
    unknown = torch.zeros(8, 1)
    assert torch.equal(*(trained.residuals(s, actions, unknown)[0] for s in (states, other)))


def test_the_score_is_the_closed_form_and_proper():
    model = StepModel(StepConfig(4, 1), blank((1,)), blank((1,)), blank((1,)))
    states, actions = torch.tensor([[[0.0], [0.0], [0.7]]]), torch.zeros(1, 2, 1)
    for log_scale in (-1.0, 0.0, 1.0):
        for p in model.parameters():
            p.data.zero_()
        model.net[-1].bias.data[1] = log_scale
        draws = 0.0 + math.exp(log_scale) * torch.randn(200_000, generator=Generator().manual_seed(0))
        pairs = (draws[:100_000] - draws[100_000:]).abs().mean()
        assert float(model.crps(states, actions)) == pytest.approx(
            float((draws - 0.7).abs().mean() - pairs / 2), abs=0.01
        )


def test_a_rollout_is_one_step_after_the_other(trained):
    states, _ = data(n=3, seed=2)
    actions = torch.rand(3, 2, 4, 2, generator=Generator().manual_seed(3))
    past = torch.rand(3, 1, 2, generator=Generator().manual_seed(4))
    whole = trained.rollout(Belief(states[:, :2], past), actions, [Generator()])
    z, before = states[:, :2], past
    for h in range(4):
        one = trained.rollout(Belief(z, before), actions[:, :1, h : h + 1], [Generator()])[:, 0, 0]
        assert torch.allclose(one, whole[:, 0, h], atol=1e-5)
        z, before = torch.stack([z[:, 1], one], 1), actions[:, 0, h : h + 1]


def test_a_rollout_stays_within_the_range_it_was_trained_on(trained):
    trained.low, trained.high = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])
    far = trained.rollout(
        Belief(torch.full((1, 1, 2), 0.9), torch.zeros(1, 0, 2)), torch.ones(1, 1, 60, 2), [Generator()]
    )
    trained.low, trained.high = torch.full((2,), -1e6), torch.full((2,), 1e6)
    assert float(far.abs().max()) <= 1.0
    assert float(far.max()) == 1.0


def test_a_whole_episode_has_the_errors_that_the_robot_saw_one_by_one(trained):
    states, actions = torch.randn(31, 2).numpy(), torch.rand(30, 2).numpy()
    errors = episode_errors(trained, states, actions)
    assert len(errors) == 29
    one_by_one = [step_error(trained, states[t : t + 3], actions[t : t + 2]) for t in range(29)]
    assert errors == pytest.approx(one_by_one, rel=1e-4)
    assert len(episode_errors(trained, states[:2], actions[:1])) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_non_finite_state_has_an_infinite_error(trained, bad, row):
    states, actions = torch.zeros(3, 2).numpy(), torch.zeros(2, 2).numpy()
    states[row, 0] = bad
    assert step_error(trained, states, actions) == math.inf


def test_candidates_are_predicted_alike_alone_and_in_a_batch(trained):
    states, _ = data(n=3, seed=2)
    actions = torch.rand(3, 5, 4, 2, generator=Generator().manual_seed(3))
    past = torch.rand(3, 1, 2, generator=Generator().manual_seed(4))
    whole = trained.rollout(Belief(states[:, :2], past), actions, [Generator()] * 3)
    for b in range(3):
        alone = trained.rollout(Belief(states[b : b + 1, :2], past[b : b + 1]), actions[b : b + 1], [Generator()])
        assert torch.allclose(alone[0], whole[b], atol=1e-5)


def test_it_comes_back_from_disk_as_it_was(trained, tmp_path):
    trained.low, trained.high = torch.tensor([-9.0, -9.0]), torch.tensor([9.0, 9.0])
    card = {"part": "step", "sizes": {"state": 2, "action": 2, "horizon": 8}, "step": {"width": 64, "layers": 2}}
    save_part(tmp_path, "step", trained, card, half=False)
    states, actions = data(n=8)
    assert torch.equal(load_part(tmp_path, "step").errors(states, actions), trained.errors(states, actions))
    trained.low, trained.high = torch.full((2,), -1e6), torch.full((2,), 1e6)
