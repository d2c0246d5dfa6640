"""Policies from plain numpy files against hand calculations."""

import numpy as np
import pytest

from envs.policies import load_policy, snapshots

RNG = np.random.default_rng(0)
W0, B0 = RNG.normal(size=(5, 3)), RNG.normal(size=5)
W1, B1 = RNG.normal(size=(2, 5)), RNG.normal(size=2)
LAYERS = {"W0": W0, "b0": B0, "W1": W1, "b1": B1, "act": "tanh", "out": "clip", "time_feature": False}
OBS_BO = RNG.normal(size=(4, 3))


def save(path, **arrays):
    np.savez(path, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    return path


def mean_of(obs_BO, hidden=np.tanh):
    return hidden(obs_BO @ W0.T + B0) @ W1.T + B1


@pytest.mark.parametrize(
    ("act", "out", "expected"),
    [
        ("tanh", "clip", np.clip(mean_of(OBS_BO), -1, 1)),
        ("tanh", "raw", np.clip(mean_of(OBS_BO), -1, 1)),
        ("tanh", "tanh", np.tanh(mean_of(OBS_BO))),
        ("relu", "tanh", np.tanh(mean_of(OBS_BO, lambda x: np.maximum(x, 0)))),
    ],
)
def test_the_mean_action_is_the_perceptron_computed_by_hand(tmp_path, act, out, expected):
    policy = load_policy(save(tmp_path / "p.npz", **(LAYERS | {"act": act, "out": out})))
    np.testing.assert_allclose(policy.act(OBS_BO), expected, rtol=1e-12)


def test_observations_are_scaled_and_clipped_before_the_first_layer(tmp_path):
    mean, scale = np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 1e-3])
    with_default = load_policy(save(tmp_path / "a.npz", **LAYERS, obs_mean=mean, obs_scale=scale))
    with_own = load_policy(save(tmp_path / "b.npz", **LAYERS, obs_mean=mean, obs_scale=scale, obs_clip=0.5))
    scaled = (OBS_BO - mean) / scale
    np.testing.assert_allclose(with_default.act(OBS_BO), np.clip(mean_of(np.clip(scaled, -10, 10)), -1, 1))
    np.testing.assert_allclose(with_own.act(OBS_BO), np.clip(mean_of(np.clip(scaled, -0.5, 0.5)), -1, 1))


def test_an_action_is_the_same_alone_and_in_a_batch(tmp_path):
    policy = load_policy(save(tmp_path / "p.npz", **LAYERS))
    alone = np.concatenate([policy.act(row[None]) for row in OBS_BO])
    np.testing.assert_allclose(policy.act(OBS_BO), alone, rtol=1e-12)


def test_sampled_actions_have_the_constant_spread_of_the_file(tmp_path):
    log_std = np.log([0.05, 0.02])
    small = LAYERS | {"W1": W1 * 0.01, "b1": np.zeros(2)}  # far from the clipping
    policy = load_policy(save(tmp_path / "p.npz", **small, log_std=log_std))
    draws = policy.act(np.repeat(OBS_BO[:1], 20_000, axis=0), np.random.default_rng(1))
    np.testing.assert_allclose(draws.mean(0), policy.act(OBS_BO[:1])[0], atol=2e-3)
    np.testing.assert_allclose(draws.std(0), np.exp(log_std), rtol=0.03)


def test_sampled_actions_have_the_state_dependent_spread_of_the_file(tmp_path):
    head = {"W_logstd": W1 * 0.3, "b_logstd": np.full(2, -3.0)}
    policy = load_policy(save(tmp_path / "p.npz", **(LAYERS | {"out": "tanh"}), **head))
    draws = policy.act(np.repeat(OBS_BO[1:2], 20_000, axis=0), np.random.default_rng(1))
    hidden = np.tanh(OBS_BO[1] @ W0.T + B0)
    np.testing.assert_allclose(np.arctanh(draws).std(0), np.exp(hidden @ head["W_logstd"].T - 3.0), rtol=0.03)


def test_sampling_repeats_with_the_same_generator(tmp_path):
    policy = load_policy(save(tmp_path / "p.npz", **LAYERS, log_std=np.zeros(2)))
    first, second = (policy.act(OBS_BO, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_policy_without_a_spread_refuses_to_be_sampled(tmp_path):
    policy = load_policy(save(tmp_path / "p.npz", **LAYERS))
    with pytest.raises(ValueError, match="no log_std"):
        policy.act(OBS_BO, np.random.default_rng(0))


def test_the_time_feature_falls_from_one_to_zero_over_the_episode(tmp_path):
    layers = {"W0": [[0.0, 0.0, 1.0]], "b0": [0.0], "act": "tanh", "out": "clip", "time_feature": True}
    policy = load_policy(save(tmp_path / "p.npz", **layers))
    assert policy.observation_size == 2
    actions = [policy.act(np.zeros((1, 2)), step=step)[0, 0] for step in (0, 250, 1000)]
    np.testing.assert_allclose(actions, [1.0, 0.75, 0.0])


def test_a_snapshot_of_a_ladder_is_that_row_of_every_array(tmp_path):
    rows = {name: np.stack([value, value * 0.5, value * 2]) for name, value in LAYERS.items() if name[0] in "Wb"}
    path = save(tmp_path / "p.npz", **(LAYERS | rows), iters=[0, 20, 40], src="somewhere")
    half = {name: rows[name][1] for name in rows}
    single = load_policy(save(tmp_path / "single.npz", **(LAYERS | half)))
    assert snapshots(path) == (0, 20, 40)
    np.testing.assert_array_equal(load_policy(path, 20).act(OBS_BO), single.act(OBS_BO))
    for unknown in (30, None):
        with pytest.raises(ValueError, match=rf"no snapshot {unknown} .*\[0, 20, 40\]"):
            load_policy(path, unknown)


def test_a_snapshot_of_a_single_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="single policy"):
        load_policy(save(tmp_path / "p.npz", **LAYERS), 20)


def test_a_file_that_is_missing_or_corrupt_is_one_clear_line(tmp_path):
    whole = save(tmp_path / "p.npz", **LAYERS).read_bytes()
    torn, noise, pickled, empty = (tmp_path / f"{name}.npz" for name in ("torn", "noise", "pickled", "empty"))
    torn.write_bytes(whole[: len(whole) // 2])
    noise.write_bytes(b"\x00nonsense" * 50)
    empty.write_bytes(b"")
    np.savez(pickled, W0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileNotFoundError, match="no policy file"):
        load_policy(tmp_path / "absent.npz")
    for path in (torn, noise, pickled, empty):
        with pytest.raises(ValueError, match=path.name) as error:
            load_policy(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act": "gelu"}, r"act must be one of \['relu', 'tanh'\], got 'gelu'"),
        ({"out": "softmax"}, "out must be one of"),
        ({"b1": None}, "no entry 'b1'"),
        ({"W0": None, "W1": None}, "no entry 'W0'"),
    ],
)
def test_a_file_with_wrong_entries_names_the_entry_and_the_legal_values(tmp_path, change, message):
    arrays = {name: value for name, value in (LAYERS | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_policy(save(tmp_path / "p.npz", **arrays))


def test_a_wrong_observation_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="obs_BO"):
        load_policy(save(tmp_path / "p.npz", **LAYERS)).act(np.zeros((1, 4)))
