"""What has happened in a run so far, and which part of it is healthy, broken or adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from agents.types import AdaptationReport, GoalChange, ModelSwap, SurpriseReading
    from deploy.guard import ModeChange
    from deploy.records import EpisodeRecord, JobRecord

Phase = Literal["healthy", "broken", "adapted"]
PHASES: tuple[Phase, ...] = ("healthy", "broken", "adapted")


@dataclass
class NonFinite:
    """How many of each were refused because they were not finite."""

    candidates: int = 0
    plans: int = 0
    observations: int = 0
    actions: int = 0

    @property
    def total(self) -> int:
        """All of them; a failed plan is counted with its candidates."""
        return self.candidates + self.observations + self.actions


@dataclass
class History:
    """Everything that a summary and a report are made from; `fault_s` is when the first fault starts."""

    fault_s: float | None
    dt_s: float
    episodes: list[EpisodeRecord] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    """Configuration at every step of every episode, (T + 1, P) each."""
    alarms: list[tuple[int, SurpriseReading]] = field(default_factory=list)
    """Episode and reading of every alarm."""
    adaptations: list[AdaptationReport] = field(default_factory=list)
    swaps: list[ModelSwap] = field(default_factory=list)
    goals: list[GoalChange] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)
    modes: list[ModeChange] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    """How late every control step was."""
    missed: int = 0
    """Steps that were so late that another was due already."""
    scheduling: str = ""
    """How the system schedules the control loop; empty in simulated time."""
    nonfinite: NonFinite = field(default_factory=NonFinite)

    @property
    def adapted_s(self) -> float | None:
        """When the first model accepted after the fault came into use [s]."""
        after_s = self.fault_s if self.fault_s is not None else 0.0
        return next((swap.t_s for swap in self.swaps if swap.reason == "accepted" and swap.t_s >= after_s), None)

    def span(self, phase: Phase) -> tuple[float, float]:
        """Return [begin, end) of a phase [s]; empty (inf, inf) for one that has not come."""
        fault_s = float("inf") if self.fault_s is None else self.fault_s
        adapted_s = float("inf") if self.adapted_s is None or self.fault_s is None else self.adapted_s
        spans: dict[Phase, tuple[float, float]] = {
            "healthy": (0.0, fault_s),
            "broken": (fault_s, adapted_s),
            "adapted": (adapted_s, float("inf")),
        }
        return spans[phase]

    def phase_at(self, t_s: float) -> Phase:
        """Return the phase that `t_s` falls into."""
        for phase in PHASES:
            begin_s, end_s = self.span(phase)
            if begin_s <= t_s < end_s:
                return phase
        return "healthy"

    def episodes_in(self, phase: Phase) -> tuple[list[EpisodeRecord], bool]:
        """Return the episodes wholly inside a phase; with none, those partly inside, and True."""
        begin_s, end_s = self.span(phase)
        done = [e for e in self.episodes if e.whole]
        inside = [e for e in done if begin_s - 1e-9 <= e.start_s and e.end_s <= end_s + 1e-9]
        if inside:
            return inside, False
        return [e for e in done if e.start_s < end_s and e.end_s > begin_s], True

    def ages_s(self) -> np.ndarray:
        """Return the age of the plan behind every executed action [s]."""
        return finite_of([e.age_T for e in self.episodes])


def finite_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the finite values of all parts in one row."""
    row = np.concatenate(parts) if parts else np.empty(0)
    return row[np.isfinite(row)]
