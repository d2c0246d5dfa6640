"""Planning from pictures to pictures: how often the goal is reached, by what plans, and by what does not plan.

Starts and goals are states of recorded episodes that no model has learned from, so many steps apart; pairs that are met at the start
are left out. Intervals are over recordings, of which there are fewer than episodes. Planners are charged for thinking, others are
not. Needs the data sets (`surefoot collect`, README) and the checkpoint; cloning is trained when it is first needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.latent import LatentConfig
from benchmarks.common import Interval, Options, Result, Table, command, rate_interval
from benchmarks.goal_cloning import GoalCloning, content, mark, trained
from benchmarks.units import done, missing
from configs.models import LATENT_MODELS
from configs.presets import PRESETS
from deploy.config import RunConfig
from deploy.evaluate import run_episode
from deploy.machine import ROOT
from deploy.session import env_seed
from deploy.watch import made_with
from envs.dataset import EpisodeData
from envs.pairs import GoalsFrom, Pairs, read_pairs
from envs.pusht import REACH
from envs.robots import RobotSpec, make_env, painter, robot_spec, wanted
from envs.tworoom import SPEED
from envs.video import resized
from planners.cem import Cem
from planners.ssr import Ssr
from world_models.checkpoint import load_part
from world_models.jepa import Jepa

WORK = ROOT / "runs" / "lewm"
FIRST = 8_100_000
"""Number of the first episode; the planner's settings were chosen on episodes before it."""
LATENCY_S = 0.2
"""That a plan from pictures is charged; what one takes is measured by benchmarks/latent_planning.py and latent_budget.py."""
EACH = 25
"""Episodes in one unit of work."""
WORLDS: dict[str, tuple[str, tuple[tuple[int, int], ...]]] = {
    "lewm-tworoom-small": ("tworoom-heldout", ((25, 50), (50, 100), (100, 150))),
    "lewm-pusht-small": ("pusht-heldout", ((25, 50), (50, 100))),
    "lewm-cube-small": ("cube-heldout", ((25, 50), (50, 100))),
}
"""Of each preset the data set that starts and goals are from, and how far these are apart, with the steps that may be taken."""
RANDOM, STRAIGHT, CLONING = "random actions", "straight to its own place", "goal-conditioned cloning"
PRESET, PUBLISHED = "the preset", "as published: the whole plan, then another"
PLAIN: dict[str, Any] = {"amortised": False, "delay": 0.0}
REFLEX: dict[str, Any] = {"amortised": True, "method": Ssr(), "samples": 1}
PLANNERS: dict[str, dict[str, Any]] = {
    PRESET: {},
    "squared latent distance": {**PLAIN, "distance": "squared"},
    "time between latents": PLAIN,
    "time between latents, delay has a price": {**PLAIN, "delay": 0.6},
    "inverse dynamics, no search": REFLEX,
    "inverse dynamics, then search": {"amortised": True},
    "at the end of a plan": {**PLAIN, "distance": "squared", "arrive": "end"},
    PUBLISHED: {
        **PLAIN,
        "distance": "squared",
        "arrive": "end",
        "samples": 300,
        "method": Cem(elites=30, iterations=10, kernel=1.0, correlation=0.0, trust=float("inf"), returns="centre"),
    },
}
"""How each differs from its preset. The published one is followed to its end (25 steps), and its time is not charged."""
FAR = (PRESET, "squared latent distance", "inverse dynamics, no search", PUBLISHED)
"""Those that are also tried on goals that lie further ahead."""
STRIDES = {"tworoom": SPEED, "pusht": 0.4 * REACH}
"""How far an action of 1 moves the robot in one step [px], about."""
ITERATIONS = {"lewm-pusht-small": 30}
"""Of the published search, where not 10."""


@dataclass(frozen=True)
class LewmOptions(Options):
    """What this benchmark can be told."""

    worlds: tuple[str, ...] = field(default_factory=lambda: shipped(WORLDS))
    """Presets whose checkpoint and held-out data are there."""
    episodes: int = 200
    data: Path = Path("data")
    workers: int = 2


@dataclass(frozen=True)
class Trial:
    """Some episodes of an arm."""

    preset: str
    arm: str
    offset: int
    budget: int
    first: int
    data: Path
    agent: LatentConfig | None = None
    """What plans, where it is none of the arms; thinking is not charged then."""

    @property
    def config(self) -> RunConfig:
        """The run of a planner."""
        base = PRESETS[self.preset][1]
        assert isinstance(base.agent, LatentConfig)
        agent = self.agent or replace(base.agent, **PLANNERS.get(self.arm, {}))
        if self.arm == PUBLISHED:
            assert isinstance(agent.method, Cem)
            rounds, spread = ITERATIONS.get(self.preset, agent.method.iterations), action_std(agent.folder)
            agent = replace(agent, init_std=spread, method=replace(agent.method, iterations=rounds))
            steps = agent.horizon * LATENT_MODELS[self.preset].jepa.jepa.block
            base = replace(base, plan_every=steps, guard=replace(base.guard, no_plan_s=1e3, plan_age_s=1e3))
        goals = self.data / WORLDS[self.preset][0]
        own = {"episode_steps": self.budget, "offset": self.offset, "goals_from": goals, "max_episodes": 1}
        return replace(
            base,
            agent=agent,
            plan_latency_s=0.0 if self.arm == PUBLISHED or self.agent else LATENCY_S,
            max_s=1e6,
            pictures="none",
            **own,
        )

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        model, own = LATENT_MODELS[self.preset], f"{made_with(self.config):08x}"
        if self.arm == CLONING and model.inverse is not None:
            own = mark(model, self.data, model.inverse.longest)
        where = content(self.data / WORLDS[self.preset][0])
        return f"lewm/{self.preset}-{self.arm}-{self.offset}-{self.budget}-{self.first}-{own}-{where}"


def shipped(worlds: Iterable[str]) -> tuple[str, ...]:
    """Return those of the presets whose model is there."""
    return tuple(w for w in worlds if (PRESETS[w][1].agent.folder / "jepa.safetensors").exists())  # pyright: ignore


@cache
def action_std(folder: Path) -> float:
    """Return how widely the actions are spread that a model has learned from, in half ranges: the unit of the published search."""
    model = load_part(folder, "jepa")
    assert isinstance(model, Jepa)
    return float(model.action.std.mean())


@cache
def recordings(folder: Path, offset: int) -> np.ndarray:
    """Return the number of the recording that each pair is from."""
    states = np.diff(EpisodeData.load(folder).episode_start) + 1
    return np.repeat(np.arange(len(states)), np.maximum(0, states - offset))


@cache
def pairs(folder: Path, robot: str, offset: int) -> Pairs:
    """Return starts and goals."""
    return read_pairs(folder, robot_spec(robot), offset)


@cache
def cloning(preset: str, data: Path) -> GoalCloning:
    """Return the baseline."""
    part = LATENT_MODELS[preset].inverse
    assert part is not None
    return trained(LATENT_MODELS[preset], data, WORK / preset, part.longest)


def work(trial: Trial) -> list[dict[str, Any]]:
    """Return for each episode whether the goal was reached, after how many steps, and of which recording it is."""
    numbers, rows = range(FIRST + trial.first, FIRST + trial.first + EACH), []
    for number in numbers:
        if trial.arm in PLANNERS or trial.agent:
            r = run_episode(trial.config, number)
            rows.append({"success": r.success, "steps": r.steps})
        else:
            rows.append(unplanned(trial, number))
    cfg = trial.config
    assert cfg.goals_from is not None
    env = GoalsFrom(make_env(cfg.robot), pairs(cfg.goals_from, cfg.robot, cfg.offset))
    drawn = [env.reset(seed=env_seed(cfg.seed, number))[1]["pair"] for number in numbers]
    of = recordings(cfg.goals_from, cfg.offset)
    return [one | {"recording": int(of[pair])} for one, pair in zip(rows, drawn, strict=True)]


def unplanned(trial: Trial, number: int) -> dict[str, Any]:
    """Return the same of an arm that makes no plans."""
    cfg = trial.config
    assert cfg.goals_from is not None
    env = GoalsFrom(make_env(cfg.robot, render_mode="rgb_array"), pairs(cfg.goals_from, cfg.robot, cfg.offset))
    rng = np.random.default_rng(number)
    spec = robot_spec(cfg.robot)
    unlearned = {RANDOM: partial(guess, rng, spec.action.size), STRAIGHT: partial(straight, spec)}
    act = unlearned.get(trial.arm) or imitator(trial)
    state_O, _ = env.reset(seed=env_seed(cfg.seed, number))  # as those that plan
    due: list[np.ndarray] = []
    for step in range(trial.budget):
        due = due or list(act(env.render(), state_O))  # pyright: ignore
        state_O, _, ended, _, info = env.step(due.pop(0))
        if ended:
            return {"success": bool(info["is_success"]), "steps": step + 1}
    return {"success": False, "steps": trial.budget}


def robot(preset: str) -> str:
    """Return the robot of a preset."""
    return PRESETS[preset][1].robot


def differs(preset: str, arm: str) -> bool:
    """Return whether an arm plans otherwise than the preset."""
    agent = PRESETS[preset][1].agent
    assert isinstance(agent, LatentConfig)
    return replace(agent, **PLANNERS[arm]) != agent


def guess(rng: np.random.Generator, size: int, seen_HWC: np.ndarray, state_O: np.ndarray) -> np.ndarray:
    """Return one action, anywhere within the bounds."""
    return rng.uniform(-1.0, 1.0, (1, size)).astype(np.float32)


def straight(spec: RobotSpec, seen_HWC: np.ndarray, state_O: np.ndarray) -> np.ndarray:
    """Return one action toward where the robot itself should be, whatever else should be elsewhere; it alone sees the state."""
    places = state_O.reshape(2, -1)[:, :2]
    return np.clip((places[1] - places[0]) / STRIDES[spec.name], -1, 1)[None].astype(np.float32)


def imitator(trial: Trial) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return what cloning does: a block of actions for a picture and the state that names the goal."""
    model, spec = cloning(trial.preset, trial.data), robot_spec(trial.config.robot)
    draw, side = painter(spec.name), LATENT_MODELS[trial.preset].jepa.jepa.image

    def act(seen_HWC: np.ndarray, state_O: np.ndarray) -> np.ndarray:
        both = [np.ascontiguousarray(resized(p, side)) for p in (seen_HWC, draw(wanted(spec, state_O)))]
        with torch.inference_mode():
            return model(*(torch.from_numpy(picture)[None] for picture in both))[0].clamp(-1, 1).numpy()

    return act


def clustered(success: Sequence[bool], recording: Sequence[int], resamples: int = 2000) -> Interval:
    """Return the share with a percentile interval over recordings, for episodes of one are alike.

    Where all or none succeed, nothing varies: Wilson's interval for as many episodes as there are recordings.
    """
    if len(set(success)) == 1:
        sure = rate_interval(len(set(recording)) * success[0], len(set(recording)))
        return Interval(float(success[0]), sure.lo, sure.hi, len(success))
    groups = [np.flatnonzero(np.equal(recording, r)) for r in sorted(set(recording))]
    won, counts = (np.array([f(g) for g in groups]) for f in (lambda g: np.sum(np.take(success, g)), len))
    picks = np.random.default_rng(0).integers(0, len(groups), (resamples, len(groups)))
    lo, hi = np.quantile(won[picks].sum(1) / counts[picks].sum(1), (0.025, 0.975))
    return Interval(float(np.mean(success)), float(lo), float(hi), len(success))


def row(preset: str, offset: int, budget: int, arm: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the table."""
    reached = [f for f in found if f["success"]]
    return {
        "world": preset,
        "offset": offset,
        "budget": budget,
        "arm": arm,
        "success": clustered([f["success"] for f in found], [f["recording"] for f in found]),
        "steps to the goal": float(np.mean([f["steps"] for f in reached])) if reached else None,
        "n": len(found),
    }


def measure(options: LewmOptions) -> Result:
    """Return the table of success."""
    episodes = EACH if options.quick else options.episodes
    cases = [
        (preset, offset, budget, arm)
        for preset in options.worlds
        for nth, (offset, budget) in enumerate(WORLDS[preset][1][:1] if options.quick else WORLDS[preset][1])
        for arm in (
            RANDOM,
            *([STRAIGHT] if robot(preset) in STRIDES else []),
            *([] if options.quick else [CLONING]),
            *(arm for arm in (FAR if nth else PLANNERS) if arm == PRESET or differs(preset, arm)),
        )
    ]
    trials = {
        case: [Trial(preset, arm, offset, budget, first, options.data) for first in range(0, episodes, EACH)]
        for case in cases
        for preset, offset, budget, arm in [case]
    }
    flat = [trial for some in trials.values() for trial in some]
    for preset in {trial.preset for trial in missing(flat) if trial.arm == CLONING}:
        cloning(preset, options.data)
    found = dict(zip(flat, done(flat, work, options.workers, "sets of episodes"), strict=True))
    rows = [row(*case, [f for trial in some for f in found[trial]]) for case, some in trials.items()]
    own = {f"{r['world']}, goals {r['offset']} steps ahead": r["success"] for r in rows if r["arm"] == PRESET}
    columns = tuple(rows[0])
    table = Table("success within the budget [control steps]", columns, tuple(tuple(r.values()) for r in rows))
    claim = "A latent world model that learned from pictures alone reaches goals that are given as pictures."
    seeds = tuple(range(FIRST, FIRST + episodes))
    return Result("lewm", claim, own, (table,), seeds, sum(r["n"] for r in rows), results={"success": rows})


main = command(LewmOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
