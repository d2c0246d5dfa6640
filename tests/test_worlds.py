"""The worlds that are seen from above: what moves, what is seen, and when a goal is met."""

import mujoco
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envs import cube, tworoom
from envs.pusht import NEAR_PX, NEAR_RAD, SIDE, PushTEnv, is_met
from envs.raycast import pixel_of, raycast
from envs.robots import make_env

WORLDS = ("tworoom", "pusht", "cube")
places = st.tuples(st.floats(7, 217), st.floats(7, 217)).map(np.array)


@pytest.fixture(params=WORLDS)
def world(request):
    env = make_env(request.param, render_mode="rgb_array")
    yield env
    env.close()


def test_a_picture_of_another_state_is_what_is_seen_there_and_changes_nothing(world):
    state_O, _ = world.reset(seed=3)
    away_O, _ = world.reset(seed=4)
    there = world.render().copy()
    assert np.array_equal(world.unwrapped.picture(away_O), there)
    twice = []
    for look in (False, True):
        world.reset(seed=4)
        if look:
            world.unwrapped.picture(state_O)
        twice.append([world.step(np.full(world.action_space.shape, 0.3))[0] for _ in range(5)])
    assert np.array_equal(*twice)
    assert not np.array_equal(world.unwrapped.picture(state_O), there)


def test_a_picture_shows_where_things_are_and_not_where_they_should_be(world):
    state_O, _ = world.reset(seed=5)
    size = len(state_O) // 2
    moved_O = np.concatenate([state_O[:size], state_O[:size] + 1.0])
    assert np.array_equal(world.unwrapped.picture(state_O), world.unwrapped.picture(moved_O))
    assert world.render().dtype == np.uint8


def test_an_episode_ends_when_the_goal_is_met_and_says_so(world):
    state_O, _ = world.reset(seed=6)
    size = len(state_O) // 2
    start = state_O[:size]
    _, info = world.reset(seed=6, options={"start": start, "goal": start})
    assert info["is_success"]
    still = np.zeros(world.action_space.shape)
    _, _, terminated, _, info = world.step(still)
    assert terminated
    assert info["is_success"]
    world.reset(seed=6)
    _, _, terminated, _, info = world.step(still)
    assert not terminated
    assert not info["is_success"]


def test_start_and_goal_can_be_asked_for(world):
    first_O, _ = world.reset(seed=7)
    other_O, _ = world.reset(seed=8)
    size = len(first_O) // 2
    state_O, _ = world.reset(options={"start": first_O[:size], "goal": other_O[size:]})
    assert state_O == pytest.approx(np.concatenate([first_O[:size], other_O[size:]]))


@pytest.mark.parametrize(
    ("robot", "options", "said"),
    [
        ("tworoom", {"start": [112.0, 150.0]}, "start .* is in a wall"),
        ("tworoom", {"goal": [3.0, 50.0]}, "goal .* or outside of 224 x 224 px"),
        ("tworoom", {"goal": [3.0]}, r"goal: expected \(X\)"),
        ("pusht", {"start": [600.0, 0, 0, 0, 0]}, "start .* is no pose"),
        ("pusht", {"goal": [100.0, 100, 100, 100, np.nan]}, "goal .* is no pose"),
        ("cube", {"start": [0.0] * 20}, r"start: expected \(Q\)"),
        ("cube", {"goal": [np.inf] * 21}, "goal must be finite"),
    ],
)
def test_a_place_that_is_none_is_refused_in_one_line(robot, options, said):
    with pytest.raises(ValueError, match=said):
        make_env(robot).reset(seed=0, options={k: np.array(v) for k, v in options.items()})


# --- two rooms


@settings(deadline=None)
@given(places, st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=60))
def test_the_disc_never_enters_a_wall_and_changes_rooms_only_through_the_door(start_2, actions):
    assume(tworoom.is_free(start_2))
    at_2 = start_2
    for action in actions:
        before_2, at_2 = at_2, tworoom.moved(at_2, 5.0 * np.array(action))
        assert tworoom.is_free(at_2)
        if (before_2[0] < tworoom.WALL_X) != (at_2[0] < tworoom.WALL_X):
            assert abs(at_2[1] - tworoom.DOOR_Y) <= tworoom.DOOR / 2


@given(places, st.floats(-1, 1), st.floats(-1, 1))
def test_away_from_walls_a_step_is_the_action_times_the_speed(start_2, right, down):
    by_2 = 5.0 * np.array([right, down])
    assume(all(tworoom.is_free(start_2 + share * by_2) for share in np.linspace(0, 1, 9)))
    assert tworoom.moved(start_2, by_2) == pytest.approx(start_2 + by_2)


def test_the_expert_arrives_wherever_it_starts():
    env = make_env("tworoom").unwrapped
    rng = np.random.default_rng(0)
    for seed in range(100):
        state_O, _ = env.reset(seed=seed)
        for _ in range(120):
            state_O, _, done, _, _ = env.step(tworoom.expert(state_O, rng, noise=0.0))
            if done:
                break
        assert done, f"seed {seed} ends at {state_O}"


def test_the_disc_is_drawn_where_it_is():
    shown = tworoom.picture(np.array([49.0, 161.0])).astype(float)
    red = shown[..., 0] - shown[..., 1]
    rows, columns = np.indices(red.shape)
    centre = np.array([(columns * red).sum(), (rows * red).sum()]) / red.sum()
    assert (centre + 0.5) * tworoom.CANVAS / tworoom.SIDE == pytest.approx([49.0, 161.0], abs=1.0)


# --- Push-T


def test_the_pusher_goes_towards_where_it_is_plus_the_action():
    env = make_env("pusht").unwrapped
    env.reset(seed=0, options={"start": np.array([100.0, 100, 350, 350, 0.3])})
    for _ in range(10):
        state_O, *_ = env.step(np.array([0.5, 0.0]))
    assert state_O[0] > 200
    assert state_O[1] == pytest.approx(100.0, abs=0.1)
    assert state_O[2:4] == pytest.approx([350, 350])


def test_a_block_that_is_pushed_moves_and_one_that_is_not_stays():
    env = make_env("pusht").unwrapped
    env.reset(seed=0, options={"start": np.array([150.0, 300, 300, 285, 0.0])})
    for _ in range(15):
        state_O, *_ = env.step(np.array([0.3, 0.0]))
    assert state_O[2] > 310
    resting_O = env.step(np.array([-0.5, 0.0]))[0]
    for _ in range(5):
        resting_O, before_O = env.step(np.array([-0.5, 0.0]))[0], resting_O
    assert resting_O[2:5] == pytest.approx(before_O[2:5])


def test_a_pose_is_set_to_the_pixel_whatever_the_angle():
    env = make_env("pusht").unwrapped
    for angle in np.linspace(-3.1, 3.1, 9):
        pose_5 = np.array([100.0, 120, 300, 250, angle])
        state_O, _ = env.reset(options={"start": pose_5, "goal": pose_5 + 4 * np.pi * np.eye(5)[4]})
        assert state_O[:5] == pytest.approx(pose_5)
        assert state_O[5:] == pytest.approx(pose_5)
    assert env.render().shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("pose_5", [(60, 80, 200, 300, 1.0), (400, 480, 330, 110, -2.5), (0, 512, 40, 500, 0.1)])
def test_the_block_is_drawn_as_gym_pusht_draws_it_to_the_bit(pose_5):
    world = make_env("pusht", render_mode="rgb_array").unwrapped
    world.put(np.array(pose_5, float))
    assert np.array_equal(world.render(), PushTEnv._get_img(world, world._draw(), SIDE, SIDE))


@pytest.mark.parametrize(
    ("away", "met"),
    [
        ((0, 0, 0, 0, 0), True),
        ((NEAR_PX - 0.1, 0, 0, 0, 0), True),
        ((0.8 * NEAR_PX, 0, 0, 0.7 * NEAR_PX, 0), False),
        ((0, 0, 0, 0, NEAR_RAD + 0.01), False),
        ((0, 0, 0, 0, 2 * np.pi - NEAR_RAD + 0.01), True),
    ],
)
def test_a_goal_is_met_where_all_four_coordinates_together_and_the_angle_are_near(away, met):
    goal_5 = np.array([200.0, 200, 300, 300, 3.0])
    assert is_met(goal_5 + np.array(away, float), goal_5) is met


# --- a cube


def test_the_oracle_brings_the_cube_elsewhere_and_an_episode_is_a_function_of_its_number():
    episodes = [cube.played(index, steps=120) for index in (0, 0, 1)]
    assert np.array_equal(episodes[0].state_TO, episodes[1].state_TO)
    assert not np.array_equal(episodes[0].state_TO, episodes[2].state_TO)
    for episode in episodes[1:]:
        place_T3 = episode.state_TO[:, 14:17]
        assert np.linalg.norm(place_T3[-1, :2] - place_T3[0, :2]) > 0.05
        assert place_T3[:, 2].max() > 0.1, "it is lifted"
        assert not episode.terminated


def test_the_cube_is_seen_where_it_is_said_to_be():
    env = make_env("cube").unwrapped
    for seed in range(5):
        env.reset(seed=seed)
        shown = env.render().astype(int)
        red = (shown[..., 0] > 100) & (shown[..., 1] < 0.5 * shown[..., 0]) & (shown[..., 2] < 0.5 * shown[..., 0])
        centre = (np.argwhere(red).mean(0)[::-1] + 0.5) / len(shown)
        assert env.place("cube") == pytest.approx(centre, abs=0.03)


def test_a_ray_that_meets_nothing_is_white_and_nearer_things_hide_farther_ones():
    scene = """<mujoco><worldbody><camera name="eye" pos="0 0 3"/>
    <geom type="sphere" size=".5" rgba="0 1 0 1"/><geom type="box" size="1 1 .1" pos="0 0 -1" rgba="1 0 0 1"/>
    <geom type="sphere" size=".4" pos="0 0 1" rgba="0 0 1 0"/></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    shown = raycast(model, data, "eye", 33, 33)
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[16, 16].tolist() == [0, 255, 0]
    assert shown[16, 8].tolist() == pytest.approx([240, 0, 0], abs=15)
    assert np.array_equal(shown, shown[::-1])
    assert pixel_of(model, data, "eye", np.zeros(3)) == pytest.approx([0.5, 0.5])


def test_a_part_that_can_only_be_seen_is_seen_far_from_those_that_can_be_touched():
    scene = """<mujoco><worldbody><camera name="eye" pos="0 0 3"/><body><freejoint/><geom type="sphere" size=".05" pos="-.6 0 0"/>
    <geom type="box" size=".2 .2 .1" pos=".5 0 0" rgba="1 0 0 1" contype="0" conaffinity="0" mass="0"/></body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    shown = raycast(model, data, "eye", 33, 43)
    assert shown.shape == (33, 43, 3)
    assert shown[16, round(43 / 2 + 0.5 / 2.9 * 0.5 / np.tan(np.pi / 8) * 33)].tolist() == pytest.approx(
        [255, 0, 0], abs=8
    )


def test_at_random_starts_nothing_is_inside_anything_else():
    env = make_env("pusht").unwrapped
    for seed in range(60):
        state_O, _ = env.reset(seed=seed)
        then_O, *_ = env.step(np.zeros(2))
        assert then_O == pytest.approx(state_O, abs=1e-6)
