"""Grammars: what may come next, what must, and that one is what the other leaves."""

import json
import random

import pytest

from deploy.goal_service.grammar import GrammarFactory
from deploy.goal_service.requests import Grammar
from deploy.goal_service.weights import load_weights, packaged_model

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["speed", "height", "hold"]},
        "value": {"type": ["number", "null"], "minimum": -2, "maximum": 6},
        "unit": {"const": "m/s"},
        "why": {"type": "string", "maxLength": 5},
    },
    "required": ["kind", "value", "unit", "why"],
    "additionalProperties": False,
}
GOAL = Grammar("json", json.dumps(SCHEMA))
WORDS = Grammar("regex", "(walk|walking) (slowly|fast)( and stop)?")
LARK = Grammar("lark", 'start: "go " NUMBER " m"\nNUMBER: /[0-9]{1,2}/')


@pytest.fixture(scope="module")
def vocabulary():
    return load_weights(packaged_model()).vocabulary


@pytest.fixture(scope="module")
def factory(vocabulary):
    return GrammarFactory(vocabulary)


def allowed(matcher):
    return matcher.mask().nonzero()[:, 0].tolist()


def walk(matcher, draw, look):
    """Return the tokens of a random walk to the end, and what was forced where, if `look` asks."""
    tokens, forced = [], {}
    while not matcher.ended and len(tokens) < 200:
        if look:
            forced |= {len(tokens) + i: token for i, token in enumerate(matcher.forced())}
        may = allowed(matcher)
        tokens.append(draw.choice(may))
        assert matcher.accept(tokens[-1])
        if tokens[-1] in (2,):
            break
    return tokens, forced


@pytest.mark.parametrize("grammar", [GOAL, WORDS, LARK], ids=lambda g: g.kind)
def test_what_is_forced_is_all_that_the_mask_allows(factory, grammar):
    found = 0
    for seed in range(20):
        tokens, forced = walk(factory.matcher(grammar), random.Random(seed), look=True)
        again, _ = walk(factory.matcher(grammar), random.Random(seed), look=False)
        assert tokens == again
        matcher = factory.matcher(grammar)
        for i, token in enumerate(tokens):
            if i in forced:
                assert allowed(matcher) == [forced[i]]
                found += 1
            assert matcher.accept(token)
    assert found > 20


def test_a_walk_through_a_schema_gives_json_that_fits_it(factory, vocabulary):
    for seed in range(20):
        text = vocabulary.decode(walk(factory.matcher(GOAL), random.Random(seed), look=False)[0])
        value = json.loads(text)
        assert list(value) == ["kind", "value", "unit", "why"]
        assert value["value"] is None or -2 <= value["value"] <= 6
        assert text.startswith('{"kind":"')


def test_most_of_a_goal_is_forced(factory, vocabulary):
    matcher = factory.matcher(GOAL)
    assert vocabulary.decode(matcher.forced()) == '{"kind":"'
    tokens, forced = walk(matcher, random.Random(1), look=True)
    assert len(forced) > len(tokens) / 3


def test_the_end_may_come_where_the_grammar_ends(factory, vocabulary):
    matcher = factory.matcher(WORDS)
    assert not matcher.accept(2)
    for token in vocabulary.encode("walk fast"):
        assert not matcher.mask()[2]
        assert matcher.accept(token)
    assert matcher.mask()[2]
    assert not matcher.ended
    assert matcher.accept(2)
    assert matcher.ended
    assert allowed(matcher) == [2]
    assert matcher.forced() == []


def test_what_is_not_allowed_changes_nothing(factory, vocabulary):
    matcher = factory.matcher(LARK)
    before = allowed(matcher)
    assert not matcher.accept(vocabulary.encode("stop")[0])
    assert not matcher.accept(1)
    assert allowed(matcher) == before
    assert matcher.error == ""


def test_a_copy_goes_its_own_way(factory, vocabulary):
    one = factory.matcher(WORDS)
    other = one.copy()
    assert one.accept(vocabulary.encode("walk")[0])
    assert allowed(other) == allowed(factory.matcher(WORDS))
    assert allowed(one) != allowed(other)


def test_special_tokens_are_never_part_of_a_text(factory, vocabulary):
    may = factory.matcher(Grammar("regex", "(.|\n)*")).mask()
    assert [i for i in vocabulary.special.values() if may[i]] == [2]


@pytest.mark.parametrize(
    ("kind", "source"),
    [("json", "{"), ("json", '{"type": "nothing"}'), ("json", "[]"), ("regex", "(["), ("lark", "start: x")],
)
def test_a_bad_grammar_is_refused_in_one_line(factory, kind, source):
    with pytest.raises(ValueError, match=f"bad {kind} grammar: ") as error:
        factory.matcher(Grammar(kind, source))
    assert "\n" not in str(error.value)
