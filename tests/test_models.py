"""The parts of a world model, on small networks, and the command that trains them."""

import dataclasses

import numpy as np
import pytest
import torch

from deploy.train import main as train_command
from envs.dataset import Layout
from envs.dataset_writer import write_dataset
from envs.episodes import Episode
from envs.robots import robot_spec
from envs.types import Belief
from world_models.checkpoint import blank, build_part, load_model, load_part, read_card, save_part
from world_models.denoiser import Denoiser, DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.dynamics import DiffusionDynamics
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig
from world_models.proposal import DiffusionProposal
from world_models.step import StepConfig, StepModel
from world_models.value import ValueConfig, ValueEnsemble

SMALL = DenoiserConfig(width=32, layers=2, heads=2, qkv=32, mlp=64)
CAUSAL = dataclasses.replace(SMALL, causal=True)
PUBLISHED = DenoiserConfig(width=32, layers=1, heads=2, qkv=64, mlp=64, patch=1, fused=False)


def stirred(model):
    """Zero-initialised layers would hide what is wired to what."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return model.eval()


def dynamics(net=CAUSAL, steps=2):
    torch.manual_seed(1)
    return stirred(DiffusionDynamics(net, DiffusionConfig(steps), blank((5,)), blank((2,)), blank((16, 5))))


def proposal(net=SMALL, **diff):
    torch.manual_seed(2)
    return stirred(DiffusionProposal(net, DiffusionConfig(**diff), 16, blank((5,)), blank((2,))))


def belief(b=1):
    return Belief(torch.randn(b, 1, 5, generator=torch.Generator().manual_seed(9)), torch.zeros(b, 0, 2))


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.mark.parametrize("net", [CAUSAL, PUBLISHED], ids=["small", "published"])
def test_rollout_and_proposals_have_the_contracted_shapes(net):
    actions = proposal(dataclasses.replace(net, causal=False)).sample(belief(2), 3, generators(0, 1))
    assert actions.shape == (2, 3, 16, 2)
    assert dynamics(net).rollout(belief(2), actions, generators(0, 1)).shape == (2, 3, 16, 5)


def test_a_shorter_rollout_is_the_start_of_a_longer_one():
    model, actions = dynamics(), torch.randn(1, 3, 16, 2)
    noise = torch.randn(1, 1, 16, 5).expand(1, 3, 16, 5)
    long = model.denoise_block(belief().z_BD, actions, noise)
    short = model.denoise_block(belief().z_BD, actions[:, :, :4], noise[:, :, :4])
    assert torch.allclose(long[:, :, :4], short, atol=1e-5)


def test_later_actions_do_not_change_earlier_predictions_but_change_later_ones():
    model, actions = dynamics(), torch.randn(1, 1, 16, 2)
    changed = actions.clone()
    changed[:, :, 8:] += 1.0
    before, after = (model.rollout(belief(), a, generators(0)) for a in (actions, changed))
    assert torch.allclose(before[:, :, :8], after[:, :, :8], atol=1e-6)
    assert not torch.allclose(before[:, :, 8:], after[:, :, 8:], atol=1e-3)


def test_an_environment_is_predicted_the_same_alone_and_in_a_batch():
    both, model, prop = belief(2), dynamics(), proposal(eta=1.0)
    alone = Belief(both.z_BTD[1:], both.actions_BTA[1:])
    actions = prop.sample(both, 4, generators(5, 6))
    assert torch.allclose(actions[1:], prop.sample(alone, 4, generators(6)), atol=1e-5)
    z = model.rollout(both, actions, generators(5, 6))
    assert torch.allclose(z[1:], model.rollout(alone, actions[1:], generators(6)), atol=1e-5)


def test_candidates_with_the_same_actions_have_the_same_future():
    actions = torch.randn(1, 1, 16, 2).expand(1, 4, 16, 2)
    z = dynamics().rollout(belief(), actions, generators(0))
    assert torch.allclose(z, z[:, :1].expand_as(z), atol=1e-6)


def test_change_statistics_cancel_between_training_target_and_prediction():
    state, nxt = torch.randn(7, 5), torch.randn(7, 16, 5)
    model = dynamics()
    model.change = Normaliser(torch.randn(16, 5), torch.rand(16, 5) + 0.5)
    back = state[:, None] + model.target(state, nxt) * model.change.std + model.change.mean
    assert torch.allclose(back, nxt, atol=1e-5)


def test_dynamics_learns_a_linear_system_from_one_batch():
    torch.manual_seed(0)
    state, actions = torch.randn(256, 5), torch.randn(256, 8, 2).clamp(-1, 1)
    drift = actions.cumsum(1) @ torch.randn(2, 5)
    nxt = state[:, None] + drift
    change = Normaliser((nxt - state[:, None]).mean(0), (nxt - state[:, None]).std(0))
    net = dataclasses.replace(CAUSAL, width=64, qkv=64, mlp=128)
    model = DiffusionDynamics(net, DiffusionConfig(2), blank((5,)), blank((2,)), change)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(250):
        loss = model.loss(state, actions, nxt, torch.Generator().manual_seed(step)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    noise = torch.randn(256, 1, 8, 5)
    found = model.eval().denoise_block(state, actions[:, None], noise)[:, 0]
    assert float(((found - nxt) / change.std).square().mean()) < 0.05  # predicting the mean gives 1


def test_value_bound_lies_below_the_mean_of_members_and_learns_a_function():
    torch.manual_seed(0)
    x = torch.randn(2000, 3)
    y = 50 + 10 * x[:, 0].tanh()
    model = ValueEnsemble(ValueConfig(members=3, width=32), Normaliser.fit(x), Normaliser.fit(y[:, None]))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(200):
        loss = model.loss(x, y, torch.Generator().manual_seed(step)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mean = model.returns.inverse(model.members(x).mean(0)[:, None])[:, 0].detach()
    assert float((mean - y).square().mean()) < 1.0
    bound = model(x.view(2, 1000, 3))
    assert bound.shape == (2, 1000)
    assert (bound.flatten() <= mean + 1e-4).all()


def card_of(part, model):
    card = {"part": part, "robot": "walker2d", "sizes": {"state": 5, "action": 2, "horizon": 16}}
    if part in ("value", "step", "policy"):
        return card | {part: dataclasses.asdict(model.cfg)}
    return card | {"denoiser": dataclasses.asdict(model.net.cfg), "diffusion": dataclasses.asdict(model.diff)}


@pytest.fixture
def folder(tmp_path):
    parts = {
        "proposal": proposal(),
        "dynamics": dynamics(),
        "step": StepModel(StepConfig(8, 1), blank((5,)), blank((2,)), blank((5,))),
        "value": ValueEnsemble(ValueConfig(members=2, width=8), blank((5,)), blank((1,))),
        "policy": Policy(PolicyConfig(8, 1), blank((5,)), blank((2,))),
    }
    for part, model in parts.items():
        save_part(tmp_path, part, model, card_of(part, model), half=False)
    return tmp_path


def test_a_checkpoint_gives_back_the_same_model(folder):
    actions = proposal().sample(belief(), 3, generators(0))
    model = load_model(folder)
    assert torch.equal(model.proposal.sample(belief(), 3, generators(0)), actions)
    found = model.dynamics.rollout(belief(), actions, generators(0))
    assert torch.equal(found, dynamics().rollout(belief(), actions, generators(0)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def garble(path):
    path.write_bytes(b"not a tensor file")


def poison(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["net.read.bias"][0] = float("nan")
    save_file(tensors, path)


@pytest.mark.parametrize(
    "damage", [cut, garble, poison, lambda p: p.unlink()], ids=["cut", "garbled", "nan", "missing"]
)
def test_a_damaged_checkpoint_is_refused_in_one_line(folder, damage):
    damage(folder / "dynamics.safetensors")
    with pytest.raises(ValueError, match=r"dynamics\.safetensors") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_a_damaged_card_is_refused_in_one_line(folder, text):
    (folder / "value.json").write_text(text)
    with pytest.raises(ValueError, match=r"value\.json"):
        load_part(folder, "value")


def test_weights_of_another_size_are_refused(folder):
    model = dynamics(dataclasses.replace(CAUSAL, layers=1))
    save_part(folder, "dynamics", model, card_of("dynamics", dynamics()))
    with pytest.raises(ValueError, match="does not fit"):
        load_part(folder, "dynamics")


def test_an_unknown_part_lists_the_known_ones():
    card = card_of("dynamics", dynamics()) | {"part": "dynamic"}
    with pytest.raises(ValueError, match="proposal"):
        build_part(card)


def test_a_horizon_beyond_the_trained_one_is_refused():
    with pytest.raises(ValueError, match="16 steps"):
        dynamics().rollout(belief(), torch.zeros(1, 1, 32, 2), generators(0))


def test_a_horizon_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match="patch=4"):
        Denoiser(SMALL, 30, 2, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walker-smal"], "walker-small"),
        (["walker-small", "--stepz", "3"], "--steps"),
        (["walker-small", "--steps", "x"], "x"),
        (["walker-small", "--data", "nowhere"], "surefoot collect"),
        ([], "STR"),
    ],
)
def test_training_tells_bad_input_in_one_line(arguments, said, capsys):
    assert train_command(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def tiny_data(folder, seed, steps=40):
    """A data set of the walker, of random numbers."""
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            rng.normal(size=(steps + 1, 17)), *[rng.uniform(-1, 1, (steps, 6))] * 3, np.ones(steps), True, False, seed
        )
        for _ in range(3)
    ]
    write_dataset(episodes, Layout.of(robot_spec("walker2d")), folder, {})


def test_a_second_pass_with_more_data_is_a_training_of_its_own(tmp_path):
    common = ["walker-small", "--parts", "step", "--steps", "2", "--threads", "1"]
    common += ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    tiny_data(tmp_path / "data" / "walker2d-medium", 0)
    assert train_command(common) == 2  # two data sets are missing
    assert train_command([*common, "--skip-missing"]) == 0
    first = read_card(tmp_path / "out", "step")
    assert first["data"] == ["walker2d-medium"]
    assert train_command([*common, "--skip-missing"]) == 0  # goes on from what it made itself
    tiny_data(tmp_path / "data" / "walker2d-own", 1)
    assert train_command([*common, "--skip-missing"]) == 2
    assert read_card(tmp_path / "out", "step") == first  # nobody said that it may be lost
    assert train_command([*common, "--skip-missing", "--overwrite"]) == 0
    second = read_card(tmp_path / "out", "step")
    assert second["data"] == ["walker2d-medium", "walker2d-own"]
    assert second["curve"] != first["curve"]
    assert len(list((tmp_path / "work" / "walker-small").iterdir())) == 2


def test_each_part_can_be_trained_before_the_planner_has_acted(tmp_path, capsys):
    common = ["walker-small", "--steps", "2", "--threads", "1", "--skip-missing", "--data", str(tmp_path / "data")]
    common += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    tiny_data(tmp_path / "data" / "walker2d-medium", 0)
    assert train_command([*common, "--parts", "policy"]) == 0
    assert read_card(tmp_path / "out", "policy")["data"] == ["walker2d-medium"]
    tiny_data(tmp_path / "short" / "walker2d-medium", 0, steps=20)
    assert train_command([*common, "--data", str(tmp_path / "short"), "--parts", "proposal"]) == 2
    assert "no episode of 32 steps" in capsys.readouterr().err
