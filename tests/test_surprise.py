import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.surprise import (
    CAP,
    Calibration,
    SurpriseConfig,
    SurpriseState,
    advance,
    begin_episode,
    current_threshold,
    read,
    rescale,
    restore,
    start,
    update,
)

CFG = SurpriseConfig(false_alarm_rate=0.01, refractory=20, settle=150)
CALIBRATION = Calibration(
    log_mean=-1.0,
    log_std=0.4,
    phi=0.6,
    start=(0.5, 0.2),
    spike_limit=4.0,
    drift_limit=12.0,
    maxima=tuple(np.linspace(0.4, 1.1, 99).tolist()),
    episodes=132,
    updates=26_400,
)
errors = st.floats(0.0, 1e12)


def error_at(x: float) -> float:
    """The error whose standardised log is x, past the first updates of an episode."""
    return math.exp(CALIBRATION.log_mean + CALIBRATION.log_std * x) - CFG.floor


def fold(error_T, state=None, cfg=CFG):
    state = start(CALIBRATION, cfg) if state is None else state
    alarms = []
    for error in error_T:
        state, _, alarm = update(state, error, CALIBRATION, cfg)
        alarms.append(alarm)
    return state, alarms


def healthy(n, seed=0, shift=0.0):
    """Errors of an AR(1) log-error with the calibration's own phi, location and scale (moved by `shift` std)."""
    noise_T, x, out = np.random.default_rng(seed).standard_normal(n), 0.0, []
    for noise in noise_T:
        x = CALIBRATION.phi * x + math.sqrt(1 - CALIBRATION.phi**2) * noise
        out.append(error_at(x + shift))
    return out


@given(st.lists(errors, max_size=8), errors, errors, st.booleans())
@settings(max_examples=200, deadline=None)
def test_score_is_monotone_in_the_last_error(before, one, other, provisional):
    state, _ = fold(before)
    state = rescale(state) if provisional else state
    low, high = (advance(state, e, CALIBRATION, CFG)[1] for e in sorted((one, other)))
    assert 0.0 <= low <= high < advance(state, math.nan, CALIBRATION, CFG)[1] == math.inf


def test_whitened_spike_is_the_unit_variance_innovation():
    state = SurpriseState(last=2.0, index=10)
    _, score = advance(state, error_at(5.0), CALIBRATION, CFG)
    assert score == pytest.approx((5.0 - 0.6 * 2.0) / 0.8 / CALIBRATION.spike_limit)


def test_drift_grows_by_the_whitened_shift_less_the_slack_and_never_below_zero():
    state = SurpriseState(last=2.0, drift=1.0, index=10)  # steady x = 2: innovation 0.4 * 2 / 0.8 = 1, slack 0.5 * 0.5
    assert advance(state, error_at(2.0), CALIBRATION, CFG)[0].drift == pytest.approx(1.0 + 1.0 - 0.25)
    assert advance(state, error_at(-3.0), CALIBRATION, CFG)[0].drift == 0.0


def test_a_constant_shift_below_the_slack_never_accumulates_and_above_it_always_alarms():
    state = SurpriseState(last=0.0, index=10)
    assert not any(fold([error_at(0.45)] * 2000, state)[1])
    assert any(fold([error_at(0.55)] * 2000, state)[1])


def test_one_extreme_step_is_a_spike_and_adds_no_more_to_the_drift_than_a_large_one():
    state = SurpriseState(index=10)
    after, score = advance(state, error_at(50.0), CALIBRATION, CFG)
    assert after.drift <= CAP
    assert score == pytest.approx(50.0 / CALIBRATION.spike_limit)


def test_location_of_the_first_updates_is_their_own():
    first = math.exp(CALIBRATION.log_mean + CALIBRATION.log_std * 0.5) - CFG.floor  # x = 0 at update 0
    state, _, _ = update(start(CALIBRATION, CFG), first, CALIBRATION, CFG)
    assert state.last == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_error_alarms_and_is_counted(bad):
    state, _ = fold(healthy(30))
    state, score, alarm = update(state, bad, CALIBRATION, CFG)
    assert (score, alarm, state.nonfinite) == (math.inf, True, 1)
    state, alarms = fold([bad] * 43, state)
    assert [i for i, a in enumerate(alarms) if a] == [20, 41]  # 20 quiet updates after each
    assert state.nonfinite == 44
    assert update(rescale(begin_episode(SurpriseState())), bad, CALIBRATION, CFG)[2]
    assert not any(fold(healthy(300, seed=1), state)[1])  # and it leaves nothing behind


def test_huge_and_zero_errors_do_not_break_the_fold():
    for error in (1.7e308, 5e-324, 0.0, -1e-9):
        state, score, _ = update(fold(healthy(30))[0], error, CALIBRATION, CFG)
        assert math.isfinite(score)
        assert state.last is None
        assert math.isfinite(state.drift)
    _, alarms = fold([0.0, *healthy(200, seed=3)], fold(healthy(30))[0])
    assert not any(alarms)  # an error of zero does not make the next, ordinary one a spike
    state, alarms = fold([1e300] * 5, fold(healthy(30))[0])
    assert alarms == [True, False, False, False, False]


def test_a_lasting_fault_alarms_again_after_each_refractory_time_and_is_over_when_it_ends():
    state, alarms = fold([error_at(4.0)] * 400, fold(healthy(30))[0])
    times = np.flatnonzero(alarms)
    assert len(times) > 10
    assert np.diff(times).min() == CFG.refractory + 1
    _, after = fold(healthy(2000, seed=4), state)
    assert not any(after[100:])


def test_the_fold_is_pure_and_its_state_frozen():
    state, _ = fold(healthy(50))
    before = dataclasses.astuple(state)
    results = [update(state, 0.7, CALIBRATION, CFG) for _ in range(2)]
    assert results[0] == results[1]
    assert dataclasses.astuple(state) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.drift = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    whole, alarms = fold([*healthy(50), *healthy(200)])
    assert fold(healthy(200), state) == (whole, alarms[50:])


def test_a_new_episode_forgets_the_cusum_and_keeps_refractory_scale_and_counts():
    state = SurpriseState(3.0, 1.0, 70, 9, 0.4, 1.3, (0.1, 0.2), 2)
    assert begin_episode(state) == SurpriseState(0.0, None, 0, 9, 0.4, 1.3, (0.1, 0.2), 2)


def test_read_reports_what_update_decided():
    state, _ = fold(healthy(30))
    after, reading = read(state, 1.5, 1e3, CALIBRATION, CFG)
    assert (after, reading.score, reading.alarm) == update(state, 1e3, CALIBRATION, CFG)
    assert (reading.t_s, reading.error, reading.provisional) == (1.5, 1e3, False)
    assert reading.threshold == CALIBRATION.threshold(0.01) > CALIBRATION.maxima[-1]


def test_after_a_rescale_the_new_location_is_learnt_while_only_gross_errors_alarm():
    worse = healthy(500, seed=5, shift=2.5)  # the errors of an adapted model: 2.5 std above the calibration's
    assert any(fold(worse)[1])
    state = rescale(fold(healthy(30))[0])
    assert current_threshold(state, CALIBRATION, CFG) == CFG.gross * CALIBRATION.threshold(CFG.false_alarm_rate)
    assert update(state, error_at(30.0), CALIBRATION, CFG)[2]
    state, alarms = fold(worse[: CFG.settle - 1], state)
    assert state.provisional
    state, more = fold(worse[CFG.settle - 1 : CFG.settle], state)
    assert not state.provisional
    assert state.shift == pytest.approx(2.5, abs=1.0)
    assert state.stretch >= 1.0
    state, rest = fold(worse[CFG.settle :], state)
    assert not any([*alarms, *more, *rest])
    assert any(fold(healthy(60, seed=6, shift=5.5), state)[1])
    assert restore(state).shift == 0.0
    assert restore(rescale(state)).provisional is False


def test_a_rescale_survives_the_end_of_an_episode():
    state, _ = fold(healthy(30, shift=1.0), rescale(SurpriseState()))
    state, _ = fold(healthy(CFG.settle - 30, seed=7, shift=1.0), begin_episode(state))
    assert not state.provisional


def test_a_calibration_survives_json():
    text = json.dumps(CALIBRATION.to_dict())
    assert Calibration.from_dict(json.loads(text)) == CALIBRATION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phi": 1.0}, "phi must be in"),
        ({"log_std": 0.0}, "log_std must be > 0, got 0.0"),
        ({"maxima": [2.0, 1.0]}, "must ascend"),
        ({"maxima": [1.0, math.inf]}, "must be finite"),
        ({"sigma": 1.0}, "a calibration has the keys"),
    ],
)
def test_a_wrong_calibration_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as refusal:
        Calibration.from_dict(CALIBRATION.to_dict() | change)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change", [{"false_alarm_rate": 0.0}, {"drift": -1.0}, {"settle": 1}, {"gross": 0.5}, {"floor": 0.0}]
)
def test_a_wrong_config_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SurpriseConfig(**change)


def test_start_refuses_a_calibration_too_small_for_the_rate():
    small = dataclasses.replace(CALIBRATION, maxima=CALIBRATION.maxima[:98])
    with pytest.raises(ValueError, match=r"false_alarm_rate=0.01 needs at least 99 conformal episodes, got 98"):
        start(small, CFG)
    start(small, SurpriseConfig(false_alarm_rate=0.05))
