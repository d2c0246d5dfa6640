"""A model that predicts better may still do worse: what the robot earns with it is held against what it earned before.

Each model that is put in use stands for itself. One that has shown that it earns no less becomes what a later one is held against, so
that what one round of learning brought is not lost by the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import stats

FEW = 3
"""Episodes without which nothing is said about a return."""


@dataclass
class Trial[Model]:
    """Returns of whole episodes: of the best model so far, and of the one that was put in its place."""

    episodes: int = 5
    """With a new model before its return is judged; after that, it is judged after each one."""
    risk: float = 0.25
    """Chance to call a model worse that is not, at the first look: little is lost by going back, much by staying with a bad one."""
    later_risk: float = 0.05
    """The same at each later look, of which there is no end."""
    before: list[float] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    sound: Model | None = None
    """What to go back to; None while nothing is on trial."""

    def earn(self, episode_return: float) -> None:
        """Note the return of an episode with the model in use."""
        self.earned.append(episode_return)

    @property
    def earned(self) -> list[float]:
        """Returns with the model in use."""
        return self.before if self.sound is None else self.since

    def put(self, used: Model) -> None:
        """Another model takes the place of `used`, which is gone back to if it is not on trial itself, or did no worse."""
        if self.sound is None:
            self.sound = used
        elif len(self.since) >= FEW and not np.mean(self.since) < np.mean(self.before or self.since):
            self.sound, self.before = used, self.since
        self.since = []

    @property
    def pending(self) -> bool:
        """Whether a model is on trial that has not been judged yet."""
        return self.sound is not None and len(self.since) < max(self.episodes, FEW)

    @property
    def failed(self) -> bool:
        """Whether the robot earns less than before (Welch's test, one-sided)."""
        if self.sound is None or self.pending or len(self.before) < FEW:
            return False
        less = stats.ttest_ind(self.since, self.before, equal_var=False, alternative="less")
        first = len(self.since) == max(self.episodes, FEW)
        return bool(less.pvalue < (self.risk if first else self.later_risk))  # pyright: ignore[reportAttributeAccessIssue]

    def back(self) -> Model:
        """End the trial: return the model that was better, of which returns are noted from now on."""
        assert self.sound is not None
        sound, self.sound, self.since = self.sound, None, []
        return sound
