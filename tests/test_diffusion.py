"""The sampler against closed forms, without a network."""

import numpy as np
import pytest
import torch

from world_models import diffusion
from world_models.diffusion import DiffusionConfig, sample, scheduler

MEAN, STD = 0.7, 0.3


def exact_denoiser(cfg):
    """E[x0 | x] when x0 ~ N(MEAN, STD^2) and x = sqrt(ab) x0 + sqrt(1 - ab) eps."""
    alphas = scheduler(cfg).alphas_cumprod

    def denoise(x, level):
        ab = float(alphas[round(float(level) * 1000) - 1])
        gain = np.sqrt(ab) * STD**2 / (ab * STD**2 + 1 - ab)
        return MEAN + gain * (x - np.sqrt(ab) * MEAN)

    return denoise


def moments(steps, eta=0.0):
    cfg = DiffusionConfig(sample_steps=steps, eta=eta)
    generators = [torch.Generator().manual_seed(0)]
    x = diffusion.noise((200_000,), generators)
    x = sample(exact_denoiser(cfg), x, cfg, generators)
    return float(x.mean()), float(x.std())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampler_recovers_a_gaussian_it_was_given_the_exact_score_of(eta):
    mean, std = moments(200, eta)
    assert abs(mean - MEAN) < 0.01
    assert abs(std - STD) < 0.01


def test_error_shrinks_at_first_order_in_the_number_of_steps():
    steps = [10, 20, 40, 100]  # divisors of 1000: elsewhere the solver rounds its time steps
    errors = [abs(moments(k)[1] - STD) for k in steps]
    order = -np.polyfit(np.log2(steps), np.log2(errors), 1)[0]
    assert 0.7 < order < 1.5


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_a_perfect_denoiser_returns_the_data(steps, prediction):
    cfg = DiffusionConfig(sample_steps=steps, prediction=prediction)
    data = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    alphas = scheduler(cfg).alphas_cumprod

    def denoise(x, level):
        ab = alphas[round(float(level) * 1000) - 1]
        eps = (x - ab.sqrt() * data) / (1 - ab).sqrt()
        return {"sample": data, "epsilon": eps, "v_prediction": ab.sqrt() * eps - (1 - ab).sqrt() * data}[prediction]

    x = sample(denoise, diffusion.noise((3, 4), [torch.Generator().manual_seed(1)]), cfg)
    assert torch.allclose(x, data, atol=2e-3)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_training_pair_and_solver_agree_on_what_the_network_returns(prediction):
    cfg = DiffusionConfig(sample_steps=5, prediction=prediction)
    x0, eps = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
    steps = torch.full((64,), 400)
    noisy, target = diffusion.training_pair(x0, steps, eps, cfg)
    back = scheduler(cfg).step(target, 400, noisy).pred_original_sample
    assert torch.allclose(back, x0, atol=1e-4)


def test_stochastic_sampling_depends_on_each_environments_own_generator_only():
    cfg = DiffusionConfig(sample_steps=4, eta=1.0)

    def run(seeds):
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return sample(exact_denoiser(cfg), diffusion.noise((5,), generators), cfg, generators)

    assert torch.equal(run([3, 4])[1], run([4])[0])
    assert not torch.equal(run([3])[0], run([4])[0])


@pytest.mark.parametrize("bad", [{"sample_steps": 0}, {"sample_steps": 2000}, {"eta": 1.5}])
def test_impossible_settings_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DiffusionConfig(**bad)
