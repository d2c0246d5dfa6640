"""The broken ankle, part of benchmarks/walker.py: how much of the lost return comes back after so many episodes of play.

A play set is a life of its own: from the break on the robot plays five episodes, adapts, plays on with the adapted model, and so
on until its budget is spent. What it has become is judged on episodes that every play set and every arm shares: after the first
adaptation, and later when the last model that was put in use has been tried, before the next is.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agents.adaptation import Play
from agents.jobs import AdaptConfig, accepts, job, suited
from agents.learned import LearnedConfig, judge_of, load_healthy, load_replay
from agents.trial import Trial
from benchmarks.common import PLAN_LATENCY_S
from benchmarks.joint import joint_planner, trained, tuned
from benchmarks.units import done
from benchmarks.walker_reward import WEIGHTS, omniscient
from configs.models import MODELS
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.watch import TOGETHER, made_with, watch_together
from envs.robots import robot_spec
from planners.ssr import Ssr
from world_models.checkpoint import WorldModel, load_model

if TYPE_CHECKING:
    from agents.adaptation import Part
    from envs.episodes import Episode
    from world_models.proposal import DiffusionProposal

ROUNDS = (5, 10, 15, 20, 40, 70, 95)
"""Episodes of play after which the robot adapts again."""
PLAYED, JUDGED = 5_700_000, 6_800_000
"""Numbers of the first episodes of play, and of those that every arm is judged on."""
JOINTS = {"left": "foot_left_joint", "right": "foot_joint"}


@dataclass(frozen=True)
class Arm:
    """What may adapt, and how the planner searches."""

    parts: tuple[Part, ...]
    agent: LearnedConfig = field(default_factory=LearnedConfig)
    budget: int = 100
    kind: Literal["learned", "joint", "simulator"] = "learned"


PUBLISHED = LearnedConfig(predictor="dynamics", horizon=32, samples=16, method=Ssr())
ARMS = {
    "one-step model and value": Arm(("step", "value")),
    "one-step model, policy and value": Arm(("step", "policy", "value"), budget=20),
    "one-step model alone": Arm(("step",), budget=20),
    "diffusion dynamics alone, sample-score-rank": Arm(("step", "dynamics"), PUBLISHED, budget=20),
    "joint diffusion of actions and states, fine-tuned": Arm((), budget=20, kind="joint"),
    "simulator as the model, healthy value": Arm((), budget=0, kind="simulator"),
}
METHOD = next(iter(ARMS))
"""Named before its test seeds were run."""
JOINT_DATA = "walker2d-medium"


@dataclass(frozen=True)
class Life:
    """One unit of work: an arm, a defect and a play set. `play_set` None: what is judged has not adapted."""

    arm: str
    side: str
    limit: float | None
    """None: healthy."""
    play_set: int | None
    budget: int = 0
    judged: int = 10

    @property
    def config(self) -> RunConfig:
        """The run in which it plays and is judged."""
        faults = () if self.limit is None else (f"actuator_limit:{JOINTS[self.side]}:{self.limit:g}@0",)
        base = replace(PRESETS["walker"][1], agent=ARMS[self.arm].agent, adapt=False, max_s=1e6)
        return replace(base, faults=faults, plan_latency_s=PLAN_LATENCY_S)

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        where = "healthy" if self.limit is None else f"{self.side}-{self.limit:g}"
        mark = made_with(self.config, judged=self.play_set is not None)
        return f"walker/{self.arm}-{where}-{self.play_set}-{self.budget}-{self.judged}-{mark:08x}"


def as_play(e: Episode) -> Play:
    """Return an episode as play."""
    return Play(e.state_TO, e.action_TA, e.reward_T, e.terminated)


def adapted(
    model: WorldModel, play: Sequence[Play], recent: int, cfg: AdaptConfig, life: Life, seed: int
) -> WorldModel:
    """Return the model after one adaptation: the candidates that the agent's own gate accepts."""
    spec = robot_spec(life.config.robot)
    made = job(model, play, recent, load_replay(ARMS[life.arm].agent.folder), judge_of(spec), cfg, seed)
    chosen = {c.part: c.model for c in made if accepts(c, cfg.margin)}
    return replace(model, **chosen) if chosen else model  # pyright: ignore


@dataclass
class Robot:
    """One robot of an arm: what it has learned so far, and how it lives."""

    life: Life
    model: WorldModel
    joint: DiffusionProposal | None

    def episodes(self, numbers: Sequence[int]) -> list[Episode]:
        """Return the episodes with these numbers."""
        cfg, arm = self.life.config, ARMS[self.life.arm]
        if arm.kind == "simulator":
            return omniscient(cfg, numbers, self.model)
        planner = None
        if self.joint is not None:
            planner = joint_planner(arm.agent, robot_spec(cfg.robot), self.model, copy.deepcopy(self.joint))
        some = [numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)]
        return [e for few in some for e in watch_together(cfg, few, self.model, planner)]

    def __post_init__(self) -> None:
        self.value, self.healthy = self.model.value, load_healthy(ARMS[self.life.arm].agent.folder)

    def adapt(self, play: Sequence[Play], recent: int, seed: int, earned: Sequence[float] = ()) -> None:
        """Learn from play, of which the last `recent` episodes are new; `earned` are returns with the model in use."""
        if self.joint is None:
            arm = ARMS[self.life.arm]
            cfg = replace(arm.agent.adapt, parts=arm.parts)
            cfg = suited(cfg, earned, self.healthy) if self.model.value is self.value else cfg
            self.model = adapted(self.model, play, recent, cfg, self.life, seed)
        else:
            self.joint = tuned(self.joint, play, load_replay(ARMS[self.life.arm].agent.folder), seed)


def robot_for(life: Life, data: Path) -> Robot:
    """Return the robot at the start of its life."""
    joint = trained(MODELS[JOINT_DATA], data, WEIGHTS / JOINT_DATA) if ARMS[life.arm].kind == "joint" else None
    return Robot(life, load_model(ARMS[life.arm].agent.folder), joint)


def failed(trial: Trial[Any], episodes: Sequence[Episode]) -> bool:
    """Return whether what these episodes earned ends the trial; the agent looks after each one."""
    found = False
    for e in episodes:
        trial.earn(e.total_reward)
        found |= trial.failed
    return found


def live(life: Life, data: Path) -> dict[str, list[float]]:
    """Return the returns of the judged episodes for each budget reached, and of the play."""
    robot, play = robot_for(life, data), []

    def judge() -> list[float]:
        return [e.total_reward for e in robot.episodes(range(JUDGED, JUDGED + life.judged))]

    if life.play_set is None:
        return {"0": judge()}
    found: dict[str, list[float]] = {}
    trial = ARMS[life.arm].agent.adapt.trial()
    for round_, until in enumerate([*(n for n in ROUNDS if n < life.budget), life.budget]):
        first = PLAYED + 1000 * life.play_set
        numbers = range(first + len(play), first + until)
        new = robot.episodes(numbers)
        play += [as_play(e) for e in new]
        worse, used = failed(trial, new), (robot.model, robot.joint)
        if worse:
            robot.model, robot.joint = trial.back()
        if until in (20, life.budget):
            found[str(until)] = judge()
        if until < life.budget and not worse:
            robot.adapt(play, len(numbers), 100 * life.play_set + round_, trial.earned)
            if (robot.model, robot.joint) != used:
                trial.put(used)
        if until == ROUNDS[0]:
            found[str(until)] = judge()
        print(f"{life.arm}, set {life.play_set}, {until} episodes of play", file=sys.stderr)
    return found | {"play": [float(p.reward_T.sum()) for p in play]}


def lived(lives: Sequence[Life], data: Path, workers: int) -> list[dict[str, list[float]]]:
    """Return the results in order."""
    return done(lives, partial(live, data=data), workers, "lives")


def nested_bootstrap(
    sets: Sequence[Sequence[float]], broken: Sequence[float], healthy: Sequence[float], resamples: int = 4000
) -> tuple[float, float, float] | None:
    """Return the share of the loss that came back, (arm - broken) / (healthy - broken), with its 95 % interval; None without a loss.

    `sets` (play sets, judged episodes) is resampled on both levels; the judged episodes are the same ones in every set and
    in `broken` and `healthy`, so they are drawn together.
    """
    arm, rng = np.asarray(sets, float), np.random.default_rng(0)
    low, high = np.asarray(broken, float), np.asarray(healthy, float)

    def share(rows: np.ndarray, columns: np.ndarray) -> float:
        return float((arm[np.ix_(rows, columns)].mean() - low[columns].mean()) / (high - low)[columns].mean())

    every = np.arange(len(arm)), np.arange(arm.shape[1])
    lost = [(high - low)[rng.choice(every[1], len(every[1]))].mean() for _ in range(resamples)]
    if np.quantile(lost, 0.025) <= 0:
        return None
    drawn = [share(*(rng.choice(x, len(x)) for x in every)) for _ in range(resamples)]
    lo, hi = np.quantile(drawn, [0.025, 0.975])
    return share(*every), float(lo), float(hi)
