"""The map in front of the one-step model: found from motion alone, told in words, and nothing where nothing is wrong."""

import copy

import numpy as np
import pytest
import torch
from torch import Generator

from agents.adaptation import FitConfig, Play, adapt_step, fit, fit_body, windows
from world_models.body import Body
from world_models.normaliser import Normaliser
from world_models.step import StepConfig, StepModel

NAMES, LOW, HIGH = ("hip", "knee"), (-1.0, -1.0), (1.0, 1.0)
FIT = FitConfig(steps=400, batch=256, learning_rate=2e-2)


def lived(defect, n=9, seed=0):
    """Episodes of x' = x + a + small noise in two dimensions, where `defect` comes between command and a."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(n):
        actions = rng.uniform(-1, 1, (60, 2))
        moved = np.cumsum(defect(actions.copy()) + rng.normal(0, 0.02, (60, 2)), axis=0)
        states = np.concatenate([np.zeros((1, 2)), moved])
        made.append(Play(states.astype(np.float32), actions.astype(np.float32), np.ones(60), terminated=True))
    return made


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    states, actions = windows(lived(lambda a: a, 30, seed=1), 2)
    norms = (Normaliser.fit(x) for x in (states[:, 1], actions[:, 1], states[:, 2] - states[:, 1]))

    def loss(made, generator):
        pick = torch.randint(0, len(states), (256,), generator=generator)
        return made.loss(states[pick], actions[pick], generator).mean()

    return fit(StepModel(StepConfig(32, 1), *norms), loss, FitConfig(steps=800, learning_rate=1e-2), 0)


def limited(a):
    a[:, 1] = a[:, 1].clip(-0.5, 0.3)
    return a


def weak(a):
    a[:, 0] *= 0.4
    return a


def bent(a):
    return a + np.array([0.0, 0.25])


@pytest.mark.parametrize(
    ("defect", "numbers", "told"),
    [
        (limited, {(2, 1): -0.5, (3, 1): 0.3}, "knee stays within -0.5"),
        (weak, {(0, 0): 0.4}, "hip moves "),
        (bent, {(1, 1): 0.25}, "knee is off by +0.2"),
    ],
)
def test_a_defect_is_found_and_told(model, defect, numbers, told):
    body = fit_body(model, windows(lived(defect), 2), FIT, 0).body
    for place, value in numbers.items():
        assert float(body.numbers[place]) == pytest.approx(value, abs=0.05)
    said = body.explain(NAMES, LOW, HIGH)
    assert said.startswith(told)
    assert "," not in said  # the other joint is sound
    assert model.body.explain(NAMES, LOW, HIGH) == ""  # nothing was written into the model in use


def test_a_sound_body_is_told_to_be_sound(model):
    assert fit_body(model, windows(lived(lambda a: a, seed=3), 2), FIT, 0).body.explain(NAMES, LOW, HIGH) == ""


def test_a_new_body_changes_nothing_and_is_no_part_of_a_checkpoint():
    command = torch.randn(50, 2, generator=Generator().manual_seed(0)) * 3
    assert torch.equal(Body(2)(command), command)
    assert not Body(2).state_dict()


def test_an_adapted_model_knows_the_new_body_and_is_not_spoilt_by_data_of_the_old_one(model):
    states, actions = windows(lived(lambda a: a, 30, seed=5), 2)
    made = adapt_step(model, lived(limited), (states, actions), FitConfig(steps=50, replay_share=0.5), FIT, 0)
    fresh = windows(lived(limited, seed=8), 2)
    ideal = float(model.crps(states, actions).mean())
    assert float(model.crps(*fresh).mean()) > 2 * ideal
    assert float(made.model.crps(*fresh).mean()) < 1.2 * ideal
    healthy = copy.deepcopy(made.model)
    healthy.body = Body(2)
    assert float(healthy.crps(states, actions).mean()) < 1.2 * ideal
