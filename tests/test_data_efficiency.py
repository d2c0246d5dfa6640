"""Multipliers where they are known, and a search that stops at an optimum it has looked around."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import data_efficiency, recipe_search
from benchmarks.data_efficiency import (
    ARMS,
    QUICK,
    SAVED,
    EfficiencyOptions,
    bootstrapped,
    kept_share,
    multipliers,
    needed,
    savings,
)
from benchmarks.recipe_search import DECAYS, EACH, HELD, TUNING, Choice, Search, Setting, Tuned, numbers_of

BUDGETS = (12, 24, 48, 96)


def law(budgets, share=1.0):
    """Loss of a model that makes `share` episodes of one."""
    return 3.0 * (np.array(budgets) * share) ** -0.5


def test_an_arm_that_makes_one_and_a_half_of_each_episode_has_that_multiplier():
    draws = np.array([0.9, 1.0, 1.1])[:, None]
    found = multipliers(BUDGETS, draws * law(BUDGETS, 1.5), draws * law(BUDGETS))
    assert found[1:] == pytest.approx([1.5] * 3)
    assert found[0] == 1.0  # fewer than the fewest: not known


def test_what_lies_beyond_the_budgets_is_not_made_up():
    assert needed(BUDGETS, law(BUDGETS), 100.0) == pytest.approx(12)
    assert needed(BUDGETS, law(BUDGETS), 1e-3) == pytest.approx(96)
    assert multipliers(BUDGETS, law(BUDGETS, 50.0)[None], law(BUDGETS)[None]) == pytest.approx([1, 2, 4, 8])


def test_a_loss_that_rises_with_data_and_one_below_zero_are_interpolated():
    assert needed(BUDGETS, [3.0, 2.0, 2.5, 1.0], 2.0) == pytest.approx(48)  # the most that it may need
    assert needed((10, 1000), [1.0, -1.0], 0.0) == pytest.approx(100)


def test_the_interval_of_a_share_holds_it_and_is_a_point_without_noise():
    rng = np.random.default_rng(0)
    member, shift = rng.normal(5.0, 0.5, (20, 2)), np.array([[2.0, 1.0]])
    noisy = member - 0.75 * shift + rng.normal(0, 0.1, (20, 2))
    for one, student, least in zip(
        bootstrapped(kept_share, [member, member - shift, member - 0.75 * shift], 0),
        bootstrapped(kept_share, [member, member - shift, noisy], 0),
        (0.02, 0.04),
        strict=True,
    ):
        assert (one.lo, one.mean, one.hi) == pytest.approx((0.75, 0.75, 0.75))
        assert student.lo < 0.75 < student.hi
        assert student.hi - student.lo > least


def test_the_search_ends_where_all_six_neighbours_were_tried_and_none_is_better(monkeypatch):
    def bowl(self, choices, members):
        return {c: math.log(c.rate / 3e-3) ** 2 + (c.decay - 0.1) ** 2 + math.log(c.epochs / 64) ** 2 for c in choices}

    monkeypatch.setattr(Search, "tried", bowl)
    search = Search("walker2d", 24, Setting(most_epochs=128), "square", 1)
    free = ("rate", "decay", "epochs")
    found = search.best(Choice(3e-2, 0.0, 16), 1, DECAYS[-1], free)
    assert found.choice == Choice(3e-3, 0.1, 64)
    assert found.edges == ()
    near = found.choice.neighbours(DECAYS[-1], 128, free)
    assert len(near) == 6
    assert set(near) <= set(found.tried)
    assert all(found.tried[c] > found.tried[found.choice] for c in near)
    capped = replace(search, setting=Setting(most_epochs=32)).best(Choice(3e-2, 0.0, 16), 1, 0.03, free)
    assert (capped.choice, capped.edges) == (Choice(3e-3, 0.03, 32), ("decay", "epochs"))


def test_draws_share_no_episode_with_each_other_nor_with_what_is_held_out_and_budgets_are_nested():
    draws = [set(numbers_of(d, EACH)) for d in range(-TUNING, 10)]
    parts = [*draws, *(set(numbers) for numbers in HELD.values())]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert set(numbers_of(3, 12)) < set(numbers_of(3, 48))
    with pytest.raises(ValueError, match="201"):
        numbers_of(0, 201)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="crps"):
        EfficiencyOptions(loss="crps")
    with pytest.raises(ValueError, match="draws"):
        EfficiencyOptions(draws=0)
    with pytest.raises(ValueError, match="ascending"):
        EfficiencyOptions(budgets=(24, 12))
    with pytest.raises(ValueError, match="hopper"):
        recipe_search.behaviour("cheetah")


def test_a_loss_that_an_arm_never_reaches_has_no_multiplier():
    losses = {arm: np.tile(law(BUDGETS), (2, 1)) for arm in ARMS} | {"distilled": np.tile(law(BUDGETS, 0.6), (2, 1))}
    losses["ensemble"] = np.tile(law(BUDGETS, 2.0), (2, 1))
    student = [row[4] for row in savings("hopper", BUDGETS, losses, 0)]
    assert [x.mean for x in student[:2]] == pytest.approx([0.6, 0.6])
    assert student[2] is None


def test_the_result_sums_up_what_units_found(monkeypatch):
    worth = dict.fromkeys(ARMS, 1.0) | {"ensemble": 2.0, "distilled": 1.5}
    options = EfficiencyOptions(robots=("hopper",), budgets=BUDGETS, draws=3)

    def found(budget, draw):
        losses = {arm: float(law([budget], share)[0]) * (1 + 0.1 * draw) for arm, share in worth.items()}
        return {arm: {"square": x, "nll": x - 1.0} for arm, x in losses.items()}

    units = [[found(budget, draw) for draw in range(3)] for budget in BUDGETS]
    chosen = {24: {arm: Tuned(choice, {choice: 0.0}, ("rate",)) for arm, choice in QUICK.items()}}
    monkeypatch.setattr(data_efficiency, "measured", lambda options, robot: (units, chosen))
    result = data_efficiency.measure(options)
    losses, saved, tried = result.tables
    assert len(losses.rows) == len(BUDGETS) * len(ARMS)
    assert [row[:2] for row in saved.rows] == [("hopper", n) for n in BUDGETS[1:]]
    figures = {name.split(": ")[1]: x for name, x in result.headline.items()}
    assert [figures[name].mean for name in SAVED[:4]] == pytest.approx([1.0, 2.0, 1.5, 1.5])
    kept = (1 - 1.5**-0.5) / (1 - 2**-0.5)
    assert figures[SAVED[4]].mean == pytest.approx(kept)
    assert {row[-1] for row in tried.rows} == {"rate"}
