"""How wrong a latent model was about the picture that came, step by step, and whether that is a surprise.

The error is the mean squared distance of the latent that is seen from the one that was predicted a block earlier. It is taken at
every control step, so that what happens at once is seen at once. `agents/surprise.py` folds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from agents import surprise

if TYPE_CHECKING:
    from agents.surprise import Calibration, SurpriseConfig
    from agents.types import SurpriseReading
    from world_models.jepa import Jepa


@torch.inference_mode()
def latent_error(model: Jepa, seen: Sequence[Tensor], sent: Sequence[np.ndarray]) -> float:
    """Return the error about the last of the latents (D,), one per control step, from up to `history` before, whole blocks apart.

    `sent` are the actions (A,) between them. NaN where there is no whole block yet.
    """
    block = model.cfg.block
    known = min(min(len(seen) - 1, len(sent)) // block, model.cfg.history)
    if known < 1:
        return math.nan
    z_TD = torch.stack([seen[-1 - block * back] for back in range(known, 0, -1)])
    rows = np.array(list(sent)[len(sent) - block * known :], np.float32).reshape(1, known, -1)
    guess_D = model.predict(z_TD[None], torch.from_numpy(rows))[0, -1]
    return float((guess_D - seen[-1]).square().mean())


class LatentMonitor:
    """The errors of the running episode, and the readings of surprise where there is a calibration."""

    def __init__(self, model: Jepa, calibration: Calibration | None, cfg: SurpriseConfig) -> None:
        """Raises ValueError for a calibration with too few episodes for the set rate."""
        self._model, self._calibration, self._cfg = model, calibration, cfg
        self._state = surprise.SurpriseState() if calibration is None else surprise.start(calibration, cfg)
        self.errors: list[float] = []

    def use(self, model: Jepa) -> None:
        """From now on another model is watched: what is usual is estimated anew."""
        self._model, self._state = model, surprise.rescale(self._state)

    def begin_episode(self) -> None:
        """Forget the last episode."""
        self._state = surprise.begin_episode(self._state)
        self.errors = []

    def read(self, t_s: float, seen: Sequence[Tensor], sent: Sequence[np.ndarray]) -> SurpriseReading | None:
        """Take in the latent that was just seen; None before there is a prediction, or without a calibration."""
        error = latent_error(self._model, seen, sent)
        if math.isnan(error):
            return None
        self.errors.append(error)
        if self._calibration is None:
            return None
        self._state, reading = surprise.read(self._state, t_s, error, self._calibration, self._cfg)
        return reading
