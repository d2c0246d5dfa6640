"""The training loop: resumed is the same as never stopped, and what is broken says so."""

import pytest
import torch
from torch import nn

from world_models.training import Run, TrainConfig, train

CFG = TrainConfig(steps=20, batch=8, warmup=5, save_every=4, evaluate_every=10, bf16=True)
TRUTH = torch.tensor([[1.0, -2.0, 3.0]])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))


def loss(model, step, generator):
    x = torch.randn(8, 3, generator=generator)
    return (model(x) - x @ TRUTH.T).square().mean()


def finish(folder, cfg=CFG):
    run = Run(network(), cfg, folder)
    for _ in train(run, loss, loss):
        pass
    return run


def test_a_training_that_is_killed_and_resumed_ends_in_the_same_weights(tmp_path):
    whole = finish(tmp_path / "whole")
    for report in train(Run(network(), CFG, tmp_path / "cut"), loss, loss):
        if report.step == 10:  # the last save was at step 8: steps 9 and 10 are lost and done again
            break
    resumed = finish(tmp_path / "cut")
    assert resumed.step == whole.step == 20
    for a, b in zip(whole.ema.values(), resumed.ema.values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.params.values(), resumed.params.values(), strict=True):
        assert torch.equal(a, b)
    assert resumed.curve == whole.curve


def test_training_lowers_the_heldout_loss(tmp_path):
    cfg = TrainConfig(steps=300, batch=8, warmup=5, learning_rate=1e-2, evaluate_every=150, bf16=False)
    run = finish(tmp_path, cfg)
    assert run.curve[-1][2] < 0.1  # 14 at the start


def test_a_state_of_another_config_is_refused(tmp_path):
    finish(tmp_path)
    with pytest.raises(ValueError, match="another folder"):
        Run(network(), TrainConfig(steps=21), tmp_path)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_state(tmp_path):
    def breaks(model, step, generator):
        return loss(model, step, generator) * (float("nan") if step == 6 else 1.0)

    with pytest.raises(FloatingPointError, match="step 7"):
        list(train(Run(network(), CFG, tmp_path), breaks, loss))
    assert Run(network(), CFG, tmp_path).step == 4


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    cfg = TrainConfig(steps=100, warmup=10, learning_rate=1.0, final_rate=0.0)
    assert cfg.rate(0) == pytest.approx(0.1)
    assert cfg.rate(9) == pytest.approx(1.0)
    assert cfg.rate(55) == pytest.approx(0.5)
    assert cfg.rate(100) == pytest.approx(0.0)
