"""The latent world model: what it is made of, what its rollout is, and that it learns without collapsing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from world_models.jepa import ConvConfig, Jepa, JepaConfig, VitConfig, losses, settle
from world_models.normaliser import Normaliser
from world_models.sigreg import directions

TINY = JepaConfig(
    image=16,
    action=2,
    block=3,
    encoder=ConvConfig((8, 16), 24),
    latent=8,
    hidden=32,
    layers=2,
    heads=2,
    head=4,
    mlp=16,
)
TINY_VIT = JepaConfig(**{**vars(TINY), "encoder": VitConfig(8, 12, 2, 3, 24)})


def unit(size):
    return Normaliser(torch.zeros(size), torch.ones(size))


def random(cfg=TINY, seed=0):
    """A model in which every weight counts; those behind adaLN's gates begin at zero."""
    torch.manual_seed(seed)
    model = Jepa(cfg, unit(cfg.action))
    for layer in model.predictor.layers:
        nn.init.normal_(layer.modulate.weight, std=0.3)
    return model.eval().requires_grad_(False)


def frames(n, t=1, side=16, seed=0):
    return torch.randint(0, 256, (n, t, side, side, 3), generator=Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_default_is_the_published_model_to_the_parameter():
    model = Jepa(JepaConfig(), unit(2))

    def count(part):
        return sum(p.numel() for p in part.parameters())

    embedding = count(model.predictor.squeeze) + count(model.predictor.embed)
    assert count(model) == 18_034_478
    assert count(model.encoder) == 5_501_376
    assert count(model.predictor) - embedding == 10_791_360
    assert embedding == 156_206
    assert count(model.projector) == count(model.pred_projector) == 792_768


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_a_rollout_is_prediction_after_prediction(known, horizon, n, seed):
    model, g = random(seed=seed), Generator().manual_seed(seed)
    z_NTD, actions_NTA = torch.randn(n, known, 8, generator=g), torch.randn(n, known - 1 + horizon, 6, generator=g)
    rolled_NHD = model.rollout(z_NTD, actions_NTA[:, : known - 1], actions_NTA[:, known - 1 :])
    for end in range(known, known + horizon):
        first = max(0, end - TINY.history)
        next_ND = model.predict(z_NTD[:, first:end], actions_NTA[:, first:end])[:, -1]
        z_NTD = torch.cat([z_NTD, next_ND[:, None]], 1)
    assert torch.allclose(rolled_NHD, z_NTD[:, known:], atol=1e-5)


def test_no_prediction_sees_a_later_frame_or_action():
    model, g = random(), Generator().manual_seed(1)
    z_NTD, actions_NTA = torch.randn(2, 3, 8, generator=g), torch.randn(2, 3, 6, generator=g)
    before_NTD = model.predict(z_NTD, actions_NTA)
    z_NTD[:, 2], actions_NTA[:, 2] = 7.0, -7.0
    after_NTD = model.predict(z_NTD, actions_NTA)
    assert torch.equal(before_NTD[:, :2], after_NTD[:, :2])
    assert not torch.allclose(before_NTD[:, 2], after_NTD[:, 2], atol=0.01)


def test_every_action_of_a_block_counts():
    model = random()
    z_NTD, actions_NTA = torch.zeros(1, 1, 8), torch.zeros(1, 1, 6)
    still_NTD = model.predict(z_NTD, actions_NTA)
    for index in range(6):
        moved_NTA = actions_NTA.clone()
        moved_NTA[..., index] = 1.0
        assert (model.predict(z_NTD, moved_NTA) - still_NTD).abs().max() > 1e-3


@pytest.mark.parametrize("cfg", [TINY, TINY_VIT], ids=["convolutions", "transformer"])
def test_a_frame_has_the_same_latent_alone_and_among_others(cfg):
    model, many = random(cfg), frames(16)[:, 0]
    z_ND = model.encode(many)
    assert z_ND.shape == (16, 8)
    assert torch.allclose(torch.cat([model.encode(one[None]) for one in many]), z_ND, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 16, 12, 3), (2, 3, 16, 16), (16, 16, 3), (1, 32, 32, 3)])
def test_pictures_of_another_size_are_refused_in_one_line(shape):
    with pytest.raises(ValueError, match=r"frames: expected \(N H W C\) with .*16.*, got") as error:
        random().encode(torch.zeros(shape, dtype=torch.uint8))
    assert "\n" not in str(error.value)


def test_a_picture_that_cannot_be_cut_into_patches_is_refused():
    with pytest.raises(ValueError, match="image=100 must be a multiple of 14 pixels"):
        JepaConfig(image=100)


# --- learning

BALL = JepaConfig(**{**vars(TINY), "encoder": ConvConfig((8, 16), 32), "block": 1, "mlp": 64, "hidden": 64})
"""Of a disc that is pushed about: its position is a linear system, seen only through pixels."""


def disc(at_N2, side=16):
    """Pictures of a soft disc at positions in [-1, 1]."""
    grid = torch.linspace(-1.4, 1.4, side)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    away_NHW = (x - at_N2[:, 0, None, None]).square() + (y - at_N2[:, 1, None, None]).square()
    return (255 * (-away_NHW / 0.1).exp()).byte()[..., None].expand(-1, -1, -1, 3)


def walks(n, g, steps=4):
    """Windows of a point that its actions push: p' = p + 0.5 a, kept inside the picture."""
    at_N2 = torch.rand(n, 2, generator=g) * 2 - 1
    path, actions = [at_N2], []
    for _ in range(steps - 1):
        wanted_N2 = (path[-1] + 0.5 * torch.randn(n, 2, generator=g)).clamp(-1, 1)
        actions.append((wanted_N2 - path[-1]) / 0.5)
        path.append(wanted_N2)
    return torch.stack(path, 1), torch.stack(actions, 1)


def fitted(weight, steps):
    torch.manual_seed(0)
    model = Jepa(BALL, unit(2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        g = Generator().manual_seed(step)
        path_BT2, actions_BTA = walks(64, g)
        pictures = disc(path_BT2.flatten(0, 1)).view(64, 4, 16, 16, 3)
        error, spread = losses(model, pictures, actions_BTA, directions(8, 64, g, path_BT2))
        optimiser.zero_grad()
        (error + weight * spread).backward()
        optimiser.step()
    g = Generator().manual_seed(-1)
    batches = []
    for _ in range(4):
        path_BT2, actions_BTA = walks(64, g)
        batches.append((disc(path_BT2.flatten(0, 1)).view(64, 4, 16, 16, 3), actions_BTA))
    settle(model, batches)
    return model.requires_grad_(False)


def explained(x_NC, y_NC):
    """Share of the variance of y that a line through x explains, on the second half of the rows."""
    half = len(x_NC) // 2
    x_NC = torch.cat([x_NC, torch.ones(len(x_NC), 1)], 1)
    left = y_NC[half:] - x_NC[half:] @ torch.linalg.lstsq(x_NC[:half], y_NC[:half]).solution
    return float(1 - left.square().sum() / (y_NC[half:] - y_NC[half:].mean(0)).square().sum())


@pytest.fixture(scope="module")
def learned():
    return fitted(weight=0.1, steps=500)


@pytest.mark.timeout(300)
def test_it_recovers_a_linear_system_from_pixels(learned):
    path_BT2, actions_BTA = walks(600, Generator().manual_seed(99))
    z_ND = learned.encode(disc(path_BT2[:, 0]))
    assert explained(z_ND, path_BT2[:, 0]) > 0.95
    then_NHD = learned.rollout(z_ND[:, None], actions_BTA[:, :0], actions_BTA)
    still = explained(z_ND, path_BT2[:, 3])
    assert explained(then_NHD[:, 2], path_BT2[:, 3]) > max(0.85, still + 0.2)  # three steps ahead, from one frame


@pytest.mark.timeout(300)
def test_it_collapses_without_the_regulariser_and_not_with_it(learned):
    path_BT2, _ = walks(400, Generator().manual_seed(98))
    fallen = fitted(weight=0.0, steps=150)
    spread = [torch.linalg.eigvalsh(torch.cov(m.encode(disc(path_BT2[:, 0])).T)).sqrt() for m in (learned, fallen)]
    assert spread[0].max() > 0.5
    assert (spread[0] > 0.1).sum() >= 4
    assert spread[1].max() < 0.05


@pytest.mark.timeout(300)
def test_statistics_of_the_batch_norms_are_settled_to_those_of_the_data():
    torch.manual_seed(1)
    model = Jepa(BALL, unit(2))
    g = Generator().manual_seed(5)
    path_BT2, actions_BTA = walks(256, g)
    pictures = disc(path_BT2.flatten(0, 1)).view(256, 4, 16, 16, 3)
    settle(model, [(pictures, actions_BTA)])
    with torch.no_grad():
        settled_ND = model.encode(pictures.flatten(0, 1))
        model.projector.train()  # with the statistics of this very batch
        assert torch.allclose(settled_ND, model.encode(pictures.flatten(0, 1)), atol=0.02)
