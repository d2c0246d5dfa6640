"""From a sentence to a goal: by the grammar of commands alone where it understands every word, else with the model's help.

Of the packaged model it is known how to tell whether the words that nobody understands matter (deploy/goal_service/judge.py); what
it would write by itself is wrong as often as right, and it is not asked to. Another model decides what belongs together and in
which order; a value it can only choose among those that were said or that the lexicon gives, and what it leaves out or adds is
found afterwards. What nobody understands is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agents.commands import Heard, Reading, offers, read
from agents.goals import Goal, Term, json_schema, refusal, robot_of, sequence
from agents.lexicon import IMPOSSIBLE, SAYING, STANDING_M, slips
from deploy.goal_service.judge import Judge, Looker, judge_of
from deploy.goal_service.requests import Finished, Grammar, Sampling, Ticket

UNCLEAR = "not understood"
MOST_UNREAD = 3
"""Words that the model may make something of; a sentence with more of them is about something else."""
MOST_TO_JUDGE = 10
"""Words of which it may be judged whether they mean anything."""
ALIKE = 1e-6
MAX_TOKENS = 320
DEADLINE_S = 10.0


class Vocabulary(Protocol):
    """What a prompt is made with."""

    def chat(self, messages: list[dict[str, str]], /) -> Sequence[int]:
        """Return the tokens of a conversation, ready for the answer."""
        ...


class Engine(Looker, Protocol):
    """Whoever decodes; deploy/goal_service/engine.py does."""

    def submit(self, prompt: Sequence[int], sampling: Sampling, /) -> Ticket:
        """Begin an answer. Raises ValueError for a bad request, Busy where the queue is full."""
        ...


def to_goal(
    sentence: str, robot: str, current: Goal | None = None, engine: Engine | None = None, deadline_s: float = DEADLINE_S
) -> tuple[Goal, dict[str, Any]]:
    """Return the goal that a sentence asks for, `cannot` with a reason if it asks for none, and what it took.

    Timings: `path` (words: without the model; model; refused: nobody understood it), `words_s`, `model_s`, `total_s`, and those of
    the engine. Raises ValueError for a robot without goals, and what the engine raises.
    """
    began_s = time.perf_counter()
    robot = robot_of(robot)
    if current is not None and current.cannot is not None:
        current = None
    found = read(sentence, robot, current)
    words_s = time.perf_counter() - began_s
    timings: dict[str, Any] = {"path": "words", "words_s": words_s, "model_s": 0.0}
    goal, why = found.goal, found.why
    if goal is None:
        offered, durations_s = offers(found.heard, robot, current)
        judge = judge_of(engine.name) if engine is not None and robot != "arm" else None
        may = may_ask(found.heard, offered) if judge is None else found.guess is not None and may_judge(found.heard)
        if engine is None or not may:
            goal, timings["path"] = refusal(robot, why), "refused"
        elif judge is not None:
            goal, timings["path"] = _judged(judge, sentence, robot, found, engine, deadline_s), "model"
        else:
            asked = found.heard, robot, current, offered, durations_s, found.guess
            goal, spent = _ask(sentence, *asked, engine, deadline_s)
            timings |= {"path": "model", **spent}
        if timings["path"] == "model":
            timings["model_s"] = time.perf_counter() - began_s - words_s
    return goal, {**timings, "total_s": time.perf_counter() - began_s}


def warm_up(engine: Engine) -> None:
    """Let the engine read what every prompt begins with, if that fits, so that the first sentence need not wait for it."""
    prompt = engine.vocabulary.chat(messages("", "walker", None, {}, []))
    try:
        ticket = engine.submit(prompt, Sampling(0.0, max_tokens=1))
    except ValueError:
        return
    for _ in ticket:
        pass


def may_ask(heard: Heard, offered: Mapping[str, list[Any]]) -> bool:
    """Return whether a model may try a sentence that the grammar of commands did not understand."""
    return bool(offered) and len(heard.unread) <= MOST_UNREAD and not IMPOSSIBLE.intersection(heard.words)


def may_judge(heard: Heard) -> bool:
    """Return whether it may be asked if the unknown words of a sentence mean nothing: none is impossible or a slip of the pen."""
    few = len(heard.unread) <= MOST_TO_JUDGE and not IMPOSSIBLE.intersection(heard.words)
    return few and not any(slips(word.lower()) for word in heard.unread)


def _judged(judge: Judge, sentence: str, robot: str, found: Reading, engine: Engine, deadline_s: float) -> Goal:
    """Return the guess if the words that nobody knows mean nothing, else a refusal."""
    assert found.guess is not None
    try:
        if judge.accepts(engine, sentence, found.heard.unread, deadline_s):
            return found.guess
    except TimeoutError:
        return refusal(robot, "the model did not finish (deadline)")
    return refusal(robot, found.why)


def _ask(
    sentence: str,
    heard: Heard,
    robot: str,
    current: Goal | None,
    offered: Mapping[str, list[Any]],
    durations_s: list[float],
    guess: Goal | None,
    engine: Engine,
    deadline_s: float,
) -> tuple[Goal, dict[str, Any]]:
    """Return what the model makes of it, checked, and what that took; with a `guess` it only says whether that is it."""
    follows = any(letter in heard.letters for letter in ">A")
    schema = json_schema(robot, offered, durations_s, follows, UNCLEAR)
    if guess is not None:
        schema = {"anyOf": [{"const": guess.to_dict()}, {"const": refusal(robot, UNCLEAR).to_dict()}]}
    grammar = Grammar("json", json.dumps(schema))
    prompt = engine.vocabulary.chat(messages(sentence, robot, current, offered, durations_s))
    ticket = engine.submit(prompt, Sampling(0.0, max_tokens=MAX_TOKENS, grammar=grammar, deadline_s=deadline_s))
    text, end = "", None
    for event in ticket:
        if isinstance(event, Finished):
            end = event
        else:
            text += event.text
    assert end is not None  # a ticket ends so
    spent = {
        "tokens": end.timings.completion_tokens,
        "first_token_s": end.timings.first_token_s,
        "mode": end.timings.mode,
    }
    if end.reason != "stop":
        return refusal(robot, f"the model did not finish ({end.reason}) {end.message}".strip()), spent
    try:
        goal = Goal.from_json(text)
    except ValueError as error:
        return refusal(robot, f"{UNCLEAR}: {error}"), spent
    wrong = None if goal.cannot is not None or goal == guess else unsaid(goal, heard, current, offered, durations_s)
    return goal if wrong is None else refusal(robot, f"{UNCLEAR}: {wrong}"), spent


def messages(
    sentence: str,
    robot: str,
    current: Goal | None,
    offered: Mapping[str, list[Any]],
    durations_s: Sequence[float],
) -> list[dict[str, str]]:
    """Return the conversation that a model is asked with: what to do, a few examples, and the sentence with its values."""
    found = [{"role": "system", "content": SYSTEM}]
    for said, values, lasting, goal in SHOTS:
        found.append({"role": "user", "content": _question(said, "walker", None, values, lasting)})
        found.append({"role": "assistant", "content": json.dumps(goal)})
    return [*found, {"role": "user", "content": _question(sentence, robot, current, offered, durations_s)}]


def _question(
    sentence: str, robot: str, current: Goal | None, offered: Mapping[str, list[Any]], durations_s: Sequence[float]
) -> str:
    values = "; ".join(f"{kind}: {', '.join(map(json.dumps, some))}" for kind, some in offered.items())
    lasting = f"; duration_s: {', '.join(map(json.dumps, durations_s))}" if durations_s else ""
    now = "none" if current is None else ", ".join(f"{term.kind} {term.value}" for term in current.terms)
    return f"robot: {robot}\nnow: {now}\nvalues: {values}{lasting}\nsentence: {sentence}"


SYSTEM = (
    "You turn what an operator says to a robot into a goal, as JSON. Use only the values that are listed, only what the sentence "
    f'asks for, and in its order: what comes later is in "then". If it asks for something else, "cannot" is "{UNCLEAR}".'
)


def _shot(*parts: tuple[Mapping[str, float], float | None]) -> dict[str, Any]:
    goal: Goal | None = None
    for terms, lasts_s in reversed(parts):
        goal = Goal("walker", tuple(Term.of("walker", kind, value) for kind, value in terms.items()), lasts_s, goal)
    assert goal is not None
    return goal.to_dict()


SHOTS: Sequence[tuple[str, Mapping[str, list[Any]], Sequence[float], dict[str, Any]]] = (
    (
        "squat a bit whilst plodding on, for a good 12 s, and after this be still",
        {"height": [1.1, 1.0], "speed": [1.0, 0.0]},
        [12.0],
        _shot(({"height": 1.1, "speed": 1.0}, 12.0), ({"speed": 0.0}, None)),
    ),
    ("be a good one and paint at 1 m/s", {"speed": [1.0, -1.0]}, [], refusal("walker", UNCLEAR).to_dict()),
    (
        "would it suit you to amble rearward doing 0.4 m/s",
        {"speed": [0.4, -0.4, 0.7, -0.8]},
        [],
        _shot(({"speed": -0.4}, None)),
    ),
)
"""Sentence, values, durations and answer."""


def unsaid(
    goal: Goal, heard: Heard, current: Goal | None, offered: Mapping[str, list[Any]], durations_s: Sequence[float]
) -> str | None:
    """Return what a goal has that was not said, or leaves out of what was; None where it has neither."""
    goals, letters = sequence(goal), heard.letters
    terms = [term for one in goals for term in one.terms]
    lasting = [one.duration_s for one in goals if one.duration_s is not None]
    for term in terms:
        if not any(_alike(term.value, value) for value in offered.get(term.kind, [])):
            return f"{term.kind} {term.value} was not said"
    if sorted(lasting) != sorted(mark.value.value for mark in heard.marks if mark.letter == "t"):
        return "not every duration that was said, once"
    kinds = {term.kind for term in terms}
    for kind, marks in SAYING.items():
        said = any(letter in letters for letter in marks)
        if said != (kind in kinds) and (said or not _carried(kind, current)):
            return f"{kind} was {'said' if said else 'not said'}"
    if ("b" in letters) != any(_backward(term) for term in terms) and not _carried("speed", current):
        return "the direction that was said" if "b" in letters else "a direction that was not said"
    if ("s" in letters or "Z" in letters) and not any(term.kind == "speed" and not term.value for term in terms):
        return "to stop was said"
    if len(goals) != 1 + sum(letter == ">" for letter in letters.strip(">&")) and "A" not in letters:
        return "another number of steps was said"
    return _left_out(terms, heard, current)


def _left_out(terms: Sequence[Term], heard: Heard, current: Goal | None) -> str | None:
    """Return a quantity that was said and that no term shows."""
    before = {} if current is None else {term.kind: term.value for term in current.terms}
    for mark in heard.marks:
        kinds = {"v": ["speed"], "l": ["height"], "a": ["pitch"], "n": ["speed", "height", "pitch"]}.get(mark.letter)
        if kinds is None:
            continue
        x, now = round(mark.value.value, 6), before.get(kinds[0])
        start = now if isinstance(now, float) else STANDING_M if kinds == ["height"] else 0.0
        meant = (x, -x, start + x, start - x)
        if not any(term.kind in kinds and any(_alike(term.value, value) for value in meant) for term in terms):
            return f"{x:g} was said"
    return None


def _backward(term: Term) -> bool:
    return term.kind in ("speed", "pitch") and isinstance(term.value, float) and term.value < 0


def _carried(kind: str, current: Goal | None) -> bool:
    return current is not None and any(term.kind == kind for term in current.terms)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= ALIKE
    return one == other
