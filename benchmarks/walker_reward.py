"""Fixed reward, part of benchmarks/walker.py: what a planner makes of one data set, beside cloning and beside its own proposals.

Every model here has seen one data set and nothing else: `surefoot train DATASET` for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.learned import LearnedConfig, planner_of
from agents.oracle import OracleAgent
from benchmarks import ensemble
from benchmarks.common import PLAN_LATENCY_S, mean_interval
from benchmarks.joint import joint_planner, trained
from benchmarks.units import done
from configs.limits import LIMITS
from configs.models import MODELS
from deploy.config import RunConfig
from deploy.machine import ROOT
from deploy.watch import TOGETHER, live, made_with, watch_together
from envs.robots import robot_spec
from planners.ssr import Ssr
from world_models.checkpoint import load_model, load_part, read_card

if TYPE_CHECKING:
    from envs.episodes import Episode
    from planners.search import SearchPlanner
    from world_models.checkpoint import WorldModel

D4RL = {
    "walker2d": (1.629008, 4592.3),
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
}
"""Returns that D4RL scores 0 and 100."""
PUBLISHED = {
    "walker2d-medium": 1.23,
    "hopper-medium": 1.39,
    "halfcheetah-medium": 1.12,
    "walker2d-medium-replay": 5.3,
    "hopper-medium-replay": 6.2,
    "halfcheetah-medium-replay": 1.5,
}
"""Return of the published diffusion MPC over the mean of the behaviour (Zhou et al. 2024, D4RL's data)."""
FIRST = 8_000_000
"""Number of the first episode."""
WEIGHTS = ROOT / "runs" / "offline"

PLANNERS = {
    "proposal alone": LearnedConfig(samples=1, method=Ssr()),
    "sample, score, rank": LearnedConfig(samples=48, method=Ssr()),
    "refinement (CEM)": LearnedConfig(),
}
CLONING, JOINT, ORACLE = "one-step cloning", "joint diffusion, best of its dreams", "refinement, simulator as the model"
ENSEMBLE = "ensemble of one-step models, cloned policy"
ENSEMBLES = ("walker2d-medium", "walker2d-medium-replay")
"""Data sets that an ensemble is trained for."""
ORACLES = ("walker2d-medium", "hopper-medium")
ORACLE_EPISODES = 10
"""The simulator takes its time: fewer data sets, fewer episodes."""


def robot_of(dataset: str) -> str:
    """Return the robot that a data set is of."""
    return dataset.partition("-")[0]


def normalised(robot: str, value: float) -> float:
    """Return a return as D4RL's score."""
    low, high = D4RL[robot]
    return 100 * (value - low) / (high - low)


@dataclass(frozen=True)
class Case:
    """A data set and what is made of it."""

    dataset: str
    arm: str
    episodes: int

    @property
    def folder(self) -> Path:
        """Where the weights are."""
        return WEIGHTS / self.dataset

    @property
    def config(self) -> RunConfig:
        """The run in which a planner is judged."""
        robot = robot_of(self.dataset)
        return RunConfig(
            preset=self.dataset,
            robot=robot,
            limits=LIMITS[robot],
            agent=replace(PLANNERS.get(self.arm, LearnedConfig()), checkpoint=self.folder.relative_to(ROOT)),
            plan_every=1 if robot == "halfcheetah" else 4,  # its control step is six times as long
            plan_latency_s=PLAN_LATENCY_S,
            adapt=False,
            control_arm=False,
            max_s=1e6,
        )

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return f"walker/{self.dataset}-{self.arm}-{self.episodes}-{made_with(self.config):08x}"


def cloned(case: Case) -> list[float]:
    """Return the returns of the one-step policy, which answers at once."""
    import torch

    from envs.collect import run_episode
    from envs.robots import make_env

    policy, env = load_part(case.folder, "policy"), make_env(robot_of(case.dataset))

    def act(state_O: np.ndarray, step: int) -> np.ndarray:
        with torch.inference_mode():
            action_A = policy(torch.as_tensor(state_O, dtype=torch.float32)).numpy()
        return np.clip(action_A, env.action_space.low, env.action_space.high)  # pyright: ignore[reportAttributeAccessIssue]

    return [run_episode(env, act, FIRST + i, 1000, {}).total_reward for i in range(case.episodes)]


def judge(case: Case, data: Path) -> list[float]:
    """Return the returns of its episodes."""
    if case.arm == CLONING:
        return cloned(case)
    if case.arm == ORACLE:
        return [e.total_reward for e in omniscient(case.config, range(FIRST, FIRST + case.episodes))]
    makers = {JOINT: dreamer, ENSEMBLE: ensembled}
    planner = makers[case.arm](case, data) if case.arm in makers else None
    numbers = [range(FIRST + i, FIRST + min(i + TOGETHER, case.episodes)) for i in range(0, case.episodes, TOGETHER)]
    return [e.total_reward for some in numbers for e in watch_together(case.config, some, None, planner)]


def dreamer(case: Case, data: Path) -> SearchPlanner:
    """Return the planner with the joint model, which is trained first where it is not."""
    joint = trained(MODELS[case.dataset], data, case.folder)
    return joint_planner(case.config.agent, robot_spec(case.config.robot), load_model(case.folder), joint)  # pyright: ignore


def ensembled(case: Case, data: Path) -> SearchPlanner:
    """Return the planner with the ensemble, whose further members are trained first where they are not."""
    model, agent = load_model(case.folder), case.config.agent
    assert isinstance(agent, LearnedConfig)
    members = ensemble.trained(MODELS[case.dataset], data, case.folder, model.step)
    return ensemble.ensemble_planner(agent, robot_spec(case.config.robot), model, members)


def omniscient(
    cfg: RunConfig, numbers: Sequence[int], model: WorldModel | None = None, quick: bool = False
) -> list[Episode]:
    """Return episodes of the planner of `cfg` with the simulator in place of its dynamics; `quick`: by Euler steps."""
    assert isinstance(cfg.agent, LearnedConfig)
    planner = planner_of(cfg.agent, robot_spec(cfg.robot, cfg.version), model or load_model(cfg.agent.folder), "")
    return [live(cfg, number, lambda robot: OracleAgent(planner, robot.env, quick=quick)) for number in numbers]


def measured(datasets: Sequence[str], episodes: int, data: Path, workers: int) -> list[dict[str, Any]]:
    """Return the rows of the table. Raises ValueError for a data set whose model is not trained."""
    cases = [Case(name, arm, episodes) for name in datasets for arm in (CLONING, JOINT, *PLANNERS)]
    cases += [Case(name, ENSEMBLE, episodes) for name in datasets if name in ENSEMBLES]
    cases += [Case(name, ORACLE, min(episodes, ORACLE_EPISODES)) for name in datasets if name in ORACLES]
    for case in cases:
        read_card(case.folder, "proposal")
    found = done(cases, partial(judge, data=data), workers, "cases of fixed reward")
    behaviour = {name: behaviour_mean(data / name) for name in datasets}
    return [row(case, returns, behaviour) for case, returns in zip(cases, found, strict=True)]


def behaviour_mean(folder: Path) -> float:
    """Return the mean return of the episodes in a data set."""
    from envs.dataset import EpisodeData

    data = EpisodeData.load([folder])
    ends = np.flatnonzero(data.terminated_N | data.truncated_N)
    total = np.add.reduceat(data.reward_N, np.concatenate([[0], ends[:-1] + 1]))
    return float(total.mean())


def row(case: Case, found: Sequence[float], behaviour: Mapping[str, float]) -> dict[str, Any]:
    """Return one line of the table."""
    robot, mean = robot_of(case.dataset), behaviour[case.dataset]
    score = mean_interval([normalised(robot, value) for value in found])
    return {
        "env": robot,
        "dataset": case.dataset,
        "arm": case.arm,
        "normalised": score.mean,
        "lo": score.lo,
        "hi": score.hi,
        "n": score.n,
        "return_mean": float(np.mean(found)),
        "behaviour_mean": mean,
        "ratio": float(np.mean(found)) / mean,
        "published_ratio": PUBLISHED[case.dataset],
    }
