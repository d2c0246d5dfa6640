"""The diagnosis ladder, part of benchmarks/walker.py: which part of the model limits the planner?

From states of healthy walking, candidates that the proposal makes are scored by the learned parts, by the simulator, and by
mixtures of the two. The truth is what the simulator says a candidate earns when the distilled policy goes on from its end. Part
for part, the rank correlation with that truth over the candidates of one state says what a learned part costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from agents.imagination import Judge
from agents.learned import LearnedConfig, goal, judge_of
from benchmarks.common import PLAN_LATENCY_S, mean_interval
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.watch import made_with, watch_together
from envs.oracle import SimulatorDynamics
from envs.robots import RobotSpec, make_env, place, robot_spec
from envs.types import Belief
from world_models.checkpoint import WorldModel, load_model

CANDIDATES = 48
CONTINUED = 250
"""Control steps that the policy goes on for: what comes later counts for a twelfth."""
FIRST, EPISODES = 8_700_000, 24
LAGS = (1, 4, 8, 16, 32)
SCORES = (
    "one-step model, learned value",
    "simulator, learned value",
    "one-step model, true continuation",
    "simulator, horizon alone",
    "one-step model, horizon alone",
    "diffusion dynamics, learned value",
)
RANK_TITLE = (
    "diagnosis: rank correlation with the truth over candidates of one state; regret: what the choice loses, in standard "
    "deviations of the truth"
)
ERROR_TITLE = "diagnosis: squared error on what the proposal proposes, in shares of the variance of the states"
CORRELATION = ("score", "rank_correlation", "regret", "n")
ERROR = ("model", *(f"error_at_{lag}" for lag in LAGS), "n")


@dataclass(frozen=True)
class Ladder:
    """The unit of work: so many states."""

    states: int

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        mark = made_with(replace(PRESETS["walker"][1], max_s=1e6))
        return f"walker/diagnosis-{self.states}-{CANDIDATES}-{CONTINUED}-{EPISODES}-{mark:08x}"


def visited(count: int) -> Tensor:
    """Return states of healthy walking, (N, O)."""
    cfg = replace(PRESETS["walker"][1], adapt=False, max_s=1e6, plan_latency_s=PLAN_LATENCY_S)
    episodes = [e for i in range(0, EPISODES, 8) for e in watch_together(cfg, range(FIRST + i, FIRST + i + 8))]
    rows = np.concatenate([e.state_TO[100:-50] for e in episodes if e.length > 200])
    return torch.from_numpy(rows[np.random.default_rng(0).choice(len(rows), count, replace=False)])


def continued(
    env: gymnasium.Env, model: WorldModel, states_SO: Tensor, alive_S: Tensor, judge: Judge, steps: int
) -> Tensor:
    """Return what the policy earns from each state on, (S,), discounted, less the price of a fall; 0 for the fallen."""
    cfg, found = model.value.cfg, torch.zeros(len(states_SO))
    for row, state_O in enumerate(states_SO):
        if not alive_S[row]:
            continue
        place(env, state_O.double().numpy())
        now, discount = state_O, 1.0
        for _ in range(steps):
            action_A = model.policy(now).clamp(-1, 1)
            seen, _, fell, _, _ = env.step(action_A.numpy())
            now = torch.as_tensor(seen, dtype=torch.float32)
            found[row] += discount * (float(judge(now[None], action_A[None])[0]) - cfg.fall_penalty * fell)
            discount *= cfg.discount
            if fell:
                break
    return found


def horizon_return(
    z_SHO: Tensor, actions_SHA: Tensor, judge: Judge, discount: float, penalty: float
) -> tuple[Tensor, Tensor]:
    """Return what is earned within the horizon, (S,), and who still stands at its end."""
    s, h, o = z_SHO.shape
    reward, stands = (x.view(s, h) for x in judge(z_SHO.reshape(-1, o), actions_SHA.reshape(s * h, -1)))
    alive = stands.cumprod(1)
    before = torch.cat([torch.ones(s, 1), alive[:, :-1]], 1)
    weights = discount ** torch.arange(h)
    return ((alive * reward - (before - alive) * penalty) * weights).sum(1), alive[:, -1]


@torch.inference_mode()
def compare(model: WorldModel, spec: RobotSpec, env: gymnasium.Env, state_O: Tensor, seed: int) -> dict[str, Any]:
    """Return the rank correlation of each score with the truth, and what its choice costs, in standard deviations."""
    cfg, judge, of = LearnedConfig(), judge_of(spec), model.value.cfg
    objective, readout = goal(cfg, spec, model, "")
    belief = Belief(state_O[None, None], torch.zeros(1, 0, spec.action.size))
    generators = [Generator().manual_seed(seed)]
    whole = model.proposal.sample(belief, CANDIDATES, generators).clamp(-1, 1)
    actions = whole[:, :, : cfg.horizon]
    place(env, state_O.double().numpy())
    z = {"simulator": SimulatorDynamics(env).rollout(belief, whole, generators)}
    z["one-step model"] = model.step.rollout(belief, whole, generators)
    assert model.dynamics is not None
    z["diffusion dynamics"] = model.dynamics.rollout(belief, whole, generators)
    errors = {name: lag_errors(z[name][0], z["simulator"][0], model) for name in list(z)[1:]}
    z = {name: x[:, :, : cfg.horizon].float() for name, x in z.items()}
    within = {n: horizon_return(x[0], actions[0], judge, of.discount, of.fall_penalty) for n, x in z.items()}
    truth_S, guess_S = (
        within[n][0] + of.discount**cfg.horizon * continued(env, model, z[n][0, :, -1], within[n][1], judge, CONTINUED)
        for n in ("simulator", "one-step model")
    )
    scores = {f"{n}, learned value": -objective(readout(x), actions)[0] for n, x in z.items()}
    scores |= {f"{n}, horizon alone": within[n][0] for n in ("simulator", "one-step model")}
    scores["one-step model, true continuation"] = guess_S
    spread = float(truth_S.std().clamp_min(1e-6))
    return {
        "correlation": {n: float(np.nan_to_num(stats.spearmanr(x, truth_S).statistic)) for n, x in scores.items()},  # pyright: ignore
        "regret": {n: float(truth_S.max() - truth_S[x.argmax()]) / spread for n, x in scores.items()},
        "errors": errors,
    }


def lag_errors(z_SHO: Tensor, true_SHO: Tensor, model: WorldModel) -> list[float]:
    """Return the mean squared error at some lags, in shares of the variance of the states."""
    share_SHO = ((z_SHO - true_SHO) / model.step.state.std).square()
    return [float(share_SHO[:, lag - 1].mean()) for lag in LAGS]


def ladder(states: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of the rank correlations, and of the errors against the horizon."""
    return rows_of(*done([Ladder(states)], climb, 1, "diagnoses"))


def climb(ladder: Ladder) -> list[dict[str, Any]]:
    """Return what is found at each state."""
    model, spec, env = load_model(LearnedConfig().folder), robot_spec("walker2d"), make_env("walker2d")
    return [compare(model, spec, env, state, seed) for seed, state in enumerate(visited(ladder.states))]


def rows_of(found: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of both tables from what was found at each state."""
    correlation = [
        {
            "score": name,
            "rank_correlation": mean_interval([f["correlation"][name] for f in found]),
            "regret": mean_interval([f["regret"][name] for f in found]),
            "n": len(found),
        }
        for name in SCORES
    ]
    error = [
        {
            "model": name,
            **{f"error_at_{lag}": mean_interval([f["errors"][name][i] for f in found]) for i, lag in enumerate(LAGS)},
        }
        | {"n": len(found)}
        for name in ("one-step model", "diffusion dynamics")
    ]
    return correlation, error
