"""Calibration of surprise on whole healthy episodes, and what the monitor then does on others.

Split conformal: every fourth episode sets location, scale, whitening and the balance of the two statistics. The maxima
of the score over each of the others are exchangeable with the maximum over a new healthy episode, which exceeds the
ceil((n + 1)(1 - rate))-th smallest of them with probability at most `rate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from agents.surprise import (
    MAD_TO_STD,
    OUTLIER,
    Calibration,
    SurpriseConfig,
    SurpriseState,
    advance,
    conformal_episodes,
    start,
    update,
)

FIT_EVERY = 4  # one episode of four is fitted, the rest give the conformal maxima
MIN_LOG_STD = 0.01  # one per cent of the error: a model that is right to the last bit must not be surprised by rounding
MAX_PHI = 0.98
MIN_LIMIT = 1.0  # [std]


@dataclass(frozen=True, slots=True)
class Proportion:
    """`count` of `n`, with its Wilson interval."""

    count: int
    n: int
    lo: float
    hi: float

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.n


@dataclass(frozen=True, slots=True)
class Detection:
    """First alarms relative to a known change, one entry per episode."""

    delays: tuple[int | None, ...]  # [updates] 0: at the change itself; None: no alarm at or after it, or an early one
    early: tuple[bool, ...]  # an alarm came before the change: a false one

    def within(self, updates: int, confidence: float = 0.95) -> Proportion:
        """Return the share detected no more than `updates` after the change, of the episodes without an early alarm."""
        late = [delay for delay, early in zip(self.delays, self.early, strict=True) if not early]
        return wilson(sum(delay is not None and delay <= updates for delay in late), len(late), confidence)


def wilson(count: int, n: int, confidence: float = 0.95) -> Proportion:
    """Return `count` of `n` with its Wilson score interval; ValueError unless 0 <= count <= n and n >= 1."""
    interval = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return Proportion(count, n, float(interval.low), float(interval.high))


def episodes_needed(rate: float) -> int:
    """Return how many healthy episodes `calibrate` needs for a false-alarm rate per episode."""
    need = conformal_episodes(rate)
    return need + math.ceil(need / (FIT_EVERY - 1))


def calibrate(errors: Sequence[np.ndarray], cfg: SurpriseConfig) -> Calibration:
    """Return the calibration of whole healthy episodes, each a (T,) array of errors, T >= 2.

    Episodes must come from the same policy, goal and lengths as those the monitor will watch, uncut at both ends.
    Raises ValueError if there are too few for `cfg.false_alarm_rate`, or one is empty, not 1-D, negative or not finite.
    """
    need = episodes_needed(cfg.false_alarm_rate)
    if len(errors) < need:
        raise ValueError(
            f"false_alarm_rate={cfg.false_alarm_rate} per episode needs at least {need} healthy episodes,"
            f" got {len(errors)}"
        )
    for episode, error_T in enumerate(errors):
        if error_T.ndim != 1 or len(error_T) < 2:
            raise ValueError(f"episode {episode} must be (T,) with T >= 2, got {error_T.shape}")
        if not (np.isfinite(error_T).all() and (error_T >= 0.0).all()):
            raise ValueError(
                f"errors of episode {episode} must be finite and >= 0, got {error_T.min()}..{error_T.max()}"
            )
    fitted = _fit(errors[::FIT_EVERY], cfg)
    held_out = [error_T for i, error_T in enumerate(errors) if i % FIT_EVERY]
    maxima = tuple(sorted(_maxima(held_out, fitted, cfg)))
    return replace(fitted, maxima=maxima, episodes=len(errors), updates=sum(map(len, errors)))


def false_alarms(errors: Sequence[np.ndarray], calibration: Calibration, cfg: SurpriseConfig) -> tuple[int | None, ...]:
    """Return for each episode of errors (T,) the update of its first alarm or None, each with a fresh monitor."""
    return tuple(_first_alarm(error_T, calibration, cfg) for error_T in errors)


def detection(
    errors: Sequence[np.ndarray], changes: Sequence[int], calibration: Calibration, cfg: SurpriseConfig
) -> Detection:
    """Return the delays of the first alarm in episodes (T,) whose world changes at update `changes[i]`."""
    first = false_alarms(errors, calibration, cfg)
    early = tuple(alarm is not None and alarm < change for alarm, change in zip(first, changes, strict=True))
    delays = tuple(
        None if alarm is None or alarm < change else alarm - change
        for alarm, change in zip(first, changes, strict=True)
    )
    return Detection(delays, early)


def _first_alarm(error_T: np.ndarray, calibration: Calibration, cfg: SurpriseConfig) -> int | None:
    state = start(calibration, cfg)
    for index, error in enumerate(error_T.tolist()):
        state, _, alarm = update(state, error, calibration, cfg)
        if alarm:
            return index
    return None


def _maxima(errors: Sequence[np.ndarray], calibration: Calibration, cfg: SurpriseConfig) -> list[float]:
    """Return the largest score of each episode, by the same fold that runs on the robot."""
    return [_maximum(error_T, calibration, cfg) for error_T in errors]


def _maximum(error_T: np.ndarray, calibration: Calibration, cfg: SurpriseConfig) -> float:
    state, largest = SurpriseState(), 0.0
    for error in error_T.tolist():
        state, score = advance(state, error, calibration, cfg)
        largest = max(largest, score)
    return largest


def _fit(errors: Sequence[np.ndarray], cfg: SurpriseConfig) -> Calibration:
    """Return location, scale, whitening and limits, without maxima."""
    logs_ET = _padded(errors, cfg.floor)
    log_mean, start_N = _locations(logs_ET, cfg.start_updates)
    residual_ET = logs_ET - log_mean
    residual_ET[:, : len(start_N)] -= start_N
    log_std = max(MAD_TO_STD * float(np.nanmedian(np.abs(residual_ET))), MIN_LOG_STD)
    phi = _autocorrelation(np.clip(residual_ET / log_std, -OUTLIER, OUTLIER))
    fitted = Calibration(log_mean, log_std, phi, tuple((start_N / log_std).tolist()), 1.0, 1.0, (), 0, 0)
    return replace(
        fitted,
        spike_limit=_limit(_maxima(errors, replace(fitted, drift_limit=math.inf), cfg), cfg.false_alarm_rate),
        drift_limit=_limit(_maxima(errors, replace(fitted, spike_limit=math.inf), cfg), cfg.false_alarm_rate),
    )


def _padded(errors: Sequence[np.ndarray], floor: float) -> np.ndarray:
    """Return log(error + floor), (E, T), NaN past the end of an episode."""
    logs_ET = np.full((len(errors), max(map(len, errors))), np.nan)
    for row_T, error_T in zip(logs_ET, errors, strict=True):
        row_T[: len(error_T)] = np.log(error_T + floor)
    return logs_ET


def _locations(logs_ET: np.ndarray, start_updates: int) -> tuple[float, np.ndarray]:
    """Return the median of the steady part and, relative to it, of each first update that half the episodes reach."""
    reached_T = np.isfinite(logs_ET).mean(axis=0) >= 0.5
    count = min(start_updates, int(reached_T.sum()))
    steady_ET = logs_ET[:, count:] if count < logs_ET.shape[1] else logs_ET
    log_mean = float(np.nanmedian(steady_ET))
    return log_mean, np.nanmedian(logs_ET[:, :count], axis=0) - log_mean


def _autocorrelation(x_ET: np.ndarray) -> float:
    """Return the lag-1 regression coefficient within episodes, in [0, MAX_PHI]."""
    both_EP = np.isfinite(x_ET[:, 1:])
    before_P, after_P = x_ET[:, :-1][both_EP], x_ET[:, 1:][both_EP]
    power = float(before_P @ before_P)
    return min(max(float(before_P @ after_P) / power, 0.0), MAX_PHI) if power > 0.0 else 0.0


def _limit(maxima: Sequence[float], rate: float) -> float:
    """Return about the (1 - rate) quantile of the maxima; it balances the two statistics and carries no guarantee."""
    if max(maxima) - min(maxima) < 1e-9:
        return max(maxima[0], MIN_LIMIT)
    location, scale = stats.gumbel_r.fit(
        maxima
    )  # maxima of many updates; an empirical quantile needs many episodes more
    return max(float(stats.gumbel_r.ppf(1.0 - rate, location, scale)), MIN_LIMIT)
