"""Heads on trained latents: what lies between two of them, and what leads from one to the other."""

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Generator

import deploy.train
from agents.latent import LatentConfig, build_latent
from agents.latent_search import Amortised, Distance, LatentDynamics, squared, toward
from configs.models import LATENT_MODELS
from configs.presets import PRESETS
from deploy import report
from deploy.collect import main as collect
from deploy.dreams import dream, knowledge
from deploy.history import History
from deploy.records import EpisodeRecord
from deploy.train import TrainArgs, train_all
from envs.frames import FrameData
from envs.robots import ROBOTS, make_env
from envs.types import Belief, Observation
from planners.cem import Cem
from planners.ssr import Ssr
from world_models.checkpoint import load_part, read_card
from world_models.decoder import Decoder, DecoderConfig
from world_models.inverse import InverseConfig, InverseDynamics
from world_models.jepa import ConvConfig, Jepa, JepaConfig, batch_norms
from world_models.latent_heads import Encoded, TemporalPart
from world_models.normaliser import Normaliser
from world_models.probes import readable
from world_models.temporal import TemporalConfig, TemporalDistance
from world_models.training import TrainConfig

SPEC = ROBOTS["tworoom"]
TINY = JepaConfig(image=16, encoder=ConvConfig((8, 16), 24), latent=8, hidden=32, layers=1, heads=2, head=4, mlp=16)
SHORT = TrainConfig(steps=8, batch=16, warmup=2, save_every=4, evaluate_every=4, heldout_share=0.3)
ROOMS = LATENT_MODELS["lewm-tworoom-small"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and its heads, trained for a moment."""
    work = tmp_path_factory.mktemp("latent")
    assert collect(["tworoom-expert", "--episodes", "6", "--workers", "1", "--out", str(work)]) == 0
    cfg = replace(
        ROOMS,
        jepa=replace(ROOMS.jepa, jepa=TINY, train=SHORT, directions=16, settled=2),
        temporal=replace(ROOMS.temporal, train=SHORT),
        inverse=replace(ROOMS.inverse, train=SHORT),
        ensemble=replace(ROOMS.ensemble, train=SHORT, settled=2),
        decoder=replace(ROOMS.decoder, head=DecoderConfig((16, 8)), train=SHORT),
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(deploy.train.ALL_MODELS, "tiny", cfg)
        train_all(TrainArgs("tiny", data=work, out=work / "out", work=work / "work", threads=1), Console(quiet=True))
    return work / "out"


def walks(count=30, steps=40, seed=0):
    """Points that go along a line; a picture shows nothing, for the latents are given."""
    rng = np.random.default_rng(seed)
    speed_E = rng.choice([-1.0, 1.0], count)
    position = np.concatenate([rng.uniform(-9, 9) + s * 0.1 * np.arange(steps) for s in speed_E])
    actions = np.repeat(speed_E, steps)[:, None] * np.ones((1, 2))
    frames = np.zeros((len(position), 16, 16, 3), np.uint8)
    first = np.arange(count + 1) * steps
    return FrameData(frames, position[:, None].astype(np.float32), actions.astype(np.float32), first)


def encoded():
    torch.manual_seed(0)
    data = walks()
    z_ND = torch.from_numpy(data.state_NO).repeat(1, 8) * torch.linspace(0.5, 1.5, 8)
    return Encoded(Jepa(TINY, Normaliser(torch.zeros(2), torch.ones(2))).eval(), data, z_ND)


def learned(model, loss_of, draw, steps=400):
    generator, optimiser = Generator().manual_seed(0), torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(draw(generator)).mean().backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def draw():
    part = TemporalPart(train=TrainConfig(batch=128), longest=20, imagined=0)
    return encoded().sampler(part, np.arange(30))


def test_pairs_are_of_one_episode_and_not_farther_apart_than_asked(draw):
    pairs = draw(Generator().manual_seed(1))
    apart = (pairs.goal_BD - pairs.here_BD)[:, 0] / 0.5 / 0.1
    assert torch.allclose(apart.abs(), pairs.steps_B, atol=1e-3)
    assert pairs.steps_B.max() <= 20
    assert len(pairs.steps_B.unique()) > 10
    moved = pairs.steps_B > 0
    assert torch.equal(pairs.block_BX[moved].mean(1).sign(), apart[moved].sign())


def test_half_of_the_first_latents_are_what_the_model_imagines_there():
    made = encoded()
    part = TemporalPart(train=TrainConfig(batch=2000), imagined=3)
    pairs = made.sampler(part, np.arange(30))(Generator().manual_seed(0))
    seen = (pairs.here_BD[:, None, 0] - made.z_ND[:, 0]).abs().min(1).values < 1e-6
    assert 0.59 < seen.float().mean() < 0.66  # a quarter is not ahead, and half of the others are imagined


@pytest.mark.timeout(120)
def test_the_time_between_latents_is_learned_and_is_the_same_in_both_directions(draw):
    torch.manual_seed(0)
    head = TemporalDistance(TemporalConfig(64, 2), 8)
    learned(head, lambda p: head.loss(p.here_BD, p.goal_BD, p.steps_B / 5), draw)
    pairs = draw(Generator().manual_seed(9))
    with torch.no_grad():
        guess = 5 * head(pairs.here_BD, pairs.goal_BD)
        assert torch.equal(head(pairs.here_BD, pairs.goal_BD), head(pairs.goal_BD, pairs.here_BD))
    assert (guess - pairs.steps_B).abs().mean() < 1.0
    assert head(pairs.here_BD[:, None, None], pairs.goal_BD[:1, None, None]).shape == (128, 1, 1)


@pytest.mark.timeout(120)
def test_what_leads_from_one_latent_to_another_is_learned(draw):
    torch.manual_seed(0)
    action = Normaliser(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.5]))
    head = InverseDynamics(InverseConfig(64, 2), 8, action, 5)
    learned(head, lambda p: head.loss(p.here_BD, p.goal_BD, p.block_BX), draw)
    pairs = draw(Generator().manual_seed(9))
    far = pairs.steps_B > 3
    with torch.no_grad():
        block_BX = head(pairs.here_BD, pairs.goal_BD)
    assert (block_BX[far].sign() == pairs.block_BX[far].sign()).float().mean() > 0.95
    assert (block_BX[far].abs() - 1).abs().mean() < 0.3


def test_proposals_are_led_by_the_model_and_the_first_is_the_mean():
    torch.manual_seed(0)
    model = Jepa(TINY, Normaliser(torch.zeros(2), torch.ones(2))).eval()
    inverse = InverseDynamics(InverseConfig(16, 1), 8, model.action, 5).eval()
    belief, goal_BD = Belief(torch.randn(2, 1, 8), torch.zeros(2, 0, 10)), torch.randn(2, 8)
    dynamics = LatentDynamics(model, torch.zeros(2, 0))
    proposal = Amortised(inverse, dynamics, goal_BD, 3)

    def generators():
        return [Generator().manual_seed(5), Generator().manual_seed(6)]

    with torch.inference_mode():
        drawn = proposal.sample(belief, 4, generators())
        assert drawn.shape == (2, 4, 3, 10)
        first = inverse(belief.z_BTD[:, -1], goal_BD)
        assert torch.allclose(drawn[:, 0, 0], first, atol=1e-6)
        then = dynamics.rollout(belief, drawn[:, :1, :2], [])[:, 0, -1]
        assert torch.allclose(drawn[:, 0, 2], inverse(then, goal_BD), atol=1e-5)
        alone = Amortised(inverse, LatentDynamics(model, torch.zeros(1, 0)), goal_BD[1:], 3)
        second = alone.sample(Belief(belief.z_BTD[1:], belief.actions_BTA[1:]), 4, generators()[1:])
        assert torch.allclose(second[0], drawn[1], atol=1e-5)
    assert not torch.allclose(drawn[:, 1], drawn[:, 2])


@pytest.mark.parametrize("distance", ["squared", "temporal"])
@pytest.mark.parametrize(
    ("amortised", "method", "samples"),
    [(False, Cem(elites=4, iterations=2), 16), (True, Cem(elites=4, iterations=2), 16), (True, Ssr(), 1)],
)
def test_an_agent_plans_with_either_distance_and_with_or_without_a_search(folder, distance, amortised, method, samples):
    cfg = LatentConfig(
        checkpoint=folder, method=method, samples=samples, horizon=2, distance=distance, amortised=amortised
    )
    agent, env = build_latent(cfg, SPEC), make_env("tworoom", render_mode="rgb_array")
    state_O, _ = env.reset(seed=0)
    seen = Observation(0.0, state_O, env.render())
    agent.begin_episode(0, 0)
    one = agent.plan(seen, np.zeros((0, 2)))
    assert one.actions_HA.shape == (10, 2)
    two = agent.plan(seen, one.actions_HA[:3])
    assert np.isfinite(two.actions_HA).all()
    assert (agent.metric is squared) == (distance == "squared")
    if samples == 1:
        with torch.inference_mode():
            asked = agent.inverse(agent.encode(env.render()), agent._goal_D)
        assert np.allclose(one.actions_HA[:5].ravel(), asked.clamp(-1, 1).numpy(), atol=1e-5)


def test_heads_are_read_back_with_what_their_cards_say_of_them(folder):
    inverse = load_part(folder, "inverse")
    assert isinstance(inverse, InverseDynamics)
    assert (inverse.std > 0.1).all()
    assert read_card(folder, "temporal")["metrics"]["error_steps"] > 0
    assert read_card(folder, "inverse")["metrics"].keys() == {"error"}


def test_a_checkpoint_without_the_head_that_is_asked_for_gets_one_line(folder, tmp_path):
    for name in ("jepa.json", "jepa.safetensors"):
        (tmp_path / name).write_bytes((Path(folder) / name).read_bytes())
    with pytest.raises(ValueError, match="no checkpoint 'temporal' in"):
        build_latent(LatentConfig(checkpoint=tmp_path, distance="temporal"), SPEC)
    with pytest.raises(ValueError, match="no checkpoint 'inverse' in"):
        build_latent(LatentConfig(checkpoint=tmp_path, amortised=True), SPEC)


def test_a_decoder_shows_what_a_latent_stands_for(folder):
    decoder = load_part(folder, "decoder")
    assert isinstance(decoder, Decoder)
    assert decoder.picture(torch.randn(3, 8)).shape == (3, 16, 16, 3)
    assert decoder.picture(torch.randn(3, 8)).dtype == torch.uint8
    torch.manual_seed(0)
    made, z_ND = Decoder(DecoderConfig((16, 8)), 8, 16), torch.randn(4, 8)
    frames = (255 * torch.rand(4, 1, 1, 3).expand(4, 16, 16, 3)).to(torch.uint8)
    optimiser = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(500):
        optimiser.zero_grad()
        made.loss(z_ND, frames).mean().backward()
        optimiser.step()
    assert (made.picture(z_ND).float() - frames.float()).abs().mean() < 12
    with pytest.raises(ValueError, match="image=18 must be a multiple of 4"):
        Decoder(DecoderConfig((16, 8)), 8, 18)


def test_members_disagree_where_they_were_not_trained_and_caution_prices_that(folder):
    cautious = LatentConfig(checkpoint=folder, method=Cem(elites=4, iterations=2), samples=16, horizon=2, caution=3.0)
    agent, env = build_latent(cautious, SPEC), make_env("tworoom", render_mode="rgb_array")
    state_O, _ = env.reset(seed=0)
    agent.begin_episode(0, 0)
    assert np.isfinite(agent.plan(Observation(0.0, state_O, env.render()), np.zeros((0, 2))).actions_HA).all()
    ensemble, model = load_part(folder, "ensemble"), agent.model
    assert all(norm.running_var.std() > 0 for norm in batch_norms(ensemble))
    models = ensemble.models(model)
    assert [m.encoder is model.encoder for m in models] == [True, True, True]
    rows = torch.randn(4, 2, 10)
    with torch.inference_mode():
        futures = [m.rollout(torch.zeros(4, 1, 8), rows[:, :0], rows) for m in models]
        z_BSHD = LatentDynamics(model, torch.zeros(1, 0), tuple(models[1:])).rollout(
            Belief(torch.zeros(1, 1, 8), torch.zeros(1, 0, 10)), rows[None], []
        )
    spread = torch.stack(futures).std(0, correction=0).square().mean(-1).sqrt()
    assert torch.allclose(z_BSHD[0, :, :, 8], spread, atol=1e-5)
    assert torch.allclose(z_BSHD[0, :, :, :8], futures[0], atol=1e-5)
    nearest = torch.stack(futures[:1])[0].square().sum(-1)
    assert torch.allclose(Distance()(toward(torch.zeros(1, 8))(z_BSHD), rows[None])[0], nearest[:, -1], atol=1e-4)
    anywhere = toward(torch.zeros(1, 8), arrive="any")(z_BSHD)
    assert torch.allclose(Distance()(anywhere, rows[None])[0], nearest.amin(1), atol=1e-4)
    readings = toward(torch.zeros(1, 8))(z_BSHD)
    price = Distance(caution=3.0)(readings, rows[None]) - Distance()(readings, rows[None])
    assert torch.allclose(price[0], 3.0 * spread.sum(-1), atol=1e-4)


def lived(steps, full=True):
    rng = np.random.default_rng(0)
    empty = np.zeros(steps if full else 0)
    actions = rng.uniform(-1, 1, (steps if full else 0, 2))
    states = 50.0 + rng.uniform(0, 20, (steps if full else 0, 4))
    arrays = (states, actions, actions, actions, empty, empty, empty, {}, empty, empty, empty)
    return EpisodeRecord(0, 0, 0.0, steps * 0.1, steps, 0.0, "truncated", *arrays)


def test_a_report_shows_what_the_model_imagines_and_says_what_it_knows(folder):
    cfg = LatentConfig(checkpoint=folder)
    drawn = dream(cfg, "tworoom", "v4", [lived(4), lived(21), lived(30, full=False)])
    assert iio.imread(drawn).shape[1] > 1000
    assert dream(cfg, "tworoom", "v4", [lived(4)]) is None
    assert dream(cfg, "tworoom", "v4", []) is None
    assert [name for name, _ in knowledge(cfg)] == ["x", "y"]
    history = History(None, 0.1, episodes=[lived(21)])
    html = report.latents(replace(PRESETS["lewm-tworoom-small"][1], agent=cfg), history)
    assert html.count("data:image/png;base64,") == 1
    assert "What the latents know" in html
    assert report.latents(PRESETS["walker"][1], history) == ""
    (folder / "decoder.safetensors").rename(folder / "hidden")
    assert dream(cfg, "tworoom", "v4", [lived(21)]) is None
    (folder / "hidden").rename(folder / "decoder.safetensors")


def test_probes_ask_for_angles_as_sine_and_cosine_and_for_nothing_that_is_still():
    names = ("x", "still", "turn", "goal_x", "goal_still", "goal_turn")
    columns = {name: n for n, name in enumerate(names)}
    spec = replace(SPEC, state_names=names, state_units=("px", "px", "rad") * 2, columns=columns)
    names, asked = readable(spec, torch.tensor([[1.0, 2, 0, 9, 9, 9], [3.0, 2, 1, 8, 8, 8], [5.0, 2, 2, 7, 7, 7]]))
    assert names == ("x", "sin turn", "cos turn")
    assert asked[:, 0].tolist() == [1, 3, 5]
    assert asked[:, 1].tolist() == pytest.approx(np.sin([0, 1, 2]).tolist())
