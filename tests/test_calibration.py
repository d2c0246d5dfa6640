import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from agents.calibration import calibrate, detection, episodes_needed, false_alarms, wilson
from agents.surprise import SurpriseConfig, SurpriseState, rescale, update

PHIS = (0.0, 0.5, 0.8, 0.95)
EPISODES, CONFORMAL, UPDATES = 664, 498, 200
CFG = SurpriseConfig(false_alarm_rate=0.01)
CFG_5 = SurpriseConfig(false_alarm_rate=0.05)


def ar1(rng, n, updates, phi, innovation_ET=None):
    """Stationary AR(1), unit variance for normal innovations, (E, T)."""
    noise_ET = rng.standard_normal((n, updates)) if innovation_ET is None else innovation_ET
    x_ET = noise_ET.copy()
    for t in range(1, updates):
        x_ET[:, t] = phi * x_ET[:, t - 1] + math.sqrt(1 - phi**2) * noise_ET[:, t]
    return x_ET


def errors_of(x_ET):
    return list(np.exp(0.4 * x_ET - 1.0))


@cache
def calibration_for(phi, cfg=CFG):
    return calibrate(errors_of(ar1(np.random.default_rng(10), EPISODES, UPDATES, phi)), cfg)


def coverage(rate, n, fresh, tail=5e-4):
    """The law of the false alarms among `fresh` episodes after split conformal calibration on n: beta-binomial."""
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    law = stats.betabinom(fresh, n + 1 - k, k)
    return law.ppf(tail), law.ppf(1 - tail)


@pytest.mark.parametrize("phi", PHIS)
def test_false_alarms_per_episode_are_as_set_whatever_the_autocorrelation(phi):
    fresh = errors_of(ar1(np.random.default_rng(11), 400, UPDATES, phi))
    total = len(fresh)
    for cfg in (CFG_5, CFG):  # what alarms at 1 % has alarmed at 5 %
        fresh = [
            e
            for e, first in zip(fresh, false_alarms(fresh, calibration_for(phi), cfg), strict=True)
            if first is not None
        ]
        low, high = coverage(cfg.false_alarm_rate, CONFORMAL, total)
        assert low <= len(fresh) <= high


def heavy_and_uneven(rng, n):
    """Log-errors with Student-t(2) innovations, and a location and a scale that differ between episodes."""
    x_ET = ar1(rng, n, 100, 0.7, rng.standard_t(2, (n, 100)))
    return errors_of(0.05 * rng.lognormal(0.0, 0.7, (n, 1)) * x_ET + 0.1 * rng.standard_normal((n, 1)))


@pytest.mark.parametrize("cfg", [CFG, CFG_5])
def test_heavy_tails_and_uneven_episodes_keep_the_false_alarm_rate(cfg):
    rng = np.random.default_rng(12)
    calibration = calibrate(heavy_and_uneven(rng, EPISODES), cfg)
    fresh = heavy_and_uneven(rng, 400)
    alarms = sum(first is not None for first in false_alarms(fresh, calibration, cfg))
    low, high = coverage(cfg.false_alarm_rate, CONFORMAL, len(fresh))
    assert low <= alarms <= high


def test_a_standing_start_does_not_cost_sensitivity():
    """Errors that start 6 std high and settle over 30 updates give the same limits as errors that do not."""
    start_T = 6.0 * np.exp(-np.arange(UPDATES) / 10)
    x_ET = ar1(np.random.default_rng(10), EPISODES, UPDATES, 0.5)
    calibration, plain = calibrate(errors_of(x_ET + start_T), CFG), calibration_for(0.5)
    assert calibration.start[0] == pytest.approx(6.0, abs=0.5)
    assert calibration.threshold(0.01) * calibration.drift_limit == pytest.approx(
        plain.threshold(0.01) * plain.drift_limit, rel=0.2
    )


@pytest.mark.parametrize("phi", PHIS)
def test_fitted_numbers_are_those_of_the_process(phi):
    calibration = calibration_for(phi)
    assert calibration.log_mean == pytest.approx(-1.0, abs=0.06)
    assert calibration.log_std == pytest.approx(0.4, rel=0.05)
    assert calibration.phi == pytest.approx(phi, abs=0.03)
    assert calibration.threshold(0.01) == pytest.approx(1.0, abs=0.2)
    assert (len(calibration.maxima), calibration.episodes, calibration.updates) == (
        CONFORMAL,
        EPISODES,
        EPISODES * UPDATES,
    )


def detected(phi, change_T, within, cfg, n=120):
    """Detection among drawn episodes with `change_T` [std] added from update 100 on."""
    x_ET = ar1(np.random.default_rng(13), n, UPDATES, phi)
    x_ET[:, 100 : 100 + len(change_T)] += change_T
    return detection(errors_of(x_ET), [100] * n, calibration_for(phi), cfg).within(within).value


@pytest.mark.parametrize("phi", PHIS)
def test_a_one_step_spike_of_five_std_is_found_at_once(phi):
    assert detected(phi, np.array([5.0]), 0, CFG_5) > 0.8
    assert detected(phi, np.array([5.0]), 0, CFG) > (0.7 if phi == 0.0 else 0.8)


@pytest.mark.parametrize("phi", PHIS)
def test_whitening_does_not_destroy_a_spike_that_fades_with_the_process(phi):
    fading_T = 5.0 * math.sqrt(1 - phi**2) * phi ** np.arange(100)
    assert detected(phi, fading_T, 0, CFG_5) > 0.8


def test_a_sustained_shift_is_found_within_twenty_updates():
    for cfg in (CFG, CFG_5):
        assert detected(0.0, np.full(100, 1.5), 19, cfg) > 0.9
        assert detected(0.8, np.full(100, 3.0), 19, cfg) > 0.8


def test_a_sustained_shift_buried_in_slow_noise_is_found_within_the_episode():
    """1.5 std at phi = 0.8 is a whitened shift of 0.5: the exact likelihood-ratio CUSUM needs about 25 updates."""
    assert detected(0.8, np.full(100, 1.5), 99, CFG) > 0.9
    assert detected(0.8, np.full(100, 1.5), 59, CFG_5) > 0.8


def test_detection_separates_early_alarms_from_delays():
    quiet, loud = math.exp(-1.0), 1e6
    episodes = [np.array([quiet] * 5 + [loud] + [quiet] * 4), np.array([quiet] * 8 + [loud] * 2), np.full(10, quiet)]
    found = detection(episodes, [6, 6, 6], calibration_for(0.0), CFG)
    assert (found.delays, found.early) == ((None, 2, None), (True, False, False))
    assert (found.within(2).count, found.within(1).count, found.within(2).n) == (1, 0, 2)


def test_false_alarms_after_a_rescale_stay_below_the_set_rate():
    calibration, alarmed = calibration_for(0.5), 0
    fresh = errors_of(ar1(np.random.default_rng(14), 120, 150 + UPDATES, 0.5) + 1.5)
    for error_T in fresh:
        state, alarms = rescale(SurpriseState(index=len(calibration.start))), 0
        for error in error_T.tolist():
            state, _, alarm = update(state, error, calibration, CFG_5)
            alarms += alarm
        alarmed += alarms > 0
    assert alarmed <= CFG_5.false_alarm_rate * len(fresh)


def test_fifty_episodes_are_refused_for_one_per_cent_in_one_line():
    errors = errors_of(ar1(np.random.default_rng(0), 50, 20, 0.0))
    with pytest.raises(ValueError, match=r"=0.01 per episode needs at least 132 healthy episodes, got 50$") as refusal:
        calibrate(errors, CFG)
    assert "\n" not in str(refusal.value)
    assert calibrate(errors, CFG_5).threshold(0.05) > 0.0


@pytest.mark.parametrize("rate", [0.2, 0.05, 0.01, 0.003])
def test_the_episodes_said_to_be_needed_are_enough_and_one_less_is_not(rate):
    cfg = SurpriseConfig(false_alarm_rate=rate, start_updates=2)
    errors = errors_of(ar1(np.random.default_rng(0), episodes_needed(rate), 5, 0.0))
    calibrate(errors, cfg).threshold(rate)
    with pytest.raises(ValueError, match="healthy episodes"):
        calibrate(errors[:-1], cfg)


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan]), np.array([0.1, -1.0]), np.array([0.1]), np.ones((2, 2))])
def test_a_bad_healthy_episode_is_refused_by_number(bad):
    errors = errors_of(ar1(np.random.default_rng(0), 200, 5, 0.0))
    with pytest.raises(ValueError, match="episode 7"):
        calibrate([*errors[:7], bad, *errors[8:]], CFG)


def test_episodes_of_unequal_length_and_constant_errors_are_legal():
    rng = np.random.default_rng(0)
    ragged = [np.exp(rng.standard_normal(int(n))) for n in rng.integers(2, 80, 200)]
    assert calibrate(ragged, CFG).updates == sum(map(len, ragged))
    exact = calibrate([np.zeros(30)] * 200, CFG)  # a model that is always right, such as the simulator itself
    assert false_alarms([np.zeros(30)], exact, CFG) == (None,)
    assert false_alarms([np.array([0.0] * 29 + [1.0])], exact, CFG) == (29,)


def test_calibration_is_deterministic():
    errors = errors_of(ar1(np.random.default_rng(0), 140, 30, 0.5))
    assert calibrate(errors, CFG) == calibrate(errors, CFG)


def test_wilson_is_the_closed_form():
    z, k, n = stats.norm.ppf(0.975), 45, 50
    centre, half = (k + z**2 / 2) / (n + z**2), z * math.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    share = wilson(k, n)
    assert (share.value, share.lo, share.hi) == pytest.approx((0.9, centre - half, centre + half))
