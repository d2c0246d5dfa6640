"""What is known of an episode under way, and the record that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deploy.records import EpisodeRecord

if TYPE_CHECKING:
    from agents.types import SurpriseReading
    from deploy.loop import Outcome
    from deploy.safety import Command
    from deploy.streamer import Setpoint
    from envs.types import Observation

LED = {"plan": 1, "operator": 2}
"""Who led a step, as records say it; 0: nobody."""


@dataclass
class Trace:
    """An episode under way."""

    episode: int
    env_seed: int
    start_step: int
    began_wall_s: float
    rows: list[tuple[Observation, Setpoint, Command, Outcome]] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    total: float = 0.0
    late: list[float] = field(default_factory=list)
    missed: int = 0
    readings: dict[int, SurpriseReading] = field(default_factory=dict)
    """By the step of the session's clock that they were made at."""

    @property
    def lateness(self) -> tuple[np.ndarray, int]:
        """How late each step was [s], and how many were missed."""
        return np.array(self.late), self.missed

    def whole(self, ended: str) -> bool:
        """Return whether the robot did all of the episode by itself, so that its return says what that is worth."""
        return ended in ("terminated", "truncated") and {"operator", "hold"}.isdisjoint(
            s.source for _, s, *_ in self.rows
        )

    def record(self, dt_s: float, ended: str, sizes: tuple[int, int]) -> EpisodeRecord:
        """Return the episode as arrays; `sizes` are those of a state and of an action."""
        reward_T = np.array([outcome.reward for *_, outcome in self.rows])
        altered = [name for _, _, command, _ in self.rows for name in command.altered_by]
        nan = float("nan")
        readings = [self.readings.get(self.start_step + row + 1) for row in range(len(self.rows))]
        return EpisodeRecord(
            episode=self.episode,
            env_seed=self.env_seed,
            start_s=self.start_step * dt_s,
            end_s=(self.start_step + len(self.rows)) * dt_s,
            steps=len(self.rows),
            episode_return=float(reward_T[np.isfinite(reward_T)].sum()),
            ended=ended,
            states_TO=_stack([before.state_O for before, *_ in self.rows], sizes[0]),
            requested_TA=_stack([setpoint.action_A for _, setpoint, *_ in self.rows], sizes[1]),
            sent_TA=_stack([command.action_A for _, _, command, _ in self.rows], sizes[1]),
            applied_TA=_stack([outcome.applied_A for *_, outcome in self.rows], sizes[1]),
            reward_T=reward_T,
            planned_T=np.array([LED.get(setpoint.source, 0) for _, setpoint, *_ in self.rows]),
            age_T=np.array([s.age_s if s.source == "plan" else np.inf for _, s, *_ in self.rows]),
            altered={name: altered.count(name) for name in sorted(set(altered))},
            surprise_T=np.array([r.score if r else nan for r in readings]),
            error_T=np.array([r.error if r else nan for r in readings]),
            threshold_T=np.array([r.threshold if r else nan for r in readings]),
        )


def _stack(rows: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, size))
