"""From a sentence to a goal by a small explicit grammar: exact where it understands every word, and silent where it does not.

A sentence is a sequence of parts ("then"), a part is a few clauses, and a clause is a regular expression over the marks of
agents/lexicon.py and quantities: v speed, l length, a angle, t time, n a number without a unit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from agents.clauses import CLAUSES, NotSure, Part, clause_of, fits
from agents.gist import TAKEN_BACK, about, gist, without_denied
from agents.goals import KINDS, Goal, Term, refusal, robot_of
from agents.hearing import Heard, hear
from agents.lexicon import QUESTIONS, SAYING, Mark
from agents.quantities import Quantity

LONGEST = 300
"""Characters."""
_FOREIGN = re.compile(r"\w\(|[{}<>\[\]|\\`~^_$#@*\x00-\x1f]")


@dataclass(frozen=True)
class Reading:
    """What was made of a sentence: a goal, where that is certain (also that it cannot be), else why it is not."""

    heard: Heard
    goal: Goal | None
    why: str = ""
    """What could not be read, in one line."""
    guess: Goal | None = None
    """What it would be if the words that nobody understands meant nothing."""


def read(sentence: str, robot: str, current: Goal | None = None) -> Reading:
    """Return what a sentence says to a robot that pursues `current`. Raises ValueError for a robot without goals."""
    robot, nothing = robot_of(robot), Heard((), (), ())
    if len(sentence) > LONGEST:
        return Reading(nothing, refusal(robot, f"a sentence has at most {LONGEST} characters, got {len(sentence)}"))
    sentence = sentence.replace("->", " then ").replace("→", " then ").replace(" + ", " and ")
    sentence = re.sub(r"(?<=\s)@(?=\s*\d)", "at", sentence)
    if not sentence.isprintable() or _FOREIGN.search(sentence):
        return Reading(nothing, refusal(robot, "this is no plain sentence"))
    *before, last = TAKEN_BACK.split(sentence)
    whole, taken_back = _read(sentence, robot, current), hear(" ".join(before), robot)
    kinds = about(taken_back.letters) & set(SAYING)
    if not kinds and not {"t", ">"} & set(taken_back.letters):
        return whole
    mended = _read(last, robot, current)
    if _replaces(mended, taken_back, kinds):
        return mended
    sure = whole.goal is not None and whole.goal.cannot is None
    return Reading(whole.heard, None, "what was taken back?") if sure else whole


def _replaces(mended: Reading, taken_back: Heard, kinds: Set[str]) -> bool:
    """Return whether a reading has a word of its own for all that was said before it, and speaks of nothing else."""
    goal = mended.goal
    if goal is None or goal.cannot is not None or {"t", ">"} & set(taken_back.letters):
        return False
    said, before = (set("gsv") & set(heard.letters) for heard in (mended.heard, taken_back))
    return {term.kind for term in goal.terms} == kinds and bool(
        said or not before
    )  # "march, I mean a fast one" marches


def _read(sentence: str, robot: str, current: Goal | None) -> Reading:
    heard = without_denied(hear(sentence, robot))
    if sentence.rstrip().endswith("?") and QUESTIONS.intersection(heard.words[:1]) and not _orders(heard):
        return Reading(heard, refusal(robot, "a question is no goal"))
    if (impossible := out_of_range(heard, robot)) is not None:
        return Reading(heard, refusal(robot, impossible))
    unread = f"did not understand {', '.join(repr(word[:30]) for word in heard.unread[:5])}" if heard.unread else ""
    try:
        goal = _Sentence(heard, robot, current).goal()
    except NotSure as error:
        return _gist(heard, robot, current, unread or str(error))
    except ValueError as error:
        return Reading(heard, refusal(robot, str(error)))
    return Reading(heard, None, unread, goal) if unread else Reading(heard, goal)


def _orders(heard: Heard) -> bool:
    """Return whether a sentence begins as "do 2 mph" does."""
    return heard.words[0] == "do" and any(mark.start == 1 and mark.letter == "v" for mark in heard.marks[:1])


def _gist(heard: Heard, robot: str, current: Goal | None, why: str) -> Reading:
    """Return what is guessed where stretches that cannot be read are left out, if anything is."""
    left = gist(heard, robot)
    try:
        return (
            Reading(heard, None, why)
            if left is None
            else Reading(left, None, why, _Sentence(left, robot, current).goal())
        )
    except ValueError:
        return Reading(heard, None, why)


_KIND_OF = {"v": "speed", "l": "height", "a": "pitch"}


def out_of_range(heard: Heard, robot: str) -> str | None:
    """Return what is wrong with a quantity that no goal of the robot can have, whichever way it is meant."""
    for mark in heard.marks:
        kind = KINDS[robot].get(_KIND_OF.get(mark.letter, ""))
        if kind is None or not isinstance(mark.value, Quantity):
            continue
        if mark.letter == "l" and not set("cRHIZku") & set(heard.letters):
            return "a distance is no goal"
        ((low, high),) = kind.ranges
        x = mark.value.value
        if not (low <= x <= high or low <= -x <= high) and (mark.letter != "l" or x > high):
            return f"{_KIND_OF[mark.letter]} must be {low:g} .. {high:g} {kind.unit}, got {x:g}"
    return None


@dataclass
class _Sentence:
    """One sentence on its way to a goal."""

    heard: Heard
    robot: str
    current: Goal | None
    parts: list[tuple[Mapping[str, Term], float | None]] = field(default_factory=list)
    gait: Mark | None = None

    def goal(self) -> Goal:
        words = self.heard.words
        end = next((n for n in range(len(words), 0, -1) if words[n - 1] not in tuple(".!")), 0)
        segments = list(_segments(_in_order(self.heard), end))
        if not segments:
            raise NotSure("nothing was asked for")
        for marks in segments:
            self._part(marks)
        made: Goal | None = None
        for terms, duration_s in reversed(self.parts):
            made = Goal(self.robot, tuple(terms.values()), duration_s, made)
        assert made is not None
        return made

    def _before(self) -> Mapping[str, Term]:
        """Return what is pursued until the next part, none if nothing is."""
        if self.parts:
            return self.parts[-1][0]
        return {} if self.current is None else {term.kind: term for term in self.current.terms}

    def _part(self, marks: Sequence[Mark]) -> None:
        marks = _joined(marks)
        letters = "".join(mark.letter for mark in marks)
        if (delay := re.search(r"At", letters)) is not None:
            marks = self._delayed(marks, delay.start())
            letters = "".join(mark.letter for mark in marks)
        if self.parts and letters.lstrip("@T") in ("l", "a", "n"):
            marks = self._named(marks[-1])
            letters = "".join(mark.letter for mark in marks)
        part = Part(self.robot, self._before())
        for name, some in _folded(list(self._clauses(marks, letters))):
            kept = part.keeps and not part.terms
            if part.duration_s is not None and (kept or name == "lasts" or _KIND.get(name) in part.terms):
                self.parts.append((part.whole(), part.duration_s))  # "walk for 5 s and stop" is two parts
                part = Part(self.robot, self._before())
            CLAUSES[name](part, self._paced(name, some))
        part.keeps |= part.duration_s is not None and not part.terms
        self.parts.append((part.whole(), part.duration_s))

    def _paced(self, name: str, marks: Sequence[Mark]) -> Sequence[Mark]:
        """Return "quickly" with the gait that went before in the sentence: "walk slowly for 5 s, then quickly"."""
        gaits = [mark for mark in marks if mark.letter == "g"]
        if (
            name == "speed"
            and not gaits
            and self.gait is not None
            and self.parts
            and {m.letter for m in marks} <= set("md")
        ):
            return [self.gait, *marks]
        if gaits:
            self.gait = gaits[0]
        return marks

    def _named(self, exact: Mark) -> Sequence[Mark]:
        """Return a number without a name with that of what was said before: "at 1 m for 5 s, then 0.9 m", "... then zero"."""
        before, x = self.parts[-1][0], exact.value.value
        kind = {"l": "height", "a": "pitch"}.get(exact.letter) or (
            next(iter(before)) if len(before) == 1 and not x else ""
        )
        if kind not in before:
            raise NotSure("a number without a name")
        name = Mark({"speed": "S", "height": "H", "pitch": "P"}.get(kind, "N"), "", exact.start, exact.start)
        back = kind == "pitch" and before[kind].value < 0 < x  # pyright: ignore
        return (
            [name, exact]
            if not back
            else [Mark("L", "", exact.start, exact.start), Mark("b", "", exact.start, exact.start), exact]
        )

    def _clauses(self, marks: Sequence[Mark], letters: str) -> Iterator[tuple[str, Sequence[Mark]]]:
        i = 0
        while i < len(marks):
            if letters[i] == "&":
                i += 1
                continue
            clause = clause_of(letters, i, self.robot)
            if clause is None:
                raise NotSure(f"did not understand {_said(self.heard, marks[i:])!r}")
            if clause[0] == "still" and letters[clause[1] : clause[1] + 1] in tuple("gcLbf"):
                raise NotSure("stop what?")
            yield clause[0], marks[i : clause[1]]
            i = clause[1]

    def _delayed(self, marks: Sequence[Mark], at: int) -> Sequence[Mark]:
        """Take in "after 5 s": what comes before it in the part, or the part before, lasts so long; return what is left."""
        wait, head, tail = marks[at + 1], marks[:at], marks[at + 2 :]
        if not head and self.heard.words[wait.end : wait.end + 1] == ("of",):
            last = next((n for n, mark in enumerate(tail) if mark.letter == "&"), len(tail))
            self._part([*tail[:last], wait])  # "after 3 s of creeping, stop"
            return tail[last + 1 :]
        if head and head[-1].letter != "&" and tail and self.heard.words[wait.end - 1] in ("second", "minute"):
            self._part([*tail, wait])  # "stop after a ten-second jog"
            return head
        cut = max((n for n, mark in enumerate(head) if mark.letter == "&"), default=-1)
        if cut > 0 and any(mark.letter != "&" for mark in head[:cut]):
            self._part(head[:cut])
            head = head[cut + 1 :]
        terms, duration_s = self.parts.pop() if self.parts else (self._before(), None)
        if not terms:
            raise NotSure("what to do until then?")
        if duration_s is not None:
            raise NotSure("two durations for the same")
        self.parts.append((terms, wait.value.value))
        return [*head, *tail]


def _in_order(heard: Heard) -> Sequence[Mark]:
    """Return the marks, those of "before you run, walk for 5 s" in the order in which it is done."""
    marks = heard.marks
    cut = next((n for n, mark in enumerate(marks) if mark.letter == "&"), 0)
    return [*marks[cut + 1 :], *marks[:cut]] if cut and heard.words[marks[0].start] == "before" else marks


def _said(heard: Heard, marks: Sequence[Mark]) -> str:
    return " ".join(heard.words[marks[0].start : marks[-1].end])[:60]


_KIND = {"speed": "speed", "faster": "speed", "still": "speed", "stand": "speed", "height": "height", "lean": "pitch"}


def _folded(clauses: list[tuple[str, Sequence[Mark]]]) -> list[tuple[str, Sequence[Mark]]]:
    """Return the clauses of a part, those without a number in the one that has it: "2 km/h backwards, go", "crouch, at 1 m".

    Nor does "and stay there" add anything to what was said, or "faster" to "too slow".
    """
    if len({name for name, _ in clauses}) > 1:
        clauses = [
            (name, some) for name, some in clauses if name != "still" or any(mark.value != "there" for mark in some)
        ]
    for (name, some), (other, more) in itertools.pairwise(clauses):
        if name != "speed" or [m.value for m in some] != ["go"]:
            continue
        near = other in ("height", "lean") and more[0].start < some[-1].end + 4
        begins = clauses[0][1] is some and some[0].letter == "g" and other == "speed"
        if near or (begins and any(m.letter == "g" and m.value not in ("go", "move") for m in more)):
            clauses = [clause for clause in clauses if clause[1] is not some]  # "go upright", "let's go, sprint"
    relative = [some for name, some in clauses if name == "faster"]
    if len(relative) > 1 and len({m.value for some in relative for m in some if m.letter in "rRIM"}) == 1:
        most = max(relative, key=len)
        clauses = [(name, some) for name, some in clauses if name != "faster" or some is most]
    for name, bare, exact in (("speed", "gSbf", "TvnSgbf"), ("height", "ckd", "TukHlnc")):
        same = [some for said, some in clauses if said == name]
        with_number = [some for some in same if any(m.letter in "vln" for m in some)]
        without = [some for some in same if some not in with_number and all(m.letter in bare for m in some)]
        if len(with_number) != 1 or not without or any(m.letter not in exact for m in with_number[0]):
            continue
        whole = list(with_number[0])
        for mark in [mark for some in without for mark in some]:
            if mark.letter in "bf" and not any(m.letter == mark.letter for m in whole):
                whole.append(mark)
        clauses = [(said, whole if some is with_number[0] else some) for said, some in clauses if some not in without]
    return clauses


_AFTERTHOUGHT = re.compile(r"(?<=[rRLfbMc])&+(?=d(?:&|$))|(?<=d)&+d(?=&|$)")
_MOTION = re.compile(r"(?<=[gmbf])&+(?=(?:[gbfS]|d?m)+(?:&|$))")


def _joined(marks: Sequence[Mark]) -> Sequence[Mark]:
    """Return the marks of a part without the comma of "walk, slowly" and "slower, a bit"."""
    for match in reversed(list(_AFTERTHOUGHT.finditer("".join(mark.letter for mark in marks)))):
        marks = [*marks[: match.start()], *marks[match.end() :]]
    letters = "".join(mark.letter for mark in marks)
    for match in reversed(list(_MOTION.finditer(letters))):
        left, right = letters[: match.start()].rsplit("&", 1)[-1], letters[match.end() :].split("&", 1)[0]
        both = left + right
        verbs = sum(mark.letter == "g" or (mark.letter == "b" and bool(mark.value)) for mark in _around(marks, match))
        if (
            verbs < 2
            and set(left) <= set("gbfmdS")
            and all(sum(map(both.count, some)) <= 1 for some in ("g", "m", "bf"))
        ):
            marks = [*marks[: match.start()], *marks[match.end() :]]
    return marks


def _around(marks: Sequence[Mark], match: re.Match[str]) -> Iterator[Mark]:
    """Yield the marks between the commas on either side of a comma."""
    for some in (reversed(marks[: match.start()]), marks[match.end() :]):
        yield from itertools.takewhile(lambda mark: mark.letter != "&", some)


def _segments(marks: Sequence[Mark], end: int) -> Iterator[list[Mark]]:
    """Yield the parts of a sequence whose last word is before `end`; "after crouching, run" is two."""
    found: list[Mark] = []
    for mark in [*marks, Mark(">", "")]:
        if mark.letter != ">":
            found.append(mark)
            continue
        if 0 < mark.end == end and "&" in (letters := "".join(m.letter for m in found).strip("&")):
            cut = len(found) - len("".join(m.letter for m in found).lstrip("&")) + letters.rindex("&")
            yield from _segments(found[:cut], 0)  # "crouch for 2 s, and run after that"
            found = found[cut + 1 :]
        while found and found[-1].letter == "&":
            found.pop()
        while found and found[0].letter == "&":
            found.pop(0)
        for some in _lasting(found):
            yield from _unfolded(some)
        found = []


def _lasting(marks: list[Mark]) -> Iterator[list[Mark]]:
    """Yield the steps of "walk for 10 s, run for 5 s"; all of it, if it is one step."""
    steps, letters = [[]], "".join(mark.letter for mark in marks)
    for mark in marks:
        if mark.letter == "&":
            steps.append([])
        else:
            steps[-1].append(mark)
    lasting = ["t" in (mark.letter for mark in step) for step in steps]
    yield from steps if sum(lasting) > 1 and all(lasting[:-1]) and "A" not in letters and steps[-1] else [marks]


def _unfolded(marks: list[Mark]) -> Iterator[list[Mark]]:
    letters = "".join(mark.letter for mark in marks)
    late = re.search(r"(?<=[^&])A(?!t)", letters)
    if late is not None:  # "stop after walking for 5 s"
        yield marks[late.end() :]
        marks, letters = marks[: late.start()], letters[: late.start()]
    if letters.startswith("A") and not letters.startswith("At"):
        cut = letters.find("&")
        if cut < 0:
            raise NotSure("what comes after it?")
        yield marks[1:cut]
        marks = marks[cut + 1 :]
    if marks:
        yield marks


def offers(heard: Heard, robot: str, current: Goal | None) -> tuple[dict[str, list[Any]], list[float]]:
    """Return the values of each kind, and the durations, that a sentence says: what a model may choose from."""
    before = {} if current is None else {term.kind: term for term in current.terms}
    found: list[tuple[frozenset[int], Term]] = []
    for marks in _candidates(_joined(heard.marks)):
        letters, places = "".join(mark.letter for mark in marks), frozenset(mark.start for mark in marks)
        for name, clause in CLAUSES.items():
            part = Part(robot, before)
            try:
                if fits(name, letters, robot):
                    clause(part, marks)
            except ValueError:
                continue
            found += [(places, term) for term in part.terms.values()]
    offered: dict[str, list[Any]] = {}
    for places, term in found:
        whole = not any(places < more and term.kind == other.kind for more, other in found)
        if whole and term.value not in offered.setdefault(term.kind, []):
            offered[term.kind].append(term.value)
    durations = {mark.value.value for mark in heard.marks if mark.letter == "t"}
    return {kind: values for kind, values in offered.items() if values}, sorted(durations)


def _candidates(marks: Sequence[Mark]) -> Iterator[Sequence[Mark]]:
    """Yield every run of a few marks that a clause may be."""
    for i in range(len(marks)):
        for j in range(i + 1, min(i + 7, len(marks) + 1)):
            if marks[j - 1].letter in "&>FAt":
                break
            yield marks[i:j]
