"""How many episodes does a one-step model save by decay, an ensemble and its distillation?

Episodes of a checkpoint's own policy with noise, of which a short piece each is learned from; nested budgets, several draws. All
arms are tuned by coordinate search on draws and episodes of their own (benchmarks/recipe_search.py). Work is kept in units:
--robots, --budgets and --draws may be done piece by piece, an interrupted run goes on where it was, and the last call sums up.
"""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.common import Interval, Options, Result, Table, command, mean_interval
from benchmarks.recipe_search import (
    STUDENTS,
    TUNING,
    Choice,
    Setting,
    Trial,
    Tuned,
    gathered,
    learned_arms,
    tuned,
)
from benchmarks.units import done

ARMS = ("standard", "decay", "member", "ensemble", *STUDENTS)
WORDS = {
    "standard": "one model, decay at most 0.1",
    "decay": "one model, any decay",
    "member": "one of the ensemble, on average",
    "ensemble": "ensemble",
    "distilled": "its student",
    "self": "student of one model",
    "nearest": "same inputs, nearest label",
    "source": "jitter only",
}
SAVED = (
    "data multiplier of decay",
    "of the ensemble",
    "of its student",
    "of its student, against any decay",
    "share of the ensemble's gain that its student keeps",
)
RESAMPLES = 2000
QUICK = {
    "standard": Choice(1e-2, 0.01, 64),
    "decay": Choice(1e-2, 0.01, 64),
    "ensemble": Choice(1e-2, 0.01, 64),
    **{name: Choice(1e-2, 0.01, 64, 0.3) for name in STUDENTS},
}


@dataclass(frozen=True)
class EfficiencyOptions(Options):
    """What is looked at."""

    robots: tuple[str, ...] = ("walker2d", "hopper")
    budgets: tuple[int, ...] = (12, 24, 48, 96, 200)
    """Episodes to learn from; the smaller ones are the first of the larger ones."""
    draws: int = 10
    loss: str = "square"
    """What is tuned and compared: square (of the mean, at unit scale) or nll."""
    tuned: tuple[int, ...] = (24,)
    """Budgets at which all arms are tuned; others take what the nearest one found."""
    setting: Setting = field(default_factory=Setting)
    workers: int = 1

    def __post_init__(self) -> None:
        if self.loss not in ("square", "nll"):
            raise ValueError(f"loss must be square or nll, got {self.loss!r}")
        if self.draws < 1 or not self.budgets or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"need draws >= 1 and ascending budgets, got {self.draws} and {self.budgets}")


@dataclass(frozen=True)
class Unit:
    """All arms on one draw of one budget."""

    robot: str
    budget: int
    draw: int
    choices: tuple[tuple[str, Choice], ...]
    setting: Setting

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        mark = zlib.crc32(repr((self.choices, self.setting.mark(self.robot))).encode())
        return f"data_efficiency/{self.robot}-n{self.budget}-d{self.draw}-{mark:08x}"


def work(unit: Unit) -> dict[str, dict[str, float]]:
    """Return the losses of each arm."""
    trial = Trial(unit.robot, unit.budget, unit.draw, unit.setting, held="test")
    return learned_arms(trial, dict(unit.choices))


# --- what it saves


def needed(budgets: Sequence[int], losses: Sequence[float] | np.ndarray, wanted: float) -> float:
    """Return how many episodes an arm needs for a loss: monotone, on lines between budgets, in log episodes and log loss.

    A likelihood, which may be below 0, is left as it is. Beyond the smallest and the largest budget nothing is known: these are
    returned instead.
    """
    low = np.minimum.accumulate(losses)  # more data never count as a loss of knowledge
    scale = np.log if min(low[-1], wanted) > 0.0 else np.asarray
    return math.exp(np.interp(-scale(wanted), -scale(low), np.log(budgets)))


def multipliers(budgets: Sequence[int], of: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """Return budget / episodes that an arm needs for the standard's mean loss there, (budgets,); losses (draws, budgets)."""
    mine, theirs = of.mean(0), np.minimum.accumulate(standard.mean(0))
    return np.array([n / needed(budgets, mine, wanted) for n, wanted in zip(budgets, theirs, strict=True)])


def bootstrapped(figure: Any, arms: Sequence[np.ndarray], seed: int) -> list[Interval]:
    """Return figures of losses (draws, budgets) with percentile intervals over draws, resampled together; nan is left out."""
    rng, draws = np.random.default_rng(seed), len(arms[0])
    picks = rng.integers(0, draws, (RESAMPLES, draws))
    found = np.array([figure(*[arm[pick] for arm in arms]) for pick in picks])
    lo, hi = np.nanquantile(found, (0.025, 0.975), axis=0)
    return [Interval(float(m), float(a), float(b), draws) for m, a, b in zip(figure(*arms), lo, hi, strict=True)]


def kept_share(member: np.ndarray, ensemble: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Return the share of the ensemble's gain over its members that a student keeps, (budgets,); losses (draws, budgets)."""
    return (member.mean(0) - student.mean(0)) / (member.mean(0) - ensemble.mean(0))


def cell_of(values: np.ndarray) -> Any:
    """Return a mean with its interval; the value alone where there is but one."""
    return mean_interval(values) if len(values) > 1 else float(values[0])


Losses = Mapping[str, np.ndarray]
"""Arm -> (draws, budgets)."""


def rows_of(robot: str, budgets: Sequence[int], square: Losses, nll: Losses) -> list[tuple[Any, ...]]:
    """Return a line per budget and arm."""
    return [
        (robot, budget, WORDS[arm], cell_of(square[arm][:, i]), cell_of(nll[arm][:, i]))
        for i, budget in enumerate(budgets)
        for arm in ARMS
    ]


def savings(robot: str, budgets: Sequence[int], losses: Losses, seed: int) -> list[tuple[Any, ...]]:
    """Return a line per budget but the smallest: multipliers, and the share of the gain that the student keeps.

    None: the arm has not reached that loss with all episodes that there are.
    """
    figures: dict[Any, Sequence[Interval | None]] = {}
    for arm, base in (
        ("decay", "standard"),
        ("ensemble", "standard"),
        ("distilled", "standard"),
        ("distilled", "decay"),
    ):
        found = bootstrapped(lambda a, b: multipliers(budgets, a, b), (losses[arm], losses[base]), seed)
        mine, theirs = losses[arm].mean(0).min(), np.minimum.accumulate(losses[base].mean(0))
        figures[arm, base] = [x if mine <= wanted else None for x, wanted in zip(found, theirs, strict=True)]
    figures["kept"] = bootstrapped(kept_share, [losses[arm] for arm in ("member", "ensemble", "distilled")], seed)
    return [(robot, budget, *[figure[i] for figure in figures.values()]) for i, budget in enumerate(budgets) if i]


def losses_of(found: Sequence[Sequence[Mapping[str, Any]]], name: str) -> dict[str, np.ndarray]:
    """Return arm -> (draws, budgets) of what units found, budget by budget."""
    return {arm: np.array([[one[arm][name] for one in draws] for draws in found]).T for arm in ARMS}


# --- the benchmark


def choices_for(options: EfficiencyOptions, robot: str) -> dict[int, Mapping[str, Tuned]]:
    """Return what the search found, by budget that was tuned; a quick look searches nothing."""
    if options.quick:
        return {0: {arm: Tuned(choice, {}, ()) for arm, choice in QUICK.items()}}
    return {n: tuned(robot, n, options.setting, options.loss, options.workers) for n in options.tuned}


def measured(
    options: EfficiencyOptions, robot: str
) -> tuple[list[list[dict[str, Any]]], dict[int, Mapping[str, Tuned]]]:
    """Return what was found, by budget and draw, and the choices it was found with."""
    gathered(robot, max(options.budgets), range(-TUNING, options.draws))
    chosen = choices_for(options, robot)
    units = []
    for budget in options.budgets:
        near = min(chosen, key=lambda n: abs(math.log(max(n, 1) / budget)))
        choices = tuple((arm, chosen[near][arm].choice) for arm in chosen[near])
        units += [Unit(robot, budget, draw, choices, options.setting) for draw in range(options.draws)]
    found = done(units, work, options.workers, f"{robot}: draws of budgets")
    return [found[i : i + options.draws] for i in range(0, len(found), options.draws)], chosen


def measure(options: EfficiencyOptions) -> Result:
    """Measure every robot and sum up."""
    if options.quick:
        small = replace(options.setting, members=4)
        options = replace(options, robots=("walker2d",), budgets=(12, 24), draws=2, setting=small)
    lines, saved, tried, headline, raw = [], [], [], {}, {}
    for robot in options.robots:
        found, chosen = measured(options, robot)
        of = {name: losses_of(found, name) for name in ("square", "nll")}
        lines += rows_of(robot, options.budgets, of["square"], of["nll"])
        saves = savings(robot, options.budgets, of[options.loss], options.seed)
        saved += saves
        tried += [t.row(robot, n, WORDS[arm]) for n, arms in chosen.items() for arm, t in arms.items()]
        for _, budget, *figures in saves:
            if budget in options.tuned:
                headline |= {f"{robot}, {budget} episodes: {name}": x for name, x in zip(SAVED, figures, strict=True)}
        raw[robot] = {name: {arm: x.tolist() for arm, x in losses.items()} for name, losses in of.items()}
    return summarised(options, headline, (lines, saved, tried), raw)


def summarised(
    options: EfficiencyOptions,
    headline: Mapping[str, Any],
    rows: Sequence[Sequence[tuple[Any, ...]]],
    raw: Mapping[str, Any],
) -> Result:
    """Return the tables."""
    lines, saved, tried = (tuple(some) for some in rows)
    return Result(
        "data_efficiency",
        "An ensemble of one-step models needs fewer episodes than one model for the same held-out error; a student of its members' "
        "size does so only where episodes are few.",
        headline,
        (
            Table("Held-out loss of one step, lower is better", ("robot", "episodes", "arm", "square", "nll"), lines),
            Table("Data multipliers, by loss: " + options.loss, ("robot", "episodes", *SAVED), saved),
            Table("What the search chose", ("robot", "episodes", "arm", *Tuned.COLUMNS), tried),
        ),
        seeds=tuple(range(options.draws)),
        n=options.draws,
        notes=(
            f"Of each episode {options.setting.length} control steps from a random moment are learned from: short trials.",
            "A multiplier is the standard's budget over the episodes that the arm needs for the same mean loss, on a line between "
            "budgets in log and log, so at most budget / smallest budget; a dash: not reached with the largest budget.",
            "The nll is without its constant, one column's error counting for at most 6 scales; all is tuned for "
            f"{options.loss}, and an arm tuned for the other loss might do better at that.",
            "Intervals are over draws of the episodes to learn from; held-out episodes are the same for all.",
            "A student and its controls take twice the steps of one model, in batches that grow with the rows.",
            "What is tuned at one budget need not suit another: the decay of 'any decay' and of the students does not.",
            f"The search may not go beyond {options.setting.most_epochs} epochs; an ensemble is tuned with half its members.",
        ),
        extra={"losses": raw, "budgets": options.budgets, "setting": asdict(options.setting)},
    )


main = command(EfficiencyOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
