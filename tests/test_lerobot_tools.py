"""lerobot's own programs, unmodified, with our plug-ins, headless and offline: judged by what they leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.pilot import Pilot
from deploy.robots.simulated import Simulated
from deploy.task_env import PICTURE, TaskEnv

ROOT = Path(__file__).resolve().parents[1]
WALKER = Simulated("walker2d", LIMITS)
QUIET = ("--play_sounds=false", "--display_data=false")
EVAL_STEPS, EVAL_SEED = 100, 7

pytestmark = pytest.mark.lerobot


def run_tool(name, *options, cwd):
    """Run a program of lerobot's; the folders on the path stand in for an installation of the plug-ins."""
    folders = [ROOT, ROOT / "deploy/plugins", ROOT / "tests/plugins"]
    own = {"PYTHONPATH": os.pathsep.join(map(str, folders)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    homes = {"HF_HOME": str(cwd / "hf"), "HF_LEROBOT_HOME": str(cwd / "lerobot")}
    without_display = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    program = Path(sys.executable).parent / name
    return subprocess.run(
        [str(program), *map(str, options)],
        cwd=cwd,
        env={**without_display, **own, **homes},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def done(result):
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def rows(journal):
    """Return the columns of a robot's journal as arrays; what was not finite is NaN."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    numbers = {key: np.array([line[key] for line in lines], dtype=float) for key in lines[0] if key != "altered_by"}
    return SimpleNamespace(**numbers, altered_by=[line["altered_by"] for line in lines])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two episodes of a walker that an operator's script moves, with a camera."""
    folder = tmp_path_factory.mktemp("recorded")
    robot = (
        "--robot.type=surefoot_sim",
        "--robot.time=stepped",
        "--robot.camera=true",
        "--robot.journal=journal.jsonl",
    )
    names = ("--dataset.repo_id=local/wiggle", "--dataset.root=data", "--dataset.single_task=wiggle")
    sizes = ("--dataset.fps=50", "--dataset.num_episodes=2", "--dataset.episode_time_s=0.4")
    rest = ("--dataset.reset_time_s=0.1", "--dataset.push_to_hub=false", "--dataset.no_stamp=true")
    teleop = ("--teleop.type=surefoot_motion", "--teleop.hz=2", "--teleop.amplitude=0.5")
    done(run_tool("lerobot-record", *robot, *teleop, *names, *sizes, *rest, *QUIET, cwd=folder))
    return folder


@pytest.fixture(scope="module")
def dataset(recorded):
    from lerobot.datasets import LeRobotDataset

    return LeRobotDataset("local/wiggle", root=recorded / "data", video_backend="pyav")


def column(dataset, name):
    return np.stack([np.asarray(row) for row in dataset.hf_dataset.with_format("numpy")[name]])


def test_teleoperate_moves_the_robot_in_real_time(tmp_path):
    robot = ("--robot.type=surefoot_sim", "--robot.robot=halfcheetah", "--robot.journal=journal.jsonl")
    teleop = ("--teleop.type=surefoot_motion", "--teleop.robot=halfcheetah", "--teleop.wave=square")
    done(run_tool("lerobot-teleoperate", *robot, *teleop, "--fps=50", "--teleop_time_s=1", cwd=tmp_path))
    seen = rows(tmp_path / "journal.jsonl")
    assert np.allclose(np.diff(seen.t_s), 0.05)
    assert set(np.abs(seen.requested).round(9).ravel()) == {0.3}
    assert np.array_equal(seen.sent, seen.requested)
    assert (np.ptp(seen.state, axis=0) > 0).all()


def test_what_record_wrote_opens_in_lerobot_with_the_features_of_the_robot(dataset):
    assert dataset.num_episodes == 2
    assert dataset.meta.robot_type == "surefoot_sim"
    assert dataset.features["action"]["names"][2] == "foot_joint_command.vel"
    assert dataset.features["observation.state"]["names"][:2] == ["height.pos", "pitch.pos"]
    assert tuple(dataset.features["observation.images.side"]["shape"]) == PICTURE
    item = dataset[len(dataset) - 1]
    assert item["task"] == "wiggle"
    assert tuple(item["observation.images.side"].shape) == (PICTURE[2], *PICTURE[:2])
    assert float(item["observation.images.side"].std()) > 0.01


def test_each_recorded_frame_is_a_control_step_of_the_robot(recorded, dataset):
    """The journal holds the steps between the episodes too."""
    seen = rows(recorded / "journal.jsonl")
    states, actions, episode = (column(dataset, name) for name in ("observation.state", "action", "episode_index"))
    first = int((episode == 0).sum())
    last = len(states) - first
    for mine, theirs in ((seen.state, states), (seen.requested, actions)):
        assert np.allclose(mine[:first], theirs[:first], atol=1e-5)
        assert np.allclose(mine[-last:], theirs[first:], atol=1e-5)


def test_replay_repeats_what_was_recorded(recorded, dataset, tmp_path):
    robot = ("--robot.type=surefoot_sim", "--robot.time=stepped", "--robot.journal=journal.jsonl")
    data = ("--dataset.repo_id=local/wiggle", f"--dataset.root={recorded / 'data'}", "--dataset.episode=0")
    done(run_tool("lerobot-replay", *robot, *data, "--play_sounds=false", cwd=tmp_path))
    again, first = rows(tmp_path / "journal.jsonl"), rows(recorded / "journal.jsonl")
    assert len(again.state) == int((column(dataset, "episode_index") == 0).sum())
    assert np.array_equal(again.state, first.state[: len(again.state)])


def expected_return(seed):
    """Return what the planner earns in an environment that is stepped by hand; lerobot hands over single precision."""
    task = Simulated("walker2d", LIMITS, episode_steps=EVAL_STEPS)
    env, earned = TaskEnv(task), 0.0
    observation, _ = env.reset(seed=seed)
    pilot = Pilot(PRESETS["walker"][1])
    for _ in range(seed - EVAL_SEED):  # the n-th episode draws the n-th random numbers
        pilot.act(observation["agent_pos"][None])
        pilot.reset()
    for _ in range(EVAL_STEPS):
        state_BO = observation["agent_pos"][None].astype(np.float32)
        observation, reward, *_ = env.step(pilot.act(state_BO)[0])
        earned += reward
    return earned


def test_eval_measures_the_planner_in_our_environment(tmp_path):
    policy = ("--policy.type=surefoot", "--policy.preset=walker")
    env = ("--env.type=surefoot", f"--env.episode_length={EVAL_STEPS}")
    how = (
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        "--eval.use_async_envs=false",
        f"--seed={EVAL_SEED}",
        "--output_dir=out",
    )
    done(run_tool("lerobot-eval", *policy, *env, *how, cwd=tmp_path))
    info = json.loads((tmp_path / "out/eval_info.json").read_text())
    returns = info["per_task"][0]["metrics"]["sum_rewards"]
    assert returns == pytest.approx([expected_return(EVAL_SEED), expected_return(EVAL_SEED + 1)], rel=1e-6)
    assert min(returns) > 1.1 * EVAL_STEPS  # standing still earns 1 per step
    assert info["overall"]["pc_success"] == 100.0
    assert all((tmp_path / path).stat().st_size > 1000 for path in info["overall"]["video_paths"])
    assert len(info["overall"]["video_paths"]) == 2


def exported(policy_type, folder, **options):
    from lerobot.policies import get_policy_class, make_policy_config
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    get_policy_class(policy_type)(make_policy_config(policy_type, **options)).save_pretrained(folder)


def roll_out(folder, *options):
    robot = ("--robot.type=surefoot_sim", "--robot.time=stepped", "--robot.journal=journal.jsonl", *options)
    how = ("--strategy.type=base", "--policy.path=policy", "--duration=2")
    done(run_tool("lerobot-rollout", *robot, *how, *QUIET, cwd=folder))
    return rows(folder / "journal.jsonl")


def test_rollout_walks_with_the_exported_planner(tmp_path):
    from deploy.export_policy import main

    assert main(["walker", "--out", str(tmp_path / "policy")]) == 0
    seen = roll_out(tmp_path, "--fps=125")
    assert len(seen.state) > 10
    assert not seen.fallen.any()
    assert not any(seen.altered_by)
    pilot = Pilot(PRESETS["walker"][1])
    planned = [pilot.act(state_O.astype(np.float32)[None])[0] for state_O in seen.state[:10]]
    assert np.allclose(seen.sent[:10], planned, atol=1e-6)


def test_nothing_that_is_not_finite_reaches_the_plant_whatever_a_policy_returns(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests/plugins")
    from lerobot_policy_broken import GOOD_STEPS

    exported("broken", tmp_path / "policy", preset="walker")
    seen = roll_out(tmp_path, "--fps=125")
    assert (~np.isfinite(seen.requested)).sum() > 10
    assert np.isfinite(seen.sent).all()
    assert np.isfinite(seen.applied).all()
    assert np.isfinite(seen.state).all()
    assert (np.abs(seen.sent) <= 1.0).all()
    assert all(seen.altered_by[GOOD_STEPS:])
    refused = ~np.isfinite(seen.requested).all(axis=1)
    assert [("nonfinite" in names) for names in seen.altered_by] == refused.tolist()


def test_a_program_tells_a_bad_option_in_one_line_and_fails(tmp_path):
    robot = ("--robot.type=surefoot_sim", "--robot.faults=friction:floor:0.3@10 mas:torso:2@1")
    result = run_tool("lerobot-teleoperate", *robot, "--teleop.type=surefoot_motion", cwd=tmp_path)
    assert result.returncode == 1
    said = [line for line in result.stderr.splitlines() if line]
    assert said == [said[-1]]
    assert said[0].startswith("error: `robot`: unknown fault kind 'mas' in mas:torso:2@1: did you mean mass?")
