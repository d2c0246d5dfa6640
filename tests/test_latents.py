"""Training a latent world model from data sets: resumable to the bit, settled, and read back as it was written."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import deploy.train
from configs.models import LATENT_MODELS
from deploy.collect import main as collect
from deploy.train import TrainArgs, train_all
from world_models.checkpoint import load_part, read_card
from world_models.jepa import ConvConfig, JepaConfig, VitConfig
from world_models.latents import jepa_task
from world_models.training import Run, TrainConfig, train

TINY = JepaConfig(
    image=16, encoder=ConvConfig((8, 16), 24), latent=8, hidden=32, layers=2, heads=2, head=4, mlp=16, dropout=0.2
)
CFG = replace(
    LATENT_MODELS["lewm-tworoom-small"],
    **dict.fromkeys(("temporal", "inverse", "decoder", "ensemble")),
    jepa=replace(
        LATENT_MODELS["lewm-tworoom-small"].jepa,
        jepa=TINY,
        train=TrainConfig(steps=12, batch=16, warmup=2, save_every=4, evaluate_every=6, heldout_share=0.3),
        directions=16,
        settled=4,
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    assert collect(["tworoom-expert", "--episodes", "6", "--workers", "1", "--out", str(out)]) == 0
    return out


def finish(folder, data):
    torch.manual_seed(0)
    task = jepa_task(CFG, data)
    run = Run(task.model, CFG.jepa.train, folder)
    for _ in train(run, task.train_loss, task.heldout_loss):
        pass
    return run, task


@pytest.mark.timeout(120)
def test_a_training_that_is_resumed_ends_in_the_same_weights_dropout_included(data, tmp_path):
    whole, _ = finish(tmp_path / "whole", data)
    torch.manual_seed(0)
    task = jepa_task(CFG, data)
    for report in train(Run(task.model, CFG.jepa.train, tmp_path / "cut"), task.train_loss, task.heldout_loss):
        if report.step == 6:
            break
    resumed, _ = finish(tmp_path / "cut", data)
    assert resumed.curve == whole.curve
    for a, b in zip(whole.params.values(), resumed.params.values(), strict=True):
        assert torch.equal(a, b)


def test_dropout_is_of_training_alone_and_of_the_generator_alone(data):
    torch.manual_seed(0)
    task = jepa_task(CFG, data)

    def value(loss, seed):
        torch.randn(seed + 1)  # other random numbers are nobody's business
        return loss(task.model, 0, torch.Generator().manual_seed(3)).item()

    assert value(task.train_loss, 0) == value(task.train_loss, 5)
    assert value(task.heldout_loss, 0) == value(task.heldout_loss, 5)


@pytest.mark.timeout(120)
def test_what_is_trained_is_read_back_and_encodes_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setitem(deploy.train.ALL_MODELS, "tiny", CFG)
    args = TrainArgs("tiny", data=data, out=tmp_path / "out", work=tmp_path / "work", threads=1)
    train_all(args, Console(quiet=True))
    model, card = load_part(tmp_path / "out", "jepa"), read_card(tmp_path / "out", "jepa")
    assert model.cfg == TINY
    assert not model.training
    probes = {"linear R2 of x", "linear R2 of y"}
    assert card["metrics"].keys() == {"error", "error_standing_still", "sigreg"} | probes
    assert all(card["metrics"][name] < 1 for name in probes)
    assert card["data"] == ["tworoom-expert"]
    frames = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    again = load_part(tmp_path / "out", "jepa")
    assert torch.equal(model.encode(frames), again.encode(frames))
    assert model.projector[1].running_var.std() > 0  # settled: not the ones of a fresh batch norm


def test_a_card_gives_back_either_encoder():
    from dataclasses import asdict
    from json import dumps, loads

    for encoder in (ConvConfig((8, 8)), VitConfig(patch=8)):
        cfg = replace(TINY, encoder=encoder)
        assert JepaConfig.from_card(loads(dumps(asdict(cfg)))) == cfg


def test_data_that_is_missing_or_too_short_gets_one_line(data, tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'tworoom-expert' in .*surefoot collect tworoom-expert"):
        jepa_task(CFG, tmp_path)
    long = replace(CFG, jepa=replace(CFG.jepa, jepa=replace(TINY, block=100)))
    with pytest.raises(ValueError, match="no episode of 300 steps"):
        jepa_task(long, data)


def test_statistics_of_actions_are_those_of_what_is_learned_from(data):
    task = jepa_task(CFG, data)
    assert np.abs(task.model.action.std.numpy() - 0.8).max() < 0.2
