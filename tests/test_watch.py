"""Sessions that plan together plan as they would alone."""

import threading

import numpy as np
import pytest
import torch

from agents.mpc import MpcAgent
from deploy.watch import Table
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


def together(states, committed):
    table, plans = Table(planner(), LinearDynamics(), len(states)), {}

    def seat(i):
        generator = torch.Generator().manual_seed(i)
        plans[i] = table.plan(i, *seen(states[i]), committed[i], generator)
        table.leave()

    threads = [threading.Thread(target=seat, args=(i,), daemon=True) for i in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
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
