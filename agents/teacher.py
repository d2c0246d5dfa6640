"""A teacher of goals: the oracle planner pursues one random goal after another, and what it does becomes data.

Data of trained policies hold one gait each, at the speed it was rewarded for; what a model should pursue when asked must be in
what it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from agents.oracle import OracleAgent
from envs.episodes import Episode
from envs.robots import make_env, readings, robot_spec
from envs.types import Observation
from planners.cem import Cem
from planners.objectives import parse_objective
from planners.search import SearchPlanner


@dataclass(frozen=True)
class TeacherConfig:
    """How the teacher searches, and how long it stays with a goal."""

    robot: str = "walker2d"
    version: str = "v4"
    seed: int = 0
    episode_steps: int = 400
    goal_steps: int = 200
    """Control steps after which it turns to another goal."""
    plan_every: int = 4
    horizon: int = 36
    samples: int = 48
    iterations: int = 3
    noise: float = 0.1
    """Standard deviation of smooth noise on what it does, in half ranges: data around the plans, not on them alone."""
    correlation: float = 0.7

    def __post_init__(self) -> None:
        least = (self.episode_steps, self.goal_steps, self.plan_every, self.horizon, self.samples)
        if min(least) < 1 or not (self.noise >= 0 and 0 <= self.correlation < 1):
            raise ValueError(f"need positive lengths and samples, noise >= 0 and 0 <= correlation < 1, got {self}")


def random_goal(rng: np.random.Generator) -> str:
    """Return an objective for a walker, as `--objective` takes it.

    Upright walking is preferred by a random weight: without it a third of the episodes end in a fall.
    """
    kind = rng.choice(["speed", "height", "crouch", "pitch", "stop"], p=[0.45, 0.05, 0.3, 0.1, 0.1])
    effort, upright = "0.03*effort", f"{rng.uniform(0.0, 0.15):.2f}*posture:1.2,0.1"
    if kind == "speed":
        return f"speed:{rng.uniform(-1.3, 3.5):.2f}+{effort}+{upright}"
    if kind == "height":
        return f"height:{rng.uniform(0.9, 1.35):.2f}+{effort}"
    if kind == "crouch":
        return f"height:{rng.uniform(0.9, 1.35):.2f}+0.3*speed:{rng.uniform(-0.5, 1.0):.2f}+{effort}"
    if kind == "pitch":
        return f"pitch:{rng.uniform(-0.5, 0.5):.2f}+0.3*speed:0+{effort}"
    return f"speed:0+{effort}+{upright}"


def teach(cfg: TeacherConfig, index: int) -> Episode:
    """Return episode `index`, a function of it and of `cfg` alone; its meta holds the goals and the steps they began at."""
    torch.set_num_threads(1)
    rng = np.random.default_rng([cfg.seed, index])
    spec, env, seed = robot_spec(cfg.robot, cfg.version), make_env(cfg.robot, cfg.version), int(rng.integers(2**31))
    state_O, _ = env.reset(seed=seed)
    states, actions, rewards, goals = [state_O], [], [], []
    half_A = (spec.action.high_A - spec.action.low_A) / 2
    noise_A, queue, agent = np.zeros(spec.action.size), [], None
    ended = False
    while not ended and len(actions) < cfg.episode_steps:
        t = len(actions)
        if agent is None or t % cfg.goal_steps == 0:
            goals.append([t, random_goal(rng)])
            agent = OracleAgent(planner_for(cfg, goals[-1][1]), env, warm=True, quick=True)
            agent.begin_episode(t, seed)
            queue = []
        if not queue:
            plan = agent.plan(Observation(t * spec.dt_s, np.array(state_O)), np.zeros((0, spec.action.size)))
            queue = list(plan.actions_HA[: cfg.plan_every])
        fresh_A = cfg.noise * half_A * rng.standard_normal(spec.action.size)
        noise_A = cfg.correlation * noise_A + (1 - cfg.correlation**2) ** 0.5 * fresh_A
        action_A = np.clip(queue.pop(0) + noise_A, spec.action.low_A, spec.action.high_A).astype(np.float32)
        state_O, reward, ended, _, _ = env.step(action_A)
        states.append(state_O)
        actions.append(action_A)
        rewards.append(reward)
    sent_TA = np.stack(actions)
    return Episode(
        np.stack(states), sent_TA, sent_TA, sent_TA, np.array(rewards), bool(ended), not ended, seed, {"goals": goals}
    )


def planner_for(cfg: TeacherConfig, goal: str) -> SearchPlanner:
    """Return a search without any learned part; the oracle puts the simulator in place of its dynamics."""
    spec = robot_spec(cfg.robot, cfg.version)
    return SearchPlanner(
        method=Cem(elites=8, iterations=cfg.iterations, trust=float("inf")),
        dynamics=None,  # pyright: ignore
        readout=lambda z_BSHD: readings(spec, z_BSHD),
        objective=parse_objective(goal),
        action=spec.action,
        dt_s=spec.dt_s,
        horizon=cfg.horizon,
        samples=cfg.samples,
    )
