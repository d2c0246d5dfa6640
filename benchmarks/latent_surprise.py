"""Does a latent world model notice that its world has changed? Things that jump, change colour, are hidden, stick or are moved less.

Every episode is one of the preset's own, with random starts and goals, like those that the monitor was calibrated on; in all but the
clean ones something changes after a second. Episodes that reach their goal before that are left out, and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents import surprise
from agents.latent import LatentConfig
from agents.learned import load_calibration
from benchmarks.common import Interval, Options, Result, Table, command, rate_interval
from benchmarks.lewm import LATENCY_S, shipped
from benchmarks.units import done
from configs.presets import PRESETS
from deploy.calibrate import latent_errors
from deploy.config import RunConfig
from deploy.machine import ROOT
from deploy.plots import GREY, axes, png
from deploy.watch import made_with
from envs.robots import robot_spec
from world_models.checkpoint import read_card

FIRST = 8_500_000
"""Number of the first episode."""
EACH = 25
CHANGE_S = 1.0
BEFORE, LATER, LAST = 10, 20, 50
"""Steps around the change that are drawn; in those after it scores are compared: where goals take longer, there are more chances to be
surprised. The last step after it at which an alarm counts: there an episode ends, but for clean ones, which are as long as they are."""
PICTURE = ROOT / "docs" / "latent-surprise.png"
FAULTS: dict[str, dict[str, str]] = {
    "lewm-tworoom-small": {
        "teleport": "teleport:disc:40",
        "colour": "colour:disc:0.5",
        "occluder": "occlude:disc:0.25",
        "gain": "gain:disc:0.6",
        "delay": "action_delay:all:3",
    },
    "lewm-cube-small": {
        "teleport": "teleport:cube:100",
        "colour": "colour:cube:0.5",
        "occluder": "occlude:cube:0.25",
        "gain": "gain:arm:0.6",
        "delay": "action_delay:all:3",
    },
    "lewm-pusht-small": {
        "teleport of the block": "teleport:block:60",
        "teleport of the pusher": "teleport:pusher:60",
        "colour": "colour:block:0.5",
        "occluder": "occlude:block:0.25",
        "sticky": "sticky:block:1",
        "gain": "gain:pusher:0.6",
        "delay": "action_delay:all:3",
    },
}


@dataclass(frozen=True)
class SurpriseOptions(Options):
    """What this benchmark can be told."""

    worlds: tuple[str, ...] = field(default_factory=lambda: shipped(FAULTS))
    episodes: int = 200
    workers: int = 2


@dataclass(frozen=True)
class Watched:
    """Some episodes with a fault; "": none."""

    preset: str
    fault: str
    first: int

    @property
    def config(self) -> RunConfig:
        """The run that is watched."""
        faults = (f"{self.fault}@{CHANGE_S:g}",) if self.fault else ()
        base = replace(PRESETS[self.preset][1], faults=faults, plan_latency_s=LATENCY_S, max_s=1e6, max_episodes=1)
        steps = round(CHANGE_S / robot_spec(base.robot).dt_s) + LAST if faults else base.episode_steps
        return replace(base, pictures="none", episode_steps=steps)

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        mark = made_with(self.config, judged=True)
        return f"latent_surprise/{self.preset}-{self.fault or 'clean'}-{self.first}-{mark:08x}"


def work(unit: Watched) -> list[dict[str, Any]]:
    """Return for each episode the update of its first alarm, and its largest scores before and after the change."""
    cfg = unit.config
    assert isinstance(cfg.agent, LatentConfig)
    calibration, how = load_calibration(cfg.agent.folder), cfg.agent.surprise
    block = read_card(cfg.agent.folder, "jepa")["jepa"]["block"]
    # the first error is about the state after `block` steps; the change shows in the first state at or after its time
    change = round(CHANGE_S / robot_spec(cfg.robot).dt_s) - block
    numbers = range(FIRST + unit.first, FIRST + unit.first + EACH)
    return [scores(latent_errors(cfg, number), change, calibration, how) for number in numbers]


def scores(
    errors: Sequence[float], change: int, calibration: surprise.Calibration, cfg: surprise.SurpriseConfig
) -> dict[str, Any]:
    """Return what the monitor makes of the errors of one episode; None for what it has none of."""
    state, found, alarm = surprise.start(calibration, cfg), [], None
    for index, error in enumerate(errors):
        state, score, alarmed = surprise.update(state, error, calibration, cfg)
        found.append(score)
        alarm = index if alarmed and alarm is None else alarm
    before, after = found[:change], found[change : change + LATER]
    threshold = calibration.threshold(cfg.false_alarm_rate)
    around = (found[i] / threshold if 0 <= i < len(found) else None for i in range(change - BEFORE, change + LATER))
    return {
        "curve": [None if share is None else round(share, 3) for share in around],
        "alarm": alarm,
        "change": change,
        "before": max(before, default=None),
        "after": max(after, default=None),
        "at": found[change] if len(found) > change else None,
    }


def auc(clean: Sequence[float], broken: Sequence[float], resamples: int = 2000) -> Interval:
    """Return the chance that a broken episode scores above a clean one, with its bootstrap interval."""
    rng, a, b = np.random.default_rng(0), np.asarray(clean), np.asarray(broken)

    def area(a: np.ndarray, b: np.ndarray) -> float:
        ordered = np.sort(a)
        below, not_above = (np.searchsorted(ordered, b, side) for side in ("left", "right"))
        return float((below + not_above).mean() / (2 * len(a)))

    drawn = [area(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(resamples)]
    lo, hi = np.quantile(drawn, [0.025, 0.975])
    return Interval(area(a, b), float(lo), float(hi), len(a) + len(b))


def row(preset: str, name: str, found: Sequence[dict[str, Any]], clean: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the table."""
    long = [f for f in found if f["after"] is not None]
    sound = [f for f in long if f["alarm"] is None or f["alarm"] >= f["change"]]
    delays = [f["alarm"] - f["change"] for f in sound if f["alarm"] is not None]
    sure = [f["after"] for f in clean if f["after"] is not None]
    return {
        "world": preset,
        "change": name,
        "alarms": rate_interval(len(delays), len(sound)),
        "within one step": rate_interval(sum(delay <= 1 for delay in delays), len(sound)),
        "median steps until it came": float(np.median(delays)) if delays else None,
        "AUC": auc(sure, [f["after"] for f in long]),
        "false ones before": len(long) - len(sound),
        "over before the change": len(found) - len(long),
        "n": len(found),
    }


def draw(found: Mapping[tuple[str, str], Sequence[dict[str, Any]]]) -> bytes:
    """Return a picture of the median scores around the change, one column for each world."""
    worlds = list(dict.fromkeys(world for world, _ in found))
    figure, grid = axes(3.0, len(worlds))
    steps = np.arange(-BEFORE, LATER)
    for axis, world in zip(np.ravel(grid), worlds, strict=True):
        for name, some in ((name, some) for (of, name), some in found.items() if of == world):
            curves = np.array([f["curve"] for f in some], float)
            seen = np.isfinite(curves).sum(0) >= len(curves) / 10
            shown = np.maximum(np.nanquantile(curves[:, seen], (0.5, 0.95), axis=0), 0.02)
            axis.plot(
                steps[seen],
                shown[0],
                label=name or "no change, and its 95th percentile",
                **({} if name else {"color": GREY}),
            )
            if not name:
                axis.fill_between(steps[seen], *shown, color=GREY, alpha=0.25)
        axis.axhline(1.0, color=GREY, linestyle="--")
        axis.set(title=world, yscale="log", xlabel="control steps since the change")
        axis.legend(fontsize=7)
    np.ravel(grid)[0].set_ylabel("surprise / threshold")
    return png(figure)


def measure(options: SurpriseOptions) -> Result:
    """Return the table."""
    episodes = EACH if options.quick else options.episodes
    cases = [(preset, name, fault) for preset in options.worlds for name, fault in {"": "", **FAULTS[preset]}.items()]
    units = {case: [Watched(case[0], case[2], first) for first in range(0, episodes, EACH)] for case in cases}
    flat = [unit for some in units.values() for unit in some]
    by_unit = dict(zip(flat, done(flat, work, options.workers, "sets of episodes"), strict=True))
    found = {case[:2]: [f for unit in some for f in by_unit[unit]] for case, some in units.items()}
    rows = [row(preset, name, some, found[preset, ""]) for (preset, name), some in found.items() if name]
    alarmed = {preset: [f["alarm"] is not None for f in found[preset, ""]] for preset in options.worlds}
    clean = {preset: rate_interval(sum(some), len(some)) for preset, some in alarmed.items()}
    figures: dict[str, Any] = {f"clean episodes with an alarm, {preset}": rate for preset, rate in clean.items()}
    figures |= {f"{r['change']}, {r['world']}": r["alarms"] for r in rows}
    table = Table(
        f"alarms in the {LAST} control steps after a change; one is 0.1 s",
        tuple(rows[0]),
        tuple(tuple(r.values()) for r in rows),
    )
    claim = "A latent world model notices a world that has changed, and leaves one that has not alone."
    seeds = tuple(range(FIRST, FIRST + episodes))
    if not options.quick:
        PICTURE.write_bytes(draw(found))
    results = {"changes": rows, "clean": [{"world": preset, **vars(rate)} for preset, rate in clean.items()]}
    return Result("latent_surprise", claim, figures, (table,), seeds, len(flat) * EACH, results=results)


main = command(SurpriseOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
