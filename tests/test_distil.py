"""A student keeps what an ensemble gained, on a system in closed form; the lesson holds the data, and labels of the kind asked for."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from world_models.distil import DistilConfig, distil, extra_inputs, lesson, made, nearest, told
from world_models.ensemble import Recipe, Rows, StepEnsemble, learn, rows_of
from world_models.normaliser import Normaliser
from world_models.step import StepConfig, StepModel
from world_models.training import TrainConfig

TRAIN = TrainConfig(steps=400, batch=64, learning_rate=5e-3, warmup=40, weight_decay=0.01, clip=1.0, bf16=False)
ALONE = Recipe(TRAIN, epochs=128)


def data(n, seed=0, noise=0.05):
    """x' = x + 0.2 sin(2 x) + 0.2 a_0 a_1, seen with noise; few rows of it can only be learned by halves."""
    generator = Generator().manual_seed(seed)
    now = torch.randn(n, 2, generator=generator)
    actions = torch.rand(n, 2, 2, generator=generator) * 2 - 1
    true = now + 0.2 * torch.sin(2 * now) + 0.2 * actions[:, 1].prod(1, keepdim=True)
    before = now + 0.1 * torch.randn(n, 2, generator=generator)
    return torch.stack([before, now, true + noise * torch.randn(n, 2, generator=generator)], 1), actions, true


def like_of(states, actions):
    changes = Normaliser.fit(states[:, 2] - states[:, 1])
    return StepModel(StepConfig(32, 2), Normaliser.fit(states[:, 1]), Normaliser.fit(actions[:, 1]), changes)


@pytest.fixture(scope="module")
def few():
    states, actions, _ = data(200)
    like = like_of(states, actions)
    rows = rows_of(like, states, actions)
    return like, rows, learn(like, rows, replace(ALONE, members=8))


def off(model):
    """Mean squared error against the system without its noise, at unit scale."""
    states, actions, true = data(4000, seed=1)
    states[:, 2] = true
    with torch.no_grad():
        return float(model.residuals(states, actions)[0].square().mean())


def test_the_student_of_an_ensemble_keeps_most_of_its_gain_in_one_network(few):
    _, rows, teacher = few
    student = distil(rows, teacher, ALONE, DistilConfig(), seed=50)
    single = sum(off(teacher.member(k)) for k in range(8)) / 8
    kept = (single - off(student)) / (single - off(teacher))
    assert off(teacher) < 0.9 * single
    assert kept > 0.6
    assert not isinstance(student, StepEnsemble)
    assert sum(p.numel() for p in student.parameters()) * 8 == sum(p.numel() for p in teacher.parameters())


def test_far_from_the_data_labels_that_were_observed_blur_and_those_of_the_teacher_do_not():
    states, actions, _ = data(200, noise=0.0)
    like = like_of(states, actions)
    rows = rows_of(like, states, actions)
    teacher = learn(like, rows, replace(ALONE, members=4))
    taught, plain = (
        distil(rows, teacher, replace(ALONE, epochs=48), DistilConfig(jitter=0.5, labels=labels), seed=50)
        for labels in ("teacher", "source")
    )
    assert off(taught) < 0.8 * off(plain)


def test_the_lesson_is_the_data_the_teacher_on_inputs_beside_them_and_the_teacher_on_them(few):
    _, rows, teacher = few
    cfg = DistilConfig(jitter=0.2, relabel=True)
    shown = lesson(rows, teacher, cfg, seed=1)
    n, m = len(rows), 3 * len(rows)
    assert len(shown) == 2 * n + m
    assert torch.equal(shown.inputs_NI[:n], rows.inputs_NI)
    assert torch.equal(shown.change_NO[:n], rows.change_NO)
    assert not shown.spread_NO[:n].any()
    x, source = extra_inputs(rows, cfg, 1)
    noise = x - rows.inputs_NI[source]
    assert float(noise[:, :-1].std()) == pytest.approx(0.2, rel=0.05)
    assert not noise[:, -1].any()
    assert torch.equal(shown.inputs_NI[n : n + m], x)
    mean, log = teacher.net(x).chunk(2, -1)
    assert torch.allclose(shown.change_NO[n : n + m], mean)
    assert torch.allclose(shown.spread_NO[n : n + m], log.exp())
    assert torch.allclose(shown.change_NO[n + m :], told(teacher, rows.inputs_NI).change_NO)
    assert len(lesson(rows, teacher, replace(cfg, relabel=False), seed=1)) == n + m


def test_without_a_teacher_the_same_inputs_carry_labels_that_were_observed(few):
    _, rows, teacher = few
    by = {kind: lesson(rows, teacher, DistilConfig(jitter=0.5, labels=kind), 1) for kind in ("source", "nearest")}
    n = len(rows)
    x, source = extra_inputs(rows, DistilConfig(jitter=0.5), 1)
    assert all(torch.equal(shown.inputs_NI[n:], x) for shown in by.values())
    assert torch.equal(by["source"].change_NO[n:], rows.change_NO[source])
    near = (x[:, None] - rows.inputs_NI).square().sum(-1).argmin(1)
    assert torch.equal(nearest(x, rows.inputs_NI, at_once=7), near)
    assert torch.equal(by["nearest"].change_NO[n:], rows.change_NO[near])
    assert (near != source).any()


def test_a_student_learns_the_spread_that_it_is_told():
    generator = Generator().manual_seed(0)
    states, actions, _ = data(500)
    like = like_of(states, actions)
    x = rows_of(like, states, actions).inputs_NI
    spread = 0.3 + 0.2 * torch.sigmoid(2 * x[:, :2])
    shown = Rows(x, torch.zeros(500, 2), spread)
    draws = Rows(x, spread * torch.randn(500, 2, generator=generator), torch.zeros(500, 2))
    recipe = Recipe(replace(TRAIN, steps=500))
    found = [told(learn(like, rows, recipe).member(0), x).spread_NO for rows in (shown, draws)]
    ratios = [float((one / spread).log().abs().mean()) for one in found]
    assert ratios[0] < 0.05
    assert ratios[0] < ratios[1]


def test_a_recipe_makes_one_model_an_ensemble_or_its_student(few):
    like, rows, _ = few
    quick = Recipe(replace(TRAIN, steps=3), members=2)
    assert type(made(replace(quick, members=1), like, rows)) is StepModel
    assert isinstance(made(quick, like, rows), StepEnsemble)
    assert type(made(replace(quick, distilled=True), like, rows)) is StepModel


@pytest.mark.parametrize("wrong", [{"jitter": -0.1}, {"extra": -1.0}, {"longer": 0.0}])
def test_amounts_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="must be >"):
        DistilConfig(**wrong)
