"""Which way to decode next: the one that has been fastest of late, with a look at the others now and then.

A look is a few rounds: the first after a change of arm has to catch up (a drafter reads what was said, nothing is drafted ahead yet)
and does not count, and at each look half of what was known before is forgotten, or all of it where that was far behind.
"""

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
    looked: int = 0
    """Round in which the last look began."""

    def forget(self, kept: float) -> None:
        """Keep a part of what was measured, and try again."""
        self.tokens, self.seconds, self.tries = kept * self.tokens, kept * self.seconds, 0


@dataclass
class Chooser:
    """Rates of the arms, apart for each number of texts at once and for what they asked for."""

    arms: Sequence[Arm]
    first: int = 4
    """Tries of each arm before any is preferred."""
    again: int = 250
    """Rounds from one look at an arm that is not the best to one at the next."""
    memory: float = 0.99
    _records: dict[tuple[Mode, int, Arm], _Record] = field(default_factory=dict)
    _round: int = 0
    _last: dict[tuple[Mode, int], Arm] = field(default_factory=dict)
    """The arm of the round before, of as many texts that asked for the same."""

    def choose(self, rows: int, allowed: Sequence[Mode] = ("ar", "sd", "ssd"), asked: Mode = "auto") -> Arm:
        """Return the arm for the next round of so many texts that asked for a mode."""
        self._round += 1
        arms = [arm for arm in self.arms if arm[0] in allowed]
        found = {arm: self._records.setdefault((asked, _size(rows), arm), _Record()) for arm in arms}
        for arm, record in found.items():
            if record.tries < self.first:
                return arm
        best = max(arms, key=lambda arm: self._rate(found[arm]))
        found[best].looked = self._round
        stale = max(arms, key=lambda arm: self._overdue(found[arm], self._rate(found[best])))
        if self._overdue(found[stale], self._rate(found[best])) <= self.again * len(arms):
            return best
        found[stale].forget(0.5 if self._close(found[stale], self._rate(found[best])) else 0.0)
        found[stale].looked = self._round
        return stale

    def _overdue(self, record: _Record, best: float) -> float:
        """Return the rounds since the last look, fewer for what was far behind."""
        return (self._round - record.looked) * (1.0 if self._close(record, best) else 0.25)

    def _close(self, record: _Record, best: float) -> bool:
        return self._rate(record) > 0.5 * best

    def note(self, arm: Arm, rows: int, tokens: int, seconds: float, usual: bool = True, asked: Mode = "auto") -> None:
        """Take in what a round took; `usual`: it was a round like any other, and its time counts."""
        size = _size(rows)
        record = self._records.setdefault((asked, size, arm), _Record())
        record.tries += 1
        changed, self._last[asked, size] = self._last.get((asked, size)) != arm, arm
        if usual and (not changed or arm[0] == "ar"):
            record.tokens = self.memory * record.tokens + tokens
            record.seconds = self.memory * record.seconds + seconds

    def rates(self, rows: int) -> dict[Arm, float]:
        """Return tokens per second of each arm that was tried with about so many texts."""
        found: dict[Arm, _Record] = {}
        for (_, size, arm), record in list(self._records.items()):  # another thread may ask
            if size == _size(rows) and record.seconds:
                total = found.setdefault(arm, _Record())
                total.tokens, total.seconds = total.tokens + record.tokens, total.seconds + record.seconds
        return {arm: self._rate(record) for arm, record in found.items()}

    @staticmethod
    def _rate(record: _Record) -> float:
        return record.tokens / record.seconds if record.seconds else 0.0


def _size(rows: int) -> int:
    """Return the class of a number of texts: 1, 2, 4, 8 ..."""
    return 1 << max(0, rows - 1).bit_length()
