"""What a run writes down, one frozen record per kind: events hold simulated time only, timings wall time."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from agents.types import AdaptationReport, AgentEvent, GoalChange, ModelSwap, SurpriseReading
from deploy.guard import ModeChange


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What was asked for."""

    preset: str
    robot: str
    seed: int
    dt_s: float
    faults: tuple[str, ...]
    fault_s: float | None  # when the first fault starts


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """One plan: observed at `t_s`, starts at `t0_s`, known to the streamer from `visible_s` on."""

    t_s: float
    t0_s: float
    visible_s: float
    status: str
    cost: float
    rejected: int


@dataclass(frozen=True, slots=True)
class JobRecord:
    """An adaptation job that began at `t_s` and delivers at `due_s`."""

    t_s: float
    due_s: float


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One episode; row t of each array is control step t: the state before it, and the three actions of it."""

    episode: int
    env_seed: int
    start_s: float
    end_s: float
    steps: int
    episode_return: float
    ended: str  # terminated | truncated | nonfinite observation | interrupted | limit | held | stopped | quit
    states_TO: np.ndarray
    requested_TA: np.ndarray
    sent_TA: np.ndarray
    applied_TA: np.ndarray
    reward_T: np.ndarray
    planned_T: np.ndarray  # 1 where a plan was followed, 2 where a person steered, 0 where the robot was held
    age_T: np.ndarray  # [s], of the observation behind the plan; not finite where none was followed
    altered: dict[str, int]  # limit -> steps that it changed
    surprise_T: np.ndarray  # statistic after the step; not finite where there was none
    error_T: np.ndarray
    threshold_T: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether the episode came to its own end."""
        return self.ended in ("terminated", "truncated", "nonfinite observation")

    @property
    def full(self) -> bool:
        """Whether its arrays are here."""
        return len(self.reward_T) == self.steps

    def without_arrays(self) -> EpisodeRecord:
        """Return it with arrays of no rows: (0, O), (0, A), (0,)."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: v[:0].copy() for k, v in named.items() if isinstance(v, np.ndarray)})


@dataclass(frozen=True, slots=True)
class PlanTiming:
    """How long a plan took [ms], in wall time."""

    t_s: float
    plan_ms: float


@dataclass(frozen=True, slots=True)
class JobTiming:
    """How long an adaptation job took [s], in wall time."""

    t_s: float
    job_s: float


@dataclass(frozen=True, slots=True)
class EpisodeTiming:
    """How long an episode took [s], in wall time, and how late its control steps were [s]."""

    episode: int
    wall_s: float
    late_T: np.ndarray
    missed: int  # steps that were so late that another was due already


@dataclass(frozen=True, slots=True)
class LoopPriority:
    """How the system schedules the control loop."""

    scheduling: str


@dataclass(frozen=True, slots=True)
class GoalNote:
    """What became of something that was asked for in words, in one line."""

    t_s: float
    text: str


EventRecord = RunRecord | PlanRecord | JobRecord | EpisodeRecord | ModeChange | AgentEvent | GoalNote
TimingRecord = PlanTiming | JobTiming | EpisodeTiming | LoopPriority

KINDS: dict[type, str] = {
    RunRecord: "run",
    PlanRecord: "plan",
    JobRecord: "adapting",
    EpisodeRecord: "episode",
    SurpriseReading: "alarm",
    AdaptationReport: "adaptation",
    ModelSwap: "swap",
    GoalChange: "goal",
    GoalNote: "note",
    ModeChange: "mode",
    PlanTiming: "plan",
    JobTiming: "job",
    EpisodeTiming: "episode",
    LoopPriority: "loop",
}


def plain(value: Any) -> Any:
    """Return `value` as JSON can say it: floats to nine significant digits, non-finite ones as null."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def to_line(record: EventRecord | TimingRecord) -> str:
    """Return the record as one line of JSON with sorted keys, without its end of line."""
    fields = {f.name: plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    return json.dumps({"kind": KINDS[type(record)], **fields}, sort_keys=True, allow_nan=False)


def read_episodes(lines: Iterable[str]) -> list[EpisodeRecord]:
    """Return the episodes of an `events.jsonl`; what was not finite is NaN. A last line cut short is left out."""
    fields = dataclasses.fields(EpisodeRecord)
    episodes = []
    for line in lines:
        if not line.endswith("\n"):
            break
        values = json.loads(line)
        if values["kind"] == KINDS[EpisodeRecord]:
            episodes.append(EpisodeRecord(**{f.name: _read(f, values[f.name]) for f in fields}))
    return episodes


def _read(f: dataclasses.Field[Any], value: Any) -> Any:
    return np.array(value, dtype=np.float64) if f.type == "np.ndarray" else value
