"""SIGReg against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from world_models.sigreg import directions, sigreg

GAUSSIAN = math.sqrt(2 * math.pi) * math.erf(3 / math.sqrt(2)) - math.sqrt(2 * math.pi / 3) * math.erf(
    3 * math.sqrt(1.5)
)
"""The integral of exp(-t^2 / 2) (1 - exp(-t^2)) over [-3, 3]."""
COLLAPSED = (
    math.sqrt(2 * math.pi) * math.erf(3 / math.sqrt(2))
    - 2 * math.sqrt(math.pi) * math.erf(3)
    + math.sqrt(2 * math.pi / 3) * math.erf(3 * math.sqrt(1.5))
)
"""The integral of exp(-t^2 / 2) (1 - exp(-t^2 / 2))^2 over [-3, 3]."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def statistic(z_BD, count=256, seed=1):
    return float(sigreg(z_BD[None], directions(z_BD.shape[1], count, Generator().manual_seed(seed), z_BD)))


def by_hand(z_TBD, directions_DM):
    """The formula, written out in float64."""
    h_TBM = z_TBD.astype(float) @ directions_DM.astype(float)
    t_K = np.linspace(0, 3, 17)
    weight_K = np.full(17, 2 * 3 / 16) * np.exp(-(t_K**2) / 2)
    weight_K[0] /= 2
    weight_K[-1] /= 2
    total = 0.0
    for t, weight in zip(t_K, weight_K, strict=True):
        away_TM = np.exp(1j * t * h_TBM).mean(1) - np.exp(-(t**2) / 2)
        total = total + weight * np.abs(away_TM) ** 2
    return z_TBD.shape[1] * float(np.mean(total))


@pytest.mark.parametrize("batch", [8, 128, 1024])
def test_its_mean_on_gaussian_latents_is_the_integral_whatever_the_batch(batch):
    assert pytest.approx(1.0525, abs=1e-3) == GAUSSIAN
    found = [statistic(normal(batch, 32, seed=s), 128, s) for s in range(60)]
    assert np.mean(found) == pytest.approx(GAUSSIAN, abs=4 * np.std(found) / math.sqrt(60) + 1e-3)


def test_of_latents_that_all_collapsed_it_is_the_integral_times_the_batch():
    assert statistic(torch.zeros(128, 16)) == pytest.approx(128 * COLLAPSED, rel=1e-3)
    assert statistic(torch.zeros(128, 16)) == pytest.approx(51.5, abs=0.1)


@pytest.mark.parametrize(
    "collapse",
    {
        "to a line": lambda z: z[:, :1] * torch.ones(16) / 4,
        "to a plane": lambda z: torch.cat([z[:, :2], torch.zeros(512, 14)], 1),
        "to two points": lambda z: z[:, :1].sign() * torch.ones(16),
        "to a smaller ball": lambda z: 0.3 * z,
        "to a sphere's shell, scaled": lambda z: 8 * z / z.norm(dim=1, keepdim=True),
        "shifted": lambda z: z + 0.5,
    }.items(),
    ids=lambda item: item[0],
)
def test_every_kind_of_collapse_costs_more_than_a_gaussian(collapse):
    z_BD = normal(512, 16)
    assert statistic(collapse[1](z_BD)) > 2 * statistic(z_BD)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 20), st.integers(0, 1000))
def test_it_is_the_formula_and_its_gradient_is_finite(steps, batch, size, scale, seed):
    z_TBD = (scale * normal(steps, batch, size, seed=seed)).requires_grad_()
    along_DM = directions(size, 32, Generator().manual_seed(seed), z_TBD)
    value = sigreg(z_TBD, along_DM)
    assert value.item() == pytest.approx(by_hand(z_TBD.detach().numpy(), along_DM.numpy()), rel=1e-3, abs=1e-4)
    value.backward()
    assert z_TBD.grad.isfinite().all()


def test_descending_it_makes_a_cloud_gaussian():
    z_BD = (0.2 * normal(256, 4) + 1.0).requires_grad_()
    optimiser = torch.optim.Adam([z_BD], lr=0.05)
    for step in range(300):
        optimiser.zero_grad()
        sigreg(z_BD[None], directions(4, 64, Generator().manual_seed(step), z_BD)).backward()
        optimiser.step()
    z_BD = z_BD.detach()
    assert z_BD.mean(0).abs().max() < 0.1
    assert torch.linalg.eigvalsh(torch.cov(z_BD.T)) == pytest.approx(torch.ones(4), abs=0.2)


def test_directions_are_of_unit_length_and_depend_on_the_generator_alone():
    one_DM, same_DM, other_DM = (directions(24, 50, Generator().manual_seed(s), torch.zeros(1)) for s in (3, 3, 4))
    assert one_DM.norm(dim=0) == pytest.approx(torch.ones(50), abs=1e-5)
    assert torch.equal(one_DM, same_DM)
    assert not torch.equal(one_DM, other_DM)


def share(rank, world, where, z_TBD, along_DM, out):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{where}/meet", rank=rank, world_size=world)
    mine_TBD = z_TBD[:, rank::world].clone().requires_grad_()
    value = sigreg(mine_TBD, along_DM)
    value.backward()
    torch.save((value.detach(), mine_TBD.grad), f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_get_the_statistic_of_both_batches(tmp_path):
    import torch.multiprocessing as mp

    z_TBD = normal(2, 10, 6).requires_grad_()
    along_DM = directions(6, 16, Generator().manual_seed(0), z_TBD)
    whole = sigreg(z_TBD, along_DM)
    whole.backward()
    out = str(tmp_path / "part")
    mp.start_processes(share, (2, str(tmp_path), z_TBD.detach(), along_DM, out), nprocs=2, start_method="spawn")
    for rank in range(2):
        value, grad_TBD = torch.load(f"{out}{rank}")
        assert float(value) == pytest.approx(whole.item(), rel=1e-5)
        # every process back-propagates the same value: what DDP averages is that of the whole, once
        assert torch.allclose(grad_TBD / 2, z_TBD.grad[:, rank::2], atol=1e-6)
