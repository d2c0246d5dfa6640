"""The speed model and the fan-out against closed forms."""

import pytest

from deploy.goal_service.speed import Times, ar_rate, fan_out, sd_rate, ssd_rate, tokens_per_round, worth_waiting

TIMES = Times(decode=1.0, verify=1.0, draft=0.6, prepare=0.9)


def test_tokens_per_round_are_the_geometric_sum():
    assert tokens_per_round(0.5, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert tokens_per_round(1.0, 4) == 5
    assert tokens_per_round(0.0, 4) == 1


def test_drafting_ahead_that_always_hits_hides_the_draft_and_that_never_hits_hides_nothing():
    assert ssd_rate(TIMES, 1.0, 3.0, 9.9) == pytest.approx(3.0)
    assert ssd_rate(TIMES, 0.0, 9.9, 3.0) == pytest.approx(sd_rate(TIMES, 3.0)) == pytest.approx(3 / 1.6)
    assert ar_rate(TIMES) == 1.0
    slow = Times(1.0, 1.0, 0.6, prepare=2.0)
    assert ssd_rate(slow, 1.0, 3.0, 0.0) == pytest.approx(1.5), "a draft that takes longer than the look is waited for"


def test_all_wait_for_a_slow_draft_only_where_it_brings_more_than_is_said_meanwhile():
    assert worth_waiting([1.0, 3.0], [3.0, 2.0], 0.0, 1.0, 0.2) == [True, False]
    assert worth_waiting([1.0, 3.0], [3.0, 2.0], 0.0, 1.0, 0.5) == [False, False], "6 in 1.5 s are no more than 4 in 1"
    assert worth_waiting([1.0, 3.0], [3.0, 2.0], 0.0, 1.0, 0.49) == [True, False]
    assert worth_waiting([1.0, 3.0], [3.0, 2.0], 8.0, 1.0, 0.2) == [False, False], "others wait too"


def test_the_fan_out_is_the_published_one_in_whole_numbers():
    exact = (5.50, 4.40, 3.52, 2.82, 3.76)  # K = 4, B = 20, a = 0.64, r = 1
    found = fan_out(0.64, 4, 20)
    assert sum(found) == 20
    assert all(abs(a - b) < 1 for a, b in zip(found, exact, strict=True))
    assert fan_out(0.8, 5, 600)[-1] == pytest.approx(2 * fan_out(0.8, 5, 600)[-2], rel=0.05)


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.9, 1.0])
def test_every_place_has_an_outcome_and_none_is_left_over(acceptance):
    for lookahead in (1, 4, 8):
        for budget in (lookahead + 1, 12, 24):
            found = fan_out(acceptance, lookahead, max(budget, lookahead + 1))
            assert min(found) >= 1
            assert sum(found) == max(budget, lookahead + 1)
    with pytest.raises(ValueError, match="a budget of 3 is less than one outcome for each of 5 places"):
        fan_out(0.5, 4, 3)
