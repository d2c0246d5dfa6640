"""What a run remembers of itself, in bounded memory."""

from itertools import pairwise

import numpy as np
import pytest

from deploy.history import FULL, SAMPLED, History, Sample
from tests.test_report import DT_S, episode


def lived(count, fault_s=None):
    history = History(fault_s, DT_S)
    for n in range(count):
        history.add(episode(n, 1.0 * n, 1.0, 10.0 * n), np.ones((3, 9)))
    return history


@pytest.mark.parametrize("count", [1, FULL, FULL + 1, 5 * FULL])
def test_of_many_episodes_evenly_spread_ones_stay_in_full(count):
    history = lived(count)
    full = [n for n, e in enumerate(history.episodes) if e.full]
    assert len(history.episodes) == count
    assert min(count, FULL // 2) <= len(full) <= FULL
    assert len({b - a for a, b in pairwise(full)}) <= 1
    assert [len(p) > 0 for p in history.poses] == [e.full for e in history.episodes]


def test_the_episode_of_the_break_stays_and_totals_count_all():
    history = lived(3 * FULL, fault_s=5.5)
    assert history.episodes[5].full
    steps = sum(e.steps for e in history.episodes)
    assert history.age_s.count == steps
    assert history.held_steps + history.operator_steps < steps
    assert history.surprise_max == pytest.approx(0.2)
    assert [e.episode_return for e in history.episodes] == [10.0 * n for n in range(3 * FULL)]


def test_a_sample_is_exact_until_there_are_too_many_and_then_even():
    few, many = Sample(), Sample()
    few.add([3.0, float("nan"), 1.0, float("inf")])
    assert few.values.tolist() == [3.0, 1.0]
    many.add(float(n) for n in range(5 * SAMPLED))
    assert many.count == 5 * SAMPLED
    assert many.largest == 5 * SAMPLED - 1
    assert len(many.values) <= SAMPLED + 1
    assert np.unique(np.diff(many.values)).tolist() == [8.0]
