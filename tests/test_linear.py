"""The double integrator against linear algebra."""

import numpy as np
import pytest
import torch

from envs.linear import A_DD, B_DA, Q_DD, R_AA, SPEC, DoubleIntegrator, LinearDynamics, quadratic_cost, riccati_gains
from envs.robots import make_env, readings, reward
from envs.types import Belief

STARTS = [(1.0, 0.0), (0.0, 1.0), (-0.7, 0.4)]


def belief(x_D, batch=1):
    z = torch.tensor(np.tile(x_D, (batch, 1, 1)), dtype=torch.float64)
    return Belief(z, torch.zeros(batch, 0, 1, dtype=torch.float64))


def least_squares(x_D, horizon):
    """The optimum without any recursion: x_h = F_h x + G_h u, minimise the sum of squares over u at once."""
    rows, rhs = [], []
    for h in range(1, horizon + 1):
        effect = np.hstack(
            [np.linalg.matrix_power(A_DD, h - 1 - i) @ B_DA if i < h else 0 * B_DA for i in range(horizon)]
        )
        rows.append(np.sqrt(Q_DD) @ effect)
        rhs.append(-np.sqrt(Q_DD) @ np.linalg.matrix_power(A_DD, h) @ x_D)
    rows.append(np.sqrt(R_AA[0, 0]) * np.eye(horizon))
    rhs.append(np.zeros(horizon))
    matrix, target = np.vstack(rows), np.concatenate(rhs)
    u, *_ = np.linalg.lstsq(matrix, target)
    return u, np.sum((matrix @ u - target) ** 2)


@pytest.mark.parametrize("horizon", [1, 2, 15])
@pytest.mark.parametrize("x_D", STARTS)
def test_riccati_optimum_is_the_least_squares_optimum(x_D, horizon):
    u, cost = least_squares(np.array(x_D), horizon)
    assert DoubleIntegrator.optimal_actions(np.array(x_D), horizon)[:, 0] == pytest.approx(u, abs=1e-9)
    assert DoubleIntegrator.optimal_cost(np.array(x_D), horizon) == pytest.approx(cost, rel=1e-9)


def test_long_horizon_gain_solves_the_algebraic_riccati_equation():
    from scipy.linalg import solve_discrete_are

    P_DD = solve_discrete_are(A_DD, B_DA, Q_DD, R_AA)
    gain_AD = np.linalg.solve(R_AA + B_DA.T @ P_DD @ B_DA, B_DA.T @ P_DD @ A_DD)
    assert riccati_gains(300)[0][0] == pytest.approx(gain_AD, rel=1e-9)


def test_cost_of_the_optimal_actions_is_the_optimal_cost_and_no_other_plan_is_cheaper():
    x_D, horizon = np.array([1.0, 0.5]), 20
    best = DoubleIntegrator.optimal_cost(x_D, horizon)
    noise = torch.randn(1, 200, horizon, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[:, 0] = 0.0
    actions = torch.tensor(DoubleIntegrator.optimal_actions(x_D, horizon)) + 0.1 * noise
    costs = quadratic_cost(LinearDynamics().rollout(belief(x_D), actions, []), actions)[0]
    assert costs[0].item() == pytest.approx(best, rel=1e-12)
    assert (costs[1:] > best).all()


def test_costs_and_weights_other_than_the_task_are_honoured():
    x_D, Q, R = np.array([1.0, 0.0]), np.diag([3.0, 0.0]), np.array([[2.0]])
    actions = torch.tensor(DoubleIntegrator.optimal_actions(x_D, 10, Q, R))[None, None]
    z = LinearDynamics().rollout(belief(x_D), actions, [])
    assert quadratic_cost(z, actions, Q, R).item() == pytest.approx(DoubleIntegrator.optimal_cost(x_D, 10, Q, R))
    assert quadratic_cost(z, actions).item() > DoubleIntegrator.optimal_cost(x_D, 10)


def test_model_environment_reward_and_cost_agree():
    env = make_env("double_integrator")
    x_D, _ = env.reset(seed=0)
    actions = torch.randn(1, 1, 12, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = LinearDynamics().rollout(belief(x_D), actions, [])
    steps = [env.step(a.numpy()) for a in actions[0, 0]]
    assert z[0, 0].numpy() == pytest.approx(np.array([s[0] for s in steps]), abs=1e-12)
    ours = reward(SPEC, readings(SPEC, z), actions)[0, 0]
    assert ours.numpy() == pytest.approx(np.array([s[1] for s in steps]), abs=1e-12)
    assert quadratic_cost(z, actions).item() == pytest.approx(-ours.sum().item(), rel=1e-12)


def test_one_step_is_the_exact_motion_under_a_constant_force():
    env = DoubleIntegrator()
    (x, v), _ = env.reset(seed=0)
    after = env.step(np.array([2.0]))[0]
    t = SPEC.dt_s
    assert after == pytest.approx([x + v * t + t * t, v + 2.0 * t], abs=1e-15)


def test_forces_beyond_the_action_space_are_clipped():
    one, other = DoubleIntegrator(), DoubleIntegrator()
    one.reset(seed=0)
    other.reset(seed=0)
    assert one.step(np.array([1e6]))[1] == other.step(SPEC.action.high_A)[1]


def test_optimal_forces_from_all_legal_starts_lie_within_the_action_space():
    gains_HAD, _ = riccati_gains(50)
    worst = np.abs(gains_HAD).sum(-1).max()  # |u| <= |gain| |x| for positions and speeds in [-1, 1]
    assert worst < SPEC.action.high_A[0]


def test_rollout_of_a_batch_is_that_of_each_environment_alone():
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(3, 4, 5, 1, generator=generator, dtype=torch.float64)
    both = Belief(torch.randn(3, 1, 2, generator=generator, dtype=torch.float64), torch.zeros(3, 0, 1))
    together = LinearDynamics().rollout(both, actions, [])
    for b in range(3):
        alone = LinearDynamics().rollout(belief(both.z_BTD[b, 0].numpy()), actions[b : b + 1], [])
        assert torch.allclose(together[b], alone[0], atol=1e-14)
    with pytest.raises(ValueError, match="actions: expected"):
        LinearDynamics().rollout(both, actions[:2], [])
