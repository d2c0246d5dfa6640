"""The robots in simulation against the simulator itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.robots import ROBOTS, make_env, readings, reward, robot_spec

ROOT = Path(__file__).parents[1]
MUJOCO_ROBOTS = ["walker2d", "hopper", "halfcheetah"]


def simulator(env) -> Any:
    """Gymnasium's MuJoCo environment inside the wrappers."""
    return env.unwrapped


def episode(env, seed, steps=80, action_seed=0):
    """States and rewards of one episode under random actions."""
    rng = np.random.default_rng(action_seed)
    states, rewards, done = [env.reset(seed=seed)[0]], [], False
    low, high = env.action_space.low, env.action_space.high
    while not done and len(rewards) < steps:
        state, pay, terminated, truncated, _ = env.step(rng.uniform(low, high).astype(np.float32))
        states.append(state)
        rewards.append(pay)
        done = terminated or truncated
    return np.array(states), np.array(rewards)


@pytest.mark.parametrize(("version", "right", "left"), [("v4", 0.9, 1.9), ("v5", 1.9, 1.9)])
def test_feet_of_the_walker_have_the_friction_of_their_version(version, right, left):
    model = simulator(make_env("walker2d", version)).model
    assert model.geom("foot_geom").friction[0] == right
    assert model.geom("foot_left_geom").friction[0] == left


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize("name", MUJOCO_ROBOTS)
def test_spec_agrees_with_the_model(name, version):
    spec = robot_spec(name, version)
    env = simulator(make_env(name, version))
    model = env.model
    driven = [model.joint(i).name for i in model.actuator_trnid[:, 0]]
    assert list(spec.action.names) == driven
    assert list(spec.action.unit_A) == [f"{g:g} N m" for g in model.actuator_gear[:, 0]]
    assert np.array_equal(model.actuator_ctrlrange, np.stack([spec.action.low_A, spec.action.high_A], axis=1))
    assert ["world", *spec.bodies] == [model.body(i).name for i in range(model.nbody)]
    assert list(spec.geoms) == [model.geom(i).name for i in range(model.ngeom)]
    assert spec.dt_s == pytest.approx(env.dt, abs=1e-12)
    assert spec.state_names[2:8][: len(driven)] == tuple(driven)
    assert (spec.state_size,) == env.observation_space.shape
    assert len(spec.state_units) == len(spec.state_scale) == spec.state_size


@pytest.mark.parametrize("name", ROBOTS)
def test_a_seed_gives_the_same_episode_bit_for_bit_whatever_came_before(name):
    fresh, used = make_env(name), make_env(name)
    episode(used, seed=5, steps=37, action_seed=9)
    for seed in (1, 0):
        ours, theirs = episode(fresh, seed), episode(used, seed)
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
    assert not np.array_equal(fresh.reset(seed=0)[0], fresh.reset(seed=1)[0])


@pytest.mark.parametrize("name", MUJOCO_ROBOTS)
def test_pitch_is_positive_when_the_torso_leans_forward_and_height_is_above_the_floor(name):
    mujoco: Any = pytest.importorskip("mujoco")
    env = make_env(name)
    env.reset(seed=0)
    core = simulator(env)
    core.data.qpos[1] += 0.05
    core.data.qpos[2] = 0.15
    mujoco.mj_forward(core.model, core.data)
    torso = core.data.body("torso")
    up_x, up_z = torso.xmat.reshape(3, 3)[[0, 2], 2]
    assert up_x > 0.1  # its upper end is ahead, and the robots run towards +x
    values = readings(ROBOTS[name], torch.tensor(core._get_obs()))
    assert values["pitch"].item() == pytest.approx(np.arctan2(up_x, up_z), abs=1e-12)
    assert values["height"].item() == pytest.approx(torso.xpos[2], abs=1e-12)
    assert values["speed"].item() == core.data.qvel[0]


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize("name", MUJOCO_ROBOTS)
def test_reward_is_that_of_the_environment_given_its_mean_speed_and_alive_ends_with_the_episode(name, version):
    spec, env, rng = robot_spec(name, version), make_env(name, version), np.random.default_rng(3)
    ends = 0
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(150):
            action = rng.uniform(-1, 1, spec.action.size)
            state, paid, terminated, _, info = env.step(action)
            values = readings(spec, torch.tensor(state))
            assert values["alive"].item() == float(not terminated)
            exact = {**values, "speed": torch.tensor(info["x_velocity"])}
            assert reward(spec, exact, torch.tensor(action)).item() == pytest.approx(paid, abs=1e-9)
            if terminated:
                ends += 1
                break
    assert ends == (0 if name == "halfcheetah" else 3)


@pytest.mark.parametrize("name", MUJOCO_ROBOTS)
def test_error_of_the_reward_telescopes_away_over_an_episode(name):
    spec, env, rng = ROBOTS[name], make_env(name), np.random.default_rng(0)
    states, paid, actions, speeds = [], [], [], [0.0]
    env.reset(seed=0)
    for _ in range(60):
        actions.append(rng.uniform(-1, 1, spec.action.size))
        state, pay, terminated, _, _ = env.step(actions[-1])
        states.append(state)
        paid.append(pay)
        speeds.append(state[spec.columns["speed"]])
        if terminated:
            break
    ours = reward(spec, readings(spec, torch.tensor(np.array(states))), torch.tensor(np.array(actions)))
    # Right-hand sum against integral of the speed: at most (dt / 2) * total variation, per dt.
    assert abs(ours.sum().item() - sum(paid)) <= 0.75 * np.abs(np.diff(speeds)).sum()
    assert abs(ours.mean().item() - np.mean(paid)) < 0.1


@pytest.mark.parametrize(("version", "bonus"), [("v4", 1.0), ("v5", 0.0)])
def test_alive_bonus_of_the_terminating_step_is_paid_in_v4_only(version, bonus):
    env = make_env("walker2d", version)
    env.reset(seed=0)
    simulator(env).data.qpos[2] = 1.2
    _, paid, terminated, _, info = env.step(np.zeros(6))
    assert terminated
    assert paid == pytest.approx(info["x_velocity"] + bonus, abs=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
@pytest.mark.parametrize("name", ROBOTS)
def test_readings_and_reward_keep_leading_axes_and_dtype(name, shape):
    spec = ROBOTS[name]
    z = torch.zeros(*shape, spec.state_size, dtype=torch.float32)
    values = readings(spec, z)
    assert {*values} == {*spec.columns, "alive"}
    assert all(v.shape == shape and v.dtype == torch.float32 for v in values.values())
    assert reward(spec, values, torch.zeros(*shape, spec.action.size)).shape == shape


def test_a_state_with_a_non_finite_number_is_not_alive():
    z = torch.zeros(3, 17)
    z[:, 0] = 1.25
    z[1, 16] = float("nan")
    z[2, 0] = float("inf")
    assert readings(ROBOTS["walker2d"], z)["alive"].tolist() == [1.0, 0.0, 0.0]


def test_readings_refuse_states_of_another_robot():
    with pytest.raises(ValueError, match="walker2d has states of 17 columns"):
        readings(ROBOTS["walker2d"], torch.zeros(2, 11))


@pytest.mark.parametrize("cause", ["state", "command"])
def test_divergence_ends_the_episode_and_the_teleported_state_is_not_passed_on(cause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make_env("walker2d")
    env.reset(seed=0)
    before = [env.step(np.ones(6))[0] for _ in range(5)][-1]
    if cause == "state":
        simulator(env).data.qvel[3] = 1e12
    after, paid, terminated, _, info = env.step(np.full(6, np.nan if cause == "command" else 0.0))
    assert np.array_equal(after, before)
    assert (paid, terminated, info["diverged"]) == (0.0, True, True)
    assert env.get_wrapper_attr("divergences") == 1
    env.reset(seed=0)
    assert env.step(np.ones(6))[4]["diverged"] is False
    assert list(tmp_path.iterdir()) == []  # MuJoCo would leave a log file where it runs


def test_an_episode_is_truncated_after_its_longest_time():
    env = make_env("double_integrator")
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[3] for _ in range(1000)] == [False] * 999 + [True]


def test_unknown_names_are_refused_with_the_legal_ones():
    with pytest.raises(KeyError, match=r"no robot named 'walker'; choose from .*'walker2d'"):
        make_env("walker")
    with pytest.raises(ValueError, match=r"version must be one of \('v4', 'v5'\), got 'v3'"):
        make_env("walker2d", "v3")


def test_importing_the_robots_is_light_and_leaves_the_environment_alone():
    code = (
        "import os, sys; before = dict(os.environ); import envs.robots; assert dict(os.environ) == before; "
        "assert 'gymnasium' not in sys.modules; import envs.faults, envs.linear, envs.oracle; "
        "assert not {'mujoco', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
