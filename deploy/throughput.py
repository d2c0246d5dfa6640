"""How long one plan of each preset takes on this machine, and which control rate that holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agents.build import LinearConfig, build_agent, sees
from agents.latent import LatentConfig
from agents.learned import LearnedConfig
from deploy.findings import Finding, Verdict
from deploy.machine import durations_s, torch_threads
from deploy.planning import steps_in

if TYPE_CHECKING:
    from agents.latent import LatentAgent
    from agents.mpc import MpcAgent
    from deploy.config import RunConfig
    from envs.robots import RobotSpec

REPEATS = 7
Timed = LinearConfig | LearnedConfig | LatentConfig
"""Planners whose thinking takes time that counts."""


@dataclass(frozen=True)
class Demand:
    """What a run asks of its planner, in control steps of `dt_s` [s]."""

    dt_s: float
    plan_every: int
    horizon: int
    samples: int


def agent_of(cfg: Timed, spec: RobotSpec) -> MpcAgent | LatentAgent:
    """Return what plans in a run. Raises ValueError, in one line, where there are no weights for it."""
    from agents.learned import planner_of
    from agents.mpc import MpcAgent
    from world_models.checkpoint import load_model

    if isinstance(cfg, LearnedConfig):
        model = load_model(cfg.folder)
        return MpcAgent(planner_of(cfg, spec, model, ""), model.step, spec.dt_s, spec.action.size)
    agent = build_agent(cfg, spec, adapt=False)
    return agent  # pyright: ignore[reportReturnType]


def plan_s(cfg: RunConfig, repeats: int = REPEATS) -> float:
    """Return the median seconds of a plan that continues a period's worth of committed actions, on one thread.

    Raises ValueError, in one line, where there are no weights for it.
    """
    from envs.robots import make_env, robot_spec
    from envs.types import Observation

    assert isinstance(cfg.agent, Timed)
    spec = robot_spec(cfg.robot, cfg.version)
    agent = agent_of(cfg.agent, spec)
    env = make_env(cfg.robot, cfg.version, render_mode="rgb_array" if sees(cfg.agent) else None)
    state_O, _ = env.reset(seed=0)
    image = np.asarray(env.render()) if sees(cfg.agent) else None
    env.close()
    seen, committed_KA = Observation(0.0, np.array(state_O), image), np.zeros((cfg.plan_every, spec.action.size))
    agent.begin_episode(0, 0)
    with torch_threads(1):
        return float(np.median(durations_s(lambda: agent.plan(seen, committed_KA), repeats, warmup=2)))


def judge(name: str, took: Mapping[str, float], chosen: str, demand: Demand) -> Finding:
    """Return what plans that take so long [s] mean for the rate; `took`: by precision, of which `chosen` is the preset's."""
    each_s, dt_s, every = took[chosen], demand.dt_s, demand.plan_every
    needed, period_s = max(1, steps_in(each_s, dt_s)), every * dt_s
    other = "".join(f", {1e3 * s:.0f} in {kind}" for kind, s in took.items() if kind != chosen)
    plan = f"plan {1e3 * each_s:.0f} ms{f' in {chosen}{other}' if chosen else ''}"
    seen = f"{plan}; every {every} step{'s' * (every > 1)} of {1e3 * dt_s:.0f} ms = {1e3 * period_s:.0f} ms: "
    rate = f"{1 / dt_s:.0f} Hz"
    faster = min(took, key=took.__getitem__)
    hint = f"--agent.{'' if faster == 'bf16' else 'no-'}bf16, " if took[faster] < 0.8 * each_s else ""
    fewer = max(1, math.floor(demand.samples * period_s / each_s))
    if needed <= every:
        return Finding(f"plan {name}", f"{seen}holds {rate}")
    if needed <= demand.horizon:
        advice = f"plans {needed * 1e3 * dt_s:.0f} ms apart: {hint}--agent.samples {fewer}, or --plan-every {needed}"
        return Finding(f"plan {name}", f"{seen}holds {rate}, with older plans", Verdict.SLOW, advice)
    advice = f"a plan ends {demand.horizon} steps on, before the next is there: {hint}--agent.samples {fewer}"
    return Finding(f"plan {name}", f"{seen}does not hold {rate}", Verdict.SLOW, f"{advice}, or lockstep")


def block_of(cfg: Timed) -> int:
    """Return how many control steps a step of its planner takes."""
    from world_models.checkpoint import read_card

    return read_card(cfg.folder, "jepa")["jepa"]["block"] if isinstance(cfg, LatentConfig) else 1


def check_plan(name: str, cfg: RunConfig) -> Finding:
    """Return what one preset's planner does here; `name`: of the preset, or of several that plan alike."""
    from envs.robots import robot_spec

    agent = cfg.agent
    assert isinstance(agent, Timed)
    try:
        horizon = agent.horizon * block_of(agent)
        demand = Demand(robot_spec(cfg.robot, cfg.version).dt_s, cfg.plan_every, horizon, agent.samples)
        if isinstance(agent, LinearConfig):
            return judge(name, {"": plan_s(cfg)}, "", demand)
        runs = {kind: replace(cfg, agent=replace(agent, bf16=kind == "bf16")) for kind in ("bf16", "fp32")}
        took = {kind: plan_s(run) for kind, run in runs.items()}
    except ValueError as error:
        return Finding(f"plan {name}", "not timed", advice=str(error))
    return judge(name, took, "bf16" if agent.bf16 else "fp32", demand)


def check_plans(presets: Iterable[RunConfig]) -> Iterator[Finding]:
    """Yield one finding per planner of the presets that are charged the time that planning takes."""
    alike: dict[tuple[object, ...], list[RunConfig]] = {}
    for cfg in presets:
        if cfg.plan_latency_s is None and isinstance(cfg.agent, Timed):
            alike.setdefault((cfg.robot, cfg.version, cfg.agent, cfg.plan_every), []).append(cfg)
    for group in alike.values():
        yield check_plan(", ".join(cfg.preset for cfg in group), group[0])
