"""The fault gym: everything that can break, in three severities, on two robots; what is noticed, and what adaptation gains or loses.

Severities are set by what a fault costs the robot that does not adapt (10, 30 and 60 % of its return): some do not even hurt.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from agents.calibration import false_alarms
from agents.jobs import accepts, job, suited
from agents.learned import LearnedConfig, judge_of, load_calibration, load_healthy, load_replay
from agents.monitor import episode_errors
from benchmarks.common import (
    PLAN_LATENCY_S,
    Options,
    Result,
    Table,
    command,
    holm,
    mean_interval,
    rate_interval,
)
from benchmarks.goal_changes import goal_changes
from benchmarks.units import done
from benchmarks.walker_ankle import as_play, failed
from benchmarks.walker_reward import omniscient
from configs.presets import PRESETS
from deploy.machine import ROOT
from deploy.watch import TOGETHER, made_with, watch_together
from envs.robots import robot_spec
from world_models.checkpoint import load_model

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from envs.episodes import Episode
    from world_models.checkpoint import WorldModel

SEVERITIES = (0.1, 0.3, 0.6)
"""Shares of the return that a fault should cost."""
NOTABLE = 0.2
"""From this cost on a fault should be noticed."""
LADDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "walker": {
        "actuator_limit": tuple(f"actuator_limit:foot_left_joint:{v}" for v in (0.8, 0.7, 0.6, 0.5, 0.35, 0.2)),
        "actuator_gain": tuple(f"actuator_gain:all:{v}" for v in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)),
        "joint_lock": tuple(f"joint_lock:{j}:-" for j in ("foot_joint", "foot_left_joint", "leg_left_joint")),
        "joint_damping": tuple(f"joint_damping:leg_left_joint:{v}" for v in (3, 10, 30, 100, 300)),
        "mass": tuple(f"mass:torso:{v}" for v in (1.1, 1.2, 1.3, 1.5, 2, 4)),
        "friction": tuple(f"friction:all:{v}" for v in (0.4, 0.25, 0.15, 0.1, 0.05)),
        "action_delay": tuple(f"action_delay:all:{v}" for v in (1, 2, 3, 4)),
        "obs_noise": tuple(f"obs_noise:all:{v}" for v in (0.02, 0.05, 0.1, 0.2, 0.4)),
        "obs_freeze": tuple(f"obs_freeze:{v}:-" for v in ("16", "10", "7", "1")),
        "obs_drop": tuple(f"obs_drop:all:{v}" for v in (0.05, 0.1, 0.2, 0.4, 0.6)),
        "push": tuple(f"push:torso:{v}" for v in (-100, -200, -400, -800)),
    },
    "hopper": {
        "actuator_limit": tuple(f"actuator_limit:foot_joint:{v}" for v in (0.98, 0.95, 0.9, 0.85, 0.8, 0.6)),
        "actuator_gain": tuple(f"actuator_gain:all:{v}" for v in (0.98, 0.95, 0.9, 0.85, 0.8)),
        "joint_lock": tuple(f"joint_lock:{j}:-" for j in ("thigh_joint", "leg_joint", "foot_joint")),
        "joint_damping": tuple(f"joint_damping:foot_joint:{v}" for v in (1.5, 2, 3, 4, 8)),
        "mass": tuple(f"mass:torso:{v}" for v in (1.1, 1.2, 1.35, 1.5, 2)),
        "friction": tuple(f"friction:all:{v}" for v in (0.9, 0.8, 0.7, 0.6, 0.5)),
        "action_delay": tuple(f"action_delay:all:{v}" for v in (1, 2, 3, 4)),
        "obs_noise": tuple(f"obs_noise:all:{v}" for v in (0.02, 0.05, 0.1, 0.15, 0.2)),
        "obs_freeze": tuple(f"obs_freeze:{v}:-" for v in ("10", "6", "5", "1")),
        "obs_drop": tuple(f"obs_drop:all:{v}" for v in (0.05, 0.1, 0.2, 0.4, 0.6)),
        "push": tuple(f"push:torso:{v}" for v in (-50, -100, -150, -200)),
    },
}
"""Of each kind, from mild to harsh; where there is nothing between (a joint is locked or not), other parts of the robot."""
ROUNDS = 2
"""Of play and adaptation, as many episodes each as the agent's own."""
PUSHED_S = 2.0
"""A push is a moment; all else holds from the first step on."""
SEARCHED, JUDGED, PLAYED = 7_000_000, 7_100_000, 7_200_000
"""Numbers of the first episodes: to find the severities, to judge, to play."""
PICTURE = ROOT / "docs" / "faults.png"


@dataclass(frozen=True)
class FaultOptions(Options):
    """What this benchmark can be told."""

    robots: tuple[str, ...] = tuple(LADDERS)
    kinds: tuple[str, ...] = tuple(LADDERS["walker"])
    searched: int = 4
    """Episodes per rung of a ladder."""
    judged: int = 12
    """Episodes that each arm of a cell is judged on, the same ones."""
    simulated: int = 1
    """Episodes with the simulator as the model, which takes its time."""
    changes: int = 200
    """Changes of goal of a healthy walker."""
    workers: int = 2


@dataclass(frozen=True)
class Unit:
    """A piece of work: a robot with a fault ("": none), and whether only its cost is asked for."""

    robot: str
    fault: str
    search: bool
    options: FaultOptions

    @property
    def config(self) -> RunConfig:
        """The run in which it plays and is judged."""
        start = PUSHED_S if self.fault.startswith("push") else 0
        faults = (f"{self.fault}@{start:g}",) if self.fault else ()
        base = replace(PRESETS[self.robot][1], faults=faults, adapt=False, max_s=1e6)
        return replace(base, plan_latency_s=PLAN_LATENCY_S)

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        o = self.options
        size = f"s{o.searched}" if self.search else f"j{o.judged}-r{ROUNDS}-o{o.simulated}"
        return f"faults/{self.robot}-{self.fault or 'healthy'}-{size}-{made_with(self.config, judged=True):08x}"


def together(cfg: RunConfig, first: int, count: int, model: Any) -> list[Episode]:
    """Return so many episodes."""
    few = [range(first + i, first + min(i + TOGETHER, count)) for i in range(0, count, TOGETHER)]
    return [e for some in few for e in watch_together(cfg, some, model)]


def lived(cfg: RunConfig, model: WorldModel) -> tuple[WorldModel, list[str], str]:
    """Return what the robot's model becomes after an alarm, by the agent's own rules; the parts that changed; the body found.

    It plays and adapts in rounds, refuses all at first if the body is the old one, and goes back to the old model if that
    earned more.
    """
    assert isinstance(cfg.agent, LearnedConfig)
    adapt, spec, used = cfg.agent.adapt, robot_spec(cfg.robot), model
    play, parts, body, each, trial = [], set(), "", adapt.play_episodes, adapt.trial()
    healthy = load_healthy(cfg.agent.folder)
    for round_ in range(ROUNDS + 1):
        new = together(cfg, PLAYED + len(play), each, used)
        play += [as_play(e) for e in new]
        if failed(trial, new):
            used, parts, body = trial.back(), {"rolled back"}, ""
            continue  # the next fit waits for play with the model that is in use now
        if round_ == ROUNDS:
            break
        fit = suited(adapt, trial.earned, healthy) if used.value is model.value else adapt
        made = job(used, play, each, load_replay(cfg.agent.folder), judge_of(spec), fit, round_)
        chosen = {c.part: c.model for c in made if accepts(c, adapt.margin)}
        if not chosen or (used is model and not accepts(made[0], adapt.new_body_margin)):
            continue
        trial.put(used)
        parts |= set(chosen)
        used = replace(used, **chosen)  # pyright: ignore
        body = used.step.body.explain(spec.action.names, spec.action.low_A.tolist(), spec.action.high_A.tolist())
    return used, sorted(parts), body


def work(unit: Unit) -> dict[str, Any]:
    """Return what came of it."""
    cfg, options = unit.config, unit.options
    assert isinstance(cfg.agent, LearnedConfig)
    model = load_model(cfg.agent.folder)
    if unit.search:
        return {"unadapted": [e.total_reward for e in together(cfg, SEARCHED, options.searched, model)]}
    unadapted = together(cfg, JUDGED, options.judged, model)
    errors = [episode_errors(model.step, e.state_TO, e.action_TA) for e in unadapted]
    alarms = false_alarms(errors, load_calibration(cfg.agent.folder), cfg.agent.surprise)
    mended, parts, body = lived(cfg, model)
    return {
        "unadapted": [e.total_reward for e in unadapted],
        "alarm_steps": alarms,
        "adapted": [
            e.total_reward for e in (unadapted if mended is model else together(cfg, JUDGED, options.judged, mended))
        ],
        "parts": parts,
        "body": body,
        "simulator": [
            e.total_reward for e in omniscient(cfg, range(JUDGED, JUDGED + options.simulated), model, quick=True)
        ],
    }


def worked(units: Sequence[Unit], workers: int) -> dict[Unit, dict[str, Any]]:
    """Return the result of each."""
    return dict(zip(units, done(units, work, workers, "faults"), strict=True))


def cost(healthy: Sequence[float], broken: Sequence[float]) -> float:
    """Return the share of the return that is lost."""
    return 1.0 - float(np.mean(broken)) / float(np.mean(healthy))


def severities(costs: Sequence[float]) -> list[int]:
    """Return which rungs come nearest to the severities that are wanted, each rung once."""
    left, chosen = list(range(len(costs))), []
    for wanted in SEVERITIES[: len(costs)]:
        nearest = min(left, key=lambda rung: abs(costs[rung] - wanted))
        chosen.append(nearest)
        left.remove(nearest)
    return sorted(chosen)


def searched(options: FaultOptions) -> list[Unit]:
    """Return the cells: of each kind and robot the rungs whose cost is nearest to the severities."""
    unit = partial(Unit, search=True, options=options)
    rungs = {(r, k): LADDERS[r][k] for r in options.robots for k in options.kinds}
    all_units = [unit(r, "") for r in options.robots] + [unit(r, f) for (r, _), faults in rungs.items() for f in faults]
    found = {(u.robot, u.fault): v["unadapted"] for u, v in worked(all_units, options.workers).items()}
    cells = []
    for (robot, _), faults in rungs.items():
        costs = [cost(found[robot, ""], found[robot, fault]) for fault in faults]
        cells += [Unit(robot, faults[rung], False, options) for rung in severities(costs)]
    return cells


def row(unit: Unit, found: dict[str, Any], healthy: Sequence[float]) -> dict[str, Any]:
    """Return one cell of the table."""
    before, after = np.array(found["unadapted"]), np.array(found["adapted"])
    gain, changed = after - before, bool(np.ptp(after - before))
    alarms = [a is not None for a in found["alarm_steps"]]
    return {
        "robot": unit.robot,
        "fault": unit.fault,
        "cost": cost(healthy, before.tolist()),
        "alarms": float(np.mean(alarms)),
        "unadapted": float(before.mean()),
        "adapted": float(after.mean()),
        "gain": mean_interval(gain) if changed else None,
        "p_worse": float(stats.ttest_rel(after, before, alternative="less").pvalue) if changed else 1.0,  # pyright: ignore
        "simulator": float(np.mean(found["simulator"])),
        "found": found["body"],
        "n": len(before),
    }


def measure(options: FaultOptions) -> Result:
    """Return the table of cells, and draw it."""
    if options.quick:
        options = replace(
            options, robots=("walker",), kinds=("actuator_limit",), searched=2, judged=4, simulated=1, changes=10
        )
    cells = searched(options)
    sound = [Unit(robot, "", False, options) for robot in options.robots]
    found = worked([*sound, *cells], options.workers)
    healthy = {u.robot: found[u]["unadapted"] for u in sound}
    rows = [row(u, found[u], healthy[u.robot]) for u in [*sound, *cells]]
    corrected = holm([r["p_worse"] for r in rows])
    for r, p in zip(rows, corrected, strict=True):
        r["p_worse"] = p
    if not options.quick:
        PICTURE.write_bytes(picture(rows, healthy))
    costly = [r for r in rows if r["cost"] >= NOTABLE]
    seen, drops = sum(r["alarms"] > 0.5 for r in costly), sum(r["gain"] is not None and r["gain"].hi < 0 for r in rows)
    columns = ("robot", "fault", "cost", "alarms", "unadapted", "adapted", "gain", "p_worse", "simulator", "found", "n")
    title = (
        "cost: share of the healthy return; alarms: share of episodes; adapted: after "
        f"{ROUNDS} rounds of adaptation, alarm or not; p_worse: that it lowers the return, after Holm; simulator: as the model, "
        f"{options.simulated} episode(s)"
    )
    told = goal_changes(options.changes, options.workers)
    tables = (
        Table(title, columns, tuple(tuple(r[c] for c in columns) for r in rows)),
        Table("false alarms of a healthy walker whose goal changes every 8 s", tuple(told), (tuple(told.values()),)),
    )
    share = rate_interval(seen, len(costly)) if costly else None
    figures = {
        f"faults that cost {NOTABLE:.0%} or more and raise an alarm in most episodes": share,
        "alarms, share of all episodes with such a fault": float(np.mean([r["alarms"] for r in costly]))
        if costly
        else None,
        "cells where adaptation lowers the return (interval below 0, not corrected)": drops,
        "cells where adaptation lowers the return (p < 0.05 after Holm)": sum(p < 0.05 for p in corrected),
        "false alarms after a change of goal": told["rate"],
        "cells where it raises it (interval above 0)": sum(r["gain"] is not None and r["gain"].lo > 0 for r in rows),
    }
    claim = "What costs a good part of the return is noticed, and adapting to it does no harm."
    return Result("faults", claim, figures, tables, (JUDGED,), sum(r["n"] for r in rows))


def picture(rows: Sequence[dict[str, Any]], healthy: dict[str, Sequence[float]]) -> bytes:
    """Return a PNG: what each fault leaves of the healthy return, without and with adaptation, and with the simulator."""
    from matplotlib.figure import Figure

    robots = list(healthy)
    figure = Figure(figsize=(10, 0.22 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots(1, len(robots), squeeze=False)[0]
    arms: dict[str, Callable[[dict[str, Any]], float]] = {
        "no adaptation": lambda r: r["unadapted"],
        "adapted": lambda r: r["adapted"],
        "simulator": lambda r: r["simulator"],
    }
    for axis, robot in zip(axes, robots, strict=True):
        mine, whole = [r for r in rows if r["robot"] == robot], float(np.mean(healthy[robot]))
        places = np.arange(len(mine))
        for (name, of), colour, shift in zip(
            arms.items(), ("#9a9a9a", "#1f6f8b", "#e0a458"), (-0.27, 0, 0.27), strict=True
        ):
            axis.barh(places + shift, [of(r) / whole for r in mine], 0.27, label=name, color=colour)
        axis.set_yticks(places, [r["fault"] or "healthy" for r in mine], fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{robot}: return / healthy return")
        axis.axvline(1.0, color="black", linewidth=0.5)
    axes[0].legend(loc="lower right", fontsize=7)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    return drawn.getvalue()


main = command(FaultOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
