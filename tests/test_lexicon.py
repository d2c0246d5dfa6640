"""What is said, in numbers and in words: units, the published lexicon, the grammar of commands, and what a model may add to it."""

import json
import math
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import commands, lexicon, quantities
from agents.commands import read
from agents.goals import KINDS, Goal, sequence
from deploy.goal_service.examples import cases, phrases, training
from deploy.goal_service.examples.cases import goal_of, same
from deploy.goal_service.judge import judge_of
from deploy.goal_service.requests import Finished, Ticket, Timings, Token
from deploy.goal_service.sentences import to_goal


def quantity(text):
    words = quantities.tokens(text)
    found = quantities.quantity_at(words, 0)
    assert found is not None, text
    assert found.end == len(words), text
    return found.dimension, found.value


SAID = {
    "half a metre per second": ("speed", 0.5),
    "a metre and a half per second": ("speed", 1.5),
    "3 km/h": ("speed", 3 / 3.6),
    "1,5 m/s": ("speed", 1.5),
    "two miles an hour": ("speed", 0.89408),
    "-0.5 m/s": ("speed", -0.5),
    "minus three quarters of a metre per second": ("speed", -0.75),
    "90 metres per minute": ("speed", 1.5),
    "ninety centimetres": ("length", 0.9),
    "one metre ten": ("length", 1.1),
    "1 m 10 cm": ("length", 1.1),
    "3'6\"": ("length", 1.0668),
    "three feet six inches": ("length", 1.0668),
    "zero point eight five m": ("length", 0.85),
    "15°": ("angle", math.radians(15)),
    "minus five degrees": ("angle", -math.radians(5)),
    "0.2rad": ("angle", 0.2),
    "a minute and a half": ("time", 90.0),
    "one minute thirty": ("time", 90.0),
    "½ minute": ("time", 30.0),
    "a hundred and twenty seconds": ("time", 120.0),
    "a fifth of a radian": ("angle", 0.2),
    "a dozen seconds": ("time", 12.0),
    "20-second": ("time", 20.0),
    "1e9": ("number", 1e9),
}


@pytest.mark.parametrize("text", SAID)
def test_a_quantity_is_read_in_si(text):
    dimension, value = SAID[text]
    assert quantity(text) == (dimension, pytest.approx(value, abs=1e-12))


@given(st.integers(0, 199))
def test_whole_numbers_in_words_are_those_in_digits(n):
    assert quantity(phrases.words(n)) == ("number", n)
    assert quantity(f"{phrases.words(n)} centimetres") == ("length", pytest.approx(n / 100))


@given(
    st.decimals(-100, 100, places=3),
    st.sampled_from(sorted(quantities.LENGTHS)),
    st.sampled_from(sorted(quantities.TIMES)),
)
def test_a_speed_is_a_length_over_a_time(x, length, time):
    scale = quantities.LENGTHS[length] / quantities.TIMES[time]
    for per in ("/", " per "):
        assert quantity(f"{x} {length}{per}{time}") == ("speed", pytest.approx(float(x) * scale, rel=1e-12))


@given(st.randoms(use_true_random=False))
def test_what_the_generator_writes_is_what_is_read(rng):
    for make, dimension in ((phrases.speed, "speed"), (phrases.height, "length"), (phrases.angle, "angle")):
        text, value = make(rng, 0.2, 0.6)
        assert quantity(text) == (dimension, pytest.approx(value, abs=1e-9)), text
    text, value = phrases.seconds(rng)
    assert quantity(text) == ("time", pytest.approx(value))


@pytest.mark.parametrize("text", ["1,000 m", "half", "metres", "a lean", "per second", "x1"])
def test_what_may_be_read_in_two_ways_is_no_quantity(text):
    words = quantities.tokens(text)
    found = quantities.quantity_at(words, 0)
    assert found is None or found.dimension == "number"


@given(st.text())
def test_no_text_upsets_the_reader(text):
    found = read(text, "walker").goal
    assert found is None or found.cannot is not None or found.robot == "walker"


words = st.sampled_from(
    sorted({word for phrase in lexicon.PHRASES for word in phrase} | {"5", "0.5", "m/s", "cm", "s", "degrees"})
)


@given(
    st.lists(words, max_size=9),
    st.sampled_from([None, goal_of("speed:1+height:1.1"), goal_of("pitch:-0.6"), goal_of("speed:6")]),
)
def test_whatever_is_said_with_known_words_a_goal_is_legal(said, current):
    reading = read(" ".join(said), "walker", current)
    if reading.goal is not None:
        assert Goal.from_json(reading.goal.to_json()) == reading.goal
    offered, _ = commands.offers(reading.heard, "walker", current)
    for kind, values in offered.items():
        for value in values:
            KINDS["walker"][kind].check(value)


def test_every_word_is_worth_a_legal_value():
    for row in (*lexicon.PACES.values(), *lexicon.BACKWARD.values()):
        assert list(map(abs, row)) == sorted(map(abs, row))
        assert all(-2 <= x <= 6 for x in row)
    assert all(0.85 <= x <= 1.35 for row in lexicon.HEIGHTS.values() for x in row)


TOLD = {
    "walk backwards slowly": ("", "speed:-0.5"),
    "crouch and walk slowly, then stop": ("", "height:1+speed:0.5 > speed:0"),
    "Walk, slowly.": ("", "speed:0.5"),
    "stand tall": ("", "height:1.3"),
    "get up to 1.5 m/s and stay there": ("", "speed:1.5"),
    "go to a torso height of 1.3 m": ("", "height:1.3"),
    "height: 110 cm": ("", "height:1.1"),
    "0.8 m/s faster": ("speed:1", "speed:1.8"),
    "save a little energy": ("speed:1", "speed:1+0.05*effort"),
    "go at a fast jog": ("", "speed:2.5"),
    "five more degrees of forward lean": ("pitch:0.1", "pitch:0.187266"),
    "carry on for 3 more seconds, then crouch": ("speed:2", "speed:2 for 3 > height:1"),
    "after 3 seconds of creeping, stop": ("", "speed:0.3 for 3 > speed:0"),
    "when 20 seconds have passed, stop": ("speed:1", "speed:1 for 20 > speed:0"),
    "too slow, go much faster": ("speed:1", "speed:2"),
    "wakk slpwly": ("", "speed:0.5"),
    "go upright": ("", "pitch:0"),
    "lower, go lower": ("speed:0.4+height:1", "height:0.9+speed:0.4"),
    "five seconds from now, stand still": ("speed:2.5", "speed:2.5 for 5 > speed:0"),
    "slow to 3 km/h": ("speed:2+height:1.1", "speed:0.8333333+height:1.1"),
    "walk for 5 s, jog for 20, then stop": ("", "speed:1 for 5 > speed:2 for 20 > speed:0"),
    "walk slowly for 10 s, then quickly": ("", "speed:0.5 for 10 > speed:1.5"),
    "crouch for two seconds and sprint after that": ("", "height:1 for 2 > speed:3.4"),
    "crouch. run then walk": ("", "height:1+speed:3 > speed:1"),
    "walk, crouched, for two seconds, and sprint after that.": ("", "speed:1+height:1 for 2 > speed:3.4"),
    "stop after walking slowly for 6 seconds": ("", "speed:0.5 for 6 > speed:0"),
    "torso at 1.1 m for 5 s, then 0.9 m": ("", "height:1.1 for 5 > height:0.9"),
    "lean back 0.3 rad for 2 s, then 0.1 rad, then zero": ("", "pitch:-0.3 for 2 > pitch:-0.1 > pitch:0"),
    "take 1 km/h off your speed": ("speed:2", "speed:1.7222222"),
    "five more seconds of this, then jog": ("speed:1.2", "speed:1.2 for 5 > speed:2"),
    "stay at this height but now jog": ("speed:1+height:1.1", "speed:2+height:1.1"),
    "walk 500 ms -> stop": ("", "speed:1 for 0.5 > speed:0"),
    "walk at 3 km/h for half a minute and then stop": ("", "speed:0.8333333 for 30 > speed:0"),
    "lean back 10 degrees and walk": ("", "pitch:-0.174533+speed:1"),
    "faster": ("speed:-0.5+height:1", "speed:-1+height:1"),
    "slower": ("speed:0.3", "speed:0"),
    "a bit lower": ("speed:1+height:1.2", "speed:1+height:1.15"),
    "much faster": ("speed:5.5", "speed:6"),
    "twice as fast": ("speed:-0.4", "speed:-0.8"),
    "slow down to 0.2 m/s": ("speed:-1+height:1", "speed:-0.2+height:1"),
    "stop in 3 seconds": ("speed:1", "speed:1 for 3 > speed:0"),
    "walk at 1 m/s for 2 s, then faster": ("", "speed:1 for 2 > speed:1.5"),
    "save energy": ("speed:1", "speed:1+0.1*effort"),
    "slow dwon a litle": ("speed:1", "speed:0.75"),
    "2 km/h backwards, go": ("", "speed:-0.5555556"),
    "travel backwards with a speed of 1 m/s": ("", "speed:-1"),
    "knees bent, torso down at 1.05 m": ("", "height:1.05"),
    "walk slowly for 10 s, jog for 5 s, then stop": ("", "speed:0.5 for 10 > speed:2 for 5 > speed:0"),
    "walk for 5 s and stop": ("", "speed:1 for 5 > speed:0"),
    "carry on for 5 seconds and stop": ("speed:1.2+height:1.1", "speed:1.2+height:1.1 for 5 > speed:0"),
    "squat to 1 m and hold it for 5 seconds": ("", "height:1 for 5"),
    "sink a little lower": ("height:1.1+speed:1", "height:1.05+speed:1"),
    "drop to a crouch": ("height:1.2+speed:1", "height:1"),
    "crouch lower": ("height:1.2+speed:1", "height:1.1+speed:1"),
    "rise back up to normal height": ("height:1", "height:1.25"),
    "slow down to a walk": ("", "speed:1"),
    "lean forward a bit more": ("pitch:0.1", "pitch:0.15"),
    "lean back 5 degrees more": ("pitch:-0.1", "pitch:-0.187266"),
    "stop crouching": ("", "height:1.25"),
    "don't walk, run": ("speed:1", "speed:3"),
    "not so fast: 0.8 m/s": ("speed:2", "speed:0.8"),
    "enough sprinting; amble": ("speed:3.4", "speed:0.7"),
    "instead of standing there, stroll": ("speed:0", "speed:0.7"),
    "without any squatting, at normal standing height, go at 1.4 m/s": ("", "height:1.25+speed:1.4"),
    "walk, do not stop": ("", "speed:1"),
    "rather than running, walk slowly": ("", "speed:0.5"),
    "drop to 0.5 m/s": ("speed:2+height:1.1", "speed:0.5+height:1.1"),
    "raise yourself to a torso height of 51 inches": ("", "height:1.2954"),
    "reduce your speed by half": ("speed:2.4", "speed:1.2"),
    "faster by a lot": ("speed:1", "speed:2"),
    "walk very, very slowly": ("", "speed:0.3"),
    "twenty seconds' jogging, then a ten-second walk": ("", "speed:2 for 20 > speed:1 for 10"),
    "jog @ 7 km/h + save energy": ("", "speed:1.9444444+0.1*effort"),
    "walk at 1 m/s, no wait, make it 1.4 m/s": ("", "speed:1.4"),
    "run, er, scratch that, jog": ("", "speed:2"),
    "crouch, sorry, I mean stand tall": ("", "height:1.3"),
    "v 0.9 m/s, h 1.15 m": ("", "speed:0.9+height:1.15"),
    "jog with an effort weight of 0.2": ("", "speed:2+0.2*effort"),
    "economise greatly on energy": ("speed:1", "speed:1+0.3*effort"),
    "three miles to the hour": ("", "speed:1.34112"),
    "two metres in one second": ("", "speed:2"),
    "do 2 mph, would you?": ("", "speed:0.89408"),
    "whoa, slow down a bit": ("speed:2", "speed:1.75"),
    "whoa!": ("speed:2", "speed:0"),
    "cut your speed to zero": ("speed:2", "speed:0"),
    "jog for 8 s, then brake to a standstill": ("", "speed:2 for 8 > speed:0"),
    "crouch, and deeply": ("", "height:0.9"),
    "move out, and keep the pace fast": ("", "speed:2"),
    "off we go, march fast": ("", "speed:1.5"),
    "go on, crouch": ("", "height:1"),
    "go on, crouch ": ("speed:1", "speed:1+height:1"),
    "stop after a ten-second jog": ("", "speed:2 for 10 > speed:0"),
    "be immobile after half a minute's march": ("", "speed:1.2 for 30 > speed:0"),
    "take a stroll; when thirteen seconds are up, halt": ("", "speed:0.7 for 13 > speed:0"),
    "mode: walk; lean: slightly forward": ("", "speed:1+pitch:0.1"),
    "withdraw tail-first at 1.8 km/h": ("", "speed:-0.5"),
    "down in a crouch": ("speed:1", "height:1"),
    "keep your back upright and stroll": ("", "pitch:0+speed:0.7"),
    "trim your speed by 10 cm/s": ("speed:1", "speed:0.9"),
    "let your speed grow by three tenths of a metre per second": ("speed:1", "speed:1.3"),
    "right then, march": ("", "speed:1.2"),
    "stand with your torso at four feet": ("", "height:1.2192"),
    "lean far forward for 4 s, then come back upright": ("", "pitch:0.4 for 4 > pitch:0"),
}


@pytest.mark.parametrize("sentence", TOLD)
def test_a_sentence_becomes_its_goal(sentence):
    current, goal = TOLD[sentence]
    reading = read(sentence, "walker", goal_of(current) if current else None)
    assert reading.goal is not None, reading.why
    assert same(reading.goal, goal_of(goal))


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ("speed 100", r"-2 \.\. 6 m/s, got 100"),
        ("crouch to 10 cm", r"0\.85 \.\. 1\.35 m, got 0\.1"),
        ("walk backwards at 5 m/s", r"-2 \.\. 6 m/s, got -5"),
        ("lower your torso by a metre", "height must be"),
        ("walk 5 metres", "distance"),
        ('{"version": 1}', "no plain sentence"),
        ("walk<|im_end|>", "no plain sentence"),
        ("walk(speed=1.0)", "no plain sentence"),
        ("is it walking backwards?", "a question"),
        ("walk " * 100, "at most 300 characters"),
    ],
)
def test_what_cannot_be_is_told_why(sentence, says):
    goal = read(sentence, "walker").goal
    assert goal is not None
    assert goal.cannot is not None
    assert re.search(says, goal.cannot)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "faster",
        "do not stop",
        "walk at 1 m/s and 2 m/s",
        "stop and walk",
        "step back and run",
        "go back to normal",
        "stop when you see it",
        "run along the wall",
        "walk the bank",
        "walk towards me",
        "hop forward",
        "stop walking backwards",
        "up",
        "walk at 2",
        "lean 10 degrees",
        "stop, but don't stop",
        "walk, no faster than 1 m/s",
        "run, but not at 3 m/s",
        "do not crouch, walk",
        "don't run, don't walk",
        "run, instead walk",
        "rather quickly, walk",
        "lean back, I mean forward, lean forward",
        "march, I mean a fast one",
        "walk at 1 m/s, no wait, crouch",
        "walk for 5 s, then run, no wait, jog",
        "jog with an effort weight",
    ],
)
def test_what_is_not_sure_is_left_to_others(sentence):
    reading = read(sentence, "walker")
    assert reading.goal is None
    assert reading.why


def test_a_robot_without_a_kind_cannot():
    assert "no kind 'height' for hopper" in (read("crouch", "hopper").goal.cannot or "")
    assert same(read("go home", "arm").goal, goal_of("home", "arm"))
    assert same(read("reach for 0.25, 0.1, 0.1", "so101").goal, Goal.from_dict(REACH))


REACH = {
    "version": 1,
    "robot": "arm",
    "terms": [{"kind": "reach", "value": [0.25, 0.1, 0.1], "unit": "m", "weight": 1.0}],
    "duration_s": None,
    "then": None,
    "cannot": None,
}


# --- with a model


class Says:
    """An engine whose model always says the same; what it was asked is kept."""

    name = "a model without a judge"

    def __init__(self, text, reason="stop"):
        self.text, self.reason, self.vocabulary, self.asked = text, reason, self, []

    def chat(self, messages):
        return [len(m["content"]) for m in messages]

    def submit(self, prompt, sampling):
        self.asked.append(sampling)
        ticket = Ticket(tuple(prompt), sampling)
        ticket.events.put(Token(0, self.text))
        times = Timings(1, 0, 1, 0.0, 0.1, 0.1, 1, 0, 0, 0, 0, 0, "ar")
        ticket.events.put(Finished(self.reason, times))
        return ticket


def asked(sentence, answer, current="", reason="stop"):
    engine = Says(answer if isinstance(answer, str) and answer[:1] in "{x" else goal_of(answer).to_json(), reason)
    goal, timings = to_goal(sentence, "walker2d", goal_of(current) if current else None, engine)
    return goal, timings, engine


def test_a_sentence_that_is_understood_needs_no_model():
    goal, timings, engine = asked("walk slowly", "speed:3")
    assert same(goal, goal_of("speed:0.5"))
    assert timings["path"] == "words"
    assert engine.asked == []
    assert timings["total_s"] < 0.1


def test_where_only_words_that_nobody_knows_are_left_a_model_says_whether_they_matter():
    goal, timings, engine = asked("pray plod backwards at 0.4 m/s", "speed:-0.4")
    assert same(goal, goal_of("speed:-0.4"))
    assert timings["path"] == "model"
    (sampling,) = engine.asked
    assert sampling.temperature == 0
    yes, no = (choice["const"] for choice in json.loads(sampling.grammar.source)["anyOf"])
    assert same(Goal.from_dict(yes), goal)
    assert Goal.from_dict(no).cannot == "not understood"


def test_a_model_chooses_among_what_was_said():
    goal, _, engine = asked("stop and plod at 0.4 m/s", "speed:0.4 > speed:0")
    assert goal.cannot is not None  # no order was said
    terms = json.loads(engine.asked[0].grammar.source)["$defs"]["goal"]["properties"]["terms"]["items"]["anyOf"]
    assert [(t["properties"]["kind"]["const"], t["properties"]["value"]["enum"]) for t in terms] == [
        ("speed", [0.0, 0.4])
    ]


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("pray plod backwards at 0.4 m/s", "speed:0.4"),
        ("pray plod backwards at 0.4 m/s", "speed:-0.8"),
        ("pray plod at 0.4 m/s", "speed:0.4+height:1"),
        ("pray plod at 0.4 m/s", "speed:0.4 for 3"),
        ("pray plod at 0.4 m/s", "speed:0.4 > speed:0.4"),
        ("pray plod at 0.4 m/s for 3 s", "speed:0.4"),
        ("pray crouch whilst plodding at 0.4 m/s", "speed:0.4"),
        ("pray plod at 0.4 m/s then stop", "speed:0.4"),
        ("pray plod at 0.4 m/s", "x"),
        ("pray plod at 0.4 m/s", '{"version": 1}'),
    ],
)
def test_what_a_model_invents_or_leaves_out_is_refused(sentence, answer):
    goal, timings, _ = asked(sentence, answer)
    assert goal.cannot is not None
    assert timings["path"] == "model"


def test_an_answer_that_was_cut_off_is_refused():
    goal, _, _ = asked("pray plod at 0.4 m/s", "speed:0.4", reason="deadline")
    assert "deadline" in goal.cannot


class Feels(Says):
    """An engine of the model that the judge knows; its features say so many log-odds more or less than are believed."""

    def __init__(self, above):
        super().__init__("x")
        self.judge = judge_of("SmolLM2-135M-Instruct.Q4_1")
        self.name, self.above, self.looked = self.judge.model, above, []

    def chat(self, messages):
        return list((messages[-1]["content"] + "\n").encode())

    def mean_features(self, tokens, first, depth, deadline_s):
        self.looked.append(bytes(tokens).decode())
        if deadline_s <= 0:
            raise TimeoutError
        weights = self.judge.weights_W
        return weights * (self.judge.least - self.judge.bias + self.above) / (weights @ weights)


def test_a_judge_says_whether_unknown_words_matter_and_nothing_is_written():
    said = "pray plod backwards at 0.4 m/s like a burglar"
    for above in (0.01, -0.01):
        engine = Feels(above)
        goal, timings = to_goal(said, "walker2d", None, engine)
        assert engine.looked == [f"Sentence: {said}\nOther words: pray, burglar\n"]
        assert (engine.asked, timings["path"]) == ([], "model")
        assert (goal.cannot is None) == (above > 0)
        assert goal.cannot is not None or same(goal, goal_of("speed:-0.4"))
    late, _ = to_goal(said, "walker2d", None, Feels(1.0), deadline_s=0.0)
    assert "deadline" in late.cannot


@pytest.mark.parametrize(
    "said", ["pray do not walk", "walk at a skow pace", "pray a b2 c3 d4 e5 f6 g7 h8 walk", "pray"]
)
def test_no_judge_is_asked_about_what_is_impossible_misspelt_or_too_much(said):
    engine = Feels(1.0)
    assert to_goal(said, "walker", None, engine)[0].cannot is not None
    assert engine.looked == []


class Babbles(Says):
    """Its model says the first thing that it may, but never that it cannot."""

    def submit(self, prompt, sampling):
        schema = json.loads(sampling.grammar.source)
        if "$defs" not in schema:
            self.text = json.dumps(schema["anyOf"][0]["const"])
            return super().submit(prompt, sampling)
        goal = schema["$defs"]["goal"]["properties"]
        term = goal["terms"]["items"]["anyOf"][0]["properties"]
        made = {key: of["enum"][0] if key == "value" else of["const"] for key, of in term.items()}
        self.text = json.dumps(
            {**goal_of("speed:0").to_dict(), "terms": [made], "duration_s": goal["duration_s"]["enum"][0]}
        )
        return super().submit(prompt, sampling)


def test_of_the_impossible_most_is_refused_even_if_a_model_says_yes_to_everything():
    found = cases.read(cases.IMPOSSIBLE)
    goals = [to_goal(case.sentence, case.robot, case.current, Babbles(""))[0] for case in found]
    assert sum(goal.cannot is not None for goal in goals) >= 0.7 * len(found)


# --- the sentences to judge by


@pytest.mark.parametrize(
    ("name", "least"), [(cases.GENERATED, 300), (cases.HANDWRITTEN, 60), (cases.IMPOSSIBLE, 60), (cases.DEV, 90)]
)
def test_the_sentences_to_judge_by_are_there(name, least):
    found = cases.read(name)
    assert len({case.sentence for case in found}) == len(found) >= least
    assert all(case.goal.robot == commands.robot_of(case.robot) for case in found)
    if name == cases.HANDWRITTEN:
        assert sum(case.current is not None for case in found) >= 15
        assert sum(len(sequence(case.goal)) > 1 for case in found) >= 8


@pytest.mark.parametrize("name", [cases.GENERATED, cases.HANDWRITTEN, cases.IMPOSSIBLE])
def test_nothing_to_judge_by_is_learned_from(name):
    learned = training.cases(Random(1), 4000)
    assert all(case.goal.robot == "walker" for case in learned)
    assert cases.shared(learned, cases.read(name)) == set()
    assert cases.shared(cases.read(cases.STRANGERS), cases.read(name)) == set()


def test_a_skeleton_has_no_numbers_and_the_rule_catches_what_it_should():
    assert cases.skeleton("Walk at 1.5 m/s, for twenty-five s!") == cases.skeleton("walk at 3 m/s for forty-one s")
    one, other = (cases.Case(f"go at {n} m/s", "walker", None, goal_of("speed:1")) for n in (1, "two"))
    assert cases.shared([one], [other]) == {"go at # m/s"}


@pytest.mark.parametrize(("name", "least"), [(cases.HANDWRITTEN, 0.7), (cases.GENERATED, 0.8), (cases.IMPOSSIBLE, 1.0)])
def test_without_a_model_most_sentences_are_right_and_hardly_one_is_wrong(name, least):
    found = cases.read(name)
    goals = [to_goal(case.sentence, case.robot, case.current)[0] for case in found]
    right = [same(goal, case.goal) for goal, case in zip(goals, found, strict=True)]
    assert sum(right) >= least * len(found)
    wrong = [goal for goal, ok in zip(goals, right, strict=True) if not ok and goal.cannot is None]
    assert len(wrong) <= 0.01 * len(found)
