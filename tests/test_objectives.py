"""Objectives against formulas written out step by step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planners.objectives import (
    KINDS,
    Alive,
    Effort,
    HeightReward,
    ReturnToGo,
    Track,
    WeightedSum,
    height,
    legal_kinds,
    parse_objective,
    pitch,
    posture,
    speed,
)

B, S, H, A = 2, 3, 7, 4


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def readings(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    names = ["speed", "height", "pitch", "reward", "value"]
    made = {name: uniform(B, S, H, seed=i) * 4 - 1 for i, name in enumerate(names)}
    return {**made, "alive": torch.ones(B, S, H, dtype=torch.float64), **changes}


ACTIONS = uniform(B, S, H, A, seed=9) * 2 - 1


@pytest.mark.parametrize(
    ("term", "name", "target", "scale"),
    [(speed(2.0), "speed", 2.0, 1.0), (height(1.2), "height", 1.2, 0.1), (pitch(-0.3), "pitch", -0.3, 0.2)],
)
def test_tracking_costs_the_mean_squared_error_in_natural_units(term, name, target, scale):
    x = readings()
    expected = sum(((x[name][..., h] - target) / scale) ** 2 for h in range(H)) / H
    torch.testing.assert_close(term(x, ACTIONS), expected)
    assert term({**x, name: torch.full((B, S, H), target)}, ACTIONS).abs().max() < 1e-10


def test_posture_is_height_and_pitch():
    x = readings()
    torch.testing.assert_close(posture(1.1, 0.2)(x, ACTIONS), height(1.1)(x, ACTIONS) + pitch(0.2)(x, ACTIONS))
    assert posture(1.1, 0.2).reads == ("height", "pitch")


def test_effort_costs_the_mean_squared_norm_of_the_action():
    expected = sum(ACTIONS[:, :, h, a] ** 2 for h in range(H) for a in range(A)) / H
    torch.testing.assert_close(Effort()(readings(), ACTIONS), expected)


def test_height_reward_is_the_published_one():
    x = readings(height=1.2 + 0.1 * uniform(B, S, H))
    cost = HeightReward(1.2)(x, ACTIONS)
    expected = -sum(5 * math.exp(-((float(h) - 1.2) ** 2) / (2 * 5e-4)) for h in x["height"][1, 2])
    assert float(cost[1, 2]) == pytest.approx(expected)
    perfect = HeightReward(1.2)(readings(height=torch.full((B, S, H), 1.2, dtype=torch.float64)), ACTIONS)
    assert perfect[0, 0].item() == pytest.approx(-5.0 * H)


def test_whoever_has_fallen_once_stays_fallen():
    alive = torch.ones(1, 3, H, dtype=torch.float64)
    alive[0, 1, 2] = 0.0  # falls at step 2 and gets up again
    alive[0, 2] = 0.0
    cost = Alive(10.0)(readings(alive=alive), ACTIONS)
    torch.testing.assert_close(cost, torch.tensor([[0.0, 10.0 * (H - 2) / H, 10.0]], dtype=torch.float64))


def test_weighted_sum_adds_and_lists_what_it_reads_once():
    x = readings()
    total = WeightedSum(((2.0, speed(1.0)), (0.5, height(1.0)), (0.1, Effort()), (1.0, speed(3.0))))
    expected = (
        2 * speed(1.0)(x, ACTIONS) + 0.5 * height(1.0)(x, ACTIONS) + 0.1 * Effort()(x, ACTIONS) + speed(3.0)(x, ACTIONS)
    )
    torch.testing.assert_close(total(x, ACTIONS), expected)
    assert total.reads == ("speed", "height")
    with pytest.raises(ValueError, match="weights"):
        WeightedSum(((-1.0, speed(1.0)),))


# ---- the task itself


def naive_return(x, b, s, discount, lam, fall_penalty, steps):
    """The mixture of bootstrapped returns, one candidate, one step at a time."""
    horizon = x["reward"].shape[-1]
    returns, total, alive = [], 0.0, 1.0
    for h in range(horizon):
        before, alive = alive, alive * float(x["alive"][b, s, h])
        total += discount**h * (alive * float(x["reward"][b, s, h]) - (before - alive) * fall_penalty)
        value = float(x["value"][b, s, steps.index(h)]) if h in steps else math.nan
        returns.append(total + discount ** (h + 1) * alive * value)
    mixed, pending = 0.0, 0.0
    for h in range(horizon):
        pending += lam**h if h == horizon - 1 else (1 - lam) * lam**h
        if h == steps[-1]:  # nothing is left to wait for
            pending += sum(lam**k if k == horizon - 1 else (1 - lam) * lam**k for k in range(h + 1, horizon))
        if h in steps:
            mixed, pending = mixed + pending * returns[h], 0.0
    return mixed


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("steps", [None, (0, 3, 6), (2, 5), (6,), (4,)])
@pytest.mark.parametrize("falls", [False, True])
def test_return_to_go_equals_a_double_loop(lam, steps, falls):
    count = H if steps is None else len(steps)
    alive = (uniform(B, S, H, seed=21) > 0.2).double() if falls else torch.ones(B, S, H, dtype=torch.float64)
    assert bool((alive == 0).any()) is falls
    x = readings(alive=alive, value=uniform(B, S, count, seed=20) * 50)
    cost = ReturnToGo(0.9, lam, 30.0, steps)(x, ACTIONS)
    for b in range(B):
        for s in range(S):
            expected = naive_return(x, b, s, 0.9, lam, 30.0, list(steps or range(H)))
            assert float(cost[b, s]) == pytest.approx(-expected, rel=1e-9)


def test_a_fall_costs_the_penalty_at_its_own_step_and_ends_the_reward():
    ones = torch.ones(1, 1, H, dtype=torch.float64)
    alive = ones.clone()
    alive[..., 3] = 0.0
    x = readings(reward=ones, alive=alive, value=ones * 100)
    d = 0.9
    expected = 1 + d + d**2 - d**3 * 40.0
    assert ReturnToGo(d, 1.0, 40.0)(x, ACTIONS).item() == pytest.approx(-expected)


@given(lam=st.floats(0.0, 1.0), steps=st.sets(st.integers(0, 31), min_size=1))
def test_mixture_weights_are_non_negative_and_sum_to_one(lam, steps):
    weights = ReturnToGo(lam=lam).mixture(tuple(sorted(steps)))
    assert len(weights) == len(steps)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1.0)


def test_a_value_that_is_consistent_with_the_rewards_makes_lambda_irrelevant():
    reward, d = torch.ones(1, 1, H, dtype=torch.float64), 0.95
    x = readings(reward=reward, alive=reward, value=reward / (1 - d))  # a robot that earns 1 for ever
    for lam in (0.0, 0.3, 1.0):
        assert ReturnToGo(d, lam)(x, ACTIONS).item() == pytest.approx(-1 / (1 - d))


def test_return_to_go_refuses_values_at_other_steps_than_it_was_told():
    for steps in ((1, 0), (-1,), (2, 2), ()):
        with pytest.raises(ValueError, match="value_steps"):
            ReturnToGo(value_steps=steps)
    with pytest.raises(ValueError, match="discount"):
        ReturnToGo(discount=1.5)
    for steps in ((0, 3), (0, 1, 2, 3, 4, 5, H)):
        with pytest.raises(ValueError, match="expected them at"):
            ReturnToGo(value_steps=steps)(readings(), ACTIONS)


# ---- parsing


def test_parsing_gives_the_terms_that_were_named():
    total = parse_objective("speed:1.5 + 0.5*height:1.1+ 2*effort")
    assert total.terms == ((1.0, speed(1.5)), (0.5, height(1.1)), (2.0, Effort()), (1.0, Alive()))
    assert parse_objective("height:1.4").terms[0] == (1.0, Track("height", 1.4, 0.1))
    assert parse_objective("speed:-2e-1").terms[0] == (1.0, speed(-0.2))
    assert parse_objective("posture:1.1,0.2").terms[0] == (1.0, posture(1.1, 0.2))


def test_the_task_and_the_published_reward_stand_alone():
    own = ReturnToGo(0.997, 0.5)
    assert parse_objective("run", own).terms == ((1.0, own),)
    assert parse_objective("run").terms == ((1.0, ReturnToGo()),)
    assert parse_objective("height_reward:0.9").terms == ((1.0, HeightReward(0.9)),)


@pytest.mark.parametrize(
    "text",
    ["fly", "speed", "speed:fast", "speed:1,2", "speed:9", "height:0.2", "pitch:nan", "effort:1", "run:2", "",
     "speed:1+", "-1*speed:1", "nan*speed:1", "x*run", "posture:1.1", "*speed:1"],
)  # fmt: skip
def test_what_is_not_legal_is_refused_in_one_line_that_lists_what_is(text):
    with pytest.raises(ValueError, match="legal") as caught:
        parse_objective(text)
    message = str(caught.value)
    assert "\n" not in message
    assert all(kind in message for kind in KINDS)
    assert "speed:-2..6 [m/s]" in message


def test_what_the_robot_does_not_show_is_refused_and_only_what_fits_is_listed():
    with pytest.raises(ValueError, match=r"needs \['pitch'\]") as caught:
        parse_objective("speed:1+posture:1.1,0.2", shown={"speed", "height", "alive"})
    assert str(caught.value).partition("legal: ")[2] == legal_kinds({"speed", "height"})
    assert "posture" not in legal_kinds({"speed", "height"})
    assert [part.partition(":")[0] for part in legal_kinds(()).split(", ")] == ["effort", "run"]
    assert parse_objective("speed:1+effort", shown={"speed"}).terms[0] == (1.0, speed(1.0))
