"""A body that is known: after a repair and after a second break, does the robot do as well as it did with that body before?

The robot has adapted to a broken ankle once; both models are in its memory. It then lives through break, repair and second break,
and the reward of the five seconds after each change is held against what the same body earns in the same five seconds of a run from
the same seed in which nothing changes and its own model is in use.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import PLAN_LATENCY_S, Options, Result, Table, command
from benchmarks.units import done
from benchmarks.walker_ankle import METHOD, ROUNDS, Life, Robot, as_play
from configs.presets import PRESETS
from deploy.watch import made_with
from world_models.checkpoint import load_model

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.history import History
    from world_models.checkpoint import WorldModel

FAULT = "actuator_limit:foot_left_joint:0.5"
EVERY_S = 10.0
"""Seconds between the changes of the body: break, repair, second break."""
WINDOW_S = 5.0
CHANGES = {"first break": "broken", "repair": "healthy", "second break": "broken"}
"""What happens, and what the body is then."""
LIFE = Life(METHOD, "left", 0.5, 900, 20, 0)
"""The play from which the robot adapted: numbers that no other benchmark uses."""


@dataclass(frozen=True)
class RecallOptions(Options):
    """What this benchmark can be told."""

    seeds: int = 40
    workers: int = 2


def config(seed: int, faults: tuple[str, ...], max_s: float) -> RunConfig:
    """Return a run of the walker in which nothing is learned."""
    base = PRESETS["walker"][1]
    return replace(base, faults=faults, seed=seed, plan_latency_s=PLAN_LATENCY_S, max_episodes=10_000, max_s=max_s)


def lived(seed: int, faults: tuple[str, ...], max_s: float, adapted: WorldModel, broken_first: bool) -> History:
    """Return what happens to a robot with both models in its memory."""
    from agents.adaptive import AdaptiveAgent
    from deploy.arms import build, unlogged

    cfg = config(seed, faults, max_s)
    parts = build(cfg)
    agent = parts.agent
    assert isinstance(agent, AdaptiveAgent)
    agent.cfg = replace(agent.cfg, play_episodes=10_000, play_steps=10**9)  # an alarm may come, but nothing is learned
    agent.memory.keep("body-1", adapted)
    if broken_first:
        agent.use(adapted, "body-1", "known from the start")
    return unlogged(cfg, parts, lambda _, __: True).history


def rate(history: History, from_s: float) -> float:
    """Return the mean reward [1/s] of the next seconds."""
    row, dt_s = np.concatenate([e.reward_T for e in history.episodes]), history.dt_s
    assert abs(len(row) * dt_s - history.episodes[-1].end_s) < 1e-6
    first = round(from_s / dt_s)
    return float(row[first : first + round(WINDOW_S / dt_s)].mean() / dt_s)


def one(seed: int, adapted: WorldModel) -> dict[str, Any]:
    """Return the mean reward rates [1/s] of one seed."""
    import torch

    torch.set_num_threads(1)
    twice = (f"{FAULT}@{EVERY_S:g}-{2 * EVERY_S:g}", f"{FAULT}@{3 * EVERY_S:g}")
    last_s = 3 * EVERY_S + WINDOW_S
    changed = lived(seed, twice, last_s, adapted, False)
    same = {
        "broken": lived(seed, (f"{FAULT}@0",), last_s, adapted, True),
        "healthy": lived(seed, (), last_s, adapted, False),
    }
    found: dict[str, Any] = {"swaps": [(s.t_s, s.model) for s in changed.swaps]}
    for number, change in enumerate(CHANGES, 1):
        found[change] = rate(changed, number * EVERY_S), rate(same[CHANGES[change]], number * EVERY_S)
    return found


@dataclass(frozen=True)
class Seed:
    """The unit of work."""

    number: int

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return f"recall/same-seconds-{self.number}-{made_with(LIFE.config, judged=True):08x}"


def measure_one(seed: Seed) -> dict[str, Any]:
    """Return the rates of a seed."""
    return one(seed.number, learned())


@cache
def learned() -> WorldModel:
    """Return the model after four rounds of five episodes with the broken ankle."""
    robot, play = Robot(LIFE, load_model(LIFE.config.agent.folder), None), []  # pyright: ignore
    for round_, until in enumerate(ROUNDS[:4]):
        play += [as_play(e) for e in robot.episodes(range(5_900_000 + len(play), 5_900_000 + until))]
        robot.adapt(play, 5, 90_000 + round_)
    return robot.model


def measure(options: RecallOptions) -> Result:
    """Return the table: ratio of the rates after each change, paired by seed."""
    seeds = range(options.seed, options.seed + (4 if options.quick else options.seeds))
    found = done([Seed(number) for number in seeds], measure_one, options.workers, "seeds")
    rows, figures = [], {}
    for name in CHANGES:
        ratio, lo, hi = ratio_interval([f[name][0] for f in found], [f[name][1] for f in found])
        delays = [delay(f["swaps"], name) for f in found]
        known = [d for d in delays if d is not None]
        rows.append(
            (name, ratio, lo, hi, len(known) / len(found), float(np.median(known)) if known else None, len(found))
        )
        figures |= {f"{name}: rate / rate of the same body": ratio, f"{name}, lo": lo}
    columns = ("change", "ratio", "lo", "hi", "recalled within 5 s", "median s to recall", "n")
    title = f"reward rate in the {WINDOW_S:g} s after a change / that of the same body in the same seconds of a run with its own model"
    claim = "A body that is known is recalled, not learned again, within a fraction of a second."
    healthy, broken = (np.mean([f[name][1] for f in found]) for name in ("repair", "second break"))
    notes = (f"Reward per second, healthy {healthy:.0f}, broken and adapted {broken:.0f}.",)
    return Result("recall", claim, figures, (Table(title, columns, tuple(rows)),), tuple(seeds), len(found), notes)


def delay(swaps: Sequence[tuple[float, str]], change: str) -> float | None:
    """Return the seconds from a change to the swap to its model, None if there is none within the window."""
    number = list(CHANGES).index(change) + 1
    wanted = "original" if change == "repair" else "body-1"
    after = [t - number * EVERY_S for t, model in swaps if model == wanted]
    return min((d for d in after if 0 <= d <= WINDOW_S), default=None)


def ratio_interval(top: Sequence[float], bottom: Sequence[float], resamples: int = 4000) -> tuple[float, float, float]:
    """Return the ratio of two means with its 95 % bootstrap interval; pairs are drawn together."""
    a, b = np.asarray(top), np.asarray(bottom)
    picks = np.random.default_rng(0).integers(0, len(a), (resamples, len(a)))
    lo, hi = np.quantile(a[picks].mean(1) / b[picks].mean(1), [0.025, 0.975])
    return float(a.mean() / b.mean()), float(lo), float(hi)


main = command(RecallOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
