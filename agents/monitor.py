"""From what was sent and what was seen to one number per control step: how wrong the model in use was about it.

The error is the mean squared error of the one-step model in the scales that it predicts itself, so that a foot that strikes the ground
surprises no more than one that swings; about 1 where the model is right. `agents/surprise.py` folds it.

Why one step, and not the horizon that is planned with: this model is the more exact one, so less of a change hides in its error.
"""

from __future__ import annotations

import numpy as np
import torch

from world_models.step import StepModel

WINDOW = 2
"""Control steps behind one error: the one that is predicted, and the one before."""


def step_error(step: StepModel, states_TO: np.ndarray, actions_TA: np.ndarray) -> float:
    """Return the error about the last state; T = 3 states and the 2 actions between them. Not finite for such a state."""
    states, actions = (torch.from_numpy(x.astype(np.float32))[None] for x in (states_TO, actions_TA))
    return float(step.errors(states, actions)[0])


def evidence(used: StepModel, other: StepModel, states_TO: np.ndarray, actions_TA: np.ndarray) -> float:
    """Return by how much `other` explains the last state better than `used`: the log of their likelihood ratio, per column."""
    states, actions = (torch.from_numpy(x.astype(np.float32))[None] for x in (states_TO, actions_TA))
    return float(used.nll(states, actions)[0] - other.nll(states, actions)[0])


def episode_errors(step: StepModel, state_TO: np.ndarray, action_TA: np.ndarray) -> np.ndarray:
    """Return the errors of a whole episode in the order of its updates, (T - 1,), from T + 1 states and T actions."""
    starts = np.arange(max(0, len(action_TA) - WINDOW + 1))[:, None]
    states = torch.from_numpy(state_TO[starts + np.arange(WINDOW + 1)].astype(np.float32))
    actions = torch.from_numpy(action_TA[starts + np.arange(WINDOW)].astype(np.float32))
    return step.errors(states, actions).numpy().astype(np.float64)
