"""Sentences with the goal that each should become, one JSON object a line: {"sentence", "robot", "current", "goal"}.

A goal is its JSON, or the shorthand of `goal_of`; a robot that is not named is a walker.

Those to judge by (`eval_*`) were written by people who saw neither the grammar of commands nor the lexicon's phrases, only the
published values; `strangers` by others of them, to learn from, and `dev` by whoever wrote the grammar.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.goals import Goal, Term, refusal, sequence

FOLDER = Path(__file__).resolve().parent
GENERATED, HANDWRITTEN = "eval_generated", "eval_handwritten"
IMPOSSIBLE, DEV, STRANGERS = "eval_impossible", "dev", "strangers"
ALIKE = 5e-4
"""Numbers that differ by less are the same: a sentence says three digits, a converted unit has more."""
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred half quarter quarters third thirds point"
)
_NUMBER = re.compile(rf"[-+]?\d+(?:[.,/]\d+)*|\b(?:{NUMBERS.replace(' ', '|')})\b")


@dataclass(frozen=True)
class Case:
    """What is said to which robot, that pursues what, and what it should pursue then."""

    sentence: str
    robot: str
    current: Goal | None
    goal: Goal


def read(name: str) -> list[Case]:
    """Return the cases of a file of this folder. Raises ValueError where a goal is not legal."""
    found = []
    for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        tree = json.loads(line)
        robot = tree.get("robot", "walker")
        current = _goal(tree["current"], robot) if tree["current"] else None
        found.append(Case(tree["sentence"], robot, current, _goal(tree["goal"], robot)))
    return found


def _goal(said: str | dict[str, Any], robot: str) -> Goal:
    return goal_of(said, robot) if isinstance(said, str) else Goal.from_dict(said)


def goal_of(text: str, robot: str = "walker") -> Goal:
    """Return the goal of a shorthand: `speed:-0.5+height:1 for 5 > speed:0`, `0.3*effort+speed:1`, or `!` for one that cannot be."""
    if text.startswith("!"):
        return refusal(robot, text[1:].strip() or "cannot")
    after: Goal | None = None
    for part in reversed(text.split(">")):
        terms, _, duration = part.partition(" for ")
        after = Goal(
            robot,
            tuple(_term(t.strip(), robot) for t in terms.split("+")),
            float(duration) if duration else None,
            after,
        )
    assert after is not None
    return after


def _term(text: str, robot: str) -> Term:
    weight, star, rest = text.rpartition("*")
    kind, _, value = rest.partition(":")
    return Term.of(robot, kind, float(value) if value else None, float(weight) if star else None)


def same(one: Goal, other: Goal) -> bool:
    """Return whether two goals ask for the same; the order of terms and the words of a refusal do not count."""
    if one.cannot is not None or other.cannot is not None:
        return (one.cannot is None) == (other.cannot is None)
    ones, others = sequence(one), sequence(other)
    return len(ones) == len(others) and all(_alike(a, b) for a, b in zip(ones, others, strict=True))


def _alike(one: Goal, other: Goal) -> bool:
    def numbers(goal: Goal) -> list[float]:
        found = [math.inf if goal.duration_s is None else goal.duration_s]
        for term in sorted(goal.terms, key=lambda t: t.kind):
            found += [term.weight, *(term.value if isinstance(term.value, tuple) else [term.value])]  # pyright: ignore
        return [x if isinstance(x, float) else 0.0 for x in found]

    if {(t.kind, str(t.value) if isinstance(t.value, str) else "") for t in one.terms} != {
        (t.kind, str(t.value) if isinstance(t.value, str) else "") for t in other.terms
    }:
        return False
    return all(a == b or abs(a - b) <= ALIKE for a, b in zip(numbers(one), numbers(other), strict=True))


def skeleton(sentence: str) -> str:
    """Return what is left of a sentence without its numbers, its case and its punctuation."""
    bare = _NUMBER.sub("#", sentence.lower())
    return " ".join(re.sub(r"[^\w#%°'\"/ ]", " ", bare).split())


def shared(ones: Sequence[Case], others: Sequence[Case]) -> set[str]:
    """Return the skeletons that two sets have in common."""
    return {skeleton(c.sentence) for c in ones} & {skeleton(c.sentence) for c in others}
