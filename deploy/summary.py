"""`summary.json`: a run in numbers, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.history import PHASES

if TYPE_CHECKING:
    from agents.types import AdaptationReport, SurpriseReading
    from deploy.config import RunConfig
    from deploy.history import History, Phase
    from deploy.records import EpisodeRecord


def interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return mean and 95 % t interval of the mean; None where too few values say nothing."""
    from scipy import stats

    if not values:
        return None, None, None
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return mean, mean - half, mean + half


def percentiles(values: np.ndarray | Sequence[float]) -> dict[str, float | None]:
    """Return the median and the 99th percentile."""
    if not len(values):
        return {"p50": None, "p99": None}
    return {"p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99))}


def returns_of(episodes: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return how many episodes and steps there were, and the mean return with its interval."""
    mean, lo, hi = interval([e.episode_return for e in episodes])
    steps = sum(e.steps for e in episodes)
    return {"episodes": len(episodes), "steps": steps, "return_mean": mean, "lo": lo, "hi": hi}


def phase_summary(history: History, phase: Phase) -> dict[str, Any]:
    """Return the numbers of one phase; `partial` where no episode lies wholly inside it."""
    episodes, partial = history.episodes_in(phase)
    return {**returns_of(episodes), "partial": partial and bool(episodes)}


def control_summary(history: History, control: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return the numbers of the robot without adaptation over exactly the episodes of the adapted phase."""
    adapted, partial = history.episodes_in("adapted")
    wanted = {e.episode for e in adapted}
    same = [e for e in control if e.episode in wanted and e.whole]
    return {
        **returns_of(same),
        "same_seeds": True,
        "partial": partial and bool(same),
        "episode_indices": [e.episode for e in same],
    }


def alarm_summary(history: History, episode: int, reading: SurpriseReading) -> dict[str, Any]:
    """Return when an alarm came, and how long after the fault; None before it."""
    known = history.fault_s is not None and reading.t_s >= history.fault_s
    after_s = reading.t_s - history.fault_s if known and history.fault_s is not None else None
    return {"t_s": reading.t_s, "episode": episode, "after_fault_s": after_s}


def _adaptation(report: AdaptationReport) -> dict[str, Any]:
    names: Collection[str] = (
        *("t_s", "accepted", "heldout_before", "heldout_after", "play_steps", "play_episodes"),
        *("part", "reason"),
    )
    return {name: getattr(report, name) for name in names}


def certificate_of(cfg: RunConfig) -> str | None:
    """Return the sentence that is certified of the model that a run begins with; None where none is."""
    from agents.learned import LearnedConfig
    from world_models.certificate import certified

    return certified(cfg.agent.folder) or None if isinstance(cfg.agent, LearnedConfig) else None


def summarise(
    cfg: RunConfig, history: History, control: Sequence[EpisodeRecord] | None, status: str, commit: str, wall_s: float
) -> dict[str, Any]:
    """Return the summary of a run that ended with `status` (ok | interrupted | error: ...)."""
    alarms = [alarm_summary(history, episode, reading) for episode, reading in history.alarms]
    return {
        "preset": cfg.preset,
        "seed": cfg.seed,
        "status": status,
        "commit": commit,
        "faults": list(cfg.faults),
        "fault_s": history.fault_s,
        "adapted_s": history.adapted_s,
        "phases": {phase: phase_summary(history, phase) for phase in PHASES},
        "control_arm": None if control is None else control_summary(history, control),
        "alarms": alarms,
        "false_alarms": sum(alarm["after_fault_s"] is None for alarm in alarms),
        "adaptations": [_adaptation(report) for report in history.adaptations],
        "swaps": [{"t_s": s.t_s, "model": s.model, "reason": s.reason} for s in history.swaps],
        "plan_ms": percentiles(history.plan_ms.values),
        # how often one is due, where what it takes is what it costs
        "plan_due_ms": 1e3 * cfg.plan_every * history.dt_s if cfg.plan_latency_s is None else None,
        "plan_age_ms": percentiles(1e3 * history.age_s.values),
        "late_ms": percentiles(1e3 * history.late_s.values),
        "missed_steps": history.missed,
        "scheduling": history.scheduling,
        "modes": [{"t_s": m.t_s, "mode": m.mode, "reason": m.reason} for m in history.modes],
        "operator_steps": history.operator_steps,
        "held_steps": history.held_steps,
        "nonfinite_rejected": history.nonfinite.total,
        "nonfinite": vars(history.nonfinite),
        "episodes": [
            {"episode": e.episode, "start_s": e.start_s, "steps": e.steps, "return": e.episode_return, "ended": e.ended}
            for e in history.episodes
        ],
        "surprise_max": history.surprise_max,
        "simulated_s": history.episodes[-1].end_s if history.episodes else 0.0,
        "wall_s": wall_s,
        "certificate": certificate_of(cfg),
    }
