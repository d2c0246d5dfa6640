"""The judge of unknown words, with the packaged model: what is said around a command passes, what asks for something else does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deploy.goal_service.engine import EngineConfig, build_engine
from deploy.goal_service.examples.cases import goal_of, same
from deploy.goal_service.judge import judge_of, write
from deploy.goal_service.sentences import to_goal
from deploy.goal_service.train_judge import fit


@pytest.fixture(scope="module")
def engine():
    made = build_engine(EngineConfig(rows=1, threads=1, context=256))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("sentence", "goal"),
    [
        ("walk slowly now, dear fellow", "speed:0.5"),
        ("walk slowly, my tin friend", "speed:0.5"),
        ("run fast, the film crew is ready", "speed:3.4"),
        ("lean forward a bit, old chap", "pitch:0.1"),
    ],
)
def test_what_is_said_around_a_command_passes(engine, sentence, goal):
    found, timings = to_goal(sentence, "walker", None, engine, 60.0)
    assert same(found, goal_of(goal))
    assert timings["path"] == "model"


@pytest.mark.parametrize(
    "sentence", ["walk to the bakery", "run after the dog", "stop the music", "walk like a crab through the window"]
)
def test_what_asks_for_something_else_does_not(engine, sentence):
    found, _ = to_goal(sentence, "walker", None, engine, 60.0)
    assert found.cannot is not None


def test_another_model_has_no_judge_and_what_is_written_is_read(engine, tmp_path, monkeypatch):
    assert judge_of("another") is None
    judge = judge_of(engine.name)
    assert judge is not None
    write(replace(judge, model="another", bias=1.5), tmp_path / "judge.safetensors")
    monkeypatch.setattr("deploy.goal_service.judge.PATH", tmp_path / "judge.safetensors")
    judge_of.cache_clear()
    again = judge_of("another")
    assert (again.bias, again.least, again.depth) == (1.5, judge.least, judge.depth)
    assert torch.equal(again.weights_W, judge.weights_W)
    judge_of.cache_clear()


def test_the_regression_finds_the_line_that_made_the_data():
    rng = np.random.default_rng(0)
    x_NW = rng.normal(3.0, (0.1, 1.0, 10.0), (4000, 3))
    odds_N = (x_NW - 3.0) @ (20.0, -1.0, 0.0) + 0.5
    weights, bias = fit(x_NW, rng.random(4000) < 1 / (1 + np.exp(-odds_N)), 0.0)
    assert weights == pytest.approx((20.0, -1.0, 0.0), rel=0.15, abs=0.02)
    assert bias == pytest.approx(0.5 - 3.0 * 19.0, rel=0.15)
