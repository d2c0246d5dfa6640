"""A model that was put in use stands for itself: by what it earns it stays, becomes the measure, or is gone back from."""

from __future__ import annotations

import numpy as np
import pytest

from agents.trial import Trial


def earn(it, mean, n, sd=50.0):
    for value in np.random.default_rng(int(mean)).normal(mean, sd, n):
        it.earn(float(value))


def put(it, *means):
    """A first model and others in its place, each with as many episodes as it takes to judge it."""
    for number, mean in enumerate(means):
        if number:
            it.put(f"model {number - 1}")
        earn(it, mean, it.episodes)
    return it


def test_a_model_that_earns_less_fails_and_the_one_before_is_back():
    it = put(Trial(), 4000, 3000)
    assert it.failed
    assert it.back() == "model 0"
    assert not it.failed


def test_the_first_look_is_suspicious_and_later_ones_less_so():
    it = Trial(before=[1000.0, 2000.0, 3000.0, 2500.0, 1500.0])
    it.put("model 0")
    for value in (900.0, 1900.0, 2300.0, 2000.0, 1000.0):
        it.earn(value)
    assert it.failed
    it.earn(1620.0)
    assert not it.failed


def test_nothing_is_said_before_enough_episodes():
    it = put(Trial(), 4000)
    it.put("model 0")
    earn(it, 0, it.episodes - 1)
    assert it.pending
    assert not it.failed
    earn(it, 0, 1)
    assert not it.pending
    assert it.failed


@pytest.mark.parametrize("mean", [4000, 4500])
def test_a_model_that_earns_as_much_or_more_stays(mean):
    it = Trial(before=[3900.0, 4000.0, 4100.0, 3950.0, 4050.0])
    it.put("model 0")
    for _ in range(30):
        it.earn(float(mean))
        assert not it.failed


def test_what_one_round_brought_is_not_lost_by_the_next():
    it = put(Trial(), 1000, 3000, 1500)
    assert it.failed, "more than at the start, less than before"
    assert it.back() == "model 1"


def test_a_model_on_trial_that_earns_less_never_becomes_the_measure():
    it = put(Trial(episodes=8), 3000)
    it.put("model 0")
    earn(it, 2000, 5)
    it.put("model 1")
    earn(it, 2000, 8)
    assert it.failed
    assert it.back() == "model 0"


def test_after_going_back_returns_of_the_model_in_use_are_noted_as_such():
    it = put(Trial(), 4000, 1000)
    it.back()
    earn(it, 4000, 5)
    assert len(it.before) == 10
    assert put(it, 4000, 1000).failed


def test_without_returns_of_before_nothing_fails():
    it = Trial()
    it.put("model 0")
    earn(it, 0, 20)
    assert not it.failed
