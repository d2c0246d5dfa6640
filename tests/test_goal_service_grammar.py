"""Grammars: what may come next, what must, and that one is what the other leaves."""

import json
import random

import pytest

from deploy.goal_service import grammar as grammar_module
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


MANY = " | ".join(f"x{i}" for i in range(60))
RULES = "\n".join(
    f"x{i}: /[a-z ]/ s | s /[a-z ]/ | x{(i + 1) % 60} x{(i + 7) % 60} | /[a-z ]{{1,3}}/" for i in range(60)
)
ENDLESS = [
    Grammar("regex", "((a{1000}){1000}){1000}"),
    Grammar("lark", "start: T\nT: " + " & ".join(f"/.*(a|b|{i}).*/" for i in range(3000))),
    Grammar("lark", f"start: s\ns: s s | {MANY}\n{RULES}"),
]


@pytest.mark.parametrize("grammar", ENDLESS, ids=["repeated", "meets", "ambiguous"])
def test_what_cannot_be_built_or_followed_is_refused_in_one_line(vocabulary, grammar):
    factory = GrammarFactory(vocabulary, tries=True)
    try:
        with pytest.raises(
            ValueError, match=f"bad {grammar.kind} grammar: (to build it takes more|parser error|lexer error)"
        ) as error:
            factory.matcher(grammar)
        assert "\n" not in str(error.value)
        assert factory.matcher(WORDS).mask().any()
    finally:
        factory.close()


AMBIGUOUS = Grammar("lark", "start: s\ns: s s s | s s | /[a-z]/ |")


def test_an_ambiguous_grammar_is_followed_for_so_long_and_no_longer(factory):
    matcher, draw = factory.matcher(AMBIGUOUS), random.Random(0)
    for _ in range(200):
        if matcher.ended:
            break
        matcher.accept(draw.choice([token for token in allowed(matcher) if token != 2]))
    assert matcher.error
    assert "\n" not in matcher.error
    assert allowed(matcher) == [2], "the text can only end"


def test_a_grammar_that_takes_too_long_ends_its_text(factory, vocabulary, monkeypatch):
    matcher = factory.matcher(WORDS)
    draft = matcher.copy()
    assert not matcher.slow
    monkeypatch.setattr(grammar_module, "USUAL_S", -grammar_module.SLOW_S)
    draft.mask()
    draft.mask()
    assert matcher.slow, "what a draft takes counts for its text"
    assert not matcher.ended
    monkeypatch.setattr(grammar_module, "USUAL_S", -grammar_module.MOST_S)
    matcher.accept(vocabulary.encode("walk")[0])
    assert matcher.ended
    assert matcher.error == "the grammar takes too long: it can be read in too many ways"
    assert allowed(matcher) == [2]


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
