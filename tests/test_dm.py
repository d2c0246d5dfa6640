"""The tasks of dm_control's suite against dm_control itself."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs.gym
from deploy.doctor import RENDERERS, renders
from envs.dm import tasks
from envs.faults import FaultWrapper, parse_faults
from envs.robots import ROBOTS, make_env, readings, robot_spec

dm = pytest.importorskip("dm_control.suite")
ROOT = Path(__file__).parents[1]
WALKER = "dm_control:walker-walk"
NEEDS_OPENGL = {"quadruped-escape"}  # dm_control's own environment asks for a context at each reset


def simulator(env) -> Any:
    """Our environment inside the wrappers."""
    return env.unwrapped


def actions_of(env, steps, seed=0):
    """Random actions, of a size that a linear system without bounds survives."""
    low, high = np.maximum(env.action_space.low, -1.0), np.minimum(env.action_space.high, 1.0)
    return np.random.default_rng(seed).uniform(low, high, (steps, len(low))).astype(np.float32)


def flat(observation):
    return np.concatenate([np.ravel(part) for part in observation.values()])


def episode(env, seed, steps=4):
    states, rewards = [env.reset(seed=seed)[0]], []
    for action_A in actions_of(env, steps, seed):
        state_O, reward, *_ = env.step(action_A)
        states.append(state_O)
        rewards.append(reward)
    return np.array(states), rewards


@pytest.mark.parametrize("task", tasks())
def test_every_task_is_a_robot_whose_seeds_reproduce_whatever_came_before(task):
    name = f"dm_control:{task}+physics"
    spec, fresh, used = robot_spec(name), make_env(name), make_env(name)
    episode(used, seed=5, steps=3)
    for seed in (1, 0):
        ours, theirs = episode(fresh, seed), episode(used, seed)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]
    assert ours[0].shape == (5, spec.state_size)
    assert np.isfinite(ours[0]).all()
    assert len(set(spec.state_names)) == len(spec.state_names) == len(spec.state_units) == len(spec.state_scale)
    assert len(set(spec.action.names)) == spec.action.size
    assert min(spec.state_scale) > 0
    assert not np.array_equal(fresh.reset(seed=0)[0], fresh.reset(seed=1)[0])


@pytest.mark.parametrize("task", [task for task in tasks() if task not in NEEDS_OPENGL])
def test_an_episode_is_the_one_that_dm_control_gives_for_the_seed(task):
    env = make_env(f"dm_control:{task}")
    states, rewards = episode(env, seed=0)
    theirs = dm.load(*task.split("-"), task_kwargs={"random": 0})
    if task.startswith("lqr"):
        theirs.task.random.seed(0)  # it has drawn its model from the same numbers
    steps = [theirs.reset(), *(theirs.step(action_A.astype(float)) for action_A in actions_of(env, 4, 0))]
    assert np.array_equal(states, [flat(step.observation) for step in steps])
    assert rewards == [step.reward for step in steps[1:]]
    spec = env.get_wrapper_attr("robot_spec")
    assert spec.dt_s == theirs.control_timestep()
    assert np.array_equal(spec.action.low_A, theirs.action_spec().minimum.astype(np.float32))
    assert np.array_equal(spec.action.high_A, theirs.action_spec().maximum.astype(np.float32))


def test_names_and_units_are_those_of_the_model():
    spec = robot_spec(f"{WALKER}+physics")
    legs = [f"{side}_{joint}" for side in ("right", "left") for joint in ("hip", "knee", "ankle")]
    assert list(spec.action.names) == legs
    assert spec.action.unit_A == ("100 N m", "50 N m", "20 N m") * 2
    assert spec.joints == ("rootz", "rootx", "rooty", *legs)
    assert spec.state_names[13:16] == ("orientations_13", "height", "velocity_0")
    assert spec.state_names[24:] == tuple(f"{kind}.{joint}" for kind in ("qpos", "qvel") for joint in spec.joints)
    env = make_env(f"{WALKER}+physics")
    state_O, _ = env.reset(seed=3)
    data = simulator(env).data
    assert np.array_equal(state_O[24:], np.concatenate([data.qpos, data.qvel]))
    assert state_O[spec.columns["height"]] == data.body("torso").xpos[2]


def test_the_names_of_ball_and_free_joints_and_of_activations_are_as_many_as_their_numbers():
    spec = robot_spec("dm_control:quadruped-walk+physics")
    assert [n for n in spec.state_names if n.startswith("qpos.root")] == [f"qpos.root_{i}" for i in range(7)]
    assert [n for n in spec.state_names if n.startswith("qvel.root")] == [f"qvel.root_{i}" for i in range(6)]
    assert sum(n.startswith("act_") for n in spec.state_names) == 12
    assert "root" not in spec.joints


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dm_control:walker-wolk", r"no task 'walker-wolk' in dm_control's suite; near misses: walker-walk"),
        ("dm_control:walker", r"no task 'walker' in dm_control's suite; near misses: walker-"),
        ("dm_control:", r"no task '' in dm_control's suite; near misses: acrobot-swingup, "),
    ],
)
def test_a_misspelt_task_is_refused_in_one_line_with_near_misses(name, message):
    for look_up in (robot_spec, make_env):
        with pytest.raises(KeyError, match=message) as refused:
            look_up(name)
        assert "\n" not in str(refused.value)


def test_other_versions_and_render_modes_are_refused():
    with pytest.raises(ValueError, match="dm_control:walker-walk has one version, 'v4', got 'v5'"):
        make_env(WALKER, "v5")
    with pytest.raises(ValueError, match="can be rendered as 'rgb_array', got 'human'"):
        make_env(WALKER, render_mode="human")
    with pytest.raises(ValueError, match="double_integrator can be rendered as 'rgb_array', got 'human'"):
        make_env("double_integrator", render_mode="human")


def test_an_episode_is_truncated_where_dm_control_ends_it():
    env, theirs = make_env("dm_control:pendulum-swingup"), dm.load("pendulum", "swingup")
    env.reset(seed=0)
    theirs.reset()
    for step in range(1, 1001):
        *_, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        assert theirs.step([0.0]).last() == truncated == (step == 1000)
        assert not terminated


def test_the_end_that_a_task_declares_terminates():
    env = make_env("dm_control:lqr-lqr_2_1")
    env.reset(seed=0)
    simulator(env).simulation.place(np.zeros(4))
    assert env.step(np.zeros(1))[2:4] == (True, False)


@pytest.mark.parametrize("cause", ["state", "command"])
def test_divergence_ends_the_episode_and_the_teleported_state_is_not_passed_on(cause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make_env(WALKER)
    env.reset(seed=0)
    before = [env.step(np.ones(6))[0] for _ in range(5)][-1]
    if cause == "state":
        simulator(env).data.qvel[3] = 1e12
    after, paid, terminated, truncated, info = env.step(np.full(6, np.nan if cause == "command" else 0.0))
    assert np.array_equal(after, before)
    assert (paid, terminated, truncated, info["diverged"]) == (0.0, True, False, True)
    assert env.get_wrapper_attr("divergences") == 1
    env.reset(seed=0)
    assert env.step(np.ones(6))[4]["diverged"] is False


def test_the_readings_of_a_task_are_its_sensors_by_name():
    import torch

    spec, env = robot_spec(WALKER), make_env(WALKER)
    state_O, _ = env.reset(seed=0)
    found = readings(spec, torch.tensor(state_O))
    assert {*found} == {*spec.state_names, "alive"}
    assert found["height"].item() == state_O[14]


# --- faults


def broken(name, faults):
    return FaultWrapper(make_env(name), parse_faults(faults.split(), robot_spec(name)))


def model_bytes(env):
    model = simulator(env).model
    return {
        name: np.array(value).tobytes() for name in dir(model) if isinstance(value := getattr(model, name), np.ndarray)
    }


FAULTS = [
    "actuator_limit:left_ankle:0.3@0.1",
    "actuator_gain:all:0.5@0.1",
    "mass:torso:1.5@0.1",
    "friction:all:0.1@0.1",
    "friction:left_foot:0.1@0.1",
    "joint_lock:left_knee:-@0.1",
    "joint_damping:right_hip:20@0.1",
    "action_delay:all:2@0.1",
    "obs_noise:height:0.5@0.1",
    "obs_drop:all:0.9@0.1",
    "obs_freeze:velocity_1:-@0.1",
    "push:torso:500@0.1",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_changes_what_is_seen_from_its_second_on_and_not_before(fault):
    env, healthy = broken(WALKER, fault), make_env(WALKER)
    assert np.array_equal(env.reset(seed=0)[0], healthy.reset(seed=0)[0])
    seen = [(env.step(a)[0], healthy.step(a)[0]) for a in actions_of(env, 24)]
    same = [np.array_equal(ours, theirs) for ours, theirs in seen]
    assert all(same[:3])
    assert not all(same)


def test_a_locked_joint_holds_its_angle_and_the_others_move():
    env = broken(f"{WALKER}+physics", "joint_lock:left_knee:-@0")
    spec, first = robot_spec(f"{WALKER}+physics"), env.reset(seed=1)[0]
    states = np.array([env.step(a)[0] for a in actions_of(env, 40)])
    moved = np.abs(states - first).max(0)
    assert moved[spec.columns["qpos.left_knee"]] < 0.02
    assert moved[spec.columns["qpos.right_knee"]] > 0.2


@pytest.mark.parametrize("kind", ["mass", "friction"])
def test_a_repaired_model_is_the_original_bit_for_bit(kind):
    env = broken(WALKER, f"{kind}:all:1.5@0-0.1")
    env.reset(seed=0)
    pristine = make_env(WALKER)
    pristine.reset(seed=0)
    assert model_bytes(env) != model_bytes(pristine)
    for action_A in actions_of(env, 5):
        env.step(action_A)
    assert model_bytes(env) == model_bytes(pristine)


@pytest.mark.parametrize("start_s", [0.0, 0.04, 0.1])
def test_a_fault_leaves_the_target_where_the_reset_put_it(start_s):
    name = "dm_control:reacher-easy"
    env, healthy = broken(name, f"mass:all:2@{start_s}"), make_env(name)
    ours, theirs = simulator(env).model, simulator(healthy).model
    for seed in (3, 4, 3):
        env.reset(seed=seed)
        healthy.reset(seed=seed)
        for _ in range(2):
            env.step(np.zeros(2))
            assert np.array_equal(ours.geom("target").pos, theirs.geom("target").pos)
            factor = 2 if env.t_s >= start_s - 1e-9 else 1
            assert ours.body("arm").mass[0] == factor * theirs.body("arm").mass[0]


def test_a_lock_takes_the_motor_of_its_joint_and_leaves_the_tendon_of_the_same_number():
    name = "dm_control:quadruped-walk"
    model = simulator(make_env(name)).model
    for i, (kind, number) in enumerate(zip(model.actuator_trntype, model.actuator_trnid[:, 0], strict=True)):
        joint = model.joint(number).name
        if joint in robot_spec(name).joints:
            locked = simulator(broken(name, f"joint_lock:{joint}:-@0")).model
            assert locked.actuator_gear[i, 0] == (0.0 if kind == 0 else model.actuator_gear[i, 0])
    assert {0, 3} <= set(model.actuator_trntype)


def test_a_joint_without_an_angle_cannot_be_locked():
    with pytest.raises(ValueError, match="unknown joint_lock target 'root'"):
        parse_faults(["joint_lock:root:-@1"], robot_spec("dm_control:quadruped-walk"))


# --- gymnasium


CHECKED = [
    "walker-walk",
    "reacher-easy",
    "quadruped-escape",
    "lqr-lqr_2_1",
    "manipulator-bring_ball",
    "cartpole-swingup",
]


@pytest.mark.parametrize("name", [*ROBOTS, *(f"dm_control:{task}" for task in CHECKED), f"{WALKER}+physics"])
def test_gymnasium_finds_nothing_wrong_with(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # states have no bounds, forces are not between -1 and 1
        env = make_env(name)
        check_env(env, skip_render_check=True)
        check_env(simulator(env), skip_render_check=True)


@pytest.mark.parametrize("name", ROBOTS)
def test_gymnasium_makes_every_robot_by_its_name(name):
    env = gymnasium.make(f"surefoot/{name}-v4")
    ours = make_env(name)
    assert np.array_equal(env.reset(seed=2)[0], ours.reset(seed=2)[0])
    assert env.get_wrapper_attr("robot_spec").name == name


def test_gymnasium_makes_every_task_of_the_suite_alone_and_side_by_side():
    assert envs.gym.make_task("cartpole-swingup").get_wrapper_attr("robot_spec").action.names == ("slider",)
    env = gymnasium.make("surefoot/dm_control-v0", task="walker-walk")
    state_O, _ = env.reset(seed=2)
    both = gymnasium.make_vec("surefoot/dm_control-v0", num_envs=2, task="walker-walk")
    assert np.array_equal(both.reset(seed=[1, 2])[0][1], state_O)
    with pytest.raises(KeyError, match="near misses: walker-walk"):
        gymnasium.make("surefoot/dm_control-v0", task="walker-wlak")


def test_gymnasium_finds_the_robots_through_the_module_in_their_name():
    code = "import gymnasium; print(gymnasium.make('envs.gym:surefoot/hopper-v4').reset(seed=0)[0].shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "(11,)\n"


# --- pictures

PICTURE = """
import sys
from envs.robots import make_env
env = make_env(sys.argv[1], render_mode="rgb_array")
env.reset(seed=0)
first = env.render()
for _ in range(10):
    env.step(env.action_space.high)
second = env.render()
print(first.shape, first.dtype, bool((first != second).any()), first.std() > 5, flush=True)
env.close()
"""


def draw(name, backend):
    environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", PICTURE, name], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def backend():
    found = next((backend for backend in RENDERERS if renders(backend)), None)
    if found is None:
        pytest.skip(f"MuJoCo draws with none of {', '.join(RENDERERS)} here")
    return found


@pytest.mark.parametrize(("name", "shape"), [(WALKER, "(240, 320, 3)"), ("walker2d", "(480, 480, 3)")])
def test_pictures_follow_the_robot(name, shape, backend):
    assert draw(name, backend).stdout == f"{shape} uint8 True True\n"


def test_without_opengl_the_environment_says_what_to_set():
    said = draw(WALKER, "off").stderr.strip().splitlines()[-1]
    assert said.startswith("RuntimeError: no picture: set MUJOCO_GL=egl or osmesa before Python starts (No OpenGL")
