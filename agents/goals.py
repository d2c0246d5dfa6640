"""Goals as data: the one schema of file, command line, HTTP and grammar, and what planners make of a goal.

A goal is a few terms to hold at once, for how long, and what comes then; or the reason why there is none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

VERSION = 1
DEEPEST = 8
"""Goals in one sequence."""
REASON = 200
"""Characters of a reason."""
TINY, HEAVIEST = 1e-6, 10.0
"""Weights."""
LONGEST_S = 86_400.0
NAME = "[a-z0-9][a-z0-9_-]{0,63}"
"""Of a stored picture."""

Value = float | str | tuple[float, ...] | None


@dataclass(frozen=True)
class Kind:
    """What the value of a term may be."""

    unit: str | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    """One per number: none, one or several."""
    named: bool = False
    """It is the name of a picture."""
    tolerance: float = math.inf
    """That a reading may be off while the term holds."""

    def check(self, value: Any) -> Value:
        """Return the value as it is kept. Raises ValueError, saying what would be right."""
        if self.named:
            if not (isinstance(value, str) and re.fullmatch(NAME, value)):
                raise ValueError(f"must be the name of a picture, {NAME}, got {_short(value)}")
            return value
        if not self.ranges:
            if value is not None:
                raise ValueError(f"must be null, got {_short(value)}")
            return None
        if len(self.ranges) == 1:
            return _between(value, *self.ranges[0], self.unit)
        if not isinstance(value, list | tuple) or len(value) != len(self.ranges):
            raise ValueError(f"must be {len(self.ranges)} numbers [{self.unit}], got {_short(value)}")
        return tuple(_between(x, *limits, self.unit) for x, limits in zip(value, self.ranges, strict=True))

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        if self.named:
            return {"type": "string", "pattern": f"^{NAME}$"}
        numbers = [{"type": "number", "minimum": low, "maximum": high} for low, high in self.ranges]
        if len(numbers) < 2:
            return numbers[0] if numbers else {"type": "null"}
        size = len(numbers)
        return {"type": "array", "prefixItems": numbers, "items": False, "minItems": size, "maxItems": size}


_SPEED, _EFFORT = Kind("m/s", ((-2.0, 6.0),), tolerance=0.2), Kind()
_IMAGE, _ORDER = Kind(named=True), Kind()

KINDS: Mapping[str, Mapping[str, Kind]] = {
    "walker": {
        "speed": _SPEED,
        "height": Kind("m", ((0.85, 1.35),), tolerance=0.03),
        "pitch": Kind("rad", ((-0.6, 0.6),), tolerance=0.1),
        "effort": _EFFORT,
    },
    "hopper": {"speed": replace(_SPEED, ranges=((-1.0, 4.0),)), "effort": _EFFORT},
    "halfcheetah": {"speed": _SPEED, "effort": _EFFORT},
    "double_integrator": {"speed": _SPEED, "effort": _EFFORT},
    "pusht": {
        "block_pose": Kind("px,px,rad", ((0.0, 512.0), (0.0, 512.0), (-math.pi, math.pi))),
        "image": _IMAGE,
    },
    "cube": {"image": _IMAGE},
    "tworoom": {"image": _IMAGE},
    "arm": {
        "reach": Kind("m", ((0.16, 0.32), (-0.2, 0.2), (0.03, 0.25))),  # envs/arm.py: every point can be reached
        "hold": _ORDER,
        "home": _ORDER,
        "effort": _EFFORT,
    },
}
"""Robot -> kind -> what its value may be: forward speed; height of the torso (standing is about 1.25 m); forward lean; ...

Numbers that planners take lie within theirs (planners/objectives.py), which a test holds.
"""
EFFORT_WEIGHT = 0.1
"""Of effort, where nothing is said about how much."""

_ROBOTS = {"walker2d": "walker", "so101": "arm", "so101_push": "arm"}


def robot_of(name: str) -> str:
    """Return what the schema calls a robot of envs/robots.py. Raises ValueError for one that has no goals."""
    found = _ROBOTS.get(name, name)
    if found not in KINDS:
        raise ValueError(f"no goals for a robot {_short(name)}; choose from {', '.join(KINDS)}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {_short(value)}")
    return float(value)


def _between(value: Any, low: float, high: float, unit: str | None) -> float:
    number = _number(value)
    if not low <= number <= high:
        raise ValueError(f"must be {low:g} .. {high:g}{f' {unit}' if unit else ''}, got {number:g}")
    return number


def _named[T](where: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where} {error}") from None


def _fields(tree: Any, names: tuple[str, ...], where: str) -> list[Any]:
    """Return the values of a JSON object that has exactly these names."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where} must be an object with {', '.join(names)}, got {_short(tree)}")
    if unknown := sorted(str(key) for key in tree if key not in names):
        raise ValueError(f"{where} has no {_short(unknown[0])}; it has {', '.join(names)}")
    if missing := [name for name in names if name not in tree]:
        raise ValueError(f"{where} needs {missing[0]}; it has {', '.join(names)}")
    return [tree[name] for name in names]


@dataclass(frozen=True)
class Term:
    """One quantity, and what it is to be."""

    kind: str
    value: Value
    unit: str | None
    weight: float = 1.0

    @classmethod
    def of(cls, robot: str, kind: str, value: Any = None, weight: float | None = None) -> Term:
        """Return a term in the unit of its kind. Raises ValueError in one line."""
        legal = KINDS[robot_of(robot)]
        if not isinstance(kind, str) or kind not in legal:
            raise ValueError(f"no kind {_short(kind)} for {robot}; choose from {', '.join(legal)}")
        checked = _named(kind, lambda: legal[kind].check(value))
        usual = EFFORT_WEIGHT if kind == "effort" else 1.0
        return cls(kind, checked, legal[kind].unit, usual if weight is None else weight)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"kind": self.kind, "value": value, "unit": self.unit, "weight": self.weight}


@dataclass(frozen=True)
class Goal:
    """What is asked of a robot. Raises ValueError, in one line, for what the schema does not have."""

    robot: str
    terms: tuple[Term, ...] = ()
    duration_s: float | None = None
    """None: until the next goal comes, or, if there is a `then`, until all terms have held (agents/pursuit.py)."""
    then: Goal | None = None
    cannot: str | None = None
    """Why nothing is asked."""
    version: int = VERSION

    def __post_init__(self) -> None:
        if isinstance(self.version, bool) or self.version != VERSION:
            raise ValueError(f"version must be {VERSION}, got {_short(self.version)}")
        if self.robot not in KINDS:
            raise ValueError(f"robot must be one of {', '.join(KINDS)}, got {_short(self.robot)}")
        if self.cannot is not None:
            self._check_refusal()
            return
        self._check_terms()
        if self.duration_s is not None:
            _named("duration_s", partial(_between, self.duration_s, TINY, LONGEST_S, "s"))
        if self.then is not None and (self.then.robot != self.robot or self.then.cannot is not None):
            raise ValueError(f"then must be a goal of the same robot {self.robot!r} that can be pursued")
        if (depth := len(sequence(self))) > DEEPEST:
            raise ValueError(f"a sequence has at most {DEEPEST} goals, got {depth}")

    def _check_refusal(self) -> None:
        text = self.cannot
        if not isinstance(text, str) or not 0 < len(text) <= REASON or not text.isprintable():
            raise ValueError(f"cannot must be a reason in one line of at most {REASON} characters, got {_short(text)}")
        if self.terms or self.duration_s is not None or self.then is not None:
            raise ValueError("a goal with cannot has no terms, no duration_s and no then")

    def _check_terms(self) -> None:
        kinds = [term.kind for term in self.terms]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError(f"terms must be at least one and each kind once, got {_short(kinds)}")
        for term in self.terms:
            if Term.of(self.robot, term.kind, term.value).unit != term.unit:
                unit = KINDS[self.robot][term.kind].unit
                raise ValueError(f"unit of {term.kind} must be {json.dumps(unit)}, got {_short(term.unit)}")
            _named(f"weight of {term.kind}", partial(_between, term.weight, TINY, HEAVIEST, None))

    @classmethod
    def from_dict(cls, tree: Any) -> Goal:
        """Return the goal that JSON values hold. Raises ValueError in one line."""
        return _read(tree, DEEPEST)

    @classmethod
    def from_json(cls, text: str | bytes) -> Goal:
        """Return the goal that a JSON text holds. Raises ValueError in one line."""
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a goal must be JSON: {error}") from None
        return cls.from_dict(tree)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, keys in the order of the schema."""
        return {
            "version": self.version,
            "robot": self.robot,
            "terms": [term.to_dict() for term in self.terms],
            "duration_s": self.duration_s,
            "then": None if self.then is None else self.then.to_dict(),
            "cannot": self.cannot,
        }

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(self.to_dict(), allow_nan=False)


GOAL_KEYS = ("version", "robot", "terms", "duration_s", "then", "cannot")
TERM_KEYS = ("kind", "value", "unit", "weight")


def _read(tree: Any, left: int) -> Goal:
    if left == 0:
        raise ValueError(f"a sequence has at most {DEEPEST} goals, got more")
    version, robot, terms, duration_s, then, cannot = _fields(tree, GOAL_KEYS, "a goal")
    if not isinstance(robot, str) or robot not in KINDS:
        raise ValueError(f"robot must be one of {', '.join(KINDS)}, got {_short(robot)}")
    if not isinstance(terms, list):
        raise ValueError(f"terms must be a list, got {_short(terms)}")
    made = tuple(_read_term(term, robot) for term in terms)
    lasts_s = None if duration_s is None else _named("duration_s", lambda: _number(duration_s))
    return Goal(robot, made, lasts_s, None if then is None else _read(then, left - 1), cannot, version)


def _read_term(tree: Any, robot: str) -> Term:
    kind, value, unit, weight = _fields(tree, TERM_KEYS, "a term")
    made = Term.of(robot, kind, value, _named("weight", lambda: _number(weight)))
    return replace(made, unit=unit)


def refusal(robot: str, reason: str) -> Goal:
    """Return the goal that says why there is none, in one line that is not too long."""
    text = "".join(c if c.isprintable() else " " for c in reason).strip()
    return Goal(robot, cannot=text[:REASON] or "not understood")


def sequence(goal: Goal) -> list[Goal]:
    """Return a goal and those that come after it."""
    found = [goal]
    while (after := found[-1].then) is not None:
        found.append(after)
    return found


# --- for decoding


def json_schema(
    robot: str,
    offered: Mapping[str, list[Any]] | None = None,
    durations_s: list[float] | None = None,
    follows: bool = True,
    reason: str | None = None,
) -> dict[str, Any]:
    """Return the schema of a robot's goals, keys in a fixed order.

    `offered`: the values that each kind may have, and no other kind; `durations_s`: what to choose from, beside null; `follows`:
    whether there may be a `then` (how deep is checked afterwards); `reason`: the one that may be given for `cannot`.
    """
    terms = []
    for name, kind in KINDS[robot_of(robot)].items():
        if offered is None or offered.get(name):
            value = kind.schema() if offered is None else {"enum": offered[name]}
            weight = {"type": "number", "minimum": TINY, "maximum": HEAVIEST}
            usual = {"const": EFFORT_WEIGHT if name == "effort" else 1.0}
            weighs = weight if offered is None else usual
            terms.append(_object(kind={"const": name}, value=value, unit={"const": kind.unit}, weight=weighs))
    number, none = {"type": "number", "minimum": TINY, "maximum": LONGEST_S}, {"type": "null"}
    lasts = {"anyOf": [number, none]} if durations_s is None else {"enum": [*durations_s, None]}
    text = {"type": "string", "minLength": 1, "maxLength": REASON} if reason is None else {"const": reason}
    head = {"version": {"const": VERSION}, "robot": {"const": robot}}
    empty = {"type": "array", "maxItems": 0}
    refused = _object(**head, terms=empty, duration_s=none, then=none, cannot=text)
    if not terms:
        return refused
    some = {"type": "array", "items": {"anyOf": terms}, "minItems": 1, "maxItems": len(terms)}
    then = {"anyOf": [none, {"$ref": "#/$defs/goal"}]} if follows else none
    goal = _object(**head, terms=some, duration_s=lasts, then=then, cannot=none)
    return {"anyOf": [{"$ref": "#/$defs/goal"}, refused], "$defs": {"goal": goal}}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# --- for planning


def objective(goal: Goal) -> str:
    """Return what a goal asks for now, as planners.objectives.parse_objective and --objective take it.

    Effort alone is spent less of at the robot's own task. Raises ValueError for what no planner pursues.
    """
    if goal.cannot is not None:
        raise ValueError(f"nothing to pursue: {goal.cannot}")
    parts = []
    for term in goal.terms:
        weight = "" if term.weight == 1.0 else f"{term.weight:g}*"
        if term.kind in ("speed", "height", "pitch"):
            parts.append(f"{weight}{term.kind}:{term.value}")
        elif term.kind == "effort":
            parts.append(f"{weight}effort")
        elif term.kind == "image" and len(goal.terms) == 1:
            return f"image:{term.value}"
        else:
            raise ValueError(f"no planner pursues {term.kind!r} yet; they take speed, height, pitch, effort and image")
    alone = all(term.kind == "effort" for term in goal.terms)
    return "+".join(["run", *parts] if alone else parts)
