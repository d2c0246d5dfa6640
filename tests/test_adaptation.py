"""Adaptation on a small system whose body changes: what it must do, and what it must refuse."""

import copy

import numpy as np
import pytest
import torch

from agents.adaptation import (
    FitConfig,
    Play,
    adapt_dynamics,
    adapt_policy,
    adapt_step,
    adapt_value,
    cut,
    energy_scores,
    fit,
    merge,
    returns_to_go,
    split,
    trainable_copy,
    windows,
)
from agents.imagination import ImagineConfig
from agents.jobs import AdaptConfig, accepts
from world_models.checkpoint import blank
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.dynamics import DiffusionDynamics
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig
from world_models.step import StepConfig, StepModel
from world_models.value import ValueConfig, ValueEnsemble

HORIZON = 8


def play(gain, n, steps=60, seed=0):
    """Episodes of x' = x + gain * 0.1 a in two dimensions, with random actions; fallen at the end."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(n):
        actions = rng.uniform(-1, 1, (steps, 2))
        states = np.concatenate([np.zeros((1, 2)), np.cumsum(0.1 * gain * actions, axis=0)]) + rng.normal(0, 0.5, 2)
        made.append(Play(states.astype(np.float32), actions.astype(np.float32), np.ones(steps), terminated=True))
    return made


@pytest.fixture(scope="module")
def healthy():
    torch.manual_seed(0)
    data = play(1.0, 30, seed=1)
    states, actions = windows(data, HORIZON)
    change = states[:, 1:] - states[:, :1]
    norm = Normaliser(change.mean(0), change.std(0))
    net = DenoiserConfig(width=32, layers=1, heads=2, qkv=32, mlp=64, causal=True)
    model = DiffusionDynamics(net, DiffusionConfig(2), Normaliser.fit(states[:, 0]), blank((2,)), norm)

    def loss(made, generator):
        pick = torch.randint(0, len(states), (128,), generator=generator)
        return made.loss(states[pick, 0], actions[pick], states[pick, 1:], generator).mean()

    made = fit(model, loss, FitConfig(steps=400, learning_rate=3e-3), seed=0)
    return made, (states, actions)


@pytest.mark.parametrize("rank", [0, 4])
def test_dynamics_of_a_changed_body_are_accepted_and_the_old_weights_untouched(healthy, rank):
    model, replay = healthy
    before = copy.deepcopy(model.state_dict())
    made = adapt_dynamics(
        model, play(0.3, 9), replay, FitConfig(steps=150, learning_rate=3e-3, rank=rank, replay_share=0.1), 0
    )
    assert accepts(made, AdaptConfig().margin)
    assert made.after < 0.8 * made.before
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_dynamics_of_an_unchanged_body_are_refused(healthy):
    model, replay = healthy
    made = adapt_dynamics(model, play(1.0, 9, seed=5), replay, FitConfig(steps=10, learning_rate=1e-5), 0)
    assert not accepts(made, AdaptConfig().new_body_margin)


def test_a_ruined_candidate_is_refused(healthy):
    model, replay = healthy
    made = adapt_dynamics(model, play(0.3, 9), replay, FitConfig(steps=10, learning_rate=10.0), 0)
    assert not accepts(made, AdaptConfig().margin)


def test_adapting_is_deterministic(healthy):
    model, replay = healthy
    cfg = FitConfig(steps=5)
    one, two = (adapt_dynamics(model, play(0.3, 9), replay, cfg, 3) for _ in range(2))
    assert one.after == two.after
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_low_rank_update_starts_at_the_old_weights_and_merges_without_a_trace(healthy):
    model, _ = healthy
    made = trainable_copy(model, rank=2, seed=0)
    trained = [name for name, p in made.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.endswith((".a", ".b")) for name in trained)
    merged = merge(made)
    assert {n: t.shape for n, t in merged.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    for name, tensor in model.state_dict().items():
        assert torch.allclose(merged.state_dict()[name], tensor, atol=1e-6)


def test_members_are_averaged(healthy):
    model, replay = healthy
    data = play(0.3, 9)
    one, two = (adapt_dynamics(model, data, replay, FitConfig(steps=3), seed).model for seed in (0, 1))
    both = adapt_dynamics(model, data, replay, FitConfig(steps=3, members=2), 0).model
    for a, b, c in zip(one.parameters(), two.parameters(), both.parameters(), strict=True):
        assert torch.allclose((a + b) / 2, c, atol=1e-6)


def test_the_energy_score_prefers_the_true_dynamics(healthy):
    model, _ = healthy
    data = play(1.0, 3, seed=8)
    blind = copy.deepcopy(model)
    blind.net.read.weight.data.zero_()
    assert energy_scores(model, data).mean() < energy_scores(blind, data).mean()


def test_the_most_recent_episode_is_held_out_and_nothing_is_in_both_parts():
    data = play(1.0, 7)
    fit_on, held = split(data)
    assert held[-1] is data[-1]
    assert len(fit_on) + len(held) == 7
    assert not {id(p) for p in fit_on} & {id(p) for p in held}


def test_returns_are_discounted_and_a_fall_costs_once_at_the_end():
    p = Play(np.zeros((4, 2)), np.zeros((3, 2)), np.array([1.0, 2.0, 3.0]), terminated=True)
    last = 3.0 - 100.0
    assert returns_to_go(p, 0.9, 100.0) == pytest.approx([1 + 0.9 * (2 + 0.9 * last), 2 + 0.9 * last, last])


def still():
    """A policy that does nothing."""
    policy = Policy(PolicyConfig(8, 1), blank((2,)), blank((2,)))
    for p in policy.net[-1].parameters():
        p.data.zero_()
    return policy


def test_the_policy_follows_what_was_played_and_stays_where_it_was_elsewhere():
    torch.manual_seed(0)
    rng, data = np.random.default_rng(0), []
    for _ in range(9):
        states = rng.normal(5.0, 0.1, (61, 2))
        data.append(Play(states, np.full((60, 2), 0.7), np.ones(60), terminated=True))
    old = still()
    replay = torch.zeros(4, HORIZON + 1, 2), torch.zeros(4, HORIZON, 2)
    made = adapt_policy(old, data, replay, FitConfig(steps=400, learning_rate=2e-2, replay_share=0.5), 0)
    assert made.part == "policy"
    assert made.after < 0.1 * made.before
    assert made.model(torch.full((1, 2), 5.0)) == pytest.approx(0.7, abs=0.15)
    assert made.model(torch.zeros(1, 2)) == pytest.approx(0.0, abs=0.15)
    assert torch.equal(old(torch.full((1, 2), 5.0)), torch.zeros(1, 2))


def test_the_value_is_what_the_policy_earns_in_the_one_step_model():
    """A state that never moves pays 1 a step for ever: 1 / (1 - 0.9) = 10; the returns of the play do not matter."""
    torch.manual_seed(0)
    value = ValueEnsemble(
        ValueConfig(members=2, width=16, discount=0.9),
        blank((2,)),
        Normaliser(torch.tensor([0.0]), torch.tensor([5.0])),
    )
    step = StepModel(StepConfig(8, 1), blank((2,)), blank((2,)), Normaliser(torch.zeros(2), torch.full((2,), 1e-6)))

    def judge(states, actions):
        return torch.ones(len(states)), torch.ones(len(states))

    cfg = ImagineConfig(iterations=150, starts=32, horizon=8, learning_rate=1e-2)
    made = adapt_value(value, step, still(), play(0.3, 9), 9, judge, cfg, 0)
    assert made.part == "value"
    states = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) * 0.3
    with torch.inference_mode():
        found = made.model.returns.inverse(made.model.members(states).mean(0)[:, None])
    assert found.mean() == pytest.approx(10.0, rel=0.1)
    again = adapt_value(value, step, still(), play(0.3, 9), 9, judge, cfg, 0)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), again.model.parameters(), strict=True))


def test_the_one_step_model_follows_the_body(healthy):
    _, replay = healthy
    torch.manual_seed(0)
    states, actions = windows(play(1.0, 30, seed=1), 2)
    norms = (Normaliser.fit(x) for x in (states[:, 1], actions[:, 1], states[:, 2] - states[:, 1]))
    untrained = StepModel(StepConfig(32, 1), *norms)

    def loss(made, generator):
        pick = torch.randint(0, len(states), (256,), generator=generator)
        return made.loss(states[pick], actions[pick], generator).mean()

    model = fit(untrained, loss, FitConfig(steps=600, learning_rate=1e-2), 0)
    body = FitConfig(300, 256, 3e-2)
    made = adapt_step(model, play(-0.5, 9), replay, FitConfig(steps=300, learning_rate=3e-3), body, 0)
    assert made.part == "step"
    assert made.after < 0.5 * made.before
    assert made.better_share == 1.0
    weak, well = (windows(play(gain, 6, seed=9), 2) for gain in (-0.5, 1.0))
    assert float(model.errors(*weak).mean()) > 3 * float(model.errors(*well).mean())  # the old model is surprised
    assert float(made.model.errors(*weak).mean()) < float(model.errors(*weak).mean()) / 3


def test_old_windows_are_cut_into_pieces_that_were_lived(healthy):
    _, (states, actions) = healthy
    pieces, sent = cut((states[:5], actions[:5]), 2)
    assert pieces.shape == (5 * HORIZON // 2, 3, 2)
    assert torch.equal(pieces[1], states[0, 2:5])
    assert torch.equal(sent[1], actions[0, 2:4])
