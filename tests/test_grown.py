"""Push-T episodes grown from demonstrations, and what `surefoot collect` makes of them and of the two rooms' expert."""

import json

import numpy as np
import pytest

from deploy.collect import main
from envs.dataset import EpisodeData
from envs.grown import GrowConfig, again, grow, read_demos
from envs.pusht import REACH
from envs.robots import make_env
from envs.video import camera_of


def demonstrated(seed, steps=40):
    """A pusher that is sent past the block, as a person would."""
    rng = np.random.default_rng(seed)
    env = make_env("pusht").unwrapped
    start_5 = np.array([*rng.uniform(60, 150, 2), *rng.uniform(220, 300, 2), rng.uniform(-3, 3)])
    state_O, _ = env.reset(seed=seed, options={"start": start_5, "goal": np.zeros(5)})
    poses, targets = [], []
    for _ in range(steps):
        targets.append(state_O[2:4] + rng.normal(0, 30, 2))
        poses.append(state_O[:5])
        state_O, *_ = env.step(np.clip((targets[-1] - state_O[:2]) / REACH, -1, 1) * 0.4)
        targets[-1] = poses[-1][:2] + np.clip((targets[-1] - poses[-1][:2]) / REACH, -1, 1) * 0.4 * REACH
    return np.array(poses), np.array(targets)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "demos.npz"
    poses, targets = zip(*map(demonstrated, range(4)), strict=True)
    np.savez(path, state=np.concatenate(poses), action=np.concatenate(targets), episode_ends=40 * np.arange(1, 5))
    return path


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_a_demonstration_that_is_mirrored_and_turned_obeys_the_same_physics(file, quarters, mirrored):
    demo = again(read_demos(file)[1], quarters, mirrored)
    env = make_env("pusht").unwrapped
    state_O, _ = env.reset(options={"start": demo.pose_T5[0], "goal": np.zeros(5)})
    for pose_5, target_2 in zip(demo.pose_T5, demo.target_T2, strict=True):
        assert state_O[:5] == pytest.approx(pose_5, abs=1e-6)
        state_O, *_ = env.step((target_2 - state_O[:2]) / REACH)
    assert np.linalg.norm(demo.pose_T5[-1, 2:4] - demo.pose_T5[0, 2:4]) > 10  # and the block was pushed


def test_eight_copies_of_a_demonstration_differ(file):
    demo = read_demos(file)[0]
    copies = {again(demo, q, m).pose_T5.round(3).tobytes() for q in range(4) for m in (False, True)}
    assert len(copies) == 8


def test_an_episode_is_a_function_of_its_number(file):
    demos = read_demos(file)
    one, same, other = (grow(demos, GrowConfig(steps=30, shortest=30), index) for index in (3, 3, 4))
    assert np.array_equal(one.state_TO, same.state_TO)
    assert not np.array_equal(one.state_TO, other.state_TO)
    assert one.length == 30
    assert np.abs(one.action_TA).max() <= 1


def test_without_error_and_exploration_an_episode_follows_its_demonstration(file):
    demos = read_demos(file)
    episode = grow(demos, GrowConfig(steps=15, wander_px=0.0, explore=0.0, shortest=5), 0)
    first = episode.meta["first"]
    copies = [again(demo, q, m) for demo in demos for q in range(4) for m in (False, True)]
    begun = [c for c in copies if np.abs(c.pose_T5[first] - episode.state_TO[0, :5]).max() < 0.01]
    assert len(begun) == 1
    kept = min(15, 40 - first)
    assert episode.length == kept  # it ends with its demonstration
    assert np.abs(begun[0].pose_T5[first : first + kept, :2] - episode.state_TO[:kept, :2]).max() < 8


def test_who_explores_moves_no_faster_than_people_do(file):
    demos = read_demos(file)
    episodes = [grow(demos, GrowConfig(steps=60, explore=1.0), index) for index in range(4)]
    assert [e.length for e in episodes] == [60] * 4
    assert all(0.1 < np.abs(e.action_TA).max() <= 0.6 for e in episodes)
    assert np.std([e.action_TA for e in episodes]) < 0.35


@pytest.mark.parametrize(
    "arrays",
    [
        {"state": np.zeros((3, 5)), "action": np.zeros((3, 2))},
        {"state": np.zeros((3, 4)), "action": np.zeros((3, 2)), "episode_ends": np.array([3])},
        {"state": np.zeros((3, 5)), "action": np.zeros((2, 2)), "episode_ends": np.array([3])},
    ],
)
def test_what_is_no_file_of_demonstrations_is_refused_in_one_line(tmp_path, arrays):
    path = tmp_path / "demos.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"demos\.npz") as error:
        read_demos(path)
    assert "\n" not in str(error.value)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="is no file of Push-T demonstrations"):
        read_demos(path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["pusht-grown", "tworoom-expert"])
def test_a_world_is_collected_with_video_and_again_the_same(name, file, tmp_path, capsys):
    more = ("--demos", str(file), "--held-out", "1", "--grow.steps", "20") if name == "pusht-grown" else ()
    for out in ("one", "other"):
        args = [name, "--episodes", "3", "--workers", "1", "--out", str(tmp_path / out), *more]
        assert main(args) == 0, capsys.readouterr().err
    one, other = (EpisodeData.load(tmp_path / out / name) for out in ("one", "other"))
    assert one.episodes == 3
    assert np.array_equal(one.state_NO, other.state_NO)
    assert camera_of(tmp_path / "one" / name) == "observation.images.top"
    card = json.loads((tmp_path / "one" / name / "meta/surefoot.json").read_text())
    assert card["demos" if more else "noise"] == (3 if more else 2.0)


def test_demonstrations_that_are_all_held_out_are_refused(file, tmp_path, capsys):
    assert main(["pusht-grown", "--demos", str(file), "--out", str(tmp_path)]) == 1
    assert "has 4 demonstrations, and 20 are held out" in capsys.readouterr().err
