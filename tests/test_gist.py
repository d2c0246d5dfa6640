"""What is left of a sentence without the stretches that nobody understands: a guess, for somebody else to judge."""

import pytest

from agents.commands import read
from deploy.goal_service.examples.cases import goal_of, same


@pytest.mark.parametrize(
    ("sentence", "guess", "unread"),
    [
        ("crouch for the photo", "height:1", ("for", "photo")),
        ("for the brass band, walk slowly", "speed:0.5", ("for", "brass", "band")),
        ("trial 3: walk at 0.5 m/s for 5 s, then stop", "speed:0.5 for 5 > speed:0", ("trial", "3")),
        ("the camera can't keep up, walk", "speed:1", ("camera", "can't", "up")),
        ("lean forward for 3 s for the hips", "pitch:0.2 for 3", ("for", "hips")),
    ],
)
def test_what_cannot_be_read_is_left_out_and_called_unread(sentence, guess, unread):
    found = read(sentence, "walker")
    assert found.goal is None
    assert found.guess is not None
    assert same(found.guess, goal_of(guess))
    assert found.heard.unread == unread


@pytest.mark.parametrize("sentence", ["crouch for 3 s, then juggle three balls", "juggle for the crowd"])
def test_a_later_step_is_not_left_out_nor_all_there_is(sentence):
    found = read(sentence, "walker")
    assert (found.goal, found.guess) == (None, None)


@pytest.mark.parametrize(
    ("sentence", "guess"), [("juggle for 5 s, walk", "speed:1 for 5"), ("juggle at 2 m/s, walk", "speed:2")]
)
def test_what_has_a_unit_is_not_left_out(sentence, guess):
    found = read(sentence, "walker")
    assert found.guess is not None
    assert same(found.guess, goal_of(guess))
    assert found.heard.unread == ("juggle",)


def test_what_is_understood_is_never_shortened():
    for sentence in ("walk slowly for 3 s, then stop", "crouch and walk backwards"):
        found = read(sentence, "walker")
        assert found.goal is not None
        assert found.guess is None
