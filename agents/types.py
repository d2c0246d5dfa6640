"""What an agent reports while it works: one small frozen record per kind, all with the simulated or real time `t_s` [s]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SurpriseReading:
    """One update of the surprise monitor; `score` >= `threshold` raises the alarm."""

    t_s: float
    error: float  # prediction error of the model in use, in the scales it predicts; about 1 on a healthy robot
    score: float  # the larger of the spike and the drift statistic, each in units of its own limit
    threshold: float
    provisional: bool  # after a model swap or a change of goal, until enough has been seen
    alarm: bool


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """What one adaptation tried and what its gate said; scores are proper scores, lower is better."""

    t_s: float
    part: str  # step | dynamics | policy | value; of a latent model: gain | predictor
    accepted: bool
    heldout_before: float
    heldout_after: float
    play_steps: int
    play_episodes: int
    reason: str  # one line, for people


@dataclass(frozen=True, slots=True)
class ModelSwap:
    """Between two plans, the model in use changed."""

    t_s: float
    model: str  # original | body-1.1 (body, round) | body-1 (recalled) | previous
    reason: str  # accepted | rolled back | the old (or a known) body is back


@dataclass(frozen=True, slots=True)
class GoalChange:
    """From the next plan on, another objective."""

    t_s: float
    objective: str  # as --objective takes it; "": the task's own


AgentEvent = SurpriseReading | AdaptationReport | ModelSwap | GoalChange
