"""What a latent model did not foresee: the errors, the readings, and a dynamics that is refitted behind a gate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from agents.calibration import calibrate
from agents.latent_adaptation import (
    LatentAdaptConfig,
    LatentJob,
    LatentLearner,
    Windows,
    error,
    fit_gain,
)
from agents.latent_monitor import LatentMonitor, latent_error
from agents.surprise import SurpriseConfig
from agents.types import AdaptationReport, ModelSwap
from world_models.jepa import ConvConfig, Jepa, JepaConfig
from world_models.normaliser import Normaliser

CFG = JepaConfig(
    image=16,
    encoder=ConvConfig((8, 16), 24),
    latent=8,
    hidden=32,
    layers=1,
    heads=2,
    head=4,
    mlp=16,
    block=3,
    dropout=0.0,
)
MONITOR = SurpriseConfig(false_alarm_rate=0.1, refractory=5, settle=20, start_updates=3)


def world(model, action_TA, gain=1.0, seed=0, noise=0.01):
    """Latents that follow the model itself, moved by actions that act `gain` times as much."""
    generator = torch.Generator().manual_seed(seed)
    block, history = model.cfg.block, model.cfg.history
    z = [torch.randn(8, generator=generator) for _ in range(block)]
    rows = torch.from_numpy(np.asarray(action_TA, np.float32)) * gain
    with torch.no_grad():
        for end in range(block, len(action_TA) + 1):
            known = min(end // block, history)
            context = torch.stack([z[end - block * back] for back in range(known, 0, -1)])[None]
            blocks = rows[end - block * known : end].reshape(1, known, -1)
            z.append(model.predict(context, blocks)[0, -1] + noise * torch.randn(8, generator=generator))
    return torch.stack(z)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Jepa(CFG, Normaliser(torch.zeros(2), torch.full((2,), 0.3)))
    for layer in made.predictor.layers:
        nn.init.normal_(layer.modulate.weight, std=1.5)
    return made.eval().requires_grad_(False)


def actions(steps, seed):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 2)).astype(np.float32)


def errors(model, z_TD, action_TA):
    found = []
    for t in range(1, len(z_TD)):
        first = max(0, t - CFG.block * CFG.history)
        found.append(latent_error(model, list(z_TD[first : t + 1]), list(action_TA[first:t])))
    return found


def test_the_error_is_that_of_the_prediction_and_there_is_none_before_a_block(model):
    sent = actions(20, 1)
    z_TD = world(model, sent, noise=0.0)
    found = errors(model, z_TD, sent)
    assert all(np.isnan(found[: CFG.block - 1]))
    assert max(found[CFG.block - 1 :]) < 1e-10
    jumped = z_TD.clone()
    jumped[12:] += 1.0
    seen = errors(model, jumped, sent)
    assert max(seen[CFG.block - 1 : 11]) < 1e-10
    assert seen[11] == pytest.approx(1.0, rel=1e-4)


def calibrated(model, episodes=40):
    healthy = []
    for seed in range(episodes):
        sent = actions(40, 100 + seed)
        healthy.append(np.array(errors(model, world(model, sent, seed=seed), sent)[CFG.block - 1 :]))
    return calibrate(healthy, MONITOR)


@pytest.fixture(scope="module")
def calibration(model):
    return calibrated(model)


def readings(monitor, z_TD, sent):
    monitor.begin_episode()
    found = []
    for t in range(1, len(z_TD)):
        first = max(0, t - CFG.block * CFG.history)
        found.append(monitor.read(0.1 * t, list(z_TD[first : t + 1]), list(sent[first:t])))
    return found


def test_a_jump_is_an_alarm_at_once_and_other_healthy_episodes_raise_few(model, calibration):
    monitor = LatentMonitor(model, calibration, MONITOR)
    quiet = 0
    for seed in range(30):
        sent = actions(40, 500 + seed)
        z_TD = world(model, sent, seed=900 + seed)
        quiet += not any(r.alarm for r in readings(monitor, z_TD, sent) if r)
        jumped = z_TD.clone()
        jumped[25:] += 0.8
        first = next(i for i, r in enumerate(readings(monitor, jumped, sent)) if r and r.alarm)
        assert first == 24 or first < 24
    assert quiet >= 24
    assert LatentMonitor(model, None, MONITOR).read(0.0, [torch.zeros(8)], []) is None


def test_without_a_calibration_errors_are_kept_and_nothing_is_said(model):
    monitor, sent = LatentMonitor(model, None, MONITOR), actions(12, 0)
    assert readings(monitor, world(model, sent), sent) == [None] * 12
    assert len(monitor.errors) == 12 - CFG.block + 1
    monitor.begin_episode()
    assert monitor.errors == []


def test_windows_hold_a_whole_history_and_what_came_after_it(model):
    sent = actions(15, 2)
    z_TD = world(model, sent, noise=0.0)
    windows = Windows.of([(z_TD, sent)], CFG.block, CFG.history)
    assert len(windows) == 15 - CFG.block * CFG.history + 1
    assert torch.equal(windows.next_ND[0], z_TD[9])
    assert torch.equal(windows.z_NTD[0], z_TD[[0, 3, 6]])
    assert np.allclose(windows.blocks_NTX[0].numpy().ravel(), sent[:9].ravel())
    assert float(error(model, windows)) < 1e-10
    assert Windows.of([(z_TD[:5], sent[:4])], CFG.block, CFG.history) is None


def test_the_gain_of_actions_that_act_less_is_found(model):
    from copy import deepcopy

    sent = actions(120, 3)
    windows = Windows.of([(world(model, sent, gain=0.6, noise=0.0), sent)], CFG.block, CFG.history)
    made = deepcopy(model)
    gain_A = fit_gain(made, windows, LatentAdaptConfig(gain_steps=200))
    assert gain_A == pytest.approx((0.6, 0.6), abs=0.05)
    assert float(error(made, windows)) < 0.05 * float(error(model, windows))
    assert torch.equal(model.action.std, torch.full((2,), 0.3))  # the one in use is as it was


def test_a_fit_that_does_not_foresee_better_is_refused_and_one_that_does_is_used(model):
    cfg = LatentAdaptConfig(every=40, rounds=2)
    for gain, accepted in ((1.0, False), (0.5, True)):
        learner, sent = LatentLearner(cfg), actions(90, 4)
        z_TD = world(model, sent, gain=gain, noise=0.02)
        assert learner.take_job(model) is None
        learner.alarm()
        for t in range(90):
            learner.see(z_TD[t], sent[t], z_TD[t + 1])
        job = learner.take_job(model)
        assert isinstance(job, LatentJob)
        assert learner.take_job(model) is None  # one at a time
        chosen, events = learner.receive(job(), 3.0)
        assert (chosen is not None) == accepted
        assert [e.part for e in events if isinstance(e, AdaptationReport)] == ["gain", "predictor"]
        assert any(isinstance(e, ModelSwap) for e in events) == accepted
        assert learner.active


def test_a_learner_gives_up_after_its_rounds_forgets_old_steps_and_keeps_episodes_apart(model):
    cfg = LatentAdaptConfig(every=20, rounds=1, kept=50)
    learner, sent = LatentLearner(cfg), actions(30, 5)
    z_TD = world(model, sent)
    learner.alarm()
    for _ in range(3):
        learner.begin_episode()
        for t in range(30):
            learner.see(z_TD[t], sent[t], z_TD[t + 1])
    job = learner.take_job(model)
    assert [len(action_TA) for _, action_TA in job.tracks] == [30]
    learner.receive([], 0.0)
    assert not learner.active
    learner.see(z_TD[0], sent[0], z_TD[1])
    assert learner.take_job(model) is None


def test_a_learner_that_is_off_never_learns(model):
    learner = LatentLearner(LatentAdaptConfig(enabled=False))
    learner.alarm()
    assert not learner.active


@pytest.mark.parametrize("wrong", [{"heldout_share": 1.0}, {"every": 0}, {"steps": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        replace(LatentAdaptConfig(), **wrong)


def test_a_fit_in_another_process_comes_back_as_files_with_the_same_result(model, tmp_path):
    from agents.latent import LatentConfig
    from configs.presets import PRESETS
    from deploy.realtime.latent_jobs import do_latent_job, read_latent_candidates, write_latent_job

    cfg = LatentAdaptConfig(gain_steps=10, steps=5)
    sent = actions(60, 8)
    tracks = ((world(model, sent, gain=0.7), sent), (world(model, sent[:30], seed=3), sent[:30]))
    job = LatentJob(model, tracks, cfg, 4)
    write_latent_job(tmp_path / "job", job)
    run = replace(PRESETS["lewm-tworoom-small"][1], agent=LatentConfig(adapt=cfg))
    do_latent_job(run, tmp_path / "job")
    for here, there in zip(job(), read_latent_candidates(tmp_path / "job"), strict=True):
        assert (here.part, here.seen) == (there.part, there.seen)
        assert here.after == pytest.approx(there.after, rel=1e-5)
        assert here.gain_A == pytest.approx(there.gain_A, rel=1e-5)
        for a, b in zip(here.model.state_dict().values(), there.model.state_dict().values(), strict=True):
            assert torch.allclose(a.float(), b.float(), atol=1e-6)
