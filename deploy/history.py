"""What has happened in a run so far, and which part of it is healthy, broken or adapted; in bounded memory, however long it runs."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from agents.types import AdaptationReport, GoalChange, ModelSwap, SurpriseReading
    from deploy.guard import ModeChange
    from deploy.records import EpisodeRecord, GoalNote, JobRecord

Phase = Literal["healthy", "broken", "adapted"]
PHASES: tuple[Phase, ...] = ("healthy", "broken", "adapted")
SAMPLED = 50_000
"""Numbers of a kind that are kept at most."""
FULL = 64
"""Episodes whose arrays are kept at most; all are in the log."""


class Sample:
    """Numbers that percentiles are taken of: all of them, or of too many every second, every fourth and so on."""

    def __init__(self) -> None:
        self.count, self.largest = 0, float("-inf")
        self._kept, self._stride = array("d"), 1

    def add(self, values: Iterable[float]) -> None:
        """Add some; those that are not finite do not count."""
        for value in values:
            if not math.isfinite(value):
                continue
            if self.count % self._stride == 0:
                self._kept.append(value)
            self.count, self.largest = self.count + 1, max(self.largest, value)
            if len(self._kept) > SAMPLED:
                self._kept, self._stride = self._kept[::2], 2 * self._stride

    @property
    def values(self) -> np.ndarray:
        """Those that are kept, in the order in which they came."""
        return np.array(self._kept)


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
    """Configuration at every step of every episode, (T + 1, P) each; (0, P) for those that are no longer kept in full."""
    alarms: list[tuple[int, SurpriseReading]] = field(default_factory=list)
    """Episode and reading of every alarm."""
    adaptations: list[AdaptationReport] = field(default_factory=list)
    swaps: list[ModelSwap] = field(default_factory=list)
    goals: list[GoalChange] = field(default_factory=list)
    notes: list[GoalNote] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)
    modes: list[ModeChange] = field(default_factory=list)
    plan_ms: Sample = field(default_factory=Sample)
    late_s: Sample = field(default_factory=Sample)
    """How late control steps were."""
    age_s: Sample = field(default_factory=Sample)
    """How old the plans behind executed actions were."""
    operator_steps: int = 0
    held_steps: int = 0
    surprise_max: float | None = None
    missed: int = 0
    """Steps that were so late that another was due already."""
    scheduling: str = ""
    """How the system schedules the control loop; empty in simulated time."""
    nonfinite: NonFinite = field(default_factory=NonFinite)

    def add(self, episode: EpisodeRecord, poses_SP: np.ndarray) -> None:
        """Take in an episode that has ended; of earlier ones every second, fourth, ... stays in full when there are many."""
        self.episodes.append(episode)
        self.poses.append(poses_SP)
        self.age_s.add(episode.age_T)
        self.operator_steps += int((episode.planned_T == 2).sum())
        self.held_steps += int((episode.planned_T == 0).sum())
        surprise = [x for x in (*episode.surprise_T, self.surprise_max) if x is not None and math.isfinite(x)]
        self.surprise_max = max(surprise, default=None)
        stride = 2 ** max(0, math.ceil(math.log2(len(self.episodes) / FULL)))
        for n, e in enumerate(self.episodes):
            broken = self.fault_s is not None and e.start_s - 1e-9 <= self.fault_s < e.end_s
            if e.full and n % stride and not broken:
                self.episodes[n], self.poses[n] = e.without_arrays(), self.poses[n][:0].copy()

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
