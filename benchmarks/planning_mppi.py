"""Our MPPI against the package pytorch_mppi: the same dynamics, the same number of candidates, interleaved.

Both are given one step function, one running cost and one start; either plans alone, turn by turn in one process, so
that whatever else the machine does falls on both. `agreement` is the largest difference between the two updates when
both are handed the same candidates, costs and temperature: it shows that it is the same algorithm that is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_mppi
import torch
from torch import Generator, Tensor

from envs.types import ActionSpec, Belief
from planners.mppi import Mppi
from planners.sampling import Region
from planners.search import SearchPlanner

STD = 0.5
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Task:
    """A start, a step function x, u -> x' on (..., D) and (..., A), and a running cost (...,)."""

    start_D: Tensor
    actuators: int
    step: Callable[[Tensor, Tensor], Tensor] = field(repr=False)

    def cost(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the cost of one step, (...,)."""
        return x.square().sum(-1) + 0.1 * u.square().sum(-1)

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the predicted states, (B, S, H, D): the face that our planners ask for."""
        B, S, H, A = actions_BSHA.shape
        x_ND = belief.z_BD.repeat_interleave(S, 0)
        states_NHD = x_ND.new_empty(B * S, H, x_ND.shape[1])
        for h, u_NA in enumerate(actions_BSHA.view(B * S, H, A).unbind(1)):
            x_ND = self.step(x_ND, u_NA)
            states_NHD[:, h] = x_ND
        return states_NHD.view(B, S, H, -1)

    def block_cost(self, actions_HA: Tensor) -> float:
        """Return the cost of one block from the start."""
        belief = Belief(self.start_D[None, None], torch.zeros(1, 0, self.actuators))
        actions_BSHA = actions_HA[None, None]
        return float(self.cost(self.rollout(belief, actions_BSHA, []), actions_BSHA).sum())


def linear_task() -> Task:
    """Return the double integrator with steps of 0.1 s."""
    A_DD, B_DA = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([[0.005], [0.1]])
    return Task(torch.tensor([1.0, 0.0]), 1, lambda x, u: x @ A_DD.T + u @ B_DA.T)


def mlp_task(width: int = 128, seed: int = 0) -> Task:
    """Return a random residual network of a walker's size: 17 states, 6 actions, two hidden layers."""
    draw = torch.Generator().manual_seed(seed)
    w1, w2, w3 = (torch.randn(i, o, generator=draw) / i**0.5 for i, o in ((17 + 6, width), (width, width), (width, 17)))

    def step(x: Tensor, u: Tensor) -> Tensor:
        return x + 0.1 * torch.tanh(torch.tanh(torch.cat([x, u], -1) @ w1) @ w2) @ w3

    return Task(torch.randn(17, generator=draw), 6, step)


TASKS: dict[str, Callable[[], Task]] = {"linear": linear_task, "mlp": mlp_task}


def make_ours(task: Task, samples: int, horizon: int, iterations: int) -> SearchPlanner:
    """Return our planner on the task, without a proposal, with white noise as the peer has."""
    size = task.actuators
    return SearchPlanner(
        method=Mppi(iterations=iterations, temperature=TEMPERATURE, correlation=0.0),
        dynamics=task,
        readout=lambda z_BSHD: {"z": z_BSHD},
        objective=lambda readings, actions_BSHA: task.cost(readings["z"], actions_BSHA).sum(-1),
        action=ActionSpec(-np.ones(size), np.ones(size), ("1",) * size, tuple(map(str, range(size)))),
        dt_s=0.1,
        horizon=horizon,
        samples=samples,
        init_std=STD,
        correlation=0.0,
    )


def make_peer(task: Task, samples: int, horizon: int, lam: float = 1.0) -> pytorch_mppi.MPPI:
    """Return the peer on the task, from a plan of zeros."""
    size = task.actuators
    return pytorch_mppi.MPPI(
        task.step,
        task.cost,
        len(task.start_D),
        torch.eye(size) * STD**2,
        num_samples=samples,
        horizon=horizon,
        lambda_=lam,
        u_min=-torch.ones(size),
        u_max=torch.ones(size),
        U_init=torch.zeros(horizon, size),
    )


def first_population(peer: pytorch_mppi.MPPI, start_D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidates (S, H, A) and costs (S,) of the peer's next update, which it also makes."""
    peer.command(start_D, shift_nominal_trajectory=False)
    assert peer.cost_total is not None  # set by every command
    return peer.perturbed_action, peer.cost_total


def plan_of(peer: pytorch_mppi.MPPI) -> Tensor:
    """Return the peer's present plan, (H, A)."""
    plan_HA = peer.get_action_sequence()
    assert plan_HA is not None  # set at construction
    return plan_HA


def natural_lambda(task: Task, samples: int, horizon: int) -> float:
    """Return the peer's temperature that equals ours on its first population."""
    _, cost_S = first_population(make_peer(task, samples, horizon), task.start_D)
    return TEMPERATURE * float(cost_S.median() - cost_S.min())


def agreement(task: Task, samples: int, horizon: int, lam: float, seed: int) -> float:
    """Return the largest difference between both updates of the plan, given the same candidates and costs."""
    torch.manual_seed(seed)  # the peer draws from the global generator
    peer = make_peer(task, samples, horizon, lam)
    candidates_SHA, cost_S = first_population(peer, task.start_D)
    method = Mppi(temperature=lam / float(cost_S.median() - cost_S.min()))
    state = method.init(candidates_SHA[None], Region(torch.ones_like(candidates_SHA[:1])))
    mean_BHA, _ = method.moments(method.tell(state, candidates_SHA[None], cost_S[None]), cost_S[None])
    return float((mean_BHA[0] - plan_of(peer)).abs().max())


def timed(call: Callable[[], Any]) -> float:
    """Return how long the call took [ms]."""
    start_s = time.perf_counter()
    call()
    return (time.perf_counter() - start_s) * 1e3


@torch.inference_mode()
def compare(
    task: str = "mlp", samples: int = 256, horizon: int = 32, iterations: int = 4, repeats: int = 50, seed: int = 0
) -> dict[str, Any]:
    """Return times [ms] and plan costs of both, at `iterations` populations of `samples` candidates each.

    `ratio` is the median over turns of ours / peer, with a 95 % bootstrap interval; below 1 ours is faster. Costs are
    means over the turns, of plans that start from zeros with fresh noise each time. Ours returns the best candidate,
    so it needs no mean of the last population; the peer returns that mean.
    """
    problem = TASKS[task]()
    belief = Belief(problem.start_D[None, None], torch.zeros(1, 0, problem.actuators))
    lam = natural_lambda(problem, samples, horizon)
    search = make_ours(problem, samples, horizon, iterations)
    times, costs = [], []
    for turn in range(-5, repeats):
        generators = [torch.Generator().manual_seed(seed + turn + 5)]
        torch.manual_seed(seed + turn + 5)
        peer = make_peer(problem, samples, horizon, lam)
        found: list[Tensor] = []

        def ours(found: list[Tensor] = found, generators: list[Generator] = generators) -> None:
            found.append(search.search(belief, None, generators).actions_BHA[0])

        def theirs(peer: pytorch_mppi.MPPI = peer) -> None:
            for _ in range(iterations):
                peer.command(problem.start_D, shift_nominal_trajectory=False)

        # turn by turn the other one is first; the turns below zero warm both up
        pair = (timed(ours), timed(theirs)) if turn % 2 else (timed(theirs), timed(ours))[::-1]
        if turn >= 0:
            times.append(pair)
            costs.append((problem.block_cost(found[0]), problem.block_cost(plan_of(peer).clamp(-1, 1))))
    return {
        "task": task, "samples": samples, "horizon": horizon, "iterations": iterations, "n": repeats,
        "peer": "pytorch_mppi", "threads": torch.get_num_threads(),
        **summary(np.array(times), np.array(costs), seed),
        "agreement": agreement(problem, samples, horizon, lam, seed),
    }  # fmt: skip


def summary(times_N2: np.ndarray, costs_N2: np.ndarray, seed: int) -> dict[str, float]:
    """Return medians, the paired ratio with its interval, and mean costs; column 0 is ours."""
    ratio_N = times_N2[:, 0] / times_N2[:, 1]
    drawn = np.random.default_rng(seed).integers(0, len(ratio_N), (2000, len(ratio_N)))
    low, high = np.quantile(np.median(ratio_N[drawn], 1), [0.025, 0.975])
    ours_ms, peer_ms = np.median(times_N2, 0)
    ours_cost, peer_cost = costs_N2.mean(0)
    return {
        "ours_ms": float(ours_ms), "peer_ms": float(peer_ms),
        "ratio": float(np.median(ratio_N)), "ratio_lo": float(low), "ratio_hi": float(high),
        "ours_cost": float(ours_cost), "peer_cost": float(peer_cost),
    }  # fmt: skip
