"""Faults of worlds that are seen from above: what jumps, changes colour, is hidden, sticks or is moved less."""

import numpy as np
import pytest

from envs.faults import FaultWrapper, parse_faults
from envs.robots import ROBOTS, make_env, painter
from envs.tworoom import is_free

STILL = np.zeros(2)
POSE = np.array([256.0, 120.0, 256.0, 300.0, 0.4])


def broken(name, *faults):
    return FaultWrapper(make_env(name, render_mode="rgb_array"), parse_faults(faults, ROBOTS[name]))


def begun(name, *faults, seed=0, **options):
    env = broken(name, *faults)
    state_O, _ = env.reset(seed=seed, options=options)
    return env, state_O


@pytest.mark.parametrize("name", ["disc", "pusher", "block"])
def test_what_is_teleported_jumps_once_and_nothing_else_moves(name):
    world, size = ("tworoom", 2) if name == "disc" else ("pusht", 5)
    columns = {"disc": slice(0, 2), "pusher": slice(0, 2), "block": slice(2, 4)}[name]
    env, before = begun(world, f"teleport:{name}:40@0.2")
    seen = [before, *(env.step(STILL)[0] for _ in range(5))]
    steps = np.linalg.norm(np.diff([s[columns] for s in seen], axis=0), axis=1)
    assert steps[1] == pytest.approx(40, abs=1e-6)  # the observation at 0.2 s is the first that shows it
    assert np.delete(steps, 1) == pytest.approx(0, abs=1e-6)
    others = np.delete(np.array(seen), np.r_[columns], axis=1)
    assert np.allclose(others, others[0])
    assert len(before) == 2 * size
    again = [begun(world, f"teleport:{name}:40@0.2", seed=seed)[0] for seed in (0, 0, 1)]
    ends = [[e.step(STILL)[0] for _ in range(3)][-1] for e in again]
    assert np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


def test_a_jump_into_a_wall_or_out_of_the_world_is_not_made():
    for seed in range(20):
        env, _ = begun("tworoom", "teleport:disc:60@0.1", seed=seed, start=[20.0, 20.0], goal=[200.0, 200.0])
        assert is_free(env.step(STILL)[0][:2])
    env, before = begun("tworoom", "teleport:disc:5000@0.1")
    assert np.array_equal(env.step(STILL)[0], before)
    env, before = begun("pusht", "teleport:block:5000@0.1")
    assert np.allclose(env.step(STILL)[0], before)


def test_a_jump_onto_the_goal_is_a_success_and_one_away_from_it_is_told():
    env, _ = begun("tworoom", "teleport:disc:30@0.1", start=[60.0, 60.0], goal=[150.0, 180.0])
    far = env.unwrapped.outcome()["distance"]
    info = env.step(STILL)[4]
    assert abs(info["distance"] - far) > 1
    assert info["distance"] == env.unwrapped.outcome()["distance"]


@pytest.mark.parametrize(("world", "name"), [("tworoom", "disc"), ("pusht", "pusher"), ("pusht", "block")])
def test_a_colour_changes_where_the_thing_is_alone_and_comes_back(world, name):
    env, state = begun(world, f"colour:{name}:0.5@0.1-0.3")
    before = env.render()
    env.step(STILL)
    during = env.render()
    changed = (during != before).any(-1)
    assert 5 < changed.sum() < 0.2 * changed.size
    centre = np.argwhere(changed).mean(0)[::-1] / len(before)
    where = state[2:4] / 512 if name == "block" else env.unwrapped.place(name)
    assert np.abs(centre - where).max() < 0.12
    env.step(STILL)
    env.step(STILL)
    assert np.array_equal(env.render(), before)


@pytest.mark.parametrize("world", ["tworoom", "pusht"])
def test_a_patch_stays_where_the_thing_was(world):
    name = {"tworoom": "disc", "pusht": "pusher"}[world]
    env, _ = begun(world, f"occlude:{name}:0.25@0.1-0.5")
    clean = env.render()
    env.step(STILL)
    grey = (env.render() == 128).all(-1)
    place = env.unwrapped.place(name)
    for _ in range(3):
        env.step(np.array([0.3, 0.0]))
        assert np.array_equal((env.render() == 128).all(-1), grey)
    assert grey.sum() <= (0.25 * len(clean) + 1) ** 2
    assert grey[tuple((place[::-1] * len(clean)).astype(int))]
    env.step(STILL)
    env.step(STILL)
    assert not (env.render() == 128).all(-1).any()


def test_a_gain_scales_what_an_action_does():
    whole, _ = begun("tworoom", start=[50.0, 150.0], goal=[200.0, 200.0])
    less, start = begun("tworoom", "gain:disc:0.6@0", start=[50.0, 150.0], goal=[200.0, 200.0])
    action = np.array([0.5, -0.8])
    step, small = (env.step(action)[0][:2] - start[:2] for env in (whole, less))
    assert np.allclose(small, 0.6 * step)
    weak, before = begun("pusht", "gain:pusher:0.5@0", start=POSE, goal=POSE)
    strong, _ = begun("pusht", start=POSE, goal=POSE)
    a, b = (env.step(np.array([0.4, 0.0]))[0][0] - before[0] for env in (strong, weak))
    assert b == pytest.approx(a / 2, rel=1e-6)


def test_a_sticky_block_is_dragged_along_and_one_that_is_not_yet_sticky_slides():
    def pushed(*faults):
        env, _ = begun("pusht", *faults, start=np.array([256.0, 250.0, 256.0, 300.0, 0.0]), goal=POSE)
        return np.array([env.step(np.array([0.25, 0.15]))[0] for _ in range(12)])

    free, sticky = pushed(), pushed("sticky:block:1@0")
    assert np.array_equal(free, pushed("sticky:block:1@50"))
    assert np.abs(sticky[-1, 2:5] - free[-1, 2:5]).max() > 1.0
    assert np.array_equal(free[:1, :2], sticky[:1, :2])


@pytest.mark.parametrize("world", ["tworoom", "pusht", "cube"])
def test_a_wrapper_without_active_faults_changes_nothing(world):
    name = {"tworoom": "disc", "pusht": "block", "cube": "cube"}[world]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (15, ROBOTS[world].action.size))
    plain, wrapped = make_env(world, render_mode="rgb_array"), broken(world, f"teleport:{name}:40@99")
    a, b = plain.reset(seed=3)[0], wrapped.reset(seed=3)[0]
    assert np.array_equal(a, b)
    for action in actions:
        (a, *_, info_a), (b, *_, info_b) = plain.step(action), wrapped.step(action)
        assert np.array_equal(a, b)
        assert info_a["is_success"] == info_b["is_success"]
    assert np.array_equal(plain.render(), wrapped.render())


def test_goals_are_drawn_as_they_are_whatever_is_broken():
    env, state = begun("tworoom", "colour:disc:0.5@0")
    assert np.array_equal(painter("tworoom")(state), make_picture(state))
    assert not np.array_equal(env.render(), make_picture(state))


def make_picture(state):
    env = make_env("tworoom", render_mode="rgb_array")
    env.reset(seed=0, options={"start": state[:2], "goal": state[2:]})
    return env.render()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teleport:block:60@1", "unknown teleport target 'block' .*choose from disc"),
        ("sticky:disc:1@1", "'sticky' is not available for tworoom, which has no object"),
        ("colour:disc:1.5@1", r"must be a number in \[0, 1\]"),
        ("teleport:all:60@1", "unknown teleport target 'all'"),
        ("mass:disc:2@1", "'mass' is not available for tworoom, which has no body to break: choose from .*teleport"),
    ],
)
def test_what_a_world_cannot_have_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        parse_faults([text], ROBOTS["tworoom"])


def test_a_cube_jumps_on_the_table_changes_colour_and_is_hidden_where_it_is():
    env, before = begun("cube", "teleport:cube:100@0.1")
    seen = [before, *(env.step(np.zeros(5))[0] for _ in range(4))]
    steps = np.linalg.norm(np.diff([s[14:16] for s in seen], axis=0), axis=1)
    assert steps.max() == pytest.approx(0.1, abs=0.01)
    assert (steps > 0.05).sum() == 1
    for fault, least in (("colour:cube:0.5@0", 4), ("occlude:cube:0.25@0", 100)):
        env, _ = begun("cube", fault)
        clean, _ = begun("cube")
        changed = (env.render() != clean.render()).any(-1)
        assert changed.sum() >= least
        where = np.argwhere(changed).mean(0)[::-1] / len(changed)
        assert where == pytest.approx(env.unwrapped.place("cube"), abs=0.1)
