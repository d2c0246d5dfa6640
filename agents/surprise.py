"""Surprise: a fold over prediction errors that says when the model in use no longer describes the body or the world.

    x_t     = (log(error_t + floor) - mean) / std - start_t
    spike_t = (x_t - phi x_{t-1}) / sqrt(1 - phi^2)          whitened; a push or a teleport is one high step
    drift_t = max(0, drift_{t-1} + min(spike_t, CAP) - slack)   Page's CUSUM; a broken joint is a sustained shift
    score_t = max(spike_t / spike_limit, drift_t / drift_limit)

The alarm is `score >= threshold`, where the threshold is a conformal quantile of whole-episode maxima of the same score
(`agents/calibration.py`): the chance of an alarm in a healthy episode is at most the set rate, whatever the dependence
inside an episode, as long as episodes are exchangeable with those of the calibration (their lengths included).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from agents.types import SurpriseReading

CAP = 4.0  # [std] the CUSUM counts no update for more than this: one extreme step is the spike's affair
OUTLIER = 4.0  # [std] whitening forgets an update beyond this: it would hide its successor or invent one
DRIFT_CAP = 2.0  # [thresholds] the CUSUM stops here while alarms are quiet, so that it comes back once a fault is over
MAD_TO_STD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class SurpriseConfig:
    """How sensitive the monitor is; rates are per episode, everything else counts updates."""

    false_alarm_rate: float = 0.01
    """Chance of at least one alarm in a healthy episode."""
    drift: float = 0.5
    """Slack of the CUSUM, in calibrated standard deviations: a shift of the log-error by less is never an alarm."""
    refractory: int = 100
    """Updates to stay quiet after an alarm."""
    settle: int = 150
    """Updates over which location and scale are estimated anew after a model swap or a change of goal."""
    gross: float = 3.0
    """Until then, the threshold is this many times higher."""
    floor: float = 1e-6
    """Added to the error before the logarithm."""
    start_updates: int = 50
    """Updates at the beginning of an episode with a location of their own: a standing start is not a steady walk."""

    def __post_init__(self) -> None:
        if not 0.0 < self.false_alarm_rate < 1.0:
            raise ValueError(f"false_alarm_rate must be in (0, 1), got {self.false_alarm_rate}")
        for name in ("drift", "refractory", "start_updates"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.settle < 2:
            raise ValueError(f"settle must be >= 2, got {self.settle}")
        if not self.gross >= 1.0:
            raise ValueError(f"gross must be >= 1, got {self.gross}")
        if not self.floor > 0.0:
            raise ValueError(f"floor must be > 0, got {self.floor}")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What healthy episodes look like; made by `agents.calibration.calibrate`."""

    log_mean: float  # location of log(error + floor)
    log_std: float
    phi: float  # lag-1 autocorrelation of the standardised log-error
    start: tuple[float, ...]  # [std] location of the first updates of an episode, relative to log_mean
    spike_limit: float
    drift_limit: float
    maxima: tuple[float, ...]  # of the score over each conformal episode, ascending
    episodes: int  # all that were used: those of the maxima and those of the other numbers
    updates: int

    def __post_init__(self) -> None:
        numbers = (self.log_mean, *self.start, *self.maxima)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("log_mean, start and maxima of a calibration must be finite")
        for name in ("log_std", "spike_limit", "drift_limit"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0.0 <= self.phi < 1.0:
            raise ValueError(f"phi must be in [0, 1), got {self.phi}")
        if list(self.maxima) != sorted(self.maxima):
            raise ValueError("maxima must ascend")

    def threshold(self, rate: float) -> float:
        """Return the score at which an alarm is due, for a false-alarm rate per episode.

        It lies just above the ceil((n + 1)(1 - rate))-th smallest of the n maxima (split conformal prediction:
        Angelopoulos & Bates 2021, arXiv:2107.07511, section 1). Raises ValueError if n is too small for the rate.
        """
        n = len(self.maxima)
        rank = math.ceil((n + 1) * (1.0 - rate) - 1e-9)
        if not 1 <= rank <= n:
            raise ValueError(
                f"false_alarm_rate={rate} needs at least {conformal_episodes(rate)} conformal episodes, got {n}"
            )
        return math.nextafter(self.maxima[rank - 1], math.inf)  # above: a tie with a healthy maximum is healthy

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists for JSON; `from_dict` is the inverse."""
        return asdict(self) | {"start": list(self.start), "maxima": list(self.maxima)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote; ValueError on missing or unknown keys or illegal values."""
        names = {field.name for field in fields(cls)}
        if data.keys() != names:
            raise ValueError(f"a calibration has the keys {sorted(names)}, got {sorted(data)}")
        values: dict[str, Any] = {**data, "start": tuple(data["start"]), "maxima": tuple(data["maxima"])}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class SurpriseState:
    """All memory of the monitor, handed back in at every update."""

    drift: float = 0.0  # the CUSUM, in whitened standard deviations
    last: float | None = None  # x of the previous update; None at the start of an episode
    index: int = 0  # updates so far in this episode
    quiet: int = 0  # updates that remain without alarms
    shift: float = 0.0  # [std] location of the model in use relative to the calibration
    stretch: float = 1.0  # its scale relative to the calibration's
    window: tuple[float, ...] | None = None  # x since the last rescale; None once enough has been seen
    nonfinite: int = 0  # errors that were not finite, since the start

    @property
    def provisional(self) -> bool:
        """Whether location and scale are being estimated anew."""
        return self.window is not None


def conformal_episodes(rate: float) -> int:
    """Return how many conformal episodes a false-alarm rate needs: the smallest n with n >= 1 / rate - 1."""
    return math.ceil(1.0 / rate - 1.0 - 1e-9)


def start(calibration: Calibration, cfg: SurpriseConfig) -> SurpriseState:
    """Return the first state; ValueError if the calibration has too few episodes for the set rate."""
    calibration.threshold(cfg.false_alarm_rate)
    return SurpriseState()


def begin_episode(state: SurpriseState) -> SurpriseState:
    """Forget what belongs to one episode (CUSUM, whitening memory); keep refractory time, scale and counts."""
    return replace(state, drift=0.0, last=None, index=0)


def rescale(state: SurpriseState) -> SurpriseState:
    """After a model swap or a change of goal: estimate location and scale anew, with a higher threshold until then.

    What is wrong for most of the next `settle` updates becomes the new normal, so rescale for a known cause only. With
    estimates from few dependent updates the false-alarm rate afterwards is about the set one, not guaranteed.
    """
    return replace(state, drift=0.0, last=None, window=())


def restore(state: SurpriseState, shift: float = 0.0, stretch: float = 1.0) -> SurpriseState:
    """A model and a goal are back whose location and scale are known (by default the calibration's): they hold at once."""
    return replace(state, drift=0.0, last=None, window=None, shift=shift, stretch=stretch)


def current_threshold(state: SurpriseState, calibration: Calibration, cfg: SurpriseConfig) -> float:
    """Return the score at which the next update raises an alarm: `gross` times the calibrated one while provisional."""
    return calibration.threshold(cfg.false_alarm_rate) * (cfg.gross if state.provisional else 1.0)


def advance(
    state: SurpriseState, error: float, calibration: Calibration, cfg: SurpriseConfig
) -> tuple[SurpriseState, float]:
    """Fold in one error (>= 0) without deciding anything: return the next state and the score, inf if not finite."""
    if not math.isfinite(error):
        return replace(state, last=None, index=state.index + 1, nonfinite=state.nonfinite + 1), math.inf
    start_x = calibration.start[state.index] if state.index < len(calibration.start) else 0.0
    raw = (math.log(max(error, 0.0) + cfg.floor) - calibration.log_mean) / calibration.log_std - start_x
    x = (raw - state.shift) / state.stretch
    phi = calibration.phi
    spike = x if state.last is None else (x - phi * state.last) / math.sqrt(1.0 - phi * phi)
    # Whitening shrinks a sustained shift to sqrt((1 - phi) / (1 + phi)) of itself; the slack is one, so it shrinks too.
    slack = cfg.drift * math.sqrt((1.0 - phi) / (1.0 + phi))
    drift = 0.0 if state.provisional else max(0.0, state.drift + min(spike, CAP) - slack)
    last = x if abs(x) <= OUTLIER else None
    score = max(spike / calibration.spike_limit, drift / calibration.drift_limit)
    after = SurpriseState(
        drift, last, state.index + 1, state.quiet, state.shift, state.stretch, state.window, state.nonfinite
    )
    return (_settle(after, raw, phi, cfg) if state.provisional else after), max(score, 0.0)


def update(
    state: SurpriseState, error: float, calibration: Calibration, cfg: SurpriseConfig
) -> tuple[SurpriseState, float, bool]:
    """Fold in one error: return the next state, the score and whether this update raises an alarm.

    `error` is the prediction error of the model in use, >= 0. One that is not finite scores inf, is
    counted in `state.nonfinite` and alarms (again after each refractory time, for as long as it lasts). Never raises
    once `start` has accepted the calibration.
    """
    threshold = current_threshold(state, calibration, cfg)
    after, score = advance(state, error, calibration, cfg)
    alarm = score >= threshold and not state.quiet
    if alarm:
        return replace(after, drift=0.0, quiet=cfg.refractory), score, True
    if state.quiet:
        cap = DRIFT_CAP * threshold * calibration.drift_limit
        return replace(after, drift=min(after.drift, cap), quiet=state.quiet - 1), score, False
    return after, score, False


def read(
    state: SurpriseState, t_s: float, error: float, calibration: Calibration, cfg: SurpriseConfig
) -> tuple[SurpriseState, SurpriseReading]:
    """Do `update` and return the next state with the reading to report, at time `t_s` [s]."""
    threshold = current_threshold(state, calibration, cfg)
    after, score, alarm = update(state, error, calibration, cfg)
    return after, SurpriseReading(t_s, error, score, threshold, state.provisional, alarm)


def _settle(state: SurpriseState, raw: float, phi: float, cfg: SurpriseConfig) -> SurpriseState:
    """Collect `raw`; with `settle` of them take their median and MAD as the new location and scale, both cautiously."""
    window = (*(state.window or ()), raw)
    if len(window) < cfg.settle:
        return replace(state, window=window)
    median = statistics.median(window)
    # A short dependent window underestimates the scale; a scale below the calibration's would void its threshold.
    stretch = max(1.0, MAD_TO_STD * statistics.median(abs(x - median) for x in window))
    # Too low a location would raise false alarms for ever after, too high a one costs little: add one standard error.
    deviation = stretch * math.sqrt(0.5 * math.pi * (1.0 + phi) / (1.0 - phi) / len(window))
    return replace(state, window=None, shift=median + deviation, stretch=stretch, last=None)
