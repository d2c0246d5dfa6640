"""Bodies that the robot has had, and which of them it has now: a model that once fitted is recalled, not learned again.

Each remembered one-step model races the one in use: a CUSUM on the log of their likelihood ratio (Page 1954). The one that explains
what happens better for long enough comes back, be it the original after a repair or an adapted one after a second break.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from agents.monitor import evidence
from agents.trial import Trial
from world_models.checkpoint import WorldModel
from world_models.step import StepModel

ORIGINAL = "original"


@dataclass(frozen=True)
class RecallConfig:
    """When a remembered body counts as being back."""

    slack: float = 0.1
    """Of each step's gain, in nats per column; a push or a moment's noise does not add up."""
    level: float = 20.0
    """Sum of gains, each limited to +-1, at which the model is recalled: a third of a second of clear evidence."""
    bodies: int = 4
    """Adapted bodies that are remembered beside the original; the oldest is forgotten."""


@dataclass
class Memory:
    """Models by name, the original among them, and how far the evidence for each has got."""

    models: dict[str, WorldModel]
    cfg: RecallConfig = field(default_factory=RecallConfig)
    scales: dict[str, tuple[float, float]] = field(default_factory=lambda: {ORIGINAL: (0.0, 1.0)})
    """Location and scale of surprise with a model on its own body, relative to the calibration, where they are known."""
    trials: dict[str, Trial[WorldModel]] = field(default_factory=dict)
    """Of models that were left before they had been judged."""
    _sums: dict[str, float] = field(default_factory=dict, init=False)

    def keep(self, name: str, model: WorldModel) -> None:
        """Remember a model; one of the same name is replaced, and what was known of that one forgotten."""
        self.drop(name)
        self.models[name] = model
        adapted = [kept for kept in self.models if kept != ORIGINAL]
        for old in adapted[: -self.cfg.bodies]:
            self.drop(old)

    def drop(self, name: str) -> None:
        """Forget a model and all that is known of it, if it was remembered."""
        for known in (self.models, self.scales, self.trials):
            known.pop(name, None)

    def restart(self) -> None:
        """Forget the evidence: another model has come into use."""
        self._sums = {}

    def gains(
        self,
        used: StepModel,
        states_TO: np.ndarray,
        actions_TA: np.ndarray,
        step_of: Callable[[WorldModel], StepModel] = lambda model: model.step,
    ) -> dict[str, float]:
        """Return by how much each other model explains the last step better than the one in use, in nats per column."""
        others = {name: step for name, model in self.models.items() if (step := step_of(model)) is not used}
        return {name: evidence(used, step, states_TO, actions_TA) for name, step in others.items()}

    def update(self, gains: Mapping[str, float]) -> str | None:
        """Add the gains of one step; return the name of the model that is now due, the best if there are several."""
        for name, gain in gains.items():
            gain = min(max(gain, -1.0), 1.0) if math.isfinite(gain) else 0.0
            self._sums[name] = max(0.0, self._sums.get(name, 0.0) + gain - self.cfg.slack)
        best = max(gains, key=lambda name: self._sums[name], default=None)
        return best if best is not None and self._sums[best] >= self.cfg.level else None
