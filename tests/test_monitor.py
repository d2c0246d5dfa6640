"""The error that surprise folds: an average of signed errors, from typical states, in healthy units."""

import json

import numpy as np
import pytest
import torch

from agents.monitor import (
    SHARE,
    STRIDE,
    TYPICAL,
    Course,
    Normal,
    course_errors,
    episode_course,
    fit_course,
    watched_columns,
)
from envs.robots import robot_spec
from world_models.checkpoint import blank
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.dynamics import DiffusionDynamics

RNG = np.random.default_rng(0)


def healthy(n=40, updates=60):
    return [(RNG.normal(0, 1, (updates, 3)), RNG.normal(0, 1, (updates, 3))) for _ in range(n)]


@pytest.fixture(scope="module")
def course():
    return fit_course((0, 1), healthy())


def test_a_healthy_robot_is_about_one_away(course):
    lengths = np.concatenate([course.errors(e, s) for e, s in healthy(20)])
    assert 0.8 < np.sqrt((lengths**2).mean()) < 1.2


def test_a_lasting_shift_of_one_deviation_grows_far_beyond_any_single_error(course):
    errors, starts = RNG.normal(0, 1, (60, 3)), RNG.normal(0, 1, (60, 3))
    shifted = errors + np.array([2.0, 0.0, 0.0])
    assert course.errors(shifted, starts)[20:].mean() > 2.5 * course.errors(errors, starts)[20:].mean()


def test_errors_of_opposite_sign_cancel_and_of_the_same_sign_add_up(course):
    starts = np.zeros((40, 3))
    same, alternating = np.full((40, 3), 1.5), 1.5 * np.where(np.arange(40) % 2, 1, -1)[:, None] * np.ones((1, 3))
    assert course.errors(same, starts)[-1] > 4 * course.errors(alternating, starts)[-1]


def test_a_prediction_from_an_untypical_state_does_not_count(course):
    far = np.full(3, 10 * TYPICAL)
    average, _ = course.fold(course.start(), np.full(3, 4.0), far)
    assert np.array_equal(average, course.start())
    average, _ = course.fold(course.start(), np.full(3, 4.0), np.zeros(3))
    assert np.allclose(average, (1 - SHARE) * course.start() + SHARE * 4.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_error_is_the_worst_and_is_forgotten(course, bad):
    average, length = course.fold(course.start(), np.array([bad, 0.0, 0.0]), np.zeros(3))
    assert length == np.inf
    assert np.array_equal(average, course.start())


def test_a_course_survives_json(course):
    back = Course.from_dict(json.loads(json.dumps(course.to_dict())))
    assert back == course


def test_distance_is_mahalanobis():
    normal = Normal((1.0, 2.0), ((4.0, 0.0), (0.0, 1.0)))
    assert normal.distance(np.array([2.0, 4.0])) == pytest.approx(np.sqrt(4.0 + 4.0))


def test_the_walker_is_watched_at_its_height():
    spec = robot_spec("walker2d")
    names = [spec.state_names[c] for c in watched_columns(spec)]
    assert names == ["height", "height_rate"]


def test_an_episode_is_cut_into_the_windows_that_the_agent_sees_one_by_one():
    torch.manual_seed(0)
    net = DenoiserConfig(width=32, layers=1, heads=2, qkv=32, mlp=64, causal=True)
    model = DiffusionDynamics(net, DiffusionConfig(2), blank((3,)), blank((2,)), blank((8, 3))).eval()
    states, actions = RNG.normal(0, 1, (31, 3)), RNG.normal(0, 1, (30, 2))
    errors, starts = episode_course(model, states, actions)
    ends = [n for n in range(8, 31) if n % STRIDE == 0]
    assert len(errors) == len(ends)
    for row, start, end in zip(errors, starts, ends, strict=True):
        window = (
            torch.tensor(x[None], dtype=torch.float32) for x in (states[end - 8 : end + 1], actions[end - 8 : end])
        )
        assert np.allclose(course_errors(model, *window)[0].numpy(), row, atol=1e-5)
        assert np.array_equal(start, states[end - 8])


def test_an_episode_shorter_than_the_horizon_has_no_updates():
    model = DiffusionDynamics(
        DenoiserConfig(width=32, layers=1, heads=2, qkv=32, mlp=64, causal=True),
        *(DiffusionConfig(2), blank((3,)), blank((2,)), blank((8, 3))),
    )
    errors, starts = episode_course(model, np.zeros((6, 3)), np.zeros((5, 2)))
    assert errors.shape == (0, 3)
    assert starts.shape == (0, 3)
