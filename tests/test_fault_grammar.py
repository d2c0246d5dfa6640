"""The grammar of faults: what is legal, what is refused, and that text and value are the same thing."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.faults import KINDS, Fault, FaultWrapper, check_fault, parse_faults
from envs.robots import ROBOTS, make_env

WALKER = ROBOTS["walker2d"]


def test_the_example_of_the_manual_reads_as_meant():
    limit, slip = parse_faults(["actuator_limit:foot_left_joint:0.5@4.0-60", "friction:all:0.3@10"], WALKER)
    assert limit == Fault("actuator_limit", "foot_left_joint", 0.5, 4.0, 60.0)
    assert slip == Fault("friction", "all", 0.3, 10.0, math.inf)
    assert str(limit) == "actuator_limit:foot_left_joint:0.5@4-60"


@pytest.mark.parametrize("dt_s", [0.008, 0.03, 0.05, 0.1])
def test_a_fault_begins_and_ends_at_the_control_steps_of_its_times_whatever_the_rounding(dt_s):
    for k in range(2000):
        start_s, end_s = round(k * dt_s, 6), round((k + 2) * dt_s, 6)
        fault = Fault("mass", "all", 2.0, start_s, end_s)
        assert [fault.is_active(i * dt_s) for i in range(k - 1, k + 4)] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fricton:all:0.3@1", "unknown fault kind 'fricton' .* did you mean friction.*actuator_limit, .*push"),
        ("friction:foot_gem:0.3@1", "unknown friction target 'foot_gem' .* did you mean foot_geom.*choose from floor,"),
        ("actuator_limit:ankle:0.5@1", "unknown actuator_limit target 'ankle' .*foot_left_joint, all"),
        ("joint_lock:all:-@1", "unknown joint_lock target 'all' .*choose from thigh_joint"),
        ("push:all:3@1", "unknown push target 'all' .*choose from torso"),
        ("mass:world:3@1", "unknown mass target 'world'"),
        ("obs_noise:17:1@0", r"unknown obs_noise target '17' .*speed.*0 \.\. 16"),
        ("obs_noise:pich:1@0", "did you mean pitch"),
        ("teleport:block:30@1", "'teleport' is not available for walker2d, which has no object"),
        ("friction:all:-1@1", r"value of friction:all:-1@1 must be a number in \[0, inf\]"),
        ("friction:all:-@1", "value of friction:all:-@1 must be a number"),
        ("obs_drop:all:1.5@1", r"must be a number in \[0, 1\]"),
        ("action_delay:all:1.5@1", "must be a whole number"),
        ("mass:all:0@1", r"must be a number in \[0.001, 1000\]"),
        ("friction:all:1e999@1", "must be a number"),
        ("friction:all:1@5-2", "must start at 0 s or later, and end after it starts"),
        ("friction:all:1@5-5", "end after it starts"),
        *[(t, r"cannot read fault .*: expected KIND:TARGET:VALUE@START\[-END\], for example actuator_limit:foot_left")
          for t in ("", "friction", "friction:all@1", "friction:all:1", "friction:all:1@", "friction:all:x@1",
                    "friction:all:1@-1", "friction:all:1@1-", "friction:all:nan@1", "friction:all:1@1 ", "a:b:c:1@1")],
    ],
)  # fmt: skip
def test_what_is_not_legal_is_refused_in_one_line_that_says_what_is(text, message):
    with pytest.raises(ValueError, match=message) as refusal:
        parse_faults([text], WALKER)
    assert "\n" not in str(refusal.value)


def test_body_faults_are_refused_for_a_robot_without_a_body():
    for text in ("mass:all:2@1", "joint_lock:force:-@1", "push:torso:2@1", "friction:all:2@1"):
        with pytest.raises(ValueError, match="is not available for double_integrator"):
            parse_faults([text], ROBOTS["double_integrator"])


def test_the_wrapper_refuses_a_fault_that_the_robot_cannot_have():
    with pytest.raises(ValueError, match="unknown mass target 'wing'"):
        FaultWrapper(make_env("walker2d"), [Fault("mass", "wing", 2.0, 0.0)])


@pytest.mark.parametrize("text", ["joint_lock:leg_joint:7@1", "joint_lock:leg_joint:-@1", "obs_freeze:8:3@1-2"])
def test_the_value_of_a_kind_without_one_is_ignored(text):
    (fault,) = parse_faults([text], WALKER)
    assert fault.value is None
    assert ":-@1" in str(fault)


def _targets(kind):
    names = {
        "actuator": [*WALKER.action.names, "all"], "joint": WALKER.action.names, "geom": [*WALKER.geoms, "all"],
        "body": WALKER.bodies, "sensor": [*WALKER.state_names, "all", "0", "16"], "robot": ["all"],
    }  # fmt: skip
    return st.sampled_from(names[KINDS[kind].part])


@st.composite
def _faults(draw):
    kind = draw(st.sampled_from([k for k, rule in KINDS.items() if rule.part != "object"]))
    rule = KINDS[kind]
    low, high = max(rule.low, -1e20), min(rule.high, 1e20)
    value = draw(st.integers(0, 1000) if rule.whole else st.floats(low, high))
    start_s = draw(st.floats(0, 1e6))
    end_s = draw(st.one_of(st.just(math.inf), st.floats(start_s, 1e7, exclude_min=True)))
    return Fault(kind, draw(_targets(kind)), None if rule.valueless else value, start_s, end_s)


@settings(max_examples=300, deadline=None)
@given(_faults())
def test_the_text_of_a_fault_parses_back_to_it(fault):
    check_fault(fault, WALKER)
    assert parse_faults([str(fault)], WALKER) == (fault,)
