"""What people say to a robot that runs: any thread may say it, and the session hears it at its next step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from deploy.guard import NEXT

QUIT = "quit"
WORDS = (*sorted({word for _, word in NEXT}), QUIT)
"""The transitions of the guard, and to end the session."""


@dataclass(frozen=True, slots=True)
class Order:
    """One word of WORDS, and why it was said."""

    word: str
    reason: str


class Orders:
    """A box that is filled from anywhere and emptied by the session, neither of which waits."""

    def __init__(self, attended: bool = True) -> None:
        """`attended`: somebody is there who can arm the robot again, so that a held robot need not end the session."""
        self.attended = attended
        self._given: deque[Order] = deque()

    def give(self, word: str, reason: str = "") -> None:
        """Say a word. Raises ValueError for one that means nothing."""
        if word not in WORDS:
            raise ValueError(f"no order {word!r}; choose from {', '.join(WORDS)}")
        self._given.append(Order(word, reason))

    def take(self) -> list[Order]:
        """Return what was said since the last call, in order."""
        return [self._given.popleft() for _ in range(len(self._given))]
