"""Policies trained by RLlib: they learn, act as RLlib's own module does, are collected from, and training goes on."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import deploy.collect
from agents.behaviour import CHECKPOINT, BehaviourConfig, PpoConfig, SacConfig, Training
from agents.rllib_state import pack, read_state, write_state
from deploy.behave import BehaveArgs, train
from deploy.sweeps.cluster import connected
from envs.dataset import read_card
from envs.ladder import LEVELS, POLICIES, read_ladder
from envs.policies import load_policy, read_policies, snapshots
from envs.robots import make_env

PPO = BehaviourConfig("hopper", steps=12_000, every=4000, episodes=4)
SMALL = SacConfig(first=900, hidden=(32, 32), batch=64)
SAC = BehaviourConfig("hopper", "sac", steps=1000, every=1000, episodes=1, sac=SMALL)


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    with connected(None, tmp_path_factory.mktemp("code"), cpus=1):
        yield


@pytest.fixture(scope="module")
def interrupted(ray, tmp_path_factory):
    """Folder and result of a training that Ctrl-C met in its third iteration."""
    folder = tmp_path_factory.mktemp("hopper")

    class Met(Training):
        def advance(self):
            if self.steps > 4000:
                signal.raise_signal(signal.SIGINT)
            return super().advance()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploy.behave.Training", Met)
        result = train(BehaveArgs(**{name: getattr(PPO, name) for name in vars(PPO)}, out=folder), Console(quiet=True))
    return folder, *result, read_state(folder / CHECKPOINT), read_policies(folder / POLICIES)


@pytest.fixture(scope="module")
def hopper(interrupted):
    """The same, gone on with to its end; also the state with which it went on."""
    training = Training(PPO, interrupted[0])
    begun = training.steps, pack(training.algorithm)
    while not training.done:
        training.advance()
    yield training, *begun
    training.close()


def seen(n=64):
    """States (n, 11) of a hopper that does anything."""
    env = make_env("hopper")
    env.action_space.seed(0)
    rows = [env.reset(seed=0)[0]]
    while len(rows) < n:
        state_O, _, terminated, _, _ = env.step(env.action_space.sample())
        rows.append(env.reset()[0] if terminated else state_O)
    return np.array(rows)


def outputs(training, obs_BO):
    """Mean and log standard deviation, (B, A) each, as RLlib's own module gives them."""
    with torch.no_grad():
        made = training.algorithm.get_module().forward_inference({"obs": torch.from_numpy(obs_BO).float()})
    return np.split(made["action_dist_inputs"].numpy().astype(float), 2, axis=1)


def filtered(training, obs_BO):
    """The observations after RLlib's own filter."""
    from ray.rllib.utils.filter import MeanStdFilter, RunningStat

    (state,) = pack(training.algorithm)["env_to_module_connector"]["MeanStdFilter"].values()
    own = MeanStdFilter(obs_BO.shape[1:], clip=state["clip_by_value"])
    own.running_stats = RunningStat.from_state(state["running_stats"][0])
    return np.stack([own(row, update=False) for row in obs_BO])


def same(one, other):
    return json.dumps(one, default=np.ndarray.tolist) == json.dumps(other, default=np.ndarray.tolist)


def test_ctrl_c_ends_an_iteration_and_leaves_ladder_and_checkpoint(interrupted):
    folder, steps, done, (_, about), ladder = interrupted
    assert (about, done) == ({"steps": steps}, False)
    assert 6000 < steps < 8000
    assert list(ladder) == [rung.steps for rung in read_ladder(folder).rungs]
    assert len(ladder) == 2


def test_training_goes_on_from_its_checkpoint(interrupted, hopper):
    _, steps, _, (state, _), early = interrupted
    training, begun, state_begun = hopper
    assert begun == steps
    assert same(state_begun, state)
    late = read_policies(training.folder / POLICIES)
    assert list(late)[:2] == list(early)
    assert all(np.array_equal(late[n]["W0"], early[n]["W0"]) for n in early)
    assert len(late) == 4
    assert not same(pack(training.algorithm), state)


def test_the_same_seed_makes_the_same_policies(interrupted, tmp_path):
    again = Training(replace(PPO, steps=4000), tmp_path)
    while not again.done:
        again.advance()
    again.close()
    one, other = interrupted[4], read_policies(tmp_path / POLICIES)
    assert list(one) == list(other)
    assert all(np.array_equal(one[n][name], other[n][name]) for n in one for name in one[n])
    assert read_ladder(tmp_path).rungs == read_ladder(interrupted[0]).rungs[:2]


def test_training_improves_and_each_rung_is_measured(hopper):
    training = hopper[0]
    ladder = read_ladder(training.folder)
    steps = [rung.steps for rung in ladder.rungs]
    assert all(4000 * i <= n < 4000 * i + 2500 for i, n in enumerate(steps))
    assert tuple(steps) == snapshots(training.folder / POLICIES)
    assert ladder.rungs[-1].mean_return > 3 * ladder.rungs[0].mean_return > 0
    assert all(rung.episodes == 4 and rung.mean_length >= 1 for rung in ladder.rungs)


def test_the_file_acts_as_rllibs_module_does(hopper):
    training, obs_BO = hopper[0], seen()
    policy = load_policy(training.folder / POLICIES, training.steps)
    mean_BA, log_std_BA = outputs(training, filtered(training, obs_BO))
    np.testing.assert_allclose(policy.act(obs_BO), mean_BA.clip(-1, 1), atol=2e-5)
    assert mean_BA.std(0).min() > 0.01
    noise_BA = np.random.default_rng(5).standard_normal(mean_BA.shape)
    drawn_BA = policy.act(obs_BO, np.random.default_rng(5))
    np.testing.assert_allclose(drawn_BA, (mean_BA + np.exp(log_std_BA) * noise_BA).clip(-1, 1), atol=2e-5)


def test_a_folder_of_another_training_is_refused(hopper):
    with pytest.raises(ValueError, match=r"holds a training with seed 0, clip 0\.2: go on"):
        Training(replace(PPO, seed=1, ppo=PpoConfig(clip=0.1)), hopper[0].folder)


@pytest.mark.parametrize("level", LEVELS)
def test_data_sets_are_collected_from_the_ladder(hopper, tmp_path, level, capsys):
    folder = hopper[0].folder
    words = [f"hopper-{level}", "--policies", str(folder), "--out", str(tmp_path)]
    assert deploy.collect.main([*words, "--recipe.steps", "100", "--workers", "1"]) == 0
    assert f"hopper-{level}: " in capsys.readouterr().out
    made = read_card(tmp_path / f"hopper-{level}")["recipe"]
    assert made["policy"] == POLICIES
    assert [tuple(pair) for pair in made["mixture"]] == list(read_ladder(folder).level(level))


def test_soft_actor_critic_is_exported_too_and_goes_on(ray, tmp_path):
    training, obs_BO = Training(SAC, tmp_path), seen()
    while not training.done:
        training.advance()
    policy = load_policy(tmp_path / POLICIES, training.steps)
    mean_BA, log_std_BA = outputs(training, obs_BO)
    np.testing.assert_allclose(policy.act(obs_BO), np.tanh(mean_BA), atol=2e-5)
    noise_BA = np.random.default_rng(5).standard_normal(mean_BA.shape)
    std_BA = np.exp(log_std_BA.clip(-5, 2))
    np.testing.assert_allclose(
        policy.act(obs_BO, np.random.default_rng(5)), np.tanh(mean_BA + std_BA * noise_BA), atol=2e-5
    )
    state = pack(training.algorithm)
    training.close()
    assert state["log_alpha"] != 0.0
    again = Training(replace(SAC, steps=2000), tmp_path)
    assert same(pack(again.algorithm), state)
    again.close()


def test_a_checkpoint_that_is_no_whole_file_is_refused(tmp_path):
    state = {"a": {0: np.arange(3), 1: [1.5, None, {"b": np.array(2.0, np.float32)}]}, "c": "word", "d": True}
    write_state(tmp_path / "one", state, {"steps": 7})
    read, about = read_state(tmp_path / "one")
    assert about == {"steps": 7}
    assert same(read, state)
    (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:-3])
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        read_state(tmp_path / "one")
