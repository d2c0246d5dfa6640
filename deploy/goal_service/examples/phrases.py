"""How people write quantities, and how sentences go wrong: what templates share, whatever they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"
ONES, TENS = _ONES.split(), _TENS.split()
FRACTIONS = {
    0.5: "half a",
    0.25: "a quarter of a",
    0.75: "three quarters of a",
    1.5: "one and a half",
    2.5: "two and a half",
}


def words(number: int) -> str:
    """Return a whole number below 1000 in words."""
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{ONES[hundreds]} hundred" + (f" and {words(rest)}" if rest else "")
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def number(x: float, rng: Random) -> str:
    """Return a number in digits, or in words where it is whole or has one decimal."""
    if rng.random() < 0.3 and abs(x * 10 - round(x * 10)) < 1e-9:
        whole, tenth = divmod(round(x * 10), 10)
        return words(whole) + (f" point {ONES[tenth]}" if tenth else "")
    return f"{x:g}"


def speed(rng: Random, low: float, high: float) -> tuple[str, float]:
    """Return a speed within limits as people write it, and in m/s."""
    units = {
        ("m/s", "metres per second", "meters per second", "m per second", "mps"): 1.0,
        ("km/h", "kilometres per hour", "kph", "kilometers an hour"): 1 / 3.6,
        ("cm/s", "centimetres per second"): 0.01,
        ("mph", "miles per hour"): 0.44704,
        ("ft/s", "feet per second"): 0.3048,
    }
    names, scale = rng.choice(list(units.items()))
    fraction = rng.choice([x for x in FRACTIONS if low <= x <= high] or [0.0])
    if rng.random() < 0.25 and fraction and scale == 1.0:
        return f"{FRACTIONS[fraction]} {'metres' if fraction > 1 else 'metre'} per second", fraction
    x = _between(rng, low / scale, high / scale, scale)
    return f"{number(x, rng)} {rng.choice(names)}", x * scale


def height(rng: Random, low: float, high: float) -> tuple[str, float]:
    """Return a height within limits as people write it, and in m."""
    units = {
        ("m", "metres", "meters"): 1.0,
        ("cm", "centimetres", "centimeters"): 0.01,
        ("inches",): 0.0254,
        ("feet",): 0.3048,
    }
    names, scale = rng.choice(list(units.items()))
    x = _between(rng, low / scale, high / scale, scale)
    return f"{number(x, rng)} {rng.choice(names)}", x * scale


def angle(rng: Random, low: float, high: float) -> tuple[str, float]:
    """Return an angle within limits [rad] as people write it, and in rad."""
    if rng.random() < 0.3:
        x = _between(rng, low, high, 1.0)
        return f"{number(x, rng)} {rng.choice(['rad', 'radians'])}", x
    x = round(rng.uniform(math.degrees(low), math.degrees(high)))
    return f"{number(x, rng)}{rng.choice([' degrees', ' deg', '°'])}", math.radians(x)


def seconds(rng: Random) -> tuple[str, float]:
    """Return a duration as people write it, and in s."""
    if rng.random() < 0.2:
        return rng.choice(
            [("half a minute", 30.0), ("a minute", 60.0), ("two minutes", 120.0), ("a second and a half", 1.5)]
        )
    x = rng.choice([2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 45])
    return f"{number(x, rng)} {rng.choice(['seconds', 's', 'sec'])}", float(x)


def _between(rng: Random, low: float, high: float, scale: float) -> float:
    """Return a number that people would say in a unit: none finer than a centimetre."""
    step = 0.05 if scale == 1.0 else 0.5 if scale > 0.02 else 1.0
    low, high = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return round(rng.randint(low, max(low, high)) * step, 2)


def misspelt(sentence: str, rng: Random) -> str:
    """Return the sentence with one typing error in a long word: two letters swapped, one dropped or one doubled."""
    places = [i for i, word in enumerate(sentence.split(" ")) if len(word) >= 5 and word.isalpha()]
    if not places:
        return sentence
    parts, at = sentence.split(" "), rng.choice(places)
    word = parts[at]
    i = rng.randrange(1, len(word) - 2)
    kinds: Mapping[str, Callable[[], str]] = {
        "swap": lambda: word[:i] + word[i + 1] + word[i] + word[i + 2 :],
        "drop": lambda: word[:i] + word[i + 1 :],
        "double": lambda: word[: i + 1] + word[i:],
    }
    parts[at] = kinds[rng.choice(list(kinds))]()
    return " ".join(parts)
