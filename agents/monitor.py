"""From what was sent and what was seen to one number: how far the model in use is systematically wrong about the robot's course.

Every few control steps the model predicts the whole horizon again from where the robot was, with the actions that were really sent.
The signed errors of the height and its rate at the end of the horizon are averaged (exponentially), whitened with the covariance
that such averages have on a healthy robot, and their length is the error that `agents/surprise.py` folds.

Why signed and averaged: this model's squared one-step error on a walker is mostly contacts, and a weak ankle hides in it; what the
ankle does to the height a quarter of a second later shows better (benchmarks/surprise.py). Why only from typical states: a robot that
is falling is a known event, not a new body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from envs.robots import RobotSpec
from world_models.dynamics import DiffusionDynamics

STRIDE = 4
"""Control steps between two predictions: one token of the dynamics."""
SAMPLES = 2
"""Predictions averaged; their noise is fixed, so that the error changes only when the world does."""
SHARE = 0.15
"""Weight of the newest error in the average."""
TYPICAL = 6.0
"""Mahalanobis distance from the healthy states beyond which a prediction does not count."""
BOUND = 4.0
"""Errors are clipped to so many healthy standard deviations: one contact must not outweigh ten steps."""
SHRINK = 0.1
"""Share of its diagonal in a covariance."""


def watched_columns(spec: RobotSpec) -> tuple[int, ...]:
    """Return the state columns of the height and its rate: whether the body bears the robot. Without a height, all readings'."""
    found = tuple(spec.state_names.index(name) for name in ("height", "height_rate") if name in spec.state_names)
    return found or tuple(sorted(set(spec.columns.values())))


def course_errors(dynamics: DiffusionDynamics, states_BTO: Tensor, actions_BHA: Tensor) -> Tensor:
    """Return the signed errors after H steps in healthy standard deviations, (B, O); T = H + 1."""
    b, h = actions_BHA.shape[:2]
    shape = (1, SAMPLES, h, len(dynamics.state.mean))
    noise = torch.randn(shape, generator=Generator().manual_seed(20_24)).expand(b, -1, -1, -1)
    predicted = dynamics.denoise_block(states_BTO[:, 0], actions_BHA[:, None].expand(-1, SAMPLES, -1, -1), noise).mean(
        1
    )
    return ((predicted[:, -1] - states_BTO[:, -1]) / dynamics.residual[h - 1]).clamp(-BOUND, BOUND)


def episode_course(
    dynamics: DiffusionDynamics, state_TO: np.ndarray, action_TA: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (errors (U, O), states they were predicted from (U, O)) of a whole episode, in the order of its updates."""
    h = dynamics.horizon
    starts = np.arange(0, len(action_TA) - h + 1, STRIDE)[:, None]
    if not len(starts):
        return np.zeros((0, state_TO.shape[1])), np.zeros((0, state_TO.shape[1]))
    states = torch.from_numpy(state_TO[starts + np.arange(h + 1)].astype(np.float32))
    actions = torch.from_numpy(action_TA[starts + np.arange(h)].astype(np.float32))
    return course_errors(dynamics, states, actions).numpy(), state_TO[starts[:, 0]]


@dataclass(frozen=True)
class Normal:
    """Mean and inverse covariance of healthy vectors."""

    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]

    @staticmethod
    def fit(x_NC: np.ndarray, mean: np.ndarray | None = None) -> Normal:
        """Return the statistics of the rows, with a mean of one's own if given."""
        centre = x_NC.mean(0) if mean is None else mean
        cov = np.atleast_2d(np.cov(x_NC.T))
        cov = (1 - SHRINK) * cov + SHRINK * np.diag(np.diag(cov))
        return Normal(tuple(centre.tolist()), tuple(map(tuple, np.linalg.inv(cov).tolist())))

    def distance(self, x_C: np.ndarray) -> float:
        """Return the Mahalanobis distance."""
        d = x_C - np.array(self.mean)
        return float(np.sqrt(max(0.0, d @ np.array(self.precision) @ d)))


@dataclass(frozen=True)
class Course:
    """What is watched, and how it behaves on a healthy robot."""

    columns: tuple[int, ...]
    states: Normal
    averages: Normal  # of the averaged errors; its mean is that of the errors themselves

    def start(self) -> np.ndarray:
        """Return the average at the beginning of an episode, (C,)."""
        return np.array(self.averages.mean)

    def average(self, before_C: np.ndarray, error_O: np.ndarray, start_O: np.ndarray) -> np.ndarray:
        """Return the average with one more error in it, (C,); from an untypical state, the average as it was."""
        share = SHARE if self.states.distance(start_O) < TYPICAL else 0.0
        return (1 - share) * before_C + share * error_O[list(self.columns)]

    def fold(self, before_C: np.ndarray, error_O: np.ndarray, start_O: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the next average and its length, about 1 on a healthy robot; non-finite input gives inf and is not kept."""
        if not (np.isfinite(error_O).all() and np.isfinite(start_O).all()):
            return before_C, float("inf")
        after_C = self.average(before_C, error_O, start_O)
        return after_C, self.averages.distance(after_C) / len(self.columns) ** 0.5

    def errors(self, error_UO: np.ndarray, start_UO: np.ndarray) -> np.ndarray:
        """Return the lengths over an episode, (U,)."""
        average, out = self.start(), []
        for error_O, start_O in zip(error_UO, start_UO, strict=True):
            average, length = self.fold(average, error_O, start_O)
            out.append(length)
        return np.array(out)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Course:
        """Return what `to_dict` wrote."""
        normals = {
            name: Normal(tuple(data[name]["mean"]), tuple(map(tuple, data[name]["precision"])))
            for name in ("states", "averages")
        }
        return Course(tuple(data["columns"]), **normals)


def fit_course(columns: Sequence[int], episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Course:
    """Return the statistics of healthy episodes, each (errors (U, O), start states (U, O))."""
    whole = [(e, s) for e, s in episodes if len(e)]
    states = Normal.fit(np.concatenate([s for _, s in whole]))
    centre = np.median(np.concatenate([e for e, _ in whole])[:, list(columns)], axis=0)
    plain = Course(tuple(columns), states, Normal(tuple(centre.tolist()), ()))
    averages = []
    for errors, starts in whole:
        average = plain.start()
        for error_O, start_O in zip(errors, starts, strict=True):
            average = plain.average(average, error_O, start_O)
            averages.append(average)
    return Course(tuple(columns), states, Normal.fit(np.stack(averages), centre))
