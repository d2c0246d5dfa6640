"""The plug-ins as lerobot's own functions see them: found by name, made from options, refused in one line."""

import subprocess
import sys
import tomllib
import zipfile
from dataclasses import make_dataclass
from email.parser import Parser
from importlib.metadata import distributions
from pathlib import Path
from shutil import copytree, ignore_patterns

import draccus
import numpy as np
import pytest
import torch
from draccus.utils import DecodingError
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from lerobot.configs import PreTrainedConfig
from lerobot.envs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.policies import get_policy_class, make_policy, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.scripts.lerobot_eval import eval_policy
from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
from lerobot.utils.errors import DeviceNotConnectedError
from lerobot.utils.import_utils import register_third_party_plugins

from deploy.clock import SimulatedClock
from deploy.feature_names import action_keys, state_keys
from envs.robots import ROBOTS

PLUGINS = Path(__file__).resolve().parents[1] / "deploy/plugins"
NAMES = ["lerobot_env_surefoot", "lerobot_policy_surefoot", "lerobot_robot_surefoot", "lerobot_teleoperator_surefoot"]
CHOICES = {"robot": RobotConfig, "teleop": TeleoperatorConfig, "env": EnvConfig, "policy": PreTrainedConfig}


@pytest.fixture(scope="module", autouse=True)
def _discovered():
    register_third_party_plugins()


def parsed(kind, *options):
    """Return the config that lerobot's programs make of `--KIND.type=... --KIND.option=value ...`."""
    args = [option.replace("--", f"--{kind}.", 1) for option in options]
    return getattr(draccus.parse(make_dataclass("Options", [(kind, CHOICES[kind])]), args=args), kind)


# --- packaging


def test_lerobot_finds_every_plugin_by_the_name_of_its_distribution():
    found = {dist.metadata["Name"] for dist in distributions()}
    assert set(NAMES) <= found
    assert set(NAMES) <= set(sys.modules)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_for_an_installation_says_what_the_project_says(name):
    project = tomllib.loads((PLUGINS / name / "pyproject.toml").read_text())["project"]
    (metadata,) = (Parser().parsestr(path.read_text()) for path in PLUGINS.glob(f"{name}-*.dist-info/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == (project["name"], project["version"]) == (name, "0.1.0")


@pytest.mark.parametrize("name", NAMES)
def test_the_wheel_holds_the_module_under_the_name_that_lerobot_looks_for(name, tmp_path):
    source = copytree(PLUGINS / name, tmp_path / name, ignore=ignore_patterns("build", "*.egg-info", "__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = {file for file in wheel.namelist() if ".dist-info/" not in file}
        metadata = next(wheel.read(file).decode() for file in wheel.namelist() if file.endswith("/METADATA"))
    assert inside == {f"{name}/__init__.py"}
    assert Parser().parsestr(metadata)["Name"] == name


# --- options


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("robot", ["--type=surefoot_sim", "--robot=walker3d"], "`robot`: no robot named 'walker3d'; choose from"),
        ("robot", ["--type=surefoot_sim", "--time=dream"], "`robot`: no time named 'dream'; choose from"),
        ("robot", ["--type=surefoot_sim", "--faults=friction:foot:1@0"], "`robot`: unknown friction target 'foot'"),
        ("robot", ["--type=surefoot_sim", "--seed=-1"], "`robot`: seed must be >= 0, got -1"),
        ("robot", ["--type=surefoot_sim", "--journal=/no/such/folder/x"], "`robot`: journal must be a new file"),
        ("teleop", ["--type=surefoot_motion", "--wave=waltz"], "`teleop`: no motion named 'waltz'; choose from"),
        ("teleop", ["--type=surefoot_motion", "--amplitude=2"], "`teleop`: amplitude must be in [0, 1], got 2.0"),
        ("env", ["--type=surefoot", "--task=pong"], "`env`: no robot named 'pong'; choose from"),
        ("env", ["--type=surefoot", "--fps=30"], "`env`: walker2d runs at 125 steps per second, got fps 30"),
        ("env", ["--type=surefoot", "--obs_type=smells"], "`env`: no kind of observation named 'smells'"),
        ("policy", ["--type=surefoot", "--preset=runner"], "`policy`: no preset 'runner'; choose from"),
        ("policy", ["--type=surefoot", "--overrides=--max-s 9"], "`policy`: max_s: not the planner's; it takes agent,"),
        ("policy", ["--type=surefoot", "--preset=--config"], "`policy`: a planner is named by its preset"),
        ("policy", ["--type=surefoot", "--overrides=--sede 3"], "`policy`: no option '--sede'; near misses: --seed"),
    ],
)
def test_a_bad_option_is_told_in_one_line(kind, options, says):
    with pytest.raises(DecodingError) as refusal:
        parsed(kind, *options)
    message = str(refusal.value)
    assert message.startswith(says)
    assert "\n" not in message


# --- robot and teleoperator


@pytest.mark.parametrize("name", ROBOTS)
def test_names_end_as_lerobot_routes_them_and_a_measured_position_is_a_command_only_where_commands_are_positions(name):
    spec = ROBOTS[name]
    states, actions = state_keys(spec), action_keys(spec)
    assert all(key.endswith((".pos", ".vel")) for key in (*states, *actions))
    shared = spec.action.size if spec.action.positions else 0
    assert len({*states, *actions}) == spec.state_size + spec.action.size - shared


def connected(*options):
    robot = make_robot_from_config(parsed("robot", "--type=surefoot_sim", "--time=stepped", *options))
    robot.connect()
    return robot


def test_a_robot_answers_with_the_features_it_announced():
    robot = connected("--camera=true")
    observation = robot.get_observation()
    assert list(observation) == list(robot.observation_features)
    assert observation["side"].shape == robot.observation_features["side"]
    assert len(robot.cameras) == 1
    assert all(isinstance(value, float) for key, value in observation.items() if key != "side")
    robot.disconnect()
    with pytest.raises(DeviceNotConnectedError):
        robot.get_observation()


def test_send_action_returns_what_was_sent():
    robot = connected()
    keys = list(robot.action_features)
    assert robot.send_action({key: torch.tensor(0.25) for key in keys}) == dict.fromkeys(keys, 0.25)
    assert robot.send_action(dict.fromkeys(keys, 7.0)) == dict.fromkeys(keys, 1.0)
    assert robot.send_action(dict.fromkeys(keys, float("nan"))) == dict.fromkeys(keys, 1.0)


def test_positions_measured_at_the_start_are_not_accepted_as_torques():
    robot = connected()
    measured = {key: value for key, value in robot.get_observation().items() if key.endswith(".pos")}
    with pytest.raises(ValueError, match=r"no action for thigh_joint_command\.vel, .* of walker2d; got height\.pos"):
        robot.send_action(measured)


def test_a_scripted_operator_moves_every_actuator_of_its_robot_within_its_amplitude():
    from lerobot_teleoperator_surefoot import SurefootMotion

    config = parsed("teleop", "--type=surefoot_motion", "--robot=double_integrator", "--hz=0.5", "--amplitude=0.2")
    clock = SimulatedClock(7.0)
    operator = SurefootMotion(config, clock)
    operator.connect()
    forces = []
    for _ in range(9):
        forces.append(operator.get_action()["force_command.vel"])
        clock.advance(0.25)
    turns = np.arange(9) * 0.125
    assert forces == pytest.approx((2.0 * np.sin(2 * np.pi * turns)).tolist(), abs=1e-12)
    driven = make_robot_from_config(parsed("robot", "--type=surefoot_sim", "--robot=double_integrator"))
    assert operator.action_features == driven.action_features
    assert type(make_teleoperator_from_config(config)) is SurefootMotion


# --- environment


def played(vector):
    """Return everything that 40 steps of two walkers, of which one falls, give."""
    actions = np.stack([np.zeros(6), [1.0, -1.0, 1.0, 1.0, -1.0, 1.0]]).astype(np.float32)
    seen = [vector.reset(seed=[3, 4])[0]["agent_pos"]]
    for _ in range(40):
        observation, reward, terminated, truncated, info = vector.step(actions)
        seen += [observation["agent_pos"], reward, terminated, truncated, info.get("is_success", np.zeros(2, bool))]
    vector.close()
    return [np.array(x) for x in seen]


def test_sync_and_async_environments_give_the_same():
    config = parsed("env", "--type=surefoot", "--episode_length=35", "--faults=obs_noise:all:0.1@0.1")
    made = [make_env(config, n_envs=2, use_async_envs=use)["surefoot"][0] for use in (False, True)]
    assert [type(vector) for vector in made] == [SyncVectorEnv, AsyncVectorEnv]
    assert made[0].call("_max_episode_steps") == made[1].call("_max_episode_steps") == (35, 35)
    assert made[1].metadata["render_fps"] == config.fps == 125
    sync, later = (played(vector) for vector in made)
    assert all(np.array_equal(a, b) for a, b in zip(sync, later, strict=True))
    assert [step.tolist() for step in sync[5::5] if step.any()] == [[True, False]]  # one stood, the other fell


def returns(n_envs):
    """Return what two walkers on ice earn until they fall, as lerobot-eval counts it, so many of them at a time."""
    config = parsed("env", "--type=surefoot", "--episode_length=120", "--faults=friction:all:0.01@0")
    policy = make_policy(parsed("policy", "--type=surefoot", "--preset=walker"), env_cfg=config)
    identity = [PolicyProcessorPipeline(steps=[]) for _ in range(2)]
    processors = make_pre_post_processors(policy.config)
    (vector,) = make_env(config, n_envs=n_envs)["surefoot"].values()
    info = eval_policy(vector, policy, *identity, *processors, n_episodes=2, start_seed=0)
    assert not any(episode["success"] for episode in info["per_episode"])
    return [episode["sum_reward"] for episode in info["per_episode"]]


def test_lerobot_counts_the_same_returns_whether_episodes_run_together_or_one_by_one():
    """It counts the step after the last one of an episode that ended before the others."""
    assert returns(2) == returns(1)


# --- policy


def test_a_policy_is_saved_and_loaded_as_lerobot_does_and_acts_the_same(tmp_path):
    config = parsed("policy", "--type=surefoot", "--preset=smoke", "--overrides=--seed 5")
    policy = get_policy_class("surefoot")(config)
    policy.save_pretrained(tmp_path)
    loaded = PreTrainedConfig.from_pretrained(tmp_path)
    loaded.pretrained_path = tmp_path
    again = make_policy(loaded, env_cfg=parsed("env", "--type=surefoot", "--task=double_integrator"))
    overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
    before, after = make_pre_post_processors(loaded, str(tmp_path), preprocessor_overrides=overrides)
    batch = before({"observation.state": torch.tensor([[2.0, 0.0], [-2.0, 0.5]]), "task": ["", ""]})
    for _ in range(3):
        assert torch.equal(after(again.select_action(batch)), policy.select_action(batch))
    assert again.predict_action_chunk(batch).shape == (2, loaded.run.agent.horizon, 1)


def test_a_policy_for_another_robot_is_refused():
    config = parsed("policy", "--type=surefoot", "--preset=smoke")
    with pytest.raises(ValueError, match=r"'smoke' plans for a robot whose action is \(1,\), got \(6,\)"):
        make_policy(config, env_cfg=parsed("env", "--type=surefoot"))
