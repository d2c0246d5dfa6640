"""A point mass on a line, whose best finite-horizon control is known exactly (Riccati): the yardstick for planners.

State x = (position [m], speed [m/s]), force u [N] held over each step of dt on a mass of 1 kg: x' = A x + B u, with
A = [[1, dt], [0, 1]] and B = [dt^2 / 2, dt]. A plan costs J = sum over h = 1 .. H of x_h' Q x_h + u_{h-1}' R u_{h-1}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from envs.robots import ROBOTS
from envs.shapes import check

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from envs.types import Belief

SPEC = ROBOTS["double_integrator"]
A_DD = np.array([[1.0, SPEC.dt_s], [0.0, 1.0]])
B_DA = np.array([[0.5 * SPEC.dt_s**2], [SPEC.dt_s]])
Q_DD = -np.diag([SPEC.reward_quadratic[name] for name in SPEC.state_names])
R_AA = np.array([[SPEC.reward_effort]])
ROWS, COLUMNS = 24, 128
"""Of a picture [pixels]."""
EDGE_M = 2.5
"""Position that a picture's last column shows; the first one shows minus that."""
RADIUS = 5.0
"""Of the mass in a picture [pixels]."""


def riccati_gains(H: int, Q_DD: np.ndarray = Q_DD, R_AA: np.ndarray = R_AA) -> tuple[np.ndarray, np.ndarray]:
    """Return the gains (H, A, D), with best action u_h = -gains[h] x_h, and the cost-to-go P_0 (D, D).

    Backward recursion of the finite-horizon LQR problem (Bertsekas, Dynamic Programming and Optimal Control, 3.1) in
    which the first state is not charged, as no action changes it: the best cost from x is x' P_0 x.
    """
    P_DD = np.zeros_like(Q_DD)
    gains = []
    for _ in range(H):
        S_DD = P_DD + Q_DD  # what the next state costs, from then on
        gain_AD = np.linalg.solve(R_AA + B_DA.T @ S_DD @ B_DA, B_DA.T @ S_DD @ A_DD)
        P_DD = A_DD.T @ S_DD @ (A_DD - B_DA @ gain_AD)
        gains.append(gain_AD)
    return np.stack(gains[::-1]), P_DD


def quadratic_cost(z_BSHD: Tensor, actions_BSHA: Tensor, Q: np.ndarray = Q_DD, R: np.ndarray = R_AA) -> Tensor:
    """Return J per candidate, (B, S), for states after each action and the actions."""
    state_cost = ((z_BSHD @ z_BSHD.new_tensor(Q)) * z_BSHD).sum((-1, -2))
    return state_cost + ((actions_BSHA @ actions_BSHA.new_tensor(R)) * actions_BSHA).sum((-1, -2))


def picture(position_m: float) -> np.ndarray:
    """Return what a camera sees of a mass at `position_m`, (24, 128, 3) uint8; its edge is smooth, as through a lens."""
    column = (position_m / EDGE_M + 1) * (COLUMNS - 1) / 2
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    away = np.hypot(columns - column, rows - (ROWS - 1) / 2)
    bright = np.rint(255 * np.clip(RADIUS + 0.5 - away, 0, 1)).astype(np.uint8)
    return np.repeat(bright[..., None], 3, axis=2)


class LinearDynamics:
    """The exact model of the double integrator, as a planner's `Dynamics`."""

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the states after each action, (B, S, H, D); the model is deterministic, so generators are unused."""
        sizes = check("actions", actions_BSHA, "B S H A", A=1, B=len(belief.z_BTD))
        A, B = actions_BSHA.new_tensor(A_DD), actions_BSHA.new_tensor(B_DA)
        z_BSD = belief.z_BD[:, None].to(actions_BSHA.dtype).expand(-1, sizes["S"], -1)
        z_BSHD = actions_BSHA.new_empty((sizes["B"], sizes["S"], sizes["H"], 2))
        for h in range(sizes["H"]):
            z_BSD = z_BSD @ A.T + actions_BSHA[:, :, h] @ B.T
            z_BSHD[:, :, h] = z_BSD
        return z_BSHD


class DoubleIntegrator(gymnasium.Env):
    """The point mass as an environment: reward -(x' Q x + u' R u) of the state after each step; it never terminates."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / SPEC.dt_s)}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"the double_integrator can be rendered as 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(SPEC.action.low_A, SPEC.action.high_A, dtype=np.float32)
        self._x_D = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start at a position and a speed drawn from [-1, 1]."""
        super().reset(seed=seed)
        self._x_D = self.np_random.uniform(-1.0, 1.0, size=2)
        return self._x_D.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply a force, (1,) [N], clipped to the action space, for one step."""
        u_A = np.clip(np.asarray(action, np.float64), SPEC.action.low_A, SPEC.action.high_A)
        self._x_D = A_DD @ self._x_D + B_DA @ u_A
        cost = self._x_D @ Q_DD @ self._x_D + u_A @ R_AA @ u_A
        return self._x_D.copy(), -float(cost), False, False, {}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a picture, (24, 128, 3) uint8: a white disc on black, which is out of sight beyond 2.5 m."""
        return None if self.render_mode is None else picture(float(self._x_D[0]))

    @staticmethod
    def optimal_actions(x0_D: np.ndarray, H: int, Q: np.ndarray = Q_DD, R: np.ndarray = R_AA) -> np.ndarray:
        """Return the best H forces from state x0, (H, 1), were the force unlimited."""
        gains_HAD, _ = riccati_gains(H, Q, R)
        actions, x_D = [], np.asarray(x0_D, np.float64)
        for gain_AD in gains_HAD:
            actions.append(-gain_AD @ x_D)
            x_D = A_DD @ x_D + B_DA @ actions[-1]
        return np.stack(actions)

    @staticmethod
    def optimal_cost(x0_D: np.ndarray, H: int, Q: np.ndarray = Q_DD, R: np.ndarray = R_AA) -> float:
        """Return the lowest J over H steps from state x0, were the force unlimited."""
        x_D = np.asarray(x0_D, np.float64)
        return float(x_D @ riccati_gains(H, Q, R)[1] @ x_D)
