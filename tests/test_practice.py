"""Goals as numbers, a policy followed in the model, and practice: a round, its episodes, and the command that resumes."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deploy.practise
from agents.follow import Follow
from agents.goal_numbers import (
    ALIKE,
    PRICE,
    READINGS,
    TOLERANCE,
    Targets,
    Told,
    context,
    payoff,
    random_goals,
    step_for,
    targets,
)
from agents.imagination import ImagineConfig, imagine
from agents.learned import LearnedConfig, planner_of
from agents.practice import FALLING, PracticeConfig, Practised, ToldStep, begin, goal_judge, learn, practise, told_rows
from configs.models import Practice
from deploy.practise import figures, main, taught
from envs.dataset import EpisodeData, Layout
from envs.dataset_writer import write_dataset
from envs.episodes import Episode
from envs.robots import robot_spec
from envs.tasks import read_tasks
from envs.types import Belief
from planners.cem import Cem
from planners.objectives import parse_objective
from tests.test_adaptive import model as whole_model
from world_models.checkpoint import GOALS, blank, load_goals, read_card, save_part
from world_models.normaliser import Normaliser
from world_models.policy import PolicyConfig
from world_models.step import StepConfig, StepModel
from world_models.value import ValueConfig

SPEC = robot_spec("walker2d")
SMALL = PracticeConfig(
    rounds=1,
    episodes=3,
    episode_steps=16,
    goal_steps=8,
    side_by_side=2,
    step_updates=2,
    policy_updates=2,
    batch=20,
    policy=PolicyConfig(8, 1),
    value=ValueConfig(members=2, width=8),
    imagine=ImagineConfig(iterations=2, starts=8, horizon=4),
    planner=LearnedConfig(horizon=8, samples=4, method=Cem(iterations=1, elites=2)),
)


STANDING = np.zeros((1, 17), np.float32)
STANDING[0, 0] = 1.25


def step_model():
    torch.manual_seed(0)
    change = Normaliser(torch.zeros(17), torch.full((17,), 0.01))
    return StepModel(StepConfig(8, 1), blank((17,)), blank((6,)), change).eval()


def goal_model():
    return begin(step_model(), SMALL)


def data_set(folder, goals=(), seed=0, steps=40):
    rng = np.random.default_rng(seed)
    meta = {"goals": goals} if goals else {}
    made = [
        Episode(
            rng.normal(size=(steps + 1, 17)), *[rng.uniform(-1, 1, (steps, 6))] * 3, np.ones(steps), 0, 1, seed, meta
        )
        for _ in range(3)
    ]
    write_dataset(made, Layout.of(SPEC), folder, {})


# --- goals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target", "effort"),
    [
        ("speed:1.5+0.1*effort", [1.5, None, None], 0.1),
        ("posture:1.2,-0.1", [None, 1.2, -0.1], 0.0),
        ("height_reward:1.1", [None, 1.1, None], 0.0),
        ("height:1.0+0.5*speed:0.5+0.3*effort", [0.5, 1.0, None], 0.2),
        ("speed:0+0.03*effort+0.10*posture:1.2,0.1", [0.0, None, None], 0.03),
    ],
)
def test_an_objective_of_readings_is_a_goal(text, target, effort):
    goal = Targets.of(parse_objective(text))
    assert [None if math.isnan(x) else pytest.approx(x) for x in goal.target[0].tolist()] == target
    assert goal.effort == pytest.approx(effort)


@pytest.mark.parametrize("text", ["run", "run+0.5*speed:1", "effort", "speed:1+speed:2", "0.1*speed:1"])
def test_what_asks_for_more_or_less_is_none(text):
    assert Targets.of(parse_objective(text)) is None


def test_twice_the_same_is_one_goal_and_effort_is_relative():
    twice = Targets.of(parse_objective("posture:1.2,0.1+0.3*height:1.2"))
    assert twice.weight.tolist() == pytest.approx([0.0, 1.3, 1.0])
    heavy, light = (Targets.of(parse_objective(text)) for text in ("10*speed:1+0.1*effort", "speed:1+0.1*effort"))
    assert heavy.effort == pytest.approx(light.effort / 10)


@given(st.lists(st.one_of(st.none(), st.floats(-2, 4)), min_size=3, max_size=3))
def test_what_is_told_says_what_is_asked(goal):
    goal_NG = torch.tensor([[math.nan if x is None else x for x in goal]])
    assert torch.allclose(targets(context(goal_NG)), goal_NG, atol=1e-5, equal_nan=True)


def test_a_step_earns_1_at_the_goal_less_far_from_it_and_more_than_nothing_anywhere_near():
    goal = torch.tensor([1.0, math.nan, math.nan])
    speed = 1.0 + TOLERANCE[0] * torch.tensor([0.0, 1.0, -10.0, 16.0])
    found = {"speed": speed, "height": torch.rand(4), "pitch": torch.rand(4)}
    earned = payoff(found, goal, ALIKE)
    prices = [0.0, math.log(2), math.log(101), math.log(257)]
    assert earned.tolist() == pytest.approx([1 - PRICE * price for price in prices], abs=1e-4)
    assert (earned > 0).all()


def test_what_led_to_a_fall_is_not_learned():
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(101, 17)), rng.normal(size=(100, 6)), rng.normal(size=(100, 3))
    fell, stood = (Practised(*(x.astype(np.float32) for x in fields), fell) for fell in (True, False))
    assert [len(told_rows([e])[0]) for e in (fell, stood)] == [100 - FALLING, 100]


def test_weights_are_shares_of_the_price():
    goal = torch.tensor([1.0, 1.2, math.nan])
    found = {"speed": torch.tensor(1.3), "height": torch.tensor(1.2), "pitch": torch.tensor(0.0)}
    light, even = (payoff(found, goal, torch.tensor(w)) for w in ([1.0, 3.0, 0.0], [1.0, 1.0, 0.0]))
    assert 1 - float(light) == pytest.approx((1 - float(even)) / 2)


def test_random_goals_are_legal_and_of_every_kind():
    goals = random_goals(500, torch.Generator().manual_seed(0))
    kinds = {tuple(row) for row in goals.isfinite().int().tolist()}
    assert kinds == {(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1)}
    for row in goals[:100]:
        asked = [f"{name}:{x:.3f}" for name, x in zip(READINGS, row.tolist(), strict=True) if x == x]
        parse_objective("+".join(asked))


# --- the policy followed ----------------------------------------------------------------------------------------------


def follow(goal_BG):
    model = goal_model()
    return Follow(model.step, Told(model.policy, context(goal_BG)), horizon=5), model


def belief(b):
    z = torch.randn(b, 2, 17, generator=torch.Generator().manual_seed(1))
    return Belief(z, torch.zeros(b, 1, 6))


def seeded(b):
    return [torch.Generator().manual_seed(i) for i in range(b)]


def test_the_first_candidate_is_the_policy_s_own_and_later_ones_stray():
    goal = torch.tensor([[1.0, math.nan, math.nan]])
    proposal, model = follow(goal)
    seen = belief(1)
    found = proposal.sample(seen, 6, seeded(1))
    now, before, past = seen.z_BTD[:, 1], seen.z_BTD[:, 0], seen.actions_BTA[:, 0]
    for h in range(5):
        action = model.policy(torch.cat([now, context(goal)], -1)).clamp(-1, 1)
        assert torch.allclose(found[:, 0, h], action, atol=1e-5)
        mean, _ = model.step.predict(now, action, before, past, torch.ones(1, 1))
        before, past, now = now, action, now + model.step.change.inverse(mean)
    strays = (found - found[:, :1]).abs().mean((0, 2, 3))
    assert strays[0] == 0
    assert strays[-1] > 0.1
    assert found.abs().max() <= 1


def test_each_environment_is_told_its_own_goal_and_proposed_the_same_alone():
    goals = torch.tensor([[1.0, math.nan, math.nan], [-1.0, math.nan, 0.2]])
    both = follow(goals)[0].sample(belief(2), 3, seeded(2))
    second = belief(2)
    alone = follow(goals[1:])[0].sample(Belief(second.z_BTD[1:], second.actions_BTA[1:]), 3, seeded(2)[1:])
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert not torch.allclose(both[0, 0], both[1, 0], atol=1e-3)


def test_a_context_is_carried_along_unchanged_and_judged():
    model = goal_model()
    told = context(torch.tensor([[1.0, math.nan, math.nan]] * 4))
    states = torch.cat([torch.randn(4, 2, 17), told[:, None].expand(-1, 2, -1)], -1)
    generator = torch.Generator().manual_seed(0)
    starts = states, torch.zeros(4, 1, 6)
    seen = imagine(ToldStep(model.step), model.policy, starts, goal_judge(SPEC), SMALL.imagine, generator)
    assert torch.equal(seen.states[:, :, 17:], told.expand(5, -1, -1))
    speeds = seen.states[1:, :, SPEC.columns["speed"]]
    expected = payoff(
        {"speed": speeds, "height": speeds, "pitch": speeds}, torch.tensor([1.0, math.nan, math.nan]), ALIKE
    )
    assert torch.allclose(seen.reward, expected, atol=1e-5)


# --- practice ---------------------------------------------------------------------------------------------------------


def test_an_episode_of_practice_depends_on_its_number_alone_and_keeps_its_goals():
    model = goal_model()
    two, one = practise(model, SMALL, SPEC, STANDING, [4, 5]), practise(model, SMALL, SPEC, STANDING, [5])
    assert np.allclose(two[1].state_TO, one[0].state_TO, atol=1e-4)
    assert two[1].meta == one[0].meta
    assert [first for first, _ in one[0].meta["targets"]] == [0, 8 + SMALL.ahead][: len(one[0].meta["targets"])]
    kept = Practised.of(one[0])
    assert kept.goal_TG.shape == (one[0].length, 3)
    assert np.isfinite(kept.goal_TG).any(1).all()


def test_some_episodes_begin_in_motion():
    running = STANDING.copy()
    running[0, SPEC.columns["speed"]] = 3.0
    made = practise(goal_model(), SMALL, SPEC, running, range(12))
    moving = [e for e in made if e.state_TO[0, SPEC.columns["speed"]] > 2.9]
    assert 0 < len(moving) < 12
    assert all(e.state_TO[1, SPEC.columns["speed"]] > 2.0 for e in moving)


def test_a_round_changes_every_part_and_not_what_it_began_with(tmp_path):
    model = goal_model()
    before = copy.deepcopy(model)
    practised = [Practised.of(e) for e in practise(model, SMALL, SPEC, STANDING, [0, 1])]
    data_set(tmp_path / "data")
    after = learn(model, practised, practised, [EpisodeData.load(tmp_path / "data")], SMALL, SPEC, 0)
    for part in ("step", "policy", "value"):
        mine, old, new = (next(getattr(m, part).parameters()) for m in (model, before, after))
        assert torch.equal(mine, old)
        assert not torch.equal(mine, new)


def test_figures_are_those_of_the_last_goal():
    state = np.zeros((21, 17), np.float32)
    state[:, SPEC.columns["speed"]] = 1.5
    goal = np.full((20, 3), np.nan, np.float32)
    goal[:, 0] = 1.0
    found = figures([Practised(state, np.zeros((20, 6), np.float32), goal, True)], SPEC, late=10)
    assert found == {"speed_error": pytest.approx(0.5), "fell": 1.0, "episodes": 1}


def test_what_the_actuators_do_is_known_to_both_models():
    model = replace(whole_model(), goals=goal_model())
    model.step.body.numbers = model.step.body.numbers * 0.5
    assert step_for(model, "") is model.step
    assert step_for(model, "run") is model.step
    used = step_for(model, "speed:1")
    assert torch.equal(used.body.numbers, model.step.body.numbers)
    assert torch.equal(used.net[0].weight, model.goals.step.net[0].weight)
    assert model.goals.step.body is not used.body
    planner = planner_of(SMALL.planner, SPEC, model, "speed:1")
    assert isinstance(planner.proposal, Follow)
    found = planner.search(belief(1), None, seeded(1))
    assert found.cost_B.isfinite().all()
    assert not isinstance(planner_of(SMALL.planner, SPEC, model, "run").proposal, Follow)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy.practise, "PRACTICE", {"tiny": Practice("walker2d", "goals", ("other",), SMALL)})
    data_set(tmp_path / "data" / "goals", [[0, "speed:1.00+0.03*effort"], [20, "height:1.10+0.3*speed:0.20"]])
    data_set(tmp_path / "data" / "other", seed=1)
    sizes = {"state": 17, "action": 6, "horizon": 8}
    save_part(
        tmp_path / "checkpoints" / "tiny", "step", step_model(), {"sizes": sizes, "step": {"width": 8, "layers": 1}}
    )
    folders = [f"--{name}={tmp_path / name}" for name in ("data", "checkpoints", "work")]
    return tmp_path, ["tiny", *folders, "--workers=1"]


def test_the_teacher_s_goals_are_read_back(place):
    folder, _ = place
    tasks = read_tasks(folder / "data" / "goals")
    assert (len(tasks), tasks[0], tasks[39]) == (120, "speed:1.00+0.03*effort", "height:1.10+0.3*speed:0.20")
    first = taught(folder / "data" / "goals")[0]
    assert first.goal_TG[0].tolist() == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)
    assert first.goal_TG[-1].tolist() == pytest.approx([0.2, 1.1, math.nan], nan_ok=True)


def test_practice_goes_on_where_it_was_and_ends_in_the_checkpoint(place, monkeypatch, capsys):
    folder, args = place

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deploy.practise, "figures", interrupted)
        assert main(args) == 130
    kept = sorted((folder / "work").rglob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert {path.parent.name for path in kept} == {"round-0", "episodes"}
    assert main(args) == 0
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert "round 1 of 1" in capsys.readouterr().out
    made, last = (
        load_goals(folder / "checkpoints" / "tiny" / GOALS),
        load_goals(next(folder.glob("work/tiny-*/round-1"))),
    )
    z = torch.randn(5, 23)
    assert torch.allclose(made.value(z), last.value(z), atol=1.0)  # rounded to bf16
    first = read_card(folder / "checkpoints" / "tiny" / GOALS, "step")["metrics"]
    assert main(args) == 0  # nothing is left to do
    assert read_card(folder / "checkpoints" / "tiny" / GOALS, "step")["metrics"] == first


@pytest.mark.parametrize(
    ("args", "said"),
    [(["walker-smal"], "tiny"), (["tiny", "--data=nowhere"], "surefoot collect"), (["tiny", "--rounds=0"], "positive")],
)
def test_bad_input_gets_one_line(place, args, said, capsys):
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
