"""Collection: the data depend on recipe and policies alone, not on workers, interruptions or order."""

from dataclasses import replace

import numpy as np
import pytest

import deploy.collect as command
from envs.collect import Collected, Collector, collect, collect_dataset
from envs.dataset import read_card
from envs.episodes import Spool
from envs.recipes import RECIPES, Recipe
from envs.robots import make_env

RECIPE = Recipe("few", "ladder.npz", mixture=((0, 1.0), (20, 3.0)), steps=120, robot="walker2d", max_episode_steps=30)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """A ladder of two random walkers and a policy that always asks for 0.25."""
    folder, rng = tmp_path_factory.mktemp("policies"), np.random.default_rng(0)
    ladder = {"W0": rng.normal(size=(2, 6, 17)) * 0.1, "b0": np.zeros((2, 6)), "log_std": np.full((2, 6), -1.0)}
    np.savez(folder / "ladder.npz", iters=[0, 20], act="tanh", out="raw", **ladder)
    np.savez(folder / "constant.npz", W0=np.zeros((6, 17)), b0=np.full(6, 0.25), act="tanh", out="clip")
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def interrupt(*_):
    raise KeyboardInterrupt


class Interrupted:
    """Raises KeyboardInterrupt once so many episodes are done."""

    def __init__(self, after):
        self.after = after

    def __call__(self, done):
        if done.episodes == self.after:
            interrupt()


def test_the_data_are_the_shortest_run_of_whole_episodes_that_holds_the_steps(policies, tmp_path):
    done = collect(RECIPE, policies, Spool(tmp_path))
    lengths = [episode.length for episode in Spool(tmp_path).episodes(done.episodes)]
    assert sum(lengths) == done.steps >= RECIPE.steps > sum(lengths[:-1])
    assert Spool(tmp_path).indices() == list(range(done.episodes))


def test_two_workers_make_the_same_bytes_as_one(policies, tmp_path):
    one, two = Spool(tmp_path / "one"), Spool(tmp_path / "two")
    assert collect(RECIPE, policies, one) == collect(RECIPE, policies, two, workers=2)
    assert contents(one.folder) == contents(two.folder)


def test_an_interrupted_collection_continues_to_the_same_bytes_even_past_a_torn_file(policies, tmp_path):
    whole, broken = Spool(tmp_path / "whole"), Spool(tmp_path / "broken")
    collect(RECIPE, policies, whole)
    with pytest.raises(KeyboardInterrupt):
        collect(RECIPE, policies, broken, report=Interrupted(after=3))
    assert broken.indices() == [0, 1, 2]
    broken.path(1).write_bytes(broken.path(1).read_bytes()[:-9])
    collect(RECIPE, policies, broken)
    assert contents(whole.folder) == contents(broken.folder)


def test_an_episode_does_not_depend_on_the_ones_before_it(policies):
    used, fresh = Collector(RECIPE, policies), Collector(RECIPE, policies)
    for index in range(3):
        used.run(index)
    np.testing.assert_array_equal(used.run(7).state_TO, fresh.run(7).state_TO)


def test_seed_and_sent_actions_reproduce_the_states(policies):
    episode = Collector(RECIPE, policies).run(0)
    env = make_env("walker2d")
    states = [env.reset(seed=episode.seed)[0]]
    states += [env.step(action_A)[0] for action_A in episode.action_TA]
    np.testing.assert_array_equal(np.asarray(states, np.float32), episode.state_TO)


def test_episodes_draw_their_policy_by_weight_and_say_which(policies):
    collector = Collector(replace(RECIPE, max_episode_steps=1), policies)
    drawn = [collector.run(index).meta["snapshot"] for index in range(400)]
    share = drawn.count(20) / 400
    assert set(drawn) == {0, 20}
    assert abs(share - 0.75) < 3 * np.sqrt(0.75 * 0.25 / 400)


def test_mean_actions_carry_the_noise_they_are_told_to(policies):
    constant = replace(RECIPE, policy="constant.npz", mixture=((None, 1.0),), sampled=False, max_episode_steps=10)
    quiet = Collector(constant, policies).run(0)
    np.testing.assert_allclose(quiet.action_TA, 0.25, atol=1e-7)
    noisy = Collector(replace(constant, action_noise=0.1), policies)
    actions = np.concatenate([noisy.run(index).action_TA for index in range(30)])
    assert abs(actions.std() - 0.1) < 0.01
    assert abs(actions.mean() - 0.25) < 0.01


def test_an_episode_is_truncated_by_the_clock_and_terminated_by_a_fall(policies):
    short = Collector(replace(RECIPE, max_episode_steps=2), policies).run(0)
    assert (short.length, short.terminated, short.truncated) == (2, False, True)
    fall = Collector(replace(RECIPE, max_episode_steps=1000), policies).run(0)
    assert (fall.terminated, fall.truncated) == (True, False)
    assert fall.length < 1000


def test_a_spool_of_another_recipe_or_policy_file_is_refused(policies, tmp_path):
    collect(RECIPE, policies, Spool(tmp_path / "spool"))
    with pytest.raises(ValueError, match="another recipe"):
        collect(replace(RECIPE, seed=1), policies, Spool(tmp_path / "spool"))
    (tmp_path / "ladder.npz").write_bytes((policies / "ladder.npz").read_bytes() + b"\0")
    with pytest.raises(ValueError, match="another recipe or policy"):
        collect(RECIPE, tmp_path, Spool(tmp_path / "spool"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"action_noise": -0.1}, "action_noise must be >= 0, got -0.1"),
        ({"mixture": ()}, "mixture"),
        ({"mixture": ((0, -1.0),)}, "mixture"),
    ],
)
def test_a_recipe_refuses_values_that_make_no_data(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)


def test_errors_of_the_policy_are_raised_before_any_worker_starts(policies, tmp_path):
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"no snapshot 30 .*\[0, 20\]"):
            collect(replace(RECIPE, mixture=((30, 1.0),)), policies, Spool(tmp_path / str(workers)), workers)
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        collect(RECIPE, policies, Spool(tmp_path / "none"), workers=0)


def test_interrupted_and_resumed_gives_the_data_set_of_an_uninterrupted_run_byte_for_byte(policies, tmp_path):
    done = collect_dataset(RECIPE, policies, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        collect_dataset(RECIPE, policies, tmp_path / "b", report=Interrupted(after=2))
    with pytest.raises(KeyboardInterrupt):  # and once more, while the data set is being written
        collect_dataset(RECIPE, policies, tmp_path / "b", report_written=interrupt)
    assert not (tmp_path / "b/few").exists()
    collect_dataset(RECIPE, policies, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["few"]  # the spool is gone
    card = read_card(tmp_path / "a/few")
    assert (card["steps"], card["episodes"], card["mean_return"]) == (done.steps, done.episodes, done.mean_return)
    assert card["recipe"]["mixture"] == [[0, 1.0], [20, 3.0]]
    with pytest.raises(FileExistsError, match="delete it"):
        collect_dataset(RECIPE, policies, tmp_path / "a")


def test_the_recipes_are_named_after_their_folders():
    assert {name: recipe.name for name, (_, recipe) in RECIPES.items()} == {name: name for name in RECIPES}


def test_the_command_fails_with_one_line_and_a_code_of_its_own(tmp_path, capsys, monkeypatch):
    arguments = ["walker2d-medium", "--policies", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: no policy file")
    monkeypatch.setattr(command, "collect_dataset", interrupt)
    assert command.main(arguments) == command.INTERRUPTED
    assert "same command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walker2d-medim"], "walker2d-medium"),
        (["walker2d-own", "--episodez", "3"], "--episodes"),
        (["walker2d-own", "--episodes", "x"], "x"),
        (["walker2d-own", "--episodes", "0"], "episodes"),
        ([], "walker2d-own"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, said, capsys):
    assert command.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_the_command_passes_every_option_on(tmp_path, capsys, monkeypatch):
    seen = []

    def fake(recipe, policies, out, workers, *_):
        seen.append((recipe.steps, recipe.seed, policies, out, workers))
        return Collected(episodes=2, steps=70, total_reward=10.0)

    monkeypatch.setattr(command, "collect_dataset", fake)
    options = ["--recipe.steps", "70", "--recipe.seed", "5", "--workers", "3"]
    assert command.main(["walker2d-medium", "--policies", str(tmp_path), "--out", str(tmp_path), *options]) == 0
    assert seen == [(70, 5, tmp_path, tmp_path, 3)]
    assert "2 episodes, 70 steps, mean return 5.0" in capsys.readouterr().out
