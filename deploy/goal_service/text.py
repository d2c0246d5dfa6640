"""Tokens to text as it grows: whole characters only, and nothing that may still become a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class GrowingText:
    """What may be shown of an answer so far."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.stopped = False
        """Whether a stop text has come."""

    def add(self, piece: bytes) -> str:
        """Return what the bytes of another token add to what is shown; nothing after a stop text."""
        if self.stopped:
            return ""
        self._held += self._decode(piece)
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._show(min(places))
        return self._show(len(self._held) - self._pending())

    def end(self) -> str:
        """Return what was held back, at the end of the answer."""
        if self.stopped:
            return ""
        self._held += self._decode(b"", final=True)
        return self._show(len(self._held))

    def _show(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown

    def _pending(self) -> int:
        """Return the length of the longest end of the text that begins a stop text."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
