"""The clauses of a command: what a run of marks (agents/lexicon.py) asks of speed, height, lean or effort."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agents.goals import KINDS, Term
from agents.lexicon import EFFORT, FASTER, FURTHER, HEIGHTS, HIGHER, LEAN, STANDING_M, Mark, pace


class NotSure(ValueError):
    """It may be read in more than one way, or in none."""


@dataclass
class Part:
    """What is pursued at once, and for how long."""

    robot: str
    before: Mapping[str, Term]
    """What is pursued until then."""
    terms: dict[str, Term] = field(default_factory=dict)
    duration_s: float | None = None
    keeps: bool = False
    """Whether what was pursued before goes on, but for what is said."""

    def ask(self, kind: str, value: float | tuple[float, ...] | None, weight: float | None = None) -> None:
        """Add a term. Raises NotSure for a second one of a kind, ValueError for one out of range."""
        value = round(value, 6) if isinstance(value, float) else value
        if kind in self.terms and self.terms[kind].value != value:
            raise NotSure(f"two values of {kind}")
        self.terms[kind] = Term.of(self.robot, kind, value, weight)

    def now(self, kind: str) -> float:
        """Return what is pursued so far. Raises NotSure where that is not known."""
        term = self.before.get(kind)
        if term is None or not isinstance(term.value, float):
            if kind == "speed":
                raise NotSure("faster or slower than what? no speed is pursued")
            return STANDING_M if kind == "height" else 0.0
        return term.value

    def change(self, kind: str, by: float, exact: bool) -> None:
        """Ask for more or less than so far; what is not `exact` ends at the end of the range."""
        old = self.now(kind)
        ((low, high),) = KINDS[self.robot][kind].ranges
        new = old + by if exact else min(max(old + by, low), high)
        if new == old:
            raise ValueError(f"{kind} is at the end of its range, {low:g} .. {high:g}")
        self.ask(kind, new)
        self.keeps = True

    def whole(self) -> Mapping[str, Term]:
        """Return all terms. Raises NotSure where there is none."""
        if self.terms.keys() == {"effort"} and self.before:
            self.keeps = True
        if self.keeps and not self.before and not self.terms:
            raise NotSure("nothing is pursued that could go on")
        found = {**self.before, **self.terms} if self.keeps else self.terms
        if not found:
            raise NotSure("nothing was asked for")
        return found


class Marks:
    """The marks of a clause by their letters, each to be taken once."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        self.letters = "".join(mark.letter for mark in marks)
        self._left = list(marks)

    def one(self, letters: str) -> Mark | None:
        """Take the one mark that has any of these letters. Raises NotSure if there are several."""
        found = [mark for mark in self._left if mark.letter in letters]
        if len(found) > 1:
            raise NotSure("two of the same in one clause")
        self._left = [mark for mark in self._left if mark not in found]
        return found[0] if found else None

    def agreed(self, letters: str) -> Mark | None:
        """Take all marks that have any of these letters and mean the same. Raises NotSure if they do not."""
        found = [mark for mark in self._left if mark.letter in letters]
        if len({mark.value for mark in found}) > 1:
            raise NotSure("one way, and the other")
        self._left = [mark for mark in self._left if mark not in found]
        return found[0] if found else None

    def gait(self) -> Mark | None:
        """Take the gaits; "go at a run" runs. Raises NotSure for two of them."""
        found = [mark for mark in self._left if mark.letter == "g"]
        plain = [mark for mark in found if mark.value in ("move", "go")]
        if len(plain) < len(found):
            self._left = [mark for mark in self._left if mark not in plain]
        return self.agreed("g")

    def degree(self) -> int:
        """Take how much, -1 (a little), 0 or 1 (much)."""
        found = self.one("d")
        return 0 if found is None else found.value

    def sign(self, plain: float = 0.0) -> float:
        """Take the direction, +1 forward, -1 backward, `plain` where there is none."""
        found = [mark for mark in self._left if mark.letter in "bf"]
        if len({mark.letter for mark in found}) > 1:
            raise NotSure("one way, and the other")
        self._left = [mark for mark in self._left if mark not in found]
        return plain if not found else -1.0 if found[0].letter == "b" else 1.0

    def end(self, ignored: str = "") -> None:
        """Raise NotSure unless all is taken."""
        if any(mark.letter not in ignored for mark in self._left):
            raise NotSure("more was said than is understood")


def _number(quantity: Mark, sign: float = 0.0) -> float:
    """Return a quantity's number with its direction. Raises NotSure if both say that it is negative."""
    x = quantity.value.value
    if sign and x < 0:
        if sign > 0:
            raise NotSure("a negative number, and forward")
        return x
    return sign * x if sign else x


def _speed(part: Part, marks: Sequence[Mark]) -> None:
    it = Marks(marks)
    gait, manner, named, said = it.gait(), it.agreed("m"), it.one("S"), it.one("vn")
    back = any(mark.letter == "b" and mark.value for mark in marks)
    sign, much = it.sign(), it.degree()
    it.end("T")
    if said is not None:
        if said.letter == "n" and named is None:
            raise NotSure("a number without a unit")
        part.ask("speed", _number(said, sign))
    elif gait is None and manner is None and not sign:
        raise NotSure("which speed?")
    else:
        level = 0 if manner is None else manner.value
        if much and (abs(level) != 1 or much < 0):
            raise NotSure("how fast is that?")
        level += much * level
        if manner is not None and gait is None and not back and named is None and not sign and level == 0:
            part.ask("speed", pace("walk", 0, False))
        else:
            part.ask("speed", pace("move" if gait is None else gait.value, level, sign < 0))


def _faster(part: Part, marks: Sequence[Mark]) -> None:
    it = Marks(marks)
    how, times, said = it.agreed("rRIM"), it.one("x"), it.one("v")
    by, to, sign, much = it.one("B"), it.one("T"), it.sign(), it.degree()
    it.end("gS")
    if to is not None and said is not None and how is not None:
        usual = -1.0 if "speed" in part.before and part.now("speed") < 0 else 1.0
        part.ask("speed", _number(said, sign or usual))
        part.keeps = bool(part.before)
        return
    old = part.now("speed")
    if sign and old and sign != (1.0 if old > 0 else -1.0):
        raise NotSure("the other way, or faster?")
    way = (1.0 if old > 0 else -1.0) if old else (sign or 1.0)
    if times is not None:
        if times.value < 0 and not old:
            raise NotSure("which way?")
        if how is not None or said is not None or by is not None or much:
            raise NotSure("how much faster?")
        part.change("speed", old * (times.value - 1.0), True)
        return
    by_so_much = by is not None or (
        said is not None and re.search("I[gbf]*v|v[gbf]*r", "".join(m.letter for m in marks))
    )
    if how is None or to is not None or ((said is None) != (not by_so_much)):
        raise NotSure("how much faster?")
    if said is not None and much:
        raise NotSure("how much faster?")
    step = FASTER[much + 1] if said is None else _number(said, 1.0)
    if how.value < 0 and said is None:
        step = min(step, abs(old))  # slower is never the other way
    part.change("speed", way * how.value * step, said is not None)


def _height(part: Part, marks: Sequence[Mark]) -> None:
    it = Marks(marks)
    how, posture, named, said = it.agreed("RIu"), it.one("c"), it.one("H"), it.one("ln")
    by, to, much = it.one("B"), it.one("T"), it.degree()
    it.end("Mk")
    if said is not None and posture is not None and re.search("l.*c", it.letters) and posture.value[:4] != "tall":
        raise NotSure("a distance, or how high?")
    if said is not None and said.letter == "n" and named is None:
        raise NotSure("a number without a unit")
    if said is not None and (by is not None or (how is not None and to is None)):
        if how is None and posture is not None and posture.value == "crouch":
            part.change("height", -_number(said, 1.0), True)
        elif how is not None:
            part.change("height", how.value * _number(said, 1.0), True)
        else:
            raise NotSure("higher or lower by so much?")
    elif said is not None:
        if much:
            raise NotSure("how high?")
        part.ask("height", _number(said))
        part.keeps = how is not None and bool(part.before)
    elif by is not None or (to is not None and posture is None):
        raise NotSure("how high?")
    elif posture is not None and (how is None or to is not None or _fits(how, posture, it.letters)):
        name, most = posture.value.rstrip("!"), posture.value.endswith("!")
        part.ask("height", HEIGHTS[name][2 if most else much + 1])
    elif how is not None and posture is None:
        part.change("height", how.value * HIGHER[much + 1], False)
    elif how is not None and posture is not None and "height" in part.before:
        if (how.value > 0) == (posture.value[:6] == "crouch"):
            raise NotSure("higher or lower?")
        part.change("height", how.value * HIGHER[much + 1], False)
    else:
        raise NotSure("how high?")


def _fits(how: Mark, posture: Mark, letters: str) -> bool:
    """Return whether "up" or "down" only leads to a posture: "back up to normal height", "down in a crouch"."""
    ways = {"crouch": -1, "tall": 1}
    leads = how.letter == "u" and ways.get(posture.value.rstrip("!")) == how.value
    return re.search("[Ru].*c", letters) is not None and (posture.value == "normal" or leads)


def _lean(part: Part, marks: Sequence[Mark]) -> None:
    it = Marks(marks)
    lean, upright, said = it.one("LP"), it.one("U"), it.one("an")
    more, to, by, sign, much = it.agreed("MI"), it.one("T"), it.one("B"), it.sign(), it.degree()
    it.end("k")
    if upright is not None:
        if said is not None or more is not None or sign or much:
            raise NotSure("upright, and how far?")
        part.ask("pitch", 0.0)
    elif more is not None:
        now = part.now("pitch")
        if not (sign or now) or to is not None or (said is not None and (said.letter == "n" or much)):
            raise NotSure("which way?")
        step = FURTHER[much + 1] if said is None else _number(said, 1.0)
        part.change("pitch", (sign or math.copysign(1.0, now)) * more.value * step, said is not None)
    elif said is not None:
        signed = sign or (lean is not None and lean.letter == "P") or said.value.value < 0
        if (said.letter == "n" and (lean is None or lean.letter != "P")) or not signed or much:
            raise NotSure("which way, and in which unit?")
        part.ask("pitch", _number(said, sign))
    elif lean is None or not sign or to is not None or by is not None:
        raise NotSure("which way?")
    else:
        part.ask("pitch", sign * LEAN[much + 1])


def _still(part: Part, marks: Sequence[Mark]) -> None:
    if {mark.letter for mark in marks} != {"s"}:
        raise NotSure("stop, and what?")
    if part.robot == "arm":
        part.ask("hold", None)
    else:
        part.ask("speed", 0.0)


def _stand(part: Part, marks: Sequence[Mark]) -> None:
    it = Marks(marks)
    if it.one("Z") is None:
        raise NotSure("stand?")
    posture, named, said, much = it.one("c"), it.one("H"), it.one("l"), it.degree()
    it.end("T&k")
    if said is not None:
        part.ask("height", _number(said))
    elif posture is not None:
        name, most = posture.value.rstrip("!"), posture.value.endswith("!")
        part.ask("height", HEIGHTS[name][2 if most else much + 1])
    elif much or named:
        raise NotSure("how high?")
    else:
        part.ask("speed", 0.0)


def _effort(part: Part, marks: Sequence[Mark]) -> None:
    it = Marks(marks)
    much = it.degree()
    if it.one("E") is not None:
        said = it.one("n")
        it.end("T")
        if said is None or much:
            raise NotSure("which weight?")
        part.ask("effort", None, said.value.value)
        return
    if it.one("e") is None and (it.one("y") is None or it.one("Y") is None):
        raise NotSure("which effort?")
    it.end()
    part.ask("effort", None, EFFORT[much + 1])


def _lasts(part: Part, marks: Sequence[Mark]) -> None:
    found = Marks(marks).one("t")
    if found is None or part.duration_s is not None or found.value.value <= 0:
        raise NotSure("for how long?")
    part.duration_s = found.value.value


def _keep(part: Part, marks: Sequence[Mark]) -> None:
    if not part.before and all(mark.value == "on" for mark in marks):
        return  # "go on, crouch" to one that pursues nothing
    if not part.before or {mark.letter for mark in marks} != {"K"}:
        raise NotSure("nothing is pursued that could go on")
    part.keeps = True


def _reach(part: Part, marks: Sequence[Mark]) -> None:
    numbers = tuple(_number(mark) for mark in marks if mark.letter in "nl")
    if part.robot != "arm" or len(numbers) != 3:
        raise NotSure("reach for x, y and z in metres")
    part.ask("reach", numbers)


def _home(part: Part, marks: Sequence[Mark]) -> None:
    if {mark.letter for mark in marks} != {"O"}:
        raise NotSure("where to?")
    part.ask("home", None)


Clause = Callable[[Part, Sequence[Mark]], None]
CLAUSES: Mapping[str, Clause] = {
    "lasts": _lasts,
    "stand": _stand,
    "still": _still,
    "faster": _faster,
    "height": _height,
    "lean": _lean,
    "speed": _speed,
    "effort": _effort,
    "keep": _keep,
    "reach": _reach,
    "home": _home,
}
_PATTERNS = {
    "lasts": r"F?t",
    "stand": r"Z&?kT?l|ZT?(?:l|d?c(?:T?l)?|lc|Hl)?",
    "still": r"s+",
    "faster": r"(?=[gbfdSTBvIRM]*[rx]|S?I[BSTv]|[RM]S)(?:[gbfdSrxIRM]|B?v|Tv)+",
    "height": r"(?=[dITBlkuH]*(?:[cRH]|[ku]T?B?l|l[uk]|uk))(?:[dRku]|T?c|I(?=T?[Hk])|T?H(?:T?n)?|[TB]?l|Tk(?=l)|(?<=[dR])M)+",
    "lean": r"(?=[dTBbfMIk]*[LPUa])(?:[LUMIbfdak]|T[a]|Ba|P(?:T?n)?)+",
    "speed": r"(?:[gbfS]|d?m|T?v|(?<=S)T?n)+",
    "effort": r"d?e|d?(?:yd?Y|Yy)d?|ET?n",
    "keep": r"K",
    "reach": r"GT?(?:[nl]&*){3}",
    "home": r"O",
}
_COMPILED = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}
_ARM = ("lasts", "still", "effort", "keep", "reach", "home")


def fits(name: str, letters: str, robot: str) -> bool:
    """Return whether marks may be a clause of this name."""
    return (robot != "arm" or name in _ARM) and _COMPILED[name].fullmatch(letters) is not None


def clause_of(letters: str, start: int, robot: str) -> tuple[str, int] | None:
    """Return the name and the end of the longest clause that begins at `start`, the first of CLAUSES among equals."""
    found: tuple[str, int] | None = None
    for name, pattern in _COMPILED.items():
        if robot == "arm" and name not in _ARM:
            continue
        match = pattern.match(letters, start)
        if match is not None and match.end() > start and (found is None or match.end() > found[1]):
            found = name, match.end()
    return found
