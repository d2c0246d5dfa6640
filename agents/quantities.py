"""Numbers and units as people write them, to SI: "half a metre per second", "3 km/h", "one metre ten", "3'6\\"", "fifteen degrees".

A decimal comma is read ("1,5 m/s"); a comma before exactly three digits ("1,000") may be either, and is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

DIMENSIONS = {"speed": "m/s", "length": "m", "angle": "rad", "time": "s", "number": ""}


@dataclass(frozen=True)
class Quantity:
    """A number that was said, in SI, and the tokens [start, end) that said it."""

    dimension: str
    value: float
    start: int
    end: int


def _table(text: str) -> dict[str, float]:
    """Return name -> number of lines `NUMBER: name name ...`."""
    found = {}
    for line in text.strip().splitlines():
        number, _, names = line.partition(":")
        found |= dict.fromkeys(names.split(), float(number))
    return found


LENGTHS = _table("""
1: m meter meters metre metres
0.1: dm decimetre decimetres decimeter decimeters
0.01: cm cms centimetre centimetres centimeter centimeters
0.001: mm millimetre millimetres millimeter millimeters
1000: km kms kilometre kilometres kilometer kilometers
0.0254: inch inches "
0.3048: ft foot feet '
0.9144: yard yards yd
1609.344: mile miles
""")
TIMES = _table("""
1: s sec secs second seconds
0.001: ms msec msecs millisecond milliseconds
60: min mins minute minutes
3600: h hr hrs hour hours
""")
ANGLES = _table(f"""
{math.pi / 180!r}: ° deg degs degree degrees
1: rad rads radian radians
0.001: mrad mrads milliradian milliradians
""")
SPEEDS = _table(f"""
1: mps
{1 / 3.6!r}: kph kmh kmph
0.44704: mph
0.3048: fps
{1852 / 3600!r}: knot knots kn
""")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: float(i) for i, word in enumerate(_SMALL.split())} | {"nought": 0.0, "dozen": 12.0}
TENS = {word: 10.0 * i for i, word in enumerate(_TENS.split(), 2)}
PARTS = {
    "half": 0.5,
    "halves": 0.5,
    "quarter": 0.25,
    "quarters": 0.25,
    "third": 1 / 3,
    "thirds": 1 / 3,
    "fifth": 0.2,
    "fifths": 0.2,
    "eighth": 0.125,
    "eighths": 0.125,
    "tenth": 0.1,
    "tenths": 0.1,
}
_SIGNS = {"minus": -1.0, "negative": -1.0, "-": -1.0, "plus": 1.0, "+": 1.0}
WORDS = frozenset(
    {*LENGTHS, *TIMES, *ANGLES, *SPEEDS, *SMALL, *TENS, *PARTS, *_SIGNS}
    | {"hundred", "thousand", "point", "couple", "per"}
)
"""Every word that is part of a quantity."""

_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "′": "'", "″": '"', "“": '"', "”": '"', "−": "-", "–": " - ", "—": " - ", "⁄": "/"}
    | {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "\N{NO-BREAK SPACE}": " "}
)
_TOKEN = re.compile(
    r"""(?<![\w.])[-+](?=\.?\d)          # a sign
    |\d+(?:\.\d+)?e[-+]?\d+             # 1e9
    |\d+/\d+|\d+[.,]\d+|\.\d+|\d+         # 1/2, 1.5, 1,5, .5, 1
    |[a-z]+(?:'[a-z]+)?                 # words
    |\S""",
    re.VERBOSE,
)


def tokens(sentence: str) -> list[str]:
    """Return the words, numbers and signs of a sentence, in small letters; what is joined by a hyphen is two words."""
    text = sentence.lower().translate(_PLAIN)
    text = re.sub(r"(?<=second|minute)'s\b|(?<=[a-z]s)'(?=\s|$)", "", text)  # "a minute's walk", "ten seconds' walk"
    return _TOKEN.findall(re.sub(r"(?<=[a-z\d])-(?=[a-z])", " ", text))


def _digits(token: str) -> float | None:
    """Return the number that a token writes, None where it writes none, or one that may be read in two ways."""
    if not re.fullmatch(r"[\d.,/e+-]*\d[\d.,/e+-]*", token) or re.fullmatch(r"\d+,\d{3}", token):
        return None
    above, slash, below = token.partition("/")
    if slash:
        return float(above) / float(below) if float(below) else None
    return float(token.replace(",", "."))


_LEADS = (("/",), ("per",), ("a",), ("an",), ("each",), ("every",), ("to", "the"), ("in", "one"), ("in", "each"))
"""What stands between a distance and a time that are a speed."""


class _Reader:
    """Looks at tokens from the left; each method returns what it found and where that ends, or None."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def at(self, i: int) -> str:
        return self.words[i] if i < len(self.words) else ""

    def are(self, i: int, *expected: str) -> bool:
        return tuple(self.words[i : i + len(expected)]) == expected

    def number(self, i: int) -> tuple[float, int] | None:
        sign, j = (_SIGNS[self.at(i)], i + 1) if self.at(i) in _SIGNS else (1.0, i)
        found = self._unsigned(j)
        return None if found is None else (sign * found[0], found[1])

    def _unsigned(self, i: int) -> tuple[float, int] | None:
        if self.are(i, "a", "couple", "of"):
            return 2.0, i + 3
        if self.are(i, "a", "dozen"):
            return 12.0, i + 2
        if (part := self._part(i)) is not None:
            return part
        whole = self._whole(i)
        if whole is None:
            return None
        value, j = whole
        if self.at(j) == "point" and (tail := self._decimals(j + 1)) is not None:
            return value + tail[0], tail[1]
        return self._and_a_half(value, j)

    def _and_a_half(self, value: float, i: int) -> tuple[float, int]:
        """Return a number with the fraction behind it: "and a half", "and three quarters", "1/2"."""
        if self.at(i) == "and" and (part := self._part(i + 1, alone=True)) is not None:
            return value + part[0], part[1]
        if "/" in self.at(i) and (share := _digits(self.at(i))) is not None and value == int(value):
            return value + share, i + 1
        return value, i

    def _part(self, i: int, alone: bool = False) -> tuple[float, int] | None:
        """Return a fraction in words, with the "of a" or "a" that leads to its unit, unless `alone`."""
        j, count = i, 1.0
        if self.at(j) in ("a", "one"):
            j += 1
        elif self.at(j) in SMALL and self.at(j + 1) in PARTS:
            j, count = j + 1, SMALL[self.at(j)]
        if self.at(j) not in PARTS:
            return None
        value, j = count * PARTS[self.at(j)], j + 1
        if alone:
            return value, j
        for lead in (("of", "a"), ("of", "an"), ("a",), ("an",)):
            if self.are(j, *lead):
                return value, j + len(lead)
        return value, j

    def _whole(self, i: int) -> tuple[float, int] | None:
        if (value := _digits(self.at(i))) is not None:
            return value, i + 1
        if self.at(i) == "point" and (tail := self._decimals(i + 1)) is not None:
            return tail
        if self.at(i) in ("a", "an") and self.at(i + 1) not in {"hundred", "thousand", *LENGTHS, *TIMES, *ANGLES} - {
            "a"
        }:
            return None
        value, j = (1.0, i + 1) if self.at(i) in ("a", "an") else self._below_hundred(i)
        if j == i:
            return None
        if self.at(j) == "thousand":
            return 1000 * value, j + 1
        if self.at(j) == "hundred":
            k = j + 2 if self.at(j + 1) == "and" else j + 1
            more, end = self._below_hundred(k)
            return (100 * value + more, end) if end > k else (100 * value, j + 1)
        return value, j

    def _below_hundred(self, i: int) -> tuple[float, int]:
        if self.at(i) in TENS:
            ones = SMALL.get(self.at(i + 1), 0.0)
            return (TENS[self.at(i)] + ones, i + 2) if 0 < ones < 10 else (TENS[self.at(i)], i + 1)
        return (SMALL[self.at(i)], i + 1) if self.at(i) in SMALL else (0.0, i)

    def _decimals(self, i: int) -> tuple[float, int] | None:
        text, j = "", i
        while SMALL.get(self.at(j), 10.0) < 10:
            text, j = text + str(int(SMALL[self.at(j)])), j + 1
        if not text and self.at(i) in {*TENS, *SMALL}:
            value, j = self._below_hundred(i)
            text = str(int(value))
        return (float(f"0.{text}"), j) if text else None

    def quantity(self, i: int) -> Quantity | None:
        found = self.number(i)
        if found is None:
            return None
        value, j = found
        unit = self.at(j)
        if unit in LENGTHS:
            return self._length(i, value, j)
        if (pace := self._pace(value, j)) is not None:
            return Quantity("speed", pace[0], i, pace[1])
        if unit in TIMES:
            value, j = self._and_a_half(value, j + 1)
            value, j = self._smaller(value * TIMES[unit], j, TIMES[unit], TIMES, 60.0)
            return Quantity("time", value, i, j)
        for names, dimension in ((ANGLES, "angle"), (SPEEDS, "speed")):
            if unit in names:
                return Quantity(dimension, value * names[unit], i, j + 1)
        if self.at(j - 1) in ("a", "an"):
            return None  # "half a" of nothing that is known
        return Quantity("number", value, i, j)

    def _pace(self, value: float, i: int) -> tuple[float, int] | None:
        """Return a speed as runners say it: "6 min/km", "a ten minute mile"."""
        j = i + 2 if self.at(i + 1) in ("/", "per", "a") else i + 1
        if self.at(i) not in ("min", "mins", "minute", "minutes") or LENGTHS.get(self.at(j), 0.0) < 1000 or value <= 0:
            return None
        return LENGTHS[self.at(j)] / (60.0 * value), j + 1

    def _length(self, start: int, value: float, i: int) -> Quantity:
        scale = LENGTHS[self.at(i)]
        value, j = self._and_a_half(value, i + 1)
        if (rate := self._rate(j)) is not None:
            return Quantity("speed", value * scale / rate[0], start, rate[1])
        value, j = self._smaller(value * scale, j, scale, LENGTHS, 100.0 if scale == 1.0 else 12.0)
        return Quantity("length", value, start, j)

    def _rate(self, i: int) -> tuple[float, int] | None:
        for lead in _LEADS:
            if self.are(i, *lead) and self.at(i + len(lead)) in TIMES:
                return TIMES[self.at(i + len(lead))], i + len(lead) + 1
        return None

    def _smaller(self, value: float, i: int, scale: float, names: dict[str, float], parts: float) -> tuple[float, int]:
        """Return a quantity with the smaller one behind it: "3 feet 6 inches", "one metre ten", "1 minute 30"."""
        j = i + 1 if self.at(i) == "and" else i
        found = self._whole(j) if self.at(j) not in ("a", "an") else None
        if found is None or value < 0:
            return value, i
        more, end = found
        if names.get(self.at(end), scale) < scale and self._rate(end + 1) is None:
            return value + more * names[self.at(end)], end + 1
        known = self.at(end) in {*LENGTHS, *TIMES, *ANGLES, *SPEEDS}
        if (
            j == i
            and not known
            and scale in (1.0, 0.3048, 60.0)
            and names.get("s") != scale
            and more == int(more)
            and more < parts
        ):
            return value + more * scale / parts, end
        return value, i


def quantity_at(words: Sequence[str], i: int) -> Quantity | None:
    """Return the longest quantity that begins at token i, None where none does."""
    return _Reader(words).quantity(i)
