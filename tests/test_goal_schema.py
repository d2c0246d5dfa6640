"""The one schema of goals: what it takes, what it refuses, what planners make of it, and when the next goal begins."""

import json
import math
import subprocess
import sys

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.goals import DEEPEST, KINDS, Goal, Term, json_schema, objective, refusal, robot_of, sequence
from agents.pursuit import HELD_S, Pursuit, advance, rest
from deploy.goal_service.examples.cases import goal_of
from envs.arm import REACH_BOX
from envs.robots import ROBOTS
from planners import objectives

EXAMPLE = {
    "version": 1,
    "robot": "walker",
    "terms": [{"kind": "speed", "value": -0.5, "unit": "m/s", "weight": 1.0}],
    "duration_s": None,
    "then": None,
    "cannot": None,
}


def term(kind="speed", value=-0.5, unit="m/s", weight=1.0):
    return {"kind": kind, "value": value, "unit": unit, "weight": weight}


def test_the_example_of_the_design_is_a_goal_and_comes_back_as_it_was():
    goal = Goal.from_json(json.dumps(EXAMPLE))
    assert goal == Goal("walker", (Term("speed", -0.5, "m/s", 1.0),))
    assert goal.to_dict() == EXAMPLE
    assert goal.to_json() == json.dumps(EXAMPLE)


WRONG = {
    "unknown key": ({"speed": 1}, "has no 'speed'"),
    "version": ({"version": 2}, "version must be 1"),
    "version as truth": ({"version": True}, "version must be 1"),
    "robot": ({"robot": "dog"}, "robot must be one of walker"),
    "no terms": ({"terms": []}, "at least one"),
    "terms": ({"terms": {}}, "terms must be a list"),
    "unit": ({"terms": [term(unit="km/h")]}, "unit of speed must be \"m/s\", got 'km/h'"),
    "range": ({"terms": [term(value=7)]}, r"speed must be -2 \.\. 6 m/s, got 7"),
    "nan": ({"terms": [term(value=math.nan)]}, "finite number"),
    "huge": ({"terms": [term(value=10**400)]}, "speed"),
    "truth": ({"terms": [term(value=True)]}, "finite number, got True"),
    "text": ({"terms": [term(value="fast")]}, "finite number, got 'fast'"),
    "kind": ({"terms": [term(kind="reach")]}, "no kind 'reach' for walker"),
    "a list as kind": ({"terms": [term(kind=[])]}, "no kind"),
    "effort with a value": ({"terms": [term("effort", 1, None)]}, "must be null"),
    "twice": ({"terms": [term(), term(value=1)]}, "each kind once"),
    "weight": ({"terms": [term(weight=0)]}, "weight of speed"),
    "weight inf": ({"terms": [term(weight=math.inf)]}, "weight"),
    "term key": ({"terms": [{**term(), "why": 1}]}, "has no 'why'"),
    "duration": ({"duration_s": 0}, "duration_s must be"),
    "negative duration": ({"duration_s": -1}, "duration_s must be"),
    "cannot with terms": ({"cannot": "no"}, "has no terms"),
    "empty cannot": ({"terms": [], "cannot": ""}, "cannot must be a reason"),
    "cannot of two lines": ({"terms": [], "cannot": "a\nb"}, "one line"),
    "then": ({"then": {**EXAMPLE, "robot": "hopper"}}, "same robot"),
    "then cannot": ({"then": {**EXAMPLE, "terms": [], "cannot": "no"}}, "can be pursued"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_no_goal_is_told_in_one_line(how):
    changes, says = WRONG[how]
    with pytest.raises(ValueError, match=says) as error:
        Goal.from_dict({**EXAMPLE, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "[" * 100_000, b"\xff"])
def test_a_text_that_is_no_goal_is_told_in_one_line(text):
    with pytest.raises(ValueError, match="goal") as error:
        Goal.from_json(text)
    assert "\n" not in str(error.value)


def test_a_key_that_is_missing_is_named():
    with pytest.raises(ValueError, match="needs cannot"):
        Goal.from_dict({key: value for key, value in EXAMPLE.items() if key != "cannot"})


def test_a_sequence_is_at_most_so_deep():
    tree = EXAMPLE
    for _ in range(DEEPEST - 1):
        tree = {**EXAMPLE, "then": tree}
    assert len(sequence(Goal.from_dict(tree))) == DEEPEST
    with pytest.raises(ValueError, match="at most 8"):
        Goal.from_dict({**EXAMPLE, "then": tree})
    for _ in range(5000):
        tree = {**EXAMPLE, "then": tree}
    with pytest.raises(ValueError, match="at most 8"):
        Goal.from_dict(tree)


values = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5))
trees = st.recursive(
    values, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3), max_leaves=8
)


@given(st.sampled_from(list(EXAMPLE)), trees)
def test_nothing_but_a_line_comes_of_nonsense(key, tree):
    try:
        goal, line = Goal.from_dict({**EXAMPLE, key: tree}), ""
    except ValueError as error:
        goal, line = Goal.from_dict(EXAMPLE), str(error)
    assert "\n" not in line
    assert Goal.from_json(goal.to_json()) == goal


@given(st.sampled_from(list(KINDS)), st.data())
def test_the_json_schema_takes_what_the_schema_takes(robot, data):
    kinds = data.draw(st.lists(st.sampled_from(list(KINDS[robot])), min_size=1, unique=True))
    made = []
    for kind in kinds:
        of = KINDS[robot][kind]
        numbers = [data.draw(st.floats(*limits)) for limits in of.ranges]
        made.append(
            Term.of(robot, kind, "door-1" if of.named else numbers if len(numbers) > 1 else (numbers or [None])[0])
        )
    goal = Goal(robot, tuple(made), data.draw(st.none() | st.floats(0.1, 100)))
    jsonschema_rs.Draft202012Validator(json_schema(robot)).validate(goal.to_dict())
    assert Goal.from_json(goal.to_json()) == goal


@pytest.mark.parametrize(
    "how", ["unknown key", "version", "range", "unit", "kind", "weight", "duration", "cannot with terms"]
)
def test_the_json_schema_refuses_what_the_schema_refuses(how):
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.Draft202012Validator(json_schema("walker")).validate({**EXAMPLE, **WRONG[how][0]})


def test_a_schema_of_what_was_said_takes_nothing_else():
    schema = jsonschema_rs.Draft202012Validator(json_schema("walker", {"speed": [0.5, -0.5]}, [3.0], False, "unclear"))
    assert schema.is_valid(goal_of("speed:-0.5 for 3").to_dict())
    assert schema.is_valid(refusal("walker", "unclear").to_dict())
    for text in ("speed:0.6", "speed:0.5 for 4", "height:1", "speed:0.5 > speed:-0.5", "! because"):
        assert not schema.is_valid(goal_of(text).to_dict())


def test_ranges_lie_within_those_of_planners_and_robots_are_those_in_simulation():
    for kinds in KINDS.values():
        for name in kinds.keys() & {"speed", "height", "pitch", "effort"}:
            unit, limits = objectives.KINDS[name]
            assert (kinds[name].unit or "") == unit
            for (low, high), (least, most) in zip(kinds[name].ranges, limits, strict=True):
                assert least <= low < high <= most
    assert {
        robot_of(name) for name in ROBOTS if name in ("walker2d", "hopper", "halfcheetah", "so101", "pusht")
    } <= set(KINDS)
    assert tuple(zip(*REACH_BOX.tolist(), strict=True)) == KINDS["arm"]["reach"].ranges


@given(st.floats(-2, 6), st.floats(0.85, 1.35), st.floats(-0.6, 0.6), st.floats(0.01, 10))
def test_planners_read_every_goal_of_a_walker(speed, height, pitch, weight):
    terms = (
        Term.of("walker", "speed", speed),
        Term.of("walker", "height", height, weight),
        Term.of("walker", "effort"),
    )
    for some in (terms, (*terms, Term.of("walker", "pitch", pitch)), terms[2:]):
        objectives.parse_objective(objective(Goal("walker", some)))


def test_an_objective_says_the_same_as_its_goal():
    assert objective(goal_of("speed:-0.5+height:1+0.1*effort")) == "speed:-0.5+height:1.0+0.1*effort"
    assert objective(goal_of("0.3*effort")) == "run+0.3*effort"
    assert objective(Goal("cube", (Term.of("cube", "image", "lid-on"),))) == "image:lid-on"
    with pytest.raises(ValueError, match="no planner pursues 'home'"):
        objective(goal_of("home", "arm"))
    with pytest.raises(ValueError, match="nothing to pursue: no doors"):
        objective(refusal("walker", "no doors"))


def test_a_picture_is_named_and_is_no_path():
    for name in ("../secret", "/etc/passwd", "A B", "", "x" * 65, 3):
        with pytest.raises(ValueError, match="name of a picture"):
            Term.of("cube", "image", name)


# --- pursuit


def pursued(goal, readings, seconds, dt_s=0.05):
    """The goals under way at each step, and the time at which each began."""
    now, found = Pursuit(goal, 0.0), [(0.0, goal)]
    for step in range(round(seconds / dt_s)):
        now = advance(now, step * dt_s, readings(step * dt_s))
        if now.goal is not found[-1][1]:
            found.append((step * dt_s, now.goal))
    return found


def test_the_next_goal_begins_after_the_duration_and_then_the_robot_rests():
    goal = goal_of("speed:1 for 2 > height:1 for 3")
    found = pursued(goal, lambda _: {"speed": 0.0}, 10)
    assert [(pytest.approx(t), g) for t, g in found] == [(0.0, goal), (2.0, goal.then), (5.0, rest("walker"))]


def test_the_next_goal_begins_once_all_terms_have_held():
    goal = goal_of("speed:1+height:1.1 > speed:0")
    found = pursued(goal, lambda t: {"speed": 1.0, "height": 1.1 if t >= 3 else 1.25}, 10)
    assert [g for _, g in found] == [goal, goal.then]
    assert 3 + HELD_S < found[1][0] < 3 + HELD_S + 1.5


def test_a_goal_that_is_not_reached_goes_on():
    goal = goal_of("speed:1 > speed:0")
    for readings in ({"speed": 0.7}, {}, {"speed": math.nan}):
        assert len(pursued(goal, lambda _, r=readings: r, 30)) == 1


def test_a_gait_sways_about_its_speed():
    goal = goal_of("speed:1 > speed:0")
    assert len(pursued(goal, lambda t: {"speed": 1 + 0.5 * math.sin(20 * t)}, 10)) == 2
    assert len(pursued(goal_of("speed:1"), lambda _: {"speed": 1.0}, 10)) == 1


def test_goals_load_no_torch():
    names = "agents.goals, agents.pursuit, agents.lexicon, agents.commands, agents.gist"
    code = f"import sys, {names}; print(sorted({{'torch', 'mujoco', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
