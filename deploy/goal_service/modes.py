"""Which way to decode next: the one that has been fastest of late, with a look at the others now and then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.goal_service.requests import Mode

type Arm = tuple[Mode, int]
"""A mode and its lookahead."""


@dataclass
class _Record:
    tokens: float = 0.0
    seconds: float = 0.0
    tries: int = 0
    last: int = 0


@dataclass
class Chooser:
    """Rates of the arms, apart for each number of texts at once."""

    arms: Sequence[Arm]
    first: int = 4
    """Tries of each arm before any is preferred."""
    again: int = 150
    """Rounds after which an arm that was not the best is tried once more."""
    memory: float = 0.99
    _records: dict[tuple[int, Arm], _Record] = field(default_factory=dict)
    _round: int = 0

    def choose(self, rows: int, allowed: Sequence[Mode] = ("ar", "sd", "ssd")) -> Arm:
        """Return the arm for the next round of so many texts."""
        self._round += 1
        arms = [arm for arm in self.arms if arm[0] in allowed]
        found = {arm: self._records.setdefault((_size(rows), arm), _Record()) for arm in arms}
        for arm, record in found.items():
            if record.tries < self.first:
                return arm
        best = max(arms, key=lambda arm: self._rate(found[arm]))
        oldest = min(arms, key=lambda arm: found[arm].last)
        stale = self._round - found[oldest].last > self.again * len(arms)
        close = self._rate(found[oldest]) > 0.5 * self._rate(found[best])
        return oldest if stale and close else best

    def note(self, arm: Arm, rows: int, tokens: int, seconds: float) -> None:
        """Take in what a round took."""
        record = self._records.setdefault((_size(rows), arm), _Record())
        record.tries += 1
        record.last = self._round
        if record.tries > 1:  # the first has to catch up
            record.tokens = self.memory * record.tokens + tokens
            record.seconds = self.memory * record.seconds + seconds

    def rates(self, rows: int) -> dict[Arm, float]:
        """Return tokens per second of each arm that was tried with about so many texts."""
        size = _size(rows)
        known = list(self._records.items())  # another thread may ask
        return {arm: self._rate(r) for (s, arm), r in known if s == size and r.seconds}

    @staticmethod
    def _rate(record: _Record) -> float:
        return record.tokens / record.seconds if record.seconds else 0.0


def _size(rows: int) -> int:
    """Return the class of a number of texts: 1, 2, 4, 8 ..."""
    return 1 << max(0, rows - 1).bit_length()
