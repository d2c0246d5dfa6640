"""Every method on the same contracts: the Riccati optimum, broken models, batches, bounds, trust, warm start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.linear import SPEC, DoubleIntegrator, LinearDynamics, quadratic_cost
from envs.types import ActionSpec, Belief
from planners import PLANNERS, pick
from planners.cem import Cem
from planners.mppi import Mppi
from planners.sampling import Region, ar1_matrix, smooth_noise
from planners.search import SearchPlanner
from planners.ssr import Ssr
from planners.types import ActionPlan, PlanStatus
from planners.warm import WarmStart, renoised, shifted

H, S = 12, 32
REFINERS = [Cem, Mppi]
ACTION = ActionSpec(np.full(2, -1.0), np.full(2, 1.0), ("N", "N"), ("left", "right"))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def belief(*rows: list[float]) -> Belief:
    z_BTD = torch.tensor(rows)[:, None]
    return Belief(z_BTD, torch.zeros(len(rows), 0, 2))


class Drift:
    """z' = z + 0.2 tanh(a): two coordinates, two actions, no matrix products."""

    def rollout(self, belief, actions_BSHA, generators, /):
        return belief.z_BD[:, None, None] + 0.2 * torch.tanh(actions_BSHA).cumsum(2)


class Noisy:
    """A proposal whose mean follows the state and whose spread differs by step and actuator."""

    std_HA = 0.05 + 0.2 * torch.rand(H, 2, generator=torch.Generator().manual_seed(0))

    def sample(self, belief, n, generators, /):
        eps = torch.stack([torch.randn(n, H, 2, generator=g) for g in generators])
        return -0.3 * belief.z_BD[:, None, None] + self.std_HA * eps


class Broken(Drift):
    def rollout(self, belief, actions_BSHA, generators, /):
        return super().rollout(belief, actions_BSHA, generators) * math.nan


class Hole(Drift):
    """Predicts NaN, at one step only, for whoever moves well in the first second: the model's favourites."""

    def rollout(self, belief, actions_BSHA, generators, /):
        z_BSHD = super().rollout(belief, actions_BSHA, generators)
        z_BSHD[..., 3, 0] = torch.where(self.inside(actions_BSHA), math.nan, z_BSHD[..., 3, 0])
        return z_BSHD

    @staticmethod
    def inside(actions_BSHA):
        return actions_BSHA[..., :4, 0].sum(-1) < -1.1


@dataclass
class Spy:
    """Dynamics that remember every candidate they were asked about."""

    inner: Drift = field(default_factory=Drift)
    seen: list[torch.Tensor] = field(default_factory=list)

    def rollout(self, belief, actions_BSHA, generators, /):
        self.seen.append(actions_BSHA.clone())
        return self.inner.rollout(belief, actions_BSHA, generators)

    @property
    def all_BSHA(self):
        return torch.cat(self.seen, 1)


def reach_origin(readings, actions_BSHA):
    return readings["z"].square().sum((-1, -2)) + 0.1 * actions_BSHA.square().sum((-1, -2))


def planner(method, **changes) -> SearchPlanner:
    base = SearchPlanner(
        method=method,
        dynamics=Drift(),
        readout=lambda z_BSHD: {"z": z_BSHD},
        objective=reach_origin,
        action=ACTION,
        dt_s=0.1,
        horizon=H,
        samples=S,
        proposal=Noisy(),
    )
    return replace(base, **changes)


@pytest.fixture(params=list(PLANNERS.values()), ids=list(PLANNERS))
def method(request):
    return request.param()


@pytest.fixture(params=[None, Noisy()], ids=["gaussian", "proposal"])
def proposal(request):
    return request.param


# ---- against mathematics


@pytest.mark.parametrize("x0", [[1.0, 0.0], [0.0, 1.0], [-0.8, 0.6]])
@pytest.mark.parametrize("make", REFINERS)
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


# ---- bad numbers


def test_a_broken_model_yields_failed_not_an_exception(method, proposal):
    plan = planner(method, dynamics=Broken(), proposal=proposal).plan(belief([1.0, 1.0]), 2.0, generators=generators(0))
    assert plan.status is PlanStatus.FAILED
    assert plan.cost == math.inf
    assert plan.rejected == S * method.iterations


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_non_finite_cost_is_worst_never_best(method, bad):
    def objective(readings, actions_BSHA):
        return torch.where(Hole.inside(actions_BSHA), bad, reach_origin(readings, actions_BSHA))

    plan = planner(method, objective=objective).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    assert math.isfinite(plan.cost)
    assert not Hole.inside(torch.tensor(plan.actions_HA))


def test_holes_in_the_model_are_counted_and_never_selected(method, proposal):
    spy = Spy(Hole())
    plan = planner(method, dynamics=spy, proposal=proposal).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    free = planner(method, proposal=proposal).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    assert Hole.inside(torch.tensor(free.actions_HA))  # the hole is where it would like to go
    assert plan.status is PlanStatus.DEGRADED
    assert not Hole.inside(torch.tensor(plan.actions_HA))
    assert plan.rejected == int(Hole.inside(spy.all_BSHA).sum()) > 0


def test_a_prediction_that_is_not_finite_is_rejected_even_where_the_objective_does_not_look(method):
    search = planner(method, dynamics=Hole(), objective=lambda readings, actions_BSHA: actions_BSHA[..., 0].sum(-1))
    plan = search.plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    assert plan.status is PlanStatus.DEGRADED
    assert not Hole.inside(torch.tensor(plan.actions_HA))


def test_a_sound_model_yields_ok(method, proposal):
    plan = planner(method, proposal=proposal).plan(belief([1.0, 0.5]), 3.0, generators=generators(0), observed_s=2.5)
    assert (plan.status, plan.rejected, plan.t0_s, plan.observed_s) == (PlanStatus.OK, 0, 3.0, 2.5)


def test_proposals_that_are_not_finite_are_rejected_and_do_not_spoil_the_rest(method):
    class Patchy(Noisy):
        def sample(self, belief, n, generators, /):
            actions = super().sample(belief, n, generators)
            actions[:, :5, 2, 1] = math.nan
            return actions

    spy = Spy()
    plan = planner(method, proposal=Patchy(), dynamics=spy).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    assert plan.status is PlanStatus.DEGRADED
    assert plan.rejected == 5
    assert spy.all_BSHA.isfinite().all()


def test_a_guess_that_is_not_finite_does_no_harm(method, proposal):
    guess = torch.full((1, H, 2), math.nan)
    plan = planner(method, proposal=proposal).plan(belief([1.0, 0.5]), 0.0, guess, generators=generators(0))
    assert plan.status is PlanStatus.OK


def test_half_precision_predictions_are_scored_in_single_precision(method):
    seen = []

    class Half(Drift):
        def rollout(self, belief, actions_BSHA, generators, /):
            return super().rollout(belief, actions_BSHA, generators).bfloat16()

    def objective(readings, actions_BSHA):
        seen.append(readings["z"].dtype)
        return reach_origin(readings, actions_BSHA)

    plan = planner(method, dynamics=Half(), objective=objective).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    assert plan.status is PlanStatus.OK
    assert set(seen) == {torch.float32}


def test_a_part_that_returns_the_wrong_shape_is_named(method):
    class Short(Drift):
        def rollout(self, belief, actions_BSHA, generators, /):
            return super().rollout(belief, actions_BSHA, generators)[:, :, 1:]

    with pytest.raises(ValueError, match=r"dynamics\.rollout"):
        planner(method, dynamics=Short()).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    with pytest.raises(ValueError, match="objective"):
        planner(method, objective=lambda r, a: r["z"].sum(-1)).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    with pytest.raises(ValueError, match="generators"):
        planner(method).search(belief([1.0, 0.5]), None, generators(0, 1))


# ---- what a search promises


@pytest.mark.parametrize("guessed", [False, True])
def test_a_plan_is_the_same_alone_and_in_a_batch(method, proposal, guessed):
    states = [[1.0, 0.5], [-0.4, 0.2], [0.0, -2.0]]
    guess = torch.randn(3, H, 2, generator=generators(9)[0]) if guessed else None
    search = planner(method, proposal=proposal)
    together = search.search(belief(*states), guess, generators(5, 6, 7))
    for b, state in enumerate(states):
        alone = search.search(belief(state), None if guess is None else guess[b : b + 1], generators(5 + b))
        torch.testing.assert_close(together.actions_BHA[b], alone.actions_BHA[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together.cost_B[b], alone.cost_B[0], rtol=1e-6, atol=0)


def test_one_broken_environment_leaves_its_neighbour_alone(method, proposal):
    search = planner(method, proposal=proposal)
    both = search.search(belief([math.nan, 0.0], [1.0, 0.5]), None, generators(0, 1))
    alone = search.search(belief([1.0, 0.5]), None, generators(1))
    assert both.cost_B[0] == math.inf
    assert both.rejected_B.tolist() == [both.candidates, 0]
    torch.testing.assert_close(both.actions_BHA[1], alone.actions_BHA[0], rtol=0, atol=1e-6)


def test_the_answer_is_the_cheapest_candidate_ever_evaluated(method, proposal):
    costs, spy = [], Spy()

    def objective(readings, actions_BSHA):
        costs.append(reach_origin(readings, actions_BSHA))
        return costs[-1]

    search = planner(method, proposal=proposal, objective=objective, dynamics=spy)
    result = search.search(belief([1.0, 0.5]), None, generators(0))
    cost_BS = torch.cat(costs, 1)
    assert result.candidates == cost_BS.shape[1]
    assert result.cost_B[0] == cost_BS.min()
    assert torch.equal(result.actions_BHA[0], spy.all_BSHA[0, cost_BS.argmin()])


@pytest.mark.parametrize("make", REFINERS)
def test_the_incumbent_never_gets_worse_and_refinement_beats_ranking(make):
    cost = [
        planner(make(iterations=n)).plan(belief([1.0, 0.5]), 0.0, generators=generators(3)).cost for n in range(1, 7)
    ]
    assert all(later <= earlier for earlier, later in pairwise(cost))
    ranked = planner(Ssr(), samples=6 * S).plan(belief([1.0, 0.5]), 0.0, generators=generators(3)).cost
    assert cost[-1] < ranked  # at equal numbers of candidates


@pytest.mark.parametrize("make", REFINERS)
def test_the_centre_is_returned_only_as_it_was_evaluated(make):
    spy = Spy()
    result = planner(make(returns="centre", iterations=3), dynamics=spy).search(belief([1.0, 0.5]), None, generators(0))
    assert torch.equal(result.actions_BHA[0], spy.seen[-1][0, 0])
    readings = {"z": Drift().rollout(belief([1.0, 0.5]), result.actions_BHA[:, None], [])}
    torch.testing.assert_close(reach_origin(readings, result.actions_BHA[:, None])[0], result.cost_B)


@pytest.mark.parametrize("make", REFINERS)
def test_a_centre_inside_a_hole_gives_way_to_the_best_candidate(make):
    class OnlyProposals(Drift):
        calls = 0

        def rollout(self, belief, actions_BSHA, generators, /):
            self.calls += 1
            return super().rollout(belief, actions_BSHA, generators) * (1.0 if self.calls == 1 else math.nan)

    search = planner(make(returns="centre"), dynamics=OnlyProposals())
    plan = search.plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    ranked = planner(Ssr()).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    assert plan.cost == ranked.cost
    np.testing.assert_array_equal(plan.actions_HA, ranked.actions_HA)


def test_permuting_candidates_does_not_change_what_ssr_chooses():
    class Shuffled(Noisy):
        def sample(self, belief, n, generators, /):
            return super().sample(belief, n, generators)[
                :, torch.randperm(n, generator=torch.Generator().manual_seed(1))
            ]

    plain = planner(Ssr()).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    shuffled = planner(Ssr(), proposal=Shuffled()).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    np.testing.assert_array_equal(plain.actions_HA, shuffled.actions_HA)


def test_scaling_all_costs_changes_no_action(method, proposal):
    plain = planner(method, proposal=proposal)
    scaled = replace(plain, objective=lambda r, a: 1024.0 * reach_origin(r, a))
    one = plain.plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    other = scaled.plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    np.testing.assert_array_equal(one.actions_HA, other.actions_HA)
    assert other.cost == 1024.0 * one.cost


def test_a_few_catastrophic_candidates_do_not_blunt_mppi():
    search = planner(Mppi(iterations=3, returns="centre"))
    plain = search.plan(belief([1.0, 0.5]), 0.0, generators=generators(0)).cost

    def objective(readings, actions_BSHA):
        cost_BS = reach_origin(readings, actions_BSHA)
        return torch.where(cost_BS > cost_BS.quantile(0.9), cost_BS + 1e6, cost_BS)

    assert replace(search, objective=objective).plan(
        belief([1.0, 0.5]), 0.0, generators=generators(0)
    ).cost == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("make", REFINERS)
@pytest.mark.parametrize("trust", [0.5, 2.0, math.inf])
def test_every_candidate_is_inside_the_trust_region(make, trust):
    spy = Spy()
    guess = torch.full((1, H, 2), 0.9)
    search = planner(make(trust=trust, iterations=5), dynamics=spy)
    search.search(belief([2.0, -2.0]), guess, generators(0))
    fresh = S - round(search.guess_share * S)
    proposals = Noisy().sample(belief([2.0, -2.0]), fresh, generators(0))[0].clamp(-1, 1)
    reach = proposals.std(0, correction=0).clamp_min(search.floor_std)

    def away(actions, centres):
        return ((actions[:, None] - centres).abs() / reach).amax((2, 3)).amin(1).max()

    clamped_guess = spy.seen[0][0, :1]
    assert search.guess_trust * 0.9 < away(clamped_guess, proposals) <= search.guess_trust * (1 + 1e-5)
    farthest = away(spy.all_BSHA[0], torch.cat([clamped_guess, proposals]))
    assert farthest <= trust * (1 + 1e-5)
    assert farthest > 0.9 * min(trust, 2.0)  # and the region is used


def test_every_candidate_and_every_plan_is_inside_the_bounds(method, proposal):
    narrow = ActionSpec(np.array([-0.1, -0.3]), np.array([0.2, 0.05]), ("N", "N"), ("left", "right"))
    spy = Spy()
    search = planner(method, proposal=proposal, action=narrow, dynamics=spy)
    plan = search.plan(belief([3.0, -3.0]), 0.0, torch.full((1, H, 2), 5.0), generators=generators(0))
    low, high = narrow.low_A.astype(np.float32), narrow.high_A.astype(np.float32)
    for actions in (spy.all_BSHA.numpy(), plan.actions_HA):
        assert (actions >= low).all()
        assert (actions <= high).all()
    assert (spy.all_BSHA.numpy() == high).any()


def test_the_first_population_may_differ_in_size(method):
    spy = Spy()
    result = planner(method, proposals=20, samples=48, dynamics=spy).search(belief([1.0, 0.5]), None, generators(0))
    assert [x.shape[1] for x in spy.seen] == [20] + [48] * (method.iterations - 1)
    assert result.candidates == sum(x.shape[1] for x in spy.seen)


def test_construction_refuses_nonsense():
    for wrong in (
        lambda: Cem(elites=1),
        lambda: Cem(kernel=0.0),
        lambda: Cem(returns="centre", iterations=1),
        lambda: Cem(trust=0.0),
        lambda: Mppi(temperature=0.0),
        lambda: Mppi(correlation=1.0),
        lambda: Mppi(returns="centre", iterations=1),
        lambda: planner(Cem(elites=33)),
        lambda: planner(Cem(elites=16), proposals=8),
        lambda: planner(Ssr(), horizon=0),
        lambda: planner(Ssr(), guess_share=0.0),
    ):
        with pytest.raises(ValueError, match="got"):
            wrong()
    with pytest.raises(KeyError, match=r"cem.*mppi.*ssr"):
        pick(PLANNERS, "cme", "planner")


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
