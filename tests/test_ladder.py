"""Which rungs of a ladder a data set is made of, by hand; policy files as safetensors; `behave` refuses in one line."""

from dataclasses import replace

import numpy as np
import pytest

from deploy.behave import main
from envs.ladder import CARD, LEVELS, POLICIES, Ladder, Rung, on_ladder, read_ladder, write_ladder
from envs.policies import load_policy, read_policies, snapshots, write_policies
from envs.recipes import RECIPES

RUNGS = tuple(Rung(n, r, t, 10) for n, r, t in [(0, 10.0, 20.0), (500, 90, 50), (1100, 260, 100), (1500, 410, 400)])
LADDER = Ladder("walker2d", (*RUNGS, Rung(2000, 380.0, 380.0, 10)), {"seed": 0})
RNG = np.random.default_rng(0)
SNAPSHOTS = {
    n: {
        "W0": RNG.normal(size=(3, 5)),
        "b0": RNG.normal(size=3),
        "log_std": RNG.normal(size=3),
        "obs_clip": np.array(2.0),
    }
    | {"obs_mean": RNG.normal(size=5), "obs_scale": RNG.uniform(1, 2, 5)}
    for n in (0, 4096)
}


def test_levels_are_the_untrained_the_best_the_first_past_halfway_and_the_steps_until_then():
    assert LADDER.level("random") == ((0, 1.0),)
    assert LADDER.level("expert") == ((1500, 1.0),)
    assert LADDER.level("medium") == ((1100, 1.0),)  # halfway is 210
    assert LADDER.level("medium-replay") == ((0, 500 / 20), (500, 600 / 50))


def test_a_ladder_that_never_rose_has_only_its_untrained_policy():
    fallen = replace(LADDER, rungs=RUNGS[:1])
    assert fallen.level("random") == ((0, 1.0),)
    for level in LEVELS[1:]:
        with pytest.raises(ValueError, match="train on, with more --steps"):
            fallen.level(level)
    with pytest.raises(ValueError, match="levels random, medium, medium-replay, expert, got 'good'"):
        LADDER.level("good")


def test_a_card_is_read_as_it_was_written_and_a_broken_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no ladder of policies in"):
        read_ladder(tmp_path)
    write_ladder(tmp_path, LADDER)
    assert read_ladder(tmp_path) == LADDER
    for text in ("{}", "[]", "{", '{"format": 2}', '{"format": 1, "robot": "hopper", "rungs": [1], "about": {}}'):
        (tmp_path / CARD).write_text(text)
        with pytest.raises(ValueError, match="is not the card of a ladder"):
            read_ladder(tmp_path)


@pytest.mark.parametrize("robot", ["walker2d", "hopper", "halfcheetah"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_every_walker_is_a_recipe_that_a_ladder_serves(robot, level, tmp_path):
    recipe = RECIPES[f"{robot}-{level}"][1]
    assert on_ladder(recipe, tmp_path) is recipe
    write_ladder(tmp_path, replace(LADDER, robot=robot))
    made = on_ladder(recipe, tmp_path)
    assert (made.policy, made.mixture, made.sampled, made.action_noise) == (POLICIES, LADDER.level(level), True, 0.0)
    assert replace(made, **{n: getattr(recipe, n) for n in ("policy", "mixture", "sampled", "action_noise")}) == recipe
    write_ladder(tmp_path, replace(LADDER, robot="so101"))
    with pytest.raises(ValueError, match=f"holds policies of so101, not of {robot}"):
        on_ladder(recipe, tmp_path)
    (tmp_path / recipe.policy).touch()
    assert on_ladder(recipe, tmp_path) is recipe


def test_a_ladder_in_safetensors_acts_as_the_same_arrays_in_npz(tmp_path):
    write_policies(tmp_path / "one.safetensors", SNAPSHOTS, "tanh", "clip")
    stacked = {name: np.stack([s[name] for s in SNAPSHOTS.values()]) for name in SNAPSHOTS[0]}
    np.savez(tmp_path / "one.npz", iters=list(SNAPSHOTS), act="tanh", out="clip", **stacked)
    assert snapshots(tmp_path / "one.safetensors") == (0, 4096)
    obs_BO = RNG.normal(size=(7, 5))
    for n in SNAPSHOTS:
        one, other = (load_policy(tmp_path / f"one.{kind}", n) for kind in ("safetensors", "npz"))
        drawn = [policy.act(obs_BO, np.random.default_rng(1)) for policy in (one, other)]
        np.testing.assert_array_equal(*drawn)
        scaled_BO = ((obs_BO - SNAPSHOTS[n]["obs_mean"]) / SNAPSHOTS[n]["obs_scale"]).clip(-2, 2)
        np.testing.assert_allclose(one.act(obs_BO), (scaled_BO @ SNAPSHOTS[n]["W0"].T + SNAPSHOTS[n]["b0"]).clip(-1, 1))
    again = read_policies(tmp_path / "one.safetensors")
    assert {n: set(arrays) for n, arrays in again.items()} == {n: set(arrays) for n, arrays in SNAPSHOTS.items()}


def test_a_head_gives_no_smaller_deviation_than_its_file_says(tmp_path):
    head = {"W0": np.zeros((2, 3)), "b0": np.zeros(2), "W_logstd": np.zeros((2, 3)), "b_logstd": np.array([-9.0, -1.0])}
    write_policies(tmp_path / "a.safetensors", {0: head | {"log_std_low": np.array(-5.0)}}, "relu", "tanh")
    write_policies(tmp_path / "b.safetensors", {0: head}, "relu", "tanh")
    stds = [load_policy(tmp_path / f"{name}.safetensors", 0).gaussian.std(np.zeros((1, 3)))[0] for name in "ab"]
    np.testing.assert_allclose(stds, np.exp([[-5.0, -1.0], [-9.0, -1.0]]))


@pytest.mark.parametrize("cut", [0, 7, 100])
def test_a_torn_policy_file_is_refused_in_one_line(cut, tmp_path):
    path = tmp_path / "torn.safetensors"
    write_policies(path, SNAPSHOTS, "tanh", "clip")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is not a readable policy file") as error:
        load_policy(path, 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["walker3d"], "no robot named 'walker3d'; choose from"),
        (["so101"], r"actions in [-1, 1], and so101 is commanded otherwise"),
        (["walker2d", "--steps", "0"], "must be >= 1"),
        (["walker2d", "--stpes", "10"], "--steps"),
        (["walker2d", "--algorithm", "dqn"], "sac"),
        ([], "robot"),
    ],
)
def test_behave_refuses_in_one_line(words, said, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said.lower() in told.lower()


def test_behave_refuses_a_file_for_a_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["walker2d", "--out", str(tmp_path / "file")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
