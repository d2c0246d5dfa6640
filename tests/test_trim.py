"""What to ask for so that what is wanted comes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.goal_numbers import goals_for
from agents.learned import LearnedConfig
from world_models.checkpoint import load_model, read_trim, write_trim
from world_models.trim import Trim

SHORT = Trim((-1.0, 0.0, 2.0, 3.0), (-0.8, 0.0, 1.8, 2.5))


@given(st.floats(-0.8, 2.5))
def test_asking_as_told_brings_what_is_wanted(wanted):
    came = np.interp(SHORT.ask_for(wanted), SHORT.asked, SHORT.came)
    assert came == pytest.approx(wanted, abs=1e-6)


def test_more_than_was_tried_is_never_asked_for():
    assert SHORT.ask_for(9.0) == 3.0
    assert SHORT.ask_for(-9.0) == -1.0


def test_what_came_may_dip_without_asking_for_nonsense():
    dipping = Trim((0.0, 1.0, 2.0, 3.0), (0.0, 1.2, 1.1, 3.0))
    asked = [dipping.ask_for(x) for x in np.linspace(0, 3, 50)]
    assert asked == sorted(asked)


@pytest.mark.parametrize(
    ("asked", "came", "why"),
    [
        ((0.0,), (0.0,), "at least 2"),
        ((0.0, 1.0), (0.0,), "as many results"),
        ((1.0, 0.0), (0.0, 1.0), "rise"),
        ((0.0, 1.0), (0.0, float("nan")), "finite"),
    ],
)
def test_nonsense_is_refused(asked, came, why):
    with pytest.raises(ValueError, match=why):
        Trim(asked, came)


def test_a_trim_survives_the_disk_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "speed.json"
    assert read_trim(path) is None
    write_trim(path, SHORT)
    assert read_trim(path) == SHORT
    for text in ("{", "[]", json.dumps({"asked": [0, 1]})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"speed\.json is not a trim"):
            read_trim(path)


def test_a_speed_is_asked_for_so_that_it_comes_and_nothing_else_is_touched():
    model = load_model(LearnedConfig().folder)
    assert model.goals is not None
    told = replace(model, goals=replace(model.goals, speed=SHORT))
    plain = replace(model, goals=replace(model.goals, speed=None))
    for text in ("speed:1.8", "speed:1.8+height:1.1", "height:1.1"):
        with_trim, without = goals_for(told, text), goals_for(plain, text)
        assert with_trim is not None
        assert without is not None
        wanted, asked = without[1].target, with_trim[1].target
        assert torch.equal(asked[:, 1:].nan_to_num(), wanted[:, 1:].nan_to_num())
        assert ("speed" in text) == bool(asked[0, 0] == pytest.approx(2.0, abs=1e-6))


def test_what_comes_of_asking_is_measured_on_the_robot(monkeypatch):
    from agents import practice
    from configs.models import PRACTICE
    from envs.robots import robot_spec

    model = load_model(LearnedConfig().folder).goals
    assert model is not None
    for name, value in (("SPEEDS", (0.0, 1.5)), ("TRIES", 1), ("SETTLE_STEPS", 300)):
        monkeypatch.setattr(practice, name, value)
    trim = practice.reached(model, PRACTICE["walker-small"].practice, robot_spec("walker2d"))
    assert trim is not None
    assert trim.asked == (0.0, 1.5)
    assert trim.came == pytest.approx((0.0, 1.5), abs=0.4)  # one episode each, just begun
