"""What the loop and the thinker tell each other, as records of fixed size that nobody waits for."""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from agents.types import AdaptationReport, GoalChange, ModelSwap, SurpriseReading
from deploy.mind import JobStarted
from deploy.realtime.channel import Latest, Stream
from deploy.records import GoalNote, JobRecord, JobTiming, PlanRecord, PlanTiming, plain
from planners.types import ActionPlan, PlanStatus

TOLD = (
    SurpriseReading,
    AdaptationReport,
    ModelSwap,
    GoalChange,
    GoalNote,
    PlanRecord,
    PlanTiming,
    JobStarted,
    JobRecord,
    JobTiming,
)
"""What a thinker reports, by name."""
LONGEST = 2000
HEARD_BYTES = 64_000_000
"""That the loop's records may take; without pictures they are far smaller."""
TEXT = np.dtype([("size", "<u4"), ("text", "u1", (LONGEST,))])
_PLAN = struct.Struct("<qqqqqddddqq")
_STATUS = tuple(PlanStatus)


class Kind(IntEnum):
    """What a record of the loop says."""

    WARM_UP = 1
    BEGIN = 2
    FIRST = 3  # what an episode begins with
    STEP = 4
    END = 5


def heard_dtype(states: int, actions: int, picture: tuple[int, ...] = ()) -> np.dtype:
    """Return the type of the loop's records, for states (O,), actions (A,) and perhaps pictures (height, width, 3)."""
    return np.dtype(
        [
            ("kind", "u1"),
            ("number", "<i8"),  # of the record; the thinker says when it has seen to one that is not a step
            ("step", "<i8"),
            ("episode", "<i8"),
            ("seed", "<u8"),
            ("seen_s", "<f8"),  # of the monotonic clock, when the state was read
            ("reward", "<f8"),
            ("terminated", "u1"),
            ("whole", "u1"),
            ("state_O", "<f8", (states,)),
            ("action_A", "<f8", (actions,)),  # what was sent last
            *([("image", "u1", picture), ("image_t_s", "<f8")] if picture else []),
        ]
    )


@dataclass(frozen=True)
class Link:
    """The shared memory between the two."""

    heard: Stream
    told: Stream
    plan: Latest

    @classmethod
    def of(cls, states: int, actions: int, picture: tuple[int, ...] = (), rows: int = 512) -> Link:
        """Return a link for one robot and plans of at most so many rows."""
        heard = heard_dtype(states, actions, picture)
        return cls(
            Stream(heard, min(8192, max(16, HEARD_BYTES // heard.itemsize))),
            Stream(TEXT, 1024),
            Latest(_PLAN.size + 8 * rows * actions),
        )


def pack_plan(episode: int, from_step: int, plan: ActionPlan) -> bytes:
    """Return a plan of an episode, followed from `from_step` on, as bytes."""
    rows = np.ascontiguousarray(plan.actions_HA, "<f8")
    numbers = (episode, from_step, plan.goal_version, plan.rejected, _STATUS.index(plan.status))
    times = (plan.t0_s, plan.dt_s, plan.cost, plan.observed_s)
    return _PLAN.pack(*numbers, *times, *rows.shape) + rows.tobytes()


def unpack_plan(value: bytes) -> tuple[int, int, ActionPlan]:
    """Return the episode, the first step and the plan of what `pack_plan` made."""
    episode, from_step, version, rejected, status, t0_s, dt_s, cost, observed_s, h, a = _PLAN.unpack_from(value)
    actions_HA = np.frombuffer(value, "<f8", h * a, _PLAN.size).reshape(h, a)
    plan = ActionPlan(actions_HA, dt_s, t0_s, _STATUS[status], cost, version, observed_s, rejected)
    return episode, from_step, plan


def pack_told(record: Any) -> np.ndarray:
    """Return a report as a record of TEXT; a tuple (number,) says that the loop's record of that number was seen to."""
    name = type(record).__name__
    fields = record if isinstance(record, tuple) else [getattr(record, f.name) for f in dataclasses.fields(record)]
    text = json.dumps([name, *fields], default=plain).encode()
    if len(text) > LONGEST:  # a reason that runs on and on
        text = json.dumps([name, *[f[:200] if isinstance(f, str) else f for f in fields]]).encode()
    made = np.zeros((), TEXT)
    made["size"] = len(text)
    made["text"][: len(text)] = np.frombuffer(text, np.uint8)
    return made


def unpack_told(record: np.ndarray) -> Any:
    """Return what `pack_told` was given."""
    name, *fields = json.loads(record["text"][: int(record["size"])].tobytes())
    kinds = {kind.__name__: kind for kind in TOLD}
    return kinds[name](*fields) if name in kinds else tuple(fields)
