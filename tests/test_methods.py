"""Methods and warm starts against closed forms: Riccati, softmax, AR(1), index algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.linear import SPEC, DoubleIntegrator, LinearDynamics, quadratic_cost
from envs.types import Belief
from planners import PLANNERS
from planners.cem import Cem
from planners.mppi import Mppi
from planners.sampling import Region, ar1_matrix, smooth_noise
from planners.search import SearchPlanner
from planners.types import ActionPlan, PlanStatus
from planners.warm import WarmStart, renoised, shifted
from tests.planning_parts import (
    Noisy,
    belief,
    generators,
    planner,
)


@pytest.fixture(params=list(PLANNERS.values()), ids=list(PLANNERS))
def method(request):
    return request.param()


@pytest.fixture(params=[None, Noisy()], ids=["gaussian", "proposal"])
def proposal(request):
    return request.param


# ---- against mathematics


@pytest.mark.parametrize("x0", [[1.0, 0.0], [0.0, 1.0], [-0.8, 0.6]])
@pytest.mark.parametrize("make", [Cem, Mppi])
def test_cost_is_within_two_percent_of_the_riccati_optimum_and_never_below(make, x0):
    best = DoubleIntegrator.optimal_cost(np.array(x0), 20)
    search = SearchPlanner(
        method=make(iterations=8),
        dynamics=LinearDynamics(),
        readout=lambda z_BSHD: {"z": z_BSHD},
        objective=lambda readings, actions_BSHA: quadratic_cost(readings["z"], actions_BSHA),
        action=SPEC.action,
        dt_s=SPEC.dt_s,
        horizon=20,
        samples=512,
        init_std=0.1,
    )
    start = Belief(torch.tensor(x0)[None, None], torch.zeros(1, 0, 1))
    for seed in range(3):
        plan = search.plan(start, 0.0, generators=generators(seed))
        actions = torch.tensor(plan.actions_HA, dtype=torch.float64)[None, None]
        cost = quadratic_cost(LinearDynamics().rollout(start, actions, []), actions).item()
        assert plan.cost == pytest.approx(cost, rel=1e-4)
        assert best <= cost <= 1.02 * best


def test_smooth_noise_has_unit_variance_and_the_correlation_that_was_asked_for():
    noise_SH = smooth_noise(generators(0), 40_000, torch.empty(1, 5, 1), 0.6)[0, :, :, 0]
    assert noise_SH.var(0).numpy() == pytest.approx(np.ones(5), abs=0.03)
    lag = (noise_SH[:, 1:] * noise_SH[:, :-1]).mean(0)
    assert lag.numpy() == pytest.approx(np.full(4, 0.6), abs=0.03)


def test_ar1_matrix_satisfies_its_recursion():
    white = torch.randn(6, generator=generators(0)[0], dtype=torch.float64)
    smooth = ar1_matrix(6, 0.7, white) @ white
    assert smooth[0] == white[0]
    torch.testing.assert_close(smooth[1:], 0.7 * smooth[:-1] + math.sqrt(1 - 0.49) * white[1:])


def test_mppi_weights_are_a_softmax_in_units_of_the_median_spread():
    cost = torch.tensor([[3.0, 1.0, math.inf, 2.0, 9.0, 1000.0]])  # finite: 1 2 3 9 1000, median 3
    raw = np.exp(-(np.array([3.0, 1.0, np.inf, 2.0, 9.0, 1000.0]) - 1.0) / (0.5 * 2.0))
    np.testing.assert_allclose(Mppi(temperature=0.5).weights(cost)[0].numpy(), raw / raw.sum(), rtol=1e-6)
    assert Mppi().weights(torch.full((1, 4), math.inf)).abs().sum() == 0
    assert Mppi().weights(torch.full((1, 4), 2.0)).tolist() == [[0.25] * 4]


def test_mppi_weights_are_those_of_pytorch_mppi_at_the_same_lambda():
    peer = pytest.importorskip("pytorch_mppi")
    cost_S = torch.rand(101, generator=generators(0)[0]) * 50
    lam = 0.3 * float(cost_S.median() - cost_S.min())
    theirs = peer.MPPI(lambda x, u: x, lambda x, u: x[:, 0], 1, torch.eye(1), lambda_=lam)._compute_weighting(cost_S)
    torch.testing.assert_close(Mppi(temperature=0.3).weights(cost_S[None])[0], theirs)


def test_mppi_moves_to_the_weighted_mean_and_standard_deviation():
    first = torch.randn(1, 50, 3, 2, generator=generators(0)[0])
    cost = torch.rand(1, 50, generator=generators(1)[0])
    method = Mppi()
    state = method.tell(method.init(first, Region(torch.ones(1, 3, 2))), first, cost)
    weight = method.weights(cost)[0, :, None, None]
    mean_BHA, std_BHA = method.moments(state, cost)
    torch.testing.assert_close(mean_BHA[0], (weight * first[0]).sum(0))
    spread = (weight * (first[0] - mean_BHA[0]) ** 2).sum(0).sqrt()
    torch.testing.assert_close(std_BHA[0], spread.clamp_min(method.min_std))


@pytest.mark.parametrize("kernel", [1.0, 0.5])
def test_cem_draws_keep_the_mean_and_the_variance_of_the_elites(kernel):
    method = Cem(elites=8, kernel=kernel, correlation=0.0)
    first = torch.randn(1, 40, 3, 2, generator=generators(0)[0])
    cost = torch.rand(1, 40, generator=generators(1)[0])
    state = method.tell(method.init(first, Region(torch.ones(1, 3, 2))), first, cost)
    elites = first[0][cost[0].argsort()[:8]]
    torch.testing.assert_close(state.elites_BEHA[0], elites)
    drawn = method.ask(state, 40_001, generators(2))[0, 1:]
    assert (drawn.mean(0) - elites.mean(0)).abs().max() < 0.03
    assert (drawn.std(0) / elites.std(0, correction=0) - 1).abs().max() < 0.03


def test_a_small_kernel_keeps_candidates_near_single_elites():
    method = Cem(elites=2, kernel=0.1, correlation=0.0)
    first = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    state = method.tell(method.init(first, Region(torch.ones(1, 1, 1))), first, torch.zeros(1, 2))
    drawn = method.ask(state, 200, generators(0))[0, 1:, 0, 0]
    assert (drawn.abs() - 1).abs().max() < 0.5  # the mean, 0, is nobody's choice


# ---- warm start


def test_a_good_guess_is_never_lost(method, proposal):
    good = planner(Mppi(iterations=20), samples=512, proposal=None).search(belief([1.0, 0.5]), None, generators(1))
    search = planner(method, proposal=proposal, guess_trust=math.inf)
    assert search.search(belief([1.0, 0.5]), None, generators(0)).cost_B > good.cost_B  # not found without
    assert search.search(belief([1.0, 0.5]), good.actions_BHA, generators(0)).cost_B <= good.cost_B


def test_renoised_copies_spread_as_asked_around_an_untouched_guess():
    guess, std = torch.randn(1, 4, 2, generator=generators(0)[0]), torch.rand(1, 4, 2, generator=generators(1)[0])
    copies = renoised(guess, 40_001, std, 0.5, generators(2))
    assert torch.equal(copies[:, 0], guess)
    assert (copies[0, 1:].mean(0) - guess[0]).abs().max() < 0.02
    assert (copies[0, 1:].std(0) / std[0] - 1).abs().max() < 0.02


@given(rows=st.integers(1, 40), done=st.integers(0, 45), part=st.floats(0.0, 0.99), t0=st.floats(0.0, 3000.0))
def test_shifting_drops_the_rows_that_are_past_and_repeats_the_last(rows, done, part, t0):
    dt = 0.008
    plan = ActionPlan(np.arange(rows, dtype=np.float32)[:, None], dt, t0)
    now = t0
    for _ in range(done):
        now += dt  # as a clock would
    now += part * dt
    if now >= plan.expires_s:
        assert shifted(plan, now) is None
        return
    guess = shifted(plan, now)
    assert guess is not None
    np.testing.assert_array_equal(guess[:, 0], np.minimum(np.arange(rows) + done, rows - 1))


def test_a_plan_of_the_future_or_of_the_past_is_no_guess():
    plan = ActionPlan(np.zeros((5, 1)), 0.1, 10.0)
    assert shifted(plan, 9.9) is None
    assert shifted(plan, 10.5) is None
    assert shifted(plan, 10.0) is not None


@dataclass
class Echo:
    """A planner that returns what it is told and remembers the guesses it was given."""

    plans: list[ActionPlan]
    guesses: list[torch.Tensor | None] = field(default_factory=list)

    def plan(self, belief, now_s, guess_BHA=None, *, generators, observed_s=None):
        self.guesses.append(guess_BHA)
        return self.plans.pop(0)


def test_warm_start_offers_the_last_usable_plan_until_it_expires_or_is_forgotten():
    block = np.arange(6, dtype=np.float32).reshape(3, 2)
    good, failed = ActionPlan(block, 0.1, 0.0), ActionPlan(block, 0.1, 0.1, PlanStatus.FAILED)
    own = torch.full((1, 3, 2), 7.0)
    inner = Echo([good, failed, good, good, good, good])
    warm = WarmStart(inner)
    asked = [(0.0, None), (0.1, None), (0.2, None), (0.1, own), (0.5, None)]
    for now, guess in asked:
        warm.plan(belief([0.0, 0.0]), now, guess, generators=generators(0))
    warm.forget()
    warm.plan(belief([0.0, 0.0]), 0.1, generators=generators(0))
    first, second, third, fourth, fifth, sixth = inner.guesses
    assert first is fifth is sixth is None
    assert second is not None
    assert second.tolist() == [[[2, 3], [4, 5], [4, 5]]]
    assert third is not None  # the failed plan in between was not remembered
    assert third.tolist() == [[[4, 5], [4, 5], [4, 5]]]
    assert fourth is own


def test_warm_start_improves_on_a_cold_search_from_one_step_to_the_next(method):
    search = planner(method)
    cold, warm = [], []
    for seed in range(10):
        wrapped = WarmStart(search)
        for step in range(4):
            gens = generators(100 * seed + step)
            warm.append(wrapped.plan(belief([1.0, 0.5]), 0.0, generators=gens).cost)
            gens = generators(100 * seed + step)
            cold.append(search.plan(belief([1.0, 0.5]), 0.0, generators=gens).cost)
    assert np.mean(warm) < np.mean(cold)
