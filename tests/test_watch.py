"""Sessions that plan together plan as they would alone."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.mpc import MpcAgent
from configs.presets import PRESETS
from deploy.watch import NoPlanError, Table, made_with, watch_together
from envs.linear import LinearDynamics
from envs.robots import readings, robot_spec
from envs.types import Observation
from planners.cem import Cem
from planners.search import SearchPlanner

SPEC = robot_spec("double_integrator")


def planner():
    return SearchPlanner(
        method=Cem(elites=4, iterations=2, trust=float("inf")),
        dynamics=LinearDynamics(),
        readout=lambda z: readings(SPEC, z),
        objective=lambda r, a: (r["position"].square() + r["speed"].square()).sum(-1),
        action=SPEC.action,
        dt_s=SPEC.dt_s,
        horizon=8,
        samples=16,
    )


def seen(state):
    """What a robot at `state` sees, and believes."""
    observation = Observation(0.5, np.array(state))
    return observation, MpcAgent(planner(), LinearDynamics(), SPEC.dt_s, 1).belief(observation)


def at_once(count, seat):
    """Run `seat(0)` to `seat(count - 1)` side by side."""
    threads = [threading.Thread(target=seat, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def together(states, committed):
    table, plans = Table(planner(), LinearDynamics(), len(states)), {}

    def seat(i):
        generator = torch.Generator().manual_seed(i)
        plans[i] = table.plan(i, *seen(states[i]), committed[i], generator)
        table.leave()

    at_once(len(states), seat)
    return [plans[i] for i in range(len(states))]


def alone(i, state, committed):
    agent = MpcAgent(planner(), LinearDynamics(), SPEC.dt_s, 1)
    agent.generator.manual_seed(i)
    return agent.plan(Observation(0.5, np.array(state)), committed)


@pytest.mark.parametrize("ahead", [(0, 0, 0), (2, 2, 2), (0, 2, 1)])
def test_each_gets_the_plan_it_would_have_made_alone(ahead):
    states = [[1.0, 0.0], [-2.0, 0.5], [0.3, -0.2]]
    committed = [np.full((k, 1), 0.5) for k in ahead]
    for i, plan in enumerate(together(states, committed)):
        own = alone(i, states[i], committed[i])
        assert np.allclose(plan.actions_HA, own.actions_HA, atol=1e-5)
        assert plan.t0_s == pytest.approx(own.t0_s)
        assert plan.cost == pytest.approx(own.cost, rel=1e-5)


def test_those_who_stay_go_on_when_one_leaves():
    table, done = Table(planner(), LinearDynamics(), 2), []

    def stays():
        generator = torch.Generator().manual_seed(0)
        done.append(table.plan(0, *seen([0.0, 0.0]), np.zeros((0, 1)), generator))

    thread = threading.Thread(target=stays, daemon=True)
    thread.start()
    thread.join(0.3)
    assert not done
    table.leave()
    thread.join(20)
    assert len(done) == 1


def test_a_batch_that_fails_is_told_to_everybody_and_hangs_nobody():
    class Broken(LinearDynamics):
        def rollout(self, belief, actions, generators):
            raise FloatingPointError("no future")

    table, told = Table(planner(), Broken(), 2), []

    def seat(i):
        try:
            table.plan(i, *seen([0.0, 0.0]), np.zeros((1, 1)), torch.Generator())
        except (FloatingPointError, NoPlanError) as error:
            told.append(type(error).__name__)
        finally:
            table.leave()

    at_once(2, seat)
    assert sorted(told) == ["FloatingPointError", "NoPlanError"]


def test_the_belief_holds_the_last_step_where_it_was_seen():
    agent = MpcAgent(planner(), LinearDynamics(), SPEC.dt_s, 1)
    agent.begin_episode(0, 0)
    first, second = (Observation(t, np.array([t, 0.0])) for t in (0.0, SPEC.dt_s))
    assert agent.belief(first).z_BTD.shape == (1, 1, 2)
    agent.observe(first, np.array([0.5]), second, 0.0)
    belief = agent.belief(second)
    assert belief.z_BTD[0].tolist() == [pytest.approx(first.state_O), pytest.approx(second.state_O)]
    assert belief.actions_BTA.tolist() == [[[0.5]]]
    assert agent.belief(first).z_BTD.shape == (1, 1, 2)
    agent.begin_episode(1, 0)
    assert agent.belief(second).z_BTD.shape == (1, 1, 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_rows_of_a_batch_are_in_the_order_of_the_seats_whoever_comes_first(order):
    rows, turn = [], [threading.Event() for _ in order]

    class Watched(LinearDynamics):
        def rollout(self, belief, actions_BSHA, generators, /):
            rows.append(belief.z_BTD[:, -1, 0].tolist())
            return super().rollout(belief, actions_BSHA, generators)

    table = Table(replace(planner(), dynamics=Watched()), LinearDynamics(), 3)

    def seat(i):
        turn[i].wait(20)
        table.plan(i, *seen([float(i), 0.0]), np.zeros((0, 1)), torch.Generator().manual_seed(i))
        table.leave()

    threads = [threading.Thread(target=seat, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for i in order:
        turn[i].set()
        while i not in table._asked and i != order[-1]:
            pass
    for thread in threads:
        thread.join(20)
    assert rows
    assert all(row == [0.0, 1.0, 2.0] for row in rows)


def test_sessions_with_and_without_a_past_are_planned_apart():
    table, plans = Table(planner(), LinearDynamics(), 2), {}
    agent = MpcAgent(planner(), LinearDynamics(), SPEC.dt_s, 1)
    before, now = (Observation(t, np.array([1.0, 0.0])) for t in (0.0, 0.5))
    agent.observe(before, np.zeros(1), now, 0.0)
    beliefs = [(now, agent.belief(now)), seen([1.0, 0.0])]

    def seat(i):
        plans[i] = table.plan(i, *beliefs[i], np.full((2, 1), 0.5), torch.Generator().manual_seed(0))
        table.leave()

    at_once(2, seat)
    assert np.allclose(plans[0].actions_HA, plans[1].actions_HA, atol=1e-5)  # a linear model has no use for the past


def test_episodes_that_cannot_be_watched_together_are_refused():
    cfg = PRESETS["walker"][1]
    with pytest.raises(ValueError, match="--plan-latency"):
        watch_together(cfg, [0])
    warm = replace(cfg, plan_latency_s=0.0, agent=replace(cfg.agent, warm=True))
    with pytest.raises(ValueError, match="warm"):
        watch_together(warm, [0])
    with pytest.raises(ValueError, match="linear-cem"):
        watch_together(PRESETS["linear-cem"][1], [0])


def test_what_is_kept_is_marked_by_everything_that_it_depends_on(tmp_path):
    cfg = PRESETS["walker"][1]
    weights = shutil.copytree(cfg.agent.folder, tmp_path / "weights")
    cfg = replace(cfg, agent=replace(cfg.agent, checkpoint=weights))
    judged = replace(cfg, agent=replace(cfg.agent, surprise=replace(cfg.agent.surprise, drift=9.0)))
    assert made_with(judged) == made_with(cfg)
    assert made_with(judged, judged=True) != made_with(cfg, judged=True)
    marks = [(made_with(cfg), made_with(cfg, judged=True))]
    for name in ("step.safetensors", "dynamics.json", "surprise.json", "replay.safetensors"):
        with (weights / name).open("ab") as file:
            file.write(b" ")
        marks.append((made_with(cfg), made_with(cfg, judged=True)))
    plain, both = zip(*marks, strict=True)
    assert len(set(both)) == 5
    assert len(set(plain)) == 3  # surprise.json and replay only matter to those who judge
