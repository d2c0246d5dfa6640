"""What a sentence would say without the stretches that nobody understands: whether they matter, somebody else must judge.

"Crouch for the photo" would be "crouch", "Trial 3: walk slowly" would be "walk slowly". What has a duration or a unit is never left
out, nor is a later step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agents.clauses import clause_of
from agents.hearing import Heard
from agents.lexicon import FILLERS, SAYING, Mark

_SAID = frozenset("vlat")
"""Marks of quantities, which are never left out."""


@dataclass(frozen=True)
class _Stretch:
    """What stands between two commas or the like."""

    marks: Sequence[Mark]
    first: int
    last: int
    """Words first .. last - 1."""
    later: bool
    """It begins a later step."""
    end: Mark

    @property
    def letters(self) -> str:
        return "".join(mark.letter for mark in self.marks)


def gist(heard: Heard, robot: str) -> Heard | None:
    """Return what is left, what was left out being unread; None where nothing would be left out, or nothing left."""
    kept, out = list[Mark](), set[int]()
    for stretch in _stretches(heard):
        count = _kept(stretch, heard, robot)
        if count < len(stretch.marks):
            out.update(range(stretch.marks[count].start if count else stretch.first, stretch.last))
        kept += [*stretch.marks[:count], stretch.end]
    if not out or all(mark.letter in "&>" for mark in kept):
        return None
    out = {at for at in out if heard.words[at].isalnum() and heard.words[at] not in FILLERS}
    return replace(heard, marks=tuple(kept), unread=tuple(heard.words[at] for at in sorted(out | set(heard.gaps))))


def _stretches(heard: Heard) -> Iterator[_Stretch]:
    some, first, later, size = list[Mark](), 0, False, len(heard.words)
    for mark in [*heard.marks, Mark("&", "", size, size)]:
        if mark.letter not in "&>":
            some.append(mark)
            continue
        yield _Stretch(some, first, mark.start, later, mark)
        some, first, later = [], mark.end, mark.letter == ">" or (later and not some)


def _kept(stretch: _Stretch, heard: Heard, robot: str) -> int:
    """Return how many marks of a stretch are left: without "for the photo", none of what cannot be read."""
    letters = stretch.letters
    count = next(
        (i for i, x in enumerate(letters) if x == "F" and letters[i + 1 : i + 2] not in tuple("tnvla")), len(letters)
    )
    odd = count < len(letters) or set(letters) == {"n"} or any(stretch.first <= at < stretch.last for at in heard.gaps)
    needed = stretch.later or _SAID.intersection(letters)
    return count if not odd or needed or _reads(letters[:count], robot) else 0


def _reads(letters: str, robot: str) -> bool:
    at = 0
    while at < len(letters):
        clause = clause_of(letters, at, robot)
        if clause is None:
            return False
        at = clause[1]
    return True


# fmt: off
_DENIALS = frozenset(["don't", "dont", "not", "no", "never", "without", "enough", "forget", "scratch", "quit", "needn't"])
# fmt: on
_PAIRS = {("instead", "of"), ("rather", "than")}
"""Denials of two words: one alone is none ("rather quickly")."""
_WITH_THEM = frozenset(["mind", "about", "any", "than", "what", "said", "more", "such", "of", "do"])


TAKEN_BACK = re.compile(
    r"\b(?:(?:er|uh|um|oops|sorry|actually|no|wait),? +)*"
    r"(?:no,? (?:wait|sorry|correction)|i mean|(?:scratch|strike) that|correction|wrong word)\b[ ,:;.!-]*",
    re.IGNORECASE,
)
"""Words that take back what was said before them."""


def without_denied(heard: Heard) -> Heard:
    """Return what is left without what is not to be done, where it is said what is: "don't run, walk", "not so fast: 1 m/s".

    What is denied is left out only if something else says all that it is about, in numbers if it has any.
    """
    some = [(stretch, _denial(stretch, heard)) for stretch in _stretches(heard)]
    said = [about(stretch.letters) for stretch, denial in some if not denial]
    meant = {(mark.letter, mark.value) for stretch, denial in some if not denial for mark in stretch.marks}
    marks, words, gaps = list[Mark](), list(heard.words), set(heard.gaps)
    for stretch, denial in some:
        kinds = about(stretch.letters)
        both = meant.issuperset((mark.letter, mark.value) for mark in stretch.marks)  # "stop, but don't stop"
        if both or not (denial and kinds and any(kinds <= other for other in said) and not stretch.later):
            marks += [*stretch.marks, stretch.end]
            continue
        for at in denial:
            words[at] = ","
        gaps.difference_update(denial)
        marks.append(stretch.end)
    if len(marks) == len(heard.marks) + 1:
        return heard
    kept = sorted(gaps)
    unread = tuple(word for at, word in zip(heard.gaps, heard.unread, strict=True) if at in gaps)
    return replace(heard, words=tuple(words), marks=tuple(marks[:-1]), unread=unread, gaps=tuple(kept))


def _denial(stretch: _Stretch, heard: Heard) -> list[int]:
    """Return which of the first words of a stretch deny it."""
    words = heard.words[stretch.first : min(stretch.first + 4, stretch.last)]
    first = next(
        (n for n, word in enumerate(words) if word in _DENIALS or (word, *words[n + 1 : n + 2]) in _PAIRS), None
    )
    if first is None or any(word not in FILLERS | _WITH_THEM for word in words[:first]):
        return []
    return [stretch.first + n for n in range(len(words)) if n == first or words[n] in _WITH_THEM]


def about(letters: str) -> frozenset[str]:
    """Return the kinds of goal that marks speak of, and the quantities; none for what says when."""
    if set(letters) & set("tFAj"):
        return frozenset()
    kinds = {kind for kind, some in SAYING.items() if set(some) & set(letters)}
    turned = {"speed"} if set("bf") & set(letters) and "pitch" not in kinds else set[str]()
    return frozenset(kinds | turned | (_SAID & set(letters)))
