"""Which body is it? Evidence adds up for the model that explains more, and for no other."""

import math

import pytest

from agents.memory import ORIGINAL, Memory, RecallConfig


def memory(**changes):
    return Memory({ORIGINAL: None, "body-1": None}, RecallConfig(**changes))  # pyright: ignore


def steps_until(it, gains, most=1000):
    """How many steps of the same gains it takes, and what is then recalled."""
    for step in range(1, most + 1):
        if (name := it.update(gains)) is not None:
            return step, name
    return most, None


def test_clear_evidence_takes_a_third_of_a_second_and_faint_evidence_longer():
    assert steps_until(memory(), {ORIGINAL: 0.6}) == (40, ORIGINAL)
    assert steps_until(memory(), {ORIGINAL: 0.2})[0] == pytest.approx(200, abs=1)


@pytest.mark.parametrize("gain", [-0.5, 0.0, 0.1, math.nan, -math.inf])
def test_no_evidence_never_adds_up(gain):
    assert steps_until(memory(), {ORIGINAL: gain}) == (1000, None)


def test_one_wild_step_counts_as_one():
    it = memory()
    assert it.update({ORIGINAL: math.inf}) is None
    assert it.update({ORIGINAL: 1e9}) is None
    assert steps_until(it, {ORIGINAL: 0.0}) == (1000, None)


def test_the_better_of_two_is_recalled_and_a_swap_starts_the_race_anew():
    it = memory()
    assert steps_until(it, {ORIGINAL: 0.3, "body-1": 0.5})[1] == "body-1"
    it.restart()
    assert steps_until(it, {ORIGINAL: 0.6}) == (40, ORIGINAL)


def test_the_oldest_body_is_forgotten_and_the_original_never():
    it = Memory({ORIGINAL: None}, RecallConfig(bodies=2))  # pyright: ignore
    for n in range(5):
        it.keep(f"body-{n}", None)  # pyright: ignore
    assert list(it.models) == [ORIGINAL, "body-3", "body-4"]
    it.drop("body-3")
    it.drop("never there")
    assert list(it.models) == [ORIGINAL, "body-4"]
