"""`surefoot certify` on a small checkpoint that a point mass is simulated with, and what it says of bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.presets import PRESETS
from deploy.behaviour import Behaviour, fresh_episodes, kept_episodes
from deploy.certify import main
from deploy.machine import ROOT
from deploy.summary import certificate_of
from envs.dataset import Layout
from envs.dataset_writer import write_dataset
from envs.robots import robot_spec
from world_models.certificate import certified, decoded, fingerprint
from world_models.checkpoint import load_part, save_part
from world_models.coding import read_code
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig
from world_models.step import StepConfig, StepModel

QUICK = ("--compress.steps", "60", "--compress.quantised", "40")


def save_small(folder: Path) -> Path:
    """Write a checkpoint of the double integrator: a policy that brakes, and a one-step model that knows nothing."""
    torch.manual_seed(0)
    state, action = Normaliser(torch.zeros(2), torch.ones(2)), Normaliser(torch.zeros(1), torch.ones(1))
    change = Normaliser(torch.zeros(2), torch.full((2,), 0.1))
    card = {"robot": "double_integrator", "sizes": {"state": 2, "action": 1, "horizon": 8}, "data": ["seen-before"]}
    folder.mkdir()
    save_part(
        folder, "step", StepModel(StepConfig(8, 1), state, action, change), card | {"step": {"width": 8, "layers": 1}}
    )
    save_part(folder, "policy", Policy(PolicyConfig(8, 1), state, action), card | {"policy": {"width": 8, "layers": 1}})
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save_small(tmp_path / "small")


def said(capsys) -> str:
    told = capsys.readouterr()
    lines = told.err.strip().splitlines()
    return lines[-1] if lines else ""


def test_fresh_episodes_are_whole_independent_of_each_other_and_made_once(small):
    of = Behaviour(small)
    some, others = list(fresh_episodes(of, range(70), 3)), list(fresh_episodes(of, [69, 4], 3))
    assert [e.meta["index"] for e in some] == list(range(70))
    assert np.allclose(others[0].state_TO, some[69].state_TO)
    assert np.allclose(others[1].action_TA, some[4].action_TA)
    assert len({e.seed for e in some}) == 70
    kept = list(kept_episodes(of, range(3), 3, Path("kept")))
    files = {path: path.stat().st_mtime_ns for path in Path("kept").rglob("*.safetensors")}
    again = list(kept_episodes(of, range(3), 3, Path("kept")))
    assert {path: path.stat().st_mtime_ns for path in Path("kept").rglob("*.safetensors")} == files
    assert all((a.state_TO == b.state_TO).all() for a, b in zip(kept, again, strict=True))
    assert next(kept_episodes(Behaviour(small, noise=0.5), range(1), 3, Path("kept"))).seed == kept[0].seed
    assert len(list(Path("kept").iterdir())) == 2


def test_noise_is_as_large_as_asked_and_faults_reach_the_robot(small):
    (calm,) = fresh_episodes(Behaviour(small, noise=0.0), [0], 0)
    (noisy,) = fresh_episodes(Behaviour(small, noise=0.5), [0], 0)
    (weak,) = fresh_episodes(Behaviour(small, 0.5, ("actuator_gain:all:0.5@0",)), [0], 0)
    policy = load_part(small, "policy")
    left = noisy.action_TA - policy(torch.from_numpy(noisy.state_TO[:-1])).numpy()
    assert (calm.state_TO[0] == noisy.state_TO[0]).all()
    assert left.std() == pytest.approx(0.5, rel=0.1)
    assert weak.action_applied_TA == pytest.approx(0.5 * weak.action_TA)


def test_c0_needs_nothing_but_the_checkpoint_and_says_all_that_was_fixed(small, capsys):
    assert main(["small", "--out", "made/c0.json", "--heldout", "12"]) == 0
    found = json.loads(Path("made/c0.json").read_text())
    told = capsys.readouterr().out
    for key in (
        "variant",
        "tolerance",
        "bound",
        "observed",
        "trivial",
        "n",
        "bits",
        "delta",
        "assumptions",
        "sentence",
    ):
        assert key in found
    assert found["sentence"] in told
    assert (found["variant"], found["n"], found["bits"], found["unit"]) == ("C0", 12, 0, "episodes")
    assert found["observed"] <= found["bound"] <= 1
    assert found["not_covered"]
    assert found["about"]["weights"] == fingerprint(small)
    assert not Path("made/c0.cert").exists()


def test_a_compressed_model_lies_beside_its_certificate(small, capsys):
    assert main(["small", "--out", "c2.json", "--variant", "C2", "--episodes", "8", *QUICK]) == 0
    found = json.loads(Path("c2.json").read_text())
    assert found["about"]["code"] == "c2.cert"
    assert read_code(Path("c2.cert")).length == found["bits"]
    given = load_part(small, "step")
    model = decoded(given, "C2", Path("c2.cert"))
    assert isinstance(model, StepModel)
    assert found["n"] == found["about"]["steps"]


def test_recorded_episodes_take_the_place_of_fresh_ones(small, capsys):
    layout = Layout.of(robot_spec("double_integrator"))
    write_dataset(list(fresh_episodes(Behaviour(small), range(9), 0)), layout, Path("mine"), {})
    assert main(["small", "--out", "c0.json", "--data", "mine", "--tolerance", "0.25", "--delta", "0.1"]) == 0
    found = json.loads(Path("c0.json").read_text())
    assert (found["n"], found["tolerance"], found["delta"]) == (9, 0.25, 0.1)
    assert "the episodes of mine" in found["sentence"]
    Path("mine").rename("seen-before")
    assert main(["small", "--out", "c0.json", "--data", "seen-before"]) == 2
    assert "has learned from 'seen-before'" in said(capsys)


@pytest.mark.parametrize(
    ("args", "about"),
    [
        (["nowhere", "--out", "a.json"], "no checkpoint 'nowhere'; shipped are arm-small, hopper-small"),
        (["small", "--out", "a.json", "--variant", "C9"], "C9"),
        (["small", "--out", "a.json", "--delta", "2"], "delta must be in (0, 1), got 2.0"),
        (["small", "--out", "a.json", "--tolerance", "-1"], "tolerance must be > 0"),
        (["small", "--out", "a.json", "--heldout", "0"], "heldout and episodes must be >= 1"),
        (["small", "--out", "a.json", "--noise", "-1"], "noise must be >= 0"),
        (["small", "--out", "a.json", "--data", "none"], "no LeRobotDataset v3 in none"),
        (["small", "--out", "a.json", "--faults", "mass:moon:2@0"], "fault kind 'mass' is not available"),
        (["small", "--out", "a.json", "--hedlout", "3"], "--hedlout"),
        (["small", "--out", "a.cert"], "must be a file of JSON"),
        (["small"], "--out"),
        (["lewm-tworoom-small", "--out", "a.json"], "no checkpoint 'step'"),
    ],
)
def test_bad_input_is_told_in_one_line(args, about, small, capsys):
    assert main(args) == 2
    told = capsys.readouterr().err.strip()
    assert about in told
    assert len(told.splitlines()) == 1
    assert not Path("a.json").exists()


def test_broken_weights_are_told_in_one_line(small, capsys):
    path = small / "step.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["small", "--out", "a.json"]) == 2
    assert "cannot be read as safetensors" in said(capsys)


def test_a_run_tells_what_is_certified_of_the_model_that_it_begins_with(small):
    assert main(["small", "--out", "small/certificate.json", "--heldout", "6"]) == 0
    assert certified(small).startswith("With 95% confidence the one-step model of small is off")
    assert certificate_of(PRESETS["smoke"][1]) is None


@pytest.mark.parametrize("name", ["walker", "hopper"])
def test_the_shipped_certificate_is_of_the_shipped_weights(name):
    sentence = certificate_of(PRESETS[name][1])
    assert sentence is not None
    assert f"the one-step model of {name}-small" in sentence
    found = json.loads((ROOT / "checkpoints" / f"{name}-small" / "certificate.json").read_text())
    assert found["bound"] < found["trivial"]["linear"] < found["trivial"]["no_change"]
    assert f"{found['bound']:.2%}" in sentence
