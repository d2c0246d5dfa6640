"""One round of adaptation, as a job that is done anywhere on copies: a candidate for each part, and the gate that it has to pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents.adaptation import (
    Candidate,
    FitConfig,
    Part,
    Play,
    Replay,
    adapt_dynamics,
    adapt_policy,
    adapt_step,
    adapt_value,
)
from agents.imagination import ImagineConfig, Judge
from agents.memory import RecallConfig
from agents.trial import FEW, Trial
from world_models.checkpoint import WorldModel

MOTION: tuple[Part, ...] = ("step", "dynamics")
"""Parts that say what follows from what, whatever for; the others are the task's."""

HEADROOM = 0.75
"""A robot that still earns this share of what it did when it was calibrated keeps its value: one learned in the adapted model
hardly brings it further (benchmarks/walker.py: what comes back after the broken ankle levels off there), and may cost a good deal."""


@dataclass(frozen=True)
class AdaptConfig:
    """When to adapt, which parts, and what counts as better."""

    enabled: bool = True
    """False: the alarm is raised and nothing follows (the control arm)."""
    parts: tuple[Part, ...] = ("step", "value")
    """`value` is what the policy earns in the one-step model; `dynamics` is needed only by a planner that searches with it.

    With `policy` it is first fitted to the play: to what the planner did where it did not know the body, which is worth less.
    """
    play_episodes: int = 5
    """Falls (or whole episodes) to collect before each round ..."""
    play_steps: int = 4000
    """... or so many control steps of at least four episodes, for a body that does not fall."""
    rounds: int = 4
    dynamics: FitConfig = field(default_factory=lambda: FitConfig(steps=200, learning_rate=1e-3, rank=8))
    step: FitConfig = field(default_factory=lambda: FitConfig(225, 512, 2e-3, rank=4, replay_share=0.5, members=4))
    body: FitConfig = field(default_factory=lambda: FitConfig(400, 512, 2e-2))
    """What the actuators do, found first; then `step` fits the rest of the one-step model."""
    policy: FitConfig = field(default_factory=lambda: FitConfig(400, 768, 5e-4, replay_share=1 / 3))
    value: ImagineConfig = field(default_factory=lambda: ImagineConfig(iterations=300))
    margin: float = 0.005
    """The gate asks for a held-out score that is better by more than this share, and on most of the episodes."""
    new_body_margin: float = 0.02
    """The first swap asks that much of the one-step model: less, and the body is the old one."""
    rollback_risk: float = 0.25
    """Chance to roll back an adaptation that changed nothing, at the first look at its returns; a fifth of it at each later look."""
    trial_episodes: int = 5
    """Episodes with the new model before its return is judged."""
    recall: RecallConfig = field(default_factory=RecallConfig)

    def __post_init__(self) -> None:
        if self.play_episodes < 3:
            raise ValueError(f"play_episodes must be >= 3 (one of three is held out), got {self.play_episodes}")
        if self.enabled and "step" not in self.parts:
            raise ValueError(f"parts must include 'step', got {self.parts}")

    def trial(self) -> Trial[Any]:
        """Return what a model that is put in use has to stand."""
        return Trial(self.trial_episodes, self.rollback_risk, self.rollback_risk / 5)


def motion_only(cfg: AdaptConfig) -> AdaptConfig:
    """Return the config without the parts that are the task's."""
    return replace(cfg, parts=tuple(part for part in cfg.parts if part in MOTION))


def suited(cfg: AdaptConfig, earned: Sequence[float], healthy: float | None) -> AdaptConfig:
    """Return what to fit next for a robot that never had another value than its own, from its returns and its healthy mean return.

    Where too little is known of either, all parts are.
    """
    mild = len(earned) >= FEW and healthy is not None and healthy > 0 and np.mean(earned) >= HEADROOM * healthy
    return motion_only(cfg) if mild else cfg


def job(
    model: WorldModel, play: Sequence[Play], recent: int, replay: Replay, judge: Judge, cfg: AdaptConfig, seed: int
) -> list[Candidate]:
    """Return a candidate for each part; runs anywhere, on copies. The last `recent` episodes were played with `model`."""
    made = [adapt_step(model.step, play, replay, cfg.step, cfg.body, seed, recent)]
    step, policy = made[0].model, model.policy
    if "dynamics" in cfg.parts and model.dynamics is not None:
        made.append(adapt_dynamics(model.dynamics, play, replay, cfg.dynamics, seed))
    if "policy" in cfg.parts:
        made.append(adapt_policy(policy, play, replay, cfg.policy, seed))
        policy = made[-1].model
    if "value" in cfg.parts:
        made.append(adapt_value(model.value, step, policy, play, recent, judge, cfg.value, seed))  # pyright: ignore
    return made


def accepts(made: Candidate, margin: float) -> bool:
    """Return whether a candidate is better by more than the margin, and on most held-out episodes.

    A value only has to be finite: it says what can be earned with the body, and play says what was, before anybody knew it. Whether it
    is of use shows in what the robot earns with it (agents/trial.py).
    """
    if made.part == "value":
        return math.isfinite(made.after)
    return made.after < made.before * (1 - margin) and made.better_share > 0.5


@dataclass(frozen=True)
class Job:
    """A fit that waits to be done, anywhere, on copies: call it."""

    model: WorldModel
    play: tuple[Play, ...]
    recent: int
    replay: Replay
    judge: Judge
    cfg: AdaptConfig
    seed: int

    def __call__(self) -> list[Candidate]:
        """Return a candidate for each part."""
        return job(self.model, self.play, self.recent, self.replay, self.judge, self.cfg, self.seed)
