"""Every method on the same contracts: broken models, batches, incumbents, bounds, trust regions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from envs.types import ActionSpec
from planners import PLANNERS, pick
from planners.cem import Cem
from planners.mppi import Mppi
from planners.ssr import Ssr
from planners.types import PlanStatus
from tests.planning_parts import (
    Broken,
    Drift,
    H,
    Hole,
    Noisy,
    S,
    Spy,
    belief,
    generators,
    planner,
    reach_origin,
)

REFINERS = [Cem, Mppi]


@pytest.fixture(params=list(PLANNERS.values()), ids=list(PLANNERS))
def method(request):
    return request.param()


@pytest.fixture(params=[None, Noisy()], ids=["gaussian", "proposal"])
def proposal(request):
    return request.param


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


@pytest.mark.parametrize("method", [Cem(elites=8, iterations=12, kernel=1.0), Mppi(iterations=12)], ids=["cem", "mppi"])
def test_a_search_that_has_settled_ends_and_a_batch_changes_neither_its_plan_nor_its_random_numbers(method):
    states = [[1.0, 0.5], [-0.4, 0.2], [0.0, -2.0]]
    patient = planner(method, samples=64)
    hasty = replace(patient, settled=0.25)
    batch = generators(5, 6, 7)
    together = hasty.search(belief(*states), None, batch)
    counts = []
    for b, state in enumerate(states):
        (mine,) = own = generators(5 + b)
        alone = hasty.search(belief(state), None, own)
        counts.append(alone.candidates)
        torch.testing.assert_close(together.actions_BHA[b], alone.actions_BHA[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together.futures_BFHD[b], alone.futures_BFHD[0], rtol=0, atol=1e-6)
        assert together.rejected_B[b] == alone.rejected_B[0]
        assert torch.equal(batch[b].get_state(), mine.get_state())
        fewer = replace(patient, method=replace(method, iterations=alone.candidates // 64))
        assert torch.equal(fewer.search(belief(state), None, generators(5 + b)).actions_BHA, alone.actions_BHA)
    assert 64 < max(counts) < 64 * 12
    assert together.candidates == max(counts)


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


def test_a_plan_keeps_what_was_predicted_for_the_cheapest_of_the_last_population(method):
    seen = []

    def objective(readings, actions_BSHA):
        seen.append((readings["z"], reach_origin(readings, actions_BSHA)))
        return seen[-1][1]

    plan = planner(method, objective=objective).plan(belief([1.0, 0.5]), 0.0, generators=generators(0))
    z_BSHD, cost_BS = seen[-1]
    assert plan.futures_FHD is not None
    assert np.array_equal(plan.futures_FHD, z_BSHD[0, cost_BS[0].argsort()[:8]])


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
