"""Members are what plain training makes of their seeds; their mixture, their disagreement, and decay as its closed form."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Generator

from configs.models import WALKER_SMALL
from envs.types import Belief
from world_models.ensemble import FULL, RECIPES, STANDARD, Members, Recipe, clip, learn, rows_of, untrained
from world_models.normaliser import Normaliser
from world_models.step import LOG_SCALE, StepConfig, StepModel
from world_models.training import Run, TrainConfig, train

TRAIN = TrainConfig(steps=300, batch=64, learning_rate=3e-3, warmup=30, weight_decay=0.1, clip=0.5, bf16=False, seed=4)


def data(n=300, seed=0, spread=1.0):
    """x' = x + 0.1 sin(x) + 0.1 a in two dimensions, without noise."""
    generator = Generator().manual_seed(seed)
    before = spread * torch.randn(n, 2, generator=generator)
    actions = torch.rand(n, 2, 2, generator=generator) * 2 - 1
    now = before + 0.1 * torch.sin(before) + 0.1 * actions[:, 0]
    then = now + 0.1 * torch.sin(now) + 0.1 * actions[:, 1]
    return torch.stack([before, now, then], 1), actions


def blank_model(states, actions, width=32):
    changes = Normaliser.fit(states[:, 2] - states[:, 1])
    return StepModel(StepConfig(width, 2), Normaliser.fit(states[:, 1]), Normaliser.fit(actions[:, 1]), changes)


def gradient(param):
    assert param.grad is not None
    return param.grad


def plain(states, actions, cfg, folder):
    """What world_models/fit.py does: the loop, the sampler and the loss of the step model."""
    torch.manual_seed(cfg.seed)
    model = blank_model(states, actions)

    def loss(model, step, generator):
        pick = torch.randint(0, len(states), (cfg.batch,), generator=generator)
        return model.loss(states[pick], actions[pick], generator).mean()

    run = Run(model, cfg, folder)
    for _ in train(run, loss, loss):
        pass
    return run.use_ema().eval()


@pytest.fixture(scope="module")
def trained():
    states, actions = data()
    like = blank_model(states, actions)
    return learn(like, rows_of(like, states, actions), Recipe(TRAIN, members=4), seed=4)


def test_an_ensemble_of_one_and_each_member_of_several_are_the_plain_training_of_their_seeds(trained, tmp_path):
    states, actions = data()
    like = blank_model(states, actions)
    single = learn(like, rows_of(like, states, actions), Recipe(TRAIN), seed=4)
    for index, seed in enumerate((4, 5)):
        cfg = replace(TRAIN, seed=seed)
        other = dict(plain(states, actions, cfg, tmp_path / str(seed)).get_submodule("net").state_dict())
        mine = trained.member(index).net.state_dict()
        for name, weight in other.items():
            assert torch.allclose(mine[name], weight, atol=2e-4), (seed, name)
            if seed == TRAIN.seed:
                assert torch.allclose(single.member(0).net.state_dict()[name], weight, atol=2e-4), name


def test_members_of_different_seeds_differ_and_the_ensemble_is_better_than_they_are_on_average(trained):
    states, actions = data(n=2000, seed=1)
    weights = [trained.member(k).net.get_parameter("0.weight") for k in range(4)]
    assert min(float((a - b).abs().max()) for a in weights for b in weights if a is not b) > 0.1
    alone = [float(trained.member(k).residuals(states, actions)[0].square().mean()) for k in range(4)]
    together = float(trained.residuals(states, actions)[0].square().mean())
    assert together < sum(alone) / 4


def test_the_mixture_has_the_moments_of_draws_from_its_members(trained):
    states, actions = data(n=3, seed=1)
    x = rows_of(trained, states, actions).inputs_NI
    mean, log = trained.net.each(x)
    generator = Generator().manual_seed(0)
    pick = torch.randint(0, 4, (200_000,), generator=generator)
    draws = mean[pick, 0] + torch.exp(log[pick, 0]) * torch.randn(200_000, 2, generator=generator)
    mixed, scale = trained.net(x)[0].chunk(2)
    assert torch.allclose(mixed, draws.mean(0), atol=4 * float(draws.std()) / math.sqrt(200_000))
    assert torch.allclose(scale.exp(), draws.std(0), rtol=0.02)


def test_members_of_the_same_weights_do_not_disagree_and_mix_into_themselves():
    states, actions = data(n=20)
    like = blank_model(states, actions)
    x = rows_of(like, states, actions).inputs_NI
    net = untrained(like, 0).net
    mean, log = net(x).chunk(2, -1)
    found = torch.cat([mean, log.clamp(*LOG_SCALE)], -1)
    assert torch.allclose(Members([net, net, net])(x), found, atol=1e-5)


def test_disagreement_is_larger_where_there_were_no_data(trained):
    inside = trained.disagreement(*data(n=500, seed=1))
    outside = trained.disagreement(*data(n=500, seed=1, spread=4.0))
    assert float(outside.median()) > 3 * float(inside.median())
    errors = trained.residuals(*data(n=500, seed=1, spread=2.0))[0].square().mean(1)
    ranks = [x.argsort().argsort().double() for x in (errors, trained.disagreement(*data(500, 1, 2.0)))]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.5  # Spearman


def test_an_ensemble_is_a_step_model_that_predicts_step_after_step(trained):
    states, actions = data(n=3, seed=2)
    candidates = torch.rand(3, 2, 4, 2, generator=Generator().manual_seed(3))
    found = trained.rollout(Belief(states[:, :2], actions[:, :1]), candidates, [Generator()])
    mean, _ = trained.predict(states[:, 1], candidates[:, 0, 0], states[:, 0], actions[:, 0], torch.ones(3, 1))
    assert torch.allclose(found[:, 0, 0], states[:, 1] + trained.change.inverse(mean), atol=1e-5)
    assert torch.isfinite(trained.errors(states, actions)).all()


def test_decay_is_decoupled_one_step_without_gradient_shrinks_the_weights_by_rate_times_decay():
    states, actions = data(n=20)
    like = blank_model(states, actions)
    rows = rows_of(like, states, actions)
    silent = untrained(like, 3)
    cfg = replace(TRAIN, steps=1, warmup=0, weight_decay=2.0, clip=0.0, ema=0.0)  # a clip of 0 leaves no gradient
    after = learn(like, rows, Recipe(cfg), seed=3).member(0)
    for name, weight in silent.net.state_dict().items():
        assert torch.allclose(after.net.state_dict()[name], weight * (1 - cfg.learning_rate * 2.0), rtol=1e-6, atol=0)


def test_the_gradient_of_each_member_is_shortened_by_itself():
    params = [torch.nn.Parameter(torch.zeros(2, 3, 2)), torch.nn.Parameter(torch.zeros(2, 1, 3))]
    for param in params:
        param.grad = torch.randn(param.shape, generator=Generator().manual_seed(0))
        gradient(param)[1] *= 1e-3
    before = [gradient(param).clone() for param in params]
    clip(params, 0.5)
    first, second = (math.sqrt(sum(float(gradient(p)[k].square().sum()) for p in params)) for k in (0, 1))
    assert first == pytest.approx(0.5, rel=1e-4)
    assert all(torch.equal(gradient(p)[1], b[1]) for p, b in zip(params, before, strict=True))
    assert second < 0.5


def test_bootstrap_gives_each_member_rows_of_its_own():
    states, actions = data(n=50)
    like = blank_model(states, actions)
    rows, recipe = rows_of(like, states, actions), Recipe(replace(TRAIN, steps=20), members=2)
    whole, own = (learn(like, rows, replace(recipe, bootstrap=b)) for b in (False, True))
    assert not torch.equal(whole.net.weights[0], own.net.weights[0])


def test_epochs_set_the_steps_by_the_amount_of_data():
    assert STANDARD.training(1000) == STANDARD.train
    assert replace(WALKER_SMALL.step.train, save_every=STANDARD.train.save_every) == STANDARD.train  # as shipped
    cfg = replace(FULL, epochs=3.0).training(1000)
    assert (cfg.steps, cfg.warmup) == (math.ceil(3000 / FULL.train.batch), math.ceil(3000 / FULL.train.batch) // 10)
    assert RECIPES["full"].members == 8


@pytest.mark.parametrize(("wrong", "word"), [({"members": 0}, "members"), ({"epochs": 0.0}, "epochs")])
def test_what_cannot_be_is_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        Recipe(**wrong)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_rate():
    states, actions = data(n=20)
    like = blank_model(states, actions)
    rows = rows_of(like, states, actions)
    rows.change_NO[0] = math.nan
    with pytest.raises(FloatingPointError, match="learning_rate"):
        learn(like, rows, Recipe(replace(TRAIN, steps=5)))
