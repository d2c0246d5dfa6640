"""What is heard: the marks of agents/lexicon.py and the quantities in a sentence, in order, and the words that are neither."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agents.lexicon import FILLERS, Mark, phrase_at, spelled
from agents.quantities import TIMES, quantity_at, tokens

_DIMENSIONS = {"speed": "v", "length": "l", "angle": "a", "time": "t", "number": "n"}
_NOUNS = frozenset(["a", "an", "the", "your", "full", "normal", "usual", "regular", "standing", "maximum"])
"""What follows "to" in "drop to a crouch", and not in "I want you to crouch"."""

_SYMBOLS = {"v": "speed", "h": "height"}
"""What is short for a name before a number."""


@dataclass(frozen=True)
class Heard:
    """What a sentence says, word by word."""

    words: tuple[str, ...]
    marks: tuple[Mark, ...]
    unread: tuple[str, ...]
    """Words that are known to nobody here ..."""
    gaps: tuple[int, ...] = ()
    """... and which they are."""

    @property
    def letters(self) -> str:
        """The marks as letters."""
        return "".join(mark.letter for mark in self.marks)


def hear(sentence: str, robot: str = "walker") -> Heard:
    """Return the marks and quantities of a sentence, and the words that are neither."""
    said = tokens(sentence)
    words = _more(["move" if robot == "hopper" and word in ("hop", "hopping") else spelled(word) for word in said])
    marks, gaps, i = [], [], 0
    while i < len(words):
        mark = _mark_at(words, i, robot == "arm")
        if mark is not None:
            marks.append(mark)
            i = mark.end
            continue
        if words[i] not in FILLERS:
            gaps.append(i)
        i += 1
    return Heard(tuple(words), tuple(_settled(marks, words)), tuple(said[i] for i in gaps), tuple(gaps))


def _more(words: Sequence[str]) -> list[str]:
    """Return the words with "5 more degrees" as "more 5 degrees", "another 5 seconds" as 5 seconds, "take 1 m/s off" as reduce."""
    found = list(words)
    for i, word in enumerate(words):
        if word in ("take", "knock", "trim", "shave") and (off := quantity_at(words, i + 1)) is not None:
            found[i] = "reduce" if "off" in words[off.end : off.end + 1] else word
        if word in _SYMBOLS and words[i - 1 : i] != ["/"] and quantity_at(words, i + 1) is not None:
            found[i] = _SYMBOLS[word]
        if word not in ("more", "another"):
            continue
        before, after = " ".join(words[max(0, i - 1) : i]), " ".join(words[i + 1 : i + 2])
        if word == "more" and (quantity := quantity_at([before, after], 0)) is not None and quantity.end == 2:
            found[i - 1], found[i] = ("just" if quantity.dimension == "time" else "more", before)
        elif (quantity := quantity_at(words, i + 1)) is not None and quantity.dimension == "time":
            found[i] = "just"
    return found


def _mark_at(words: Sequence[str], i: int, arm: bool) -> Mark | None:
    """Return the longer of the phrase and the quantity that begin at token i."""
    phrase, quantity = phrase_at(words, i, arm), quantity_at(words, i)
    if quantity is not None and (phrase is None or quantity.end > phrase.end):
        return Mark(_DIMENSIONS[quantity.dimension], quantity, quantity.start, quantity.end)
    return phrase


def _settled(marks: Sequence[Mark], words: Sequence[str]) -> Iterator[Mark]:
    """Yield the marks that count, some by another letter: what a small word means depends on what stands beside it."""
    marks = [mark for mark in marks if mark.letter != "_"]
    unit = next((words[mark.end - 1] for mark in marks if mark.letter == "t"), "")
    for n, mark in enumerate(marks):
        before, rest = marks[n - 1].letter if n else "", "".join(m.letter for m in marks[n + 1 : n + 4])
        after, letter, value = rest[:1], mark.letter, mark.value
        if letter in "rmRu" and re.match("[uR]?(T[gs]|s)", rest):
            continue  # "slow down to a walk": the walk counts
        if (letter == "m" and re.match("S?Tv", rest)) or (letter == "R" and rest.startswith("Tv")):
            letter, value = "r", 1 if value > 0 else -1  # "slow to 1 m/s", "drop to 1 m/s"
        elif (letter == "B" and after == "d") or (letter == "I" and before == "R" and after == "l"):
            continue  # "faster by a lot", "sink another 8 cm"
        elif letter == "d" == after and value == marks[n + 1].value:
            continue  # "really deep"
        elif letter in "d&" and _again(marks[n if letter == "d" else n - 1 :], words):
            continue  # "very, very slowly"
        elif letter == "K" and after == "m" and words[mark.end - 1] in ("pace", "speed"):
            letter, value = "S", ""  # "keep the pace slow"
        elif letter == "I" and rest.startswith("STn"):
            continue  # "cut your speed to zero"
        elif letter == "t" and words[mark.end : mark.end + 1] == ["ago"]:
            continue  # "the floor was mopped a minute ago"
        elif letter == "t" and after == "j":
            yield Mark("A", "", mark.start, mark.end)  # "5 seconds from now"
        elif letter == "n" and before == "F" and unit in TIMES:
            letter, value = "t", replace(value, value=value.value * TIMES[unit])  # "... and for 20"
        elif letter in "iw":
            if letter == "i" and after != "t":
                continue
            letter, value = "A" if after == "t" else "N", ""
        elif letter in "&>" and before + after in ("Hl", "Sv", "Pa", "La") and not (letter == ">" and before == "L"):
            continue  # "height: 1.1 m"
        elif letter == "&" and words[mark.start] == ":" and re.match("L(d?[bf])", before + rest):
            continue  # "lean: slightly forward"
        elif letter in "@T":
            named = letter == "T" and rest[:2] in ("Hl", "kl")
            if (
                after not in tuple("vlan")
                and not named
                and (letter == "@" or after != "c" or words[mark.end] not in _NOUNS)
            ):
                continue
            letter = "T"
        elif letter == "c" == after and value.rstrip("!") == marks[n + 1].value.rstrip("!"):
            continue  # "crouch low" says the same twice
        elif letter == "g" and rest.startswith("&g") and value == marks[n + 2].value:
            continue  # "go, go"
        if letter != "j":
            yield Mark(letter, value, mark.start, mark.end)


def _again(marks: Sequence[Mark], words: Sequence[str]) -> bool:
    """Return whether marks begin with a word, a comma and the same word."""
    some = [words[mark.start : mark.end] for mark in marks[:3]]
    return len(some) == 3 and marks[1].letter == "&" and marks[0].letter == "d" and some[0] == some[2]
