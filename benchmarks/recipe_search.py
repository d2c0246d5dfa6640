"""What benchmarks/data_efficiency.py trains, and the search for its decay, epochs and rate on draws that are not counted.

A coordinate search stops where no neighbour, one notch off in one setting, is better: all of these were tried.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.units import done
from deploy.behaviour import Behaviour, kept_episodes
from deploy.certify import KEPT
from deploy.machine import ROOT
from world_models.distil import DistilConfig, Labels, distil
from world_models.ensemble import STANDARD, Recipe, learn, rows_of
from world_models.normaliser import Normaliser
from world_models.step import StepConfig, StepModel

CHECKPOINTS = {"walker2d": "walker-small", "hopper": "hopper-small"}
HELD = {"tuning": range(50), "test": range(50, 150)}
"""Numbers of held-out episodes: to tune by, and to report."""
EACH, FIRST, TUNING = 200, 150, 2
"""Episodes of a draw, number of the first, and how many draws come before the counted ones, to tune on."""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
DECAYS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
EPOCHS = (16, 32, 64, 128, 256, 512, 1024)
JITTERS = (0.1, 0.3, 1.0)
ORDINARY = 0.1
"""Most decay of the standard arm; the shipped one-step models have 0.01."""
STUDENTS: dict[str, Labels] = {"distilled": "teacher", "self": "teacher", "nearest": "nearest", "source": "source"}
"""Student -> who labels its extra inputs."""


@dataclass(frozen=True)
class Setting:
    """What all arms share."""

    length: int = 50
    """Control steps of an episode that are learned from, from a random one on."""
    width: int = 64
    layers: int = 2
    batch: int = 128
    members: int = 8
    most_epochs: int = 64
    """Beyond which the search does not go."""

    def mark(self, robot: str) -> int:
        """Return a checksum of this and of who makes the episodes."""
        return zlib.crc32(
            (behaviour(robot).checkpoint / "policy.safetensors").read_bytes(), zlib.crc32(repr(self).encode())
        )


@dataclass(frozen=True)
class Choice:
    """How an arm is trained."""

    rate: float
    decay: float
    epochs: int
    jitter: float = 0.0
    """Of a student's extra inputs."""

    def recipe(self, setting: Setting, members: int = 1) -> Recipe:
        """Return it as a recipe."""
        train = replace(STANDARD.train, batch=setting.batch, learning_rate=self.rate, weight_decay=self.decay)
        return Recipe(train, epochs=self.epochs, members=members)

    def neighbours(self, most_decay: float, most_epochs: int, free: Sequence[str]) -> list[Choice]:
        """Return all choices one notch away in one of the settings that are free."""
        grids = {"rate": RATES, "decay": [d for d in DECAYS if d <= most_decay]}
        grids["epochs"] = [e for e in EPOCHS if e <= most_epochs]
        found = []
        for name in free:
            at = grids[name].index(getattr(self, name))
            found += [replace(self, **{name: x}) for i, x in enumerate(grids[name]) if abs(i - at) == 1]
        return found


def behaviour(robot: str) -> Behaviour:
    """Return who acts. Raises ValueError for a robot that has no checkpoint here."""
    if robot not in CHECKPOINTS:
        raise ValueError(f"no robot {robot!r} here; choose from {sorted(CHECKPOINTS)}")
    return Behaviour(ROOT / "checkpoints" / CHECKPOINTS[robot])


def numbers_of(draw: int, budget: int) -> range:
    """Return the numbers of a draw's first episodes. Raises ValueError for a budget that a draw has not."""
    if not 0 < budget <= EACH:
        raise ValueError(f"budgets must be in 1 .. {EACH}, got {budget}")
    first = FIRST + EACH * (draw + TUNING)
    return range(first, first + budget)


def gathered(robot: str, budget: int, draws: Sequence[int]) -> None:
    """Make all episodes that will be needed and keep them."""
    numbers = [*HELD["tuning"], *HELD["test"], *[n for draw in draws for n in numbers_of(draw, budget)]]
    for count, _ in enumerate(kept_episodes(behaviour(robot), numbers, 0, ROOT / KEPT), 1):
        if count % 500 == 0:
            sys.stderr.write(f"{robot}: {count} of {len(numbers)} episodes\n")


def windows(robot: str, numbers: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Return states (N, 3, O) and actions (N, 2, A) of a piece of each episode."""
    states, actions = [], []
    for number, episode in zip(numbers, kept_episodes(behaviour(robot), numbers, 0, ROOT / KEPT), strict=True):
        steps = min(length, len(episode.action_TA))
        at = int(np.random.default_rng(number).integers(0, len(episode.action_TA) - steps + 1))
        s, a = episode.state_TO[at : at + steps + 1], episode.action_TA[at : at + steps]
        states.append(np.stack([s[:-2], s[1:-1], s[2:]], 1))
        actions.append(np.stack([a[:-1], a[1:]], 1))
    return torch.from_numpy(np.concatenate(states)).float(), torch.from_numpy(np.concatenate(actions)).float()


@dataclass(frozen=True)
class Trial:
    """A draw to learn from, and held-out episodes to judge by."""

    robot: str
    budget: int
    draw: int
    setting: Setting
    held: Literal["tuning", "test"]

    @cached_property
    def model(self) -> StepModel:
        """An untrained model with the statistics of what is learned from."""
        states, actions = self.learned_from
        parts = states[:, 1], actions[:, 1], states[:, 2] - states[:, 1]
        return StepModel(StepConfig(self.setting.width, self.setting.layers), *map(Normaliser.fit, parts))

    @cached_property
    def learned_from(self) -> tuple[Tensor, Tensor]:
        """Windows of the draw."""
        return windows(self.robot, numbers_of(self.draw, self.budget), self.setting.length)

    @cached_property
    def judged_on(self) -> tuple[Tensor, Tensor]:
        """Windows of the held-out episodes."""
        return windows(self.robot, HELD[self.held], self.setting.length)

    @property
    def seed(self) -> int:
        """First seed of the networks; each draw has its own."""
        return 1000 * (self.draw + TUNING)

    @torch.no_grad()
    def losses(self, model: StepModel) -> dict[str, float]:
        """Return the losses on held-out episodes, at the scale of their own changes, which all draws share."""
        states, actions = self.judged_on
        std_O = (states[:, 2] - states[:, 1]).std(0).clamp_min(1e-3)
        scale_O = model.change.std / std_O
        error_NO = model.residuals(states, actions)[0] * scale_O
        nll = model.nll(states, actions).mean() + scale_O.log().mean()
        return {"square": float(error_NO.square().mean()), "nll": float(nll)}


def students_of(
    trial: Trial, choices: Mapping[str, Choice], ensemble: StepModel, single: StepModel
) -> dict[str, StepModel]:
    """Return the students; all but `distilled` are its controls."""
    rows, made = rows_of(trial.model, *trial.learned_from), {}
    for name, labels in STUDENTS.items():
        choice, teacher = choices[name], single if name == "self" else ensemble
        cfg = DistilConfig(jitter=choice.jitter, labels=labels)
        made[name] = distil(rows, teacher, choice.recipe(trial.setting), cfg, trial.seed + 500)
    return made


def learned_arms(trial: Trial, choices: Mapping[str, Choice]) -> dict[str, dict[str, float]]:
    """Return the losses of every arm."""
    rows, setting = rows_of(trial.model, *trial.learned_from), trial.setting
    standard, decay = (
        learn(trial.model, rows, choices[name].recipe(setting), trial.seed + 900).member(0)
        for name in ("standard", "decay")
    )
    ensemble = learn(trial.model, rows, choices["ensemble"].recipe(setting, setting.members), trial.seed)
    alone = [trial.losses(ensemble.member(k)) for k in range(setting.members)]
    found = {"standard": standard, "decay": decay, "ensemble": ensemble}
    losses = {name: trial.losses(m) for name, m in (found | students_of(trial, choices, ensemble, decay)).items()}
    return losses | {"member": {key: float(np.mean([one[key] for one in alone])) for key in alone[0]}}


# --- the search


@dataclass(frozen=True)
class Tuned:
    """What a search found."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("rate", "decay", "epochs", "jitter", "rate x decay", "tried", "at the edge")

    choice: Choice
    tried: Mapping[Choice, float] = field(hash=False)
    edges: tuple[str, ...]
    """Settings whose grid ends there: what lies beyond was not tried."""

    def row(self, robot: str, budget: int, arm: str) -> tuple[Any, ...]:
        """Return a line of the table."""
        c = self.choice
        edges = ", ".join(self.edges)
        return (robot, budget, arm, c.rate, c.decay, c.epochs, c.jitter, c.rate * c.decay, len(self.tried), edges)


@dataclass(frozen=True)
class Tuning:
    """A choice on a draw: one model or an ensemble; where `teacher` is given, all students with each jitter."""

    trial: Trial
    choice: Choice
    members: int
    teacher: Choice | None = None

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        t = self.trial
        mark = zlib.crc32(repr((self.choice, self.teacher, t.setting.mark(t.robot))).encode())
        kind = "students" if self.teacher else f"k{self.members}"
        return f"data_efficiency_tuning/{t.robot}-n{t.budget}-d{t.draw}-{kind}-{mark:08x}"


def try_out(unit: Tuning) -> dict[str, Any]:
    """Return the losses; of students by name and jitter."""
    trial, setting = unit.trial, unit.trial.setting
    rows = rows_of(trial.model, *trial.learned_from)
    if unit.teacher is None:
        made = learn(trial.model, rows, unit.choice.recipe(setting, unit.members), trial.seed)
        return trial.losses(made if unit.members > 1 else made.member(0))
    single = learn(trial.model, rows, unit.choice.recipe(setting), trial.seed + 900).member(0)
    ensemble = learn(trial.model, rows, unit.teacher.recipe(setting, unit.members), trial.seed)
    found = {}
    for jitter in JITTERS:
        choices = dict.fromkeys(STUDENTS, replace(unit.choice, jitter=jitter))
        made = students_of(trial, choices, ensemble, single)
        found |= {f"{name}/{jitter}": trial.losses(model) for name, model in made.items()}
    return found


@dataclass(frozen=True)
class Search:
    """Where all arms of a robot and budget are tuned."""

    robot: str
    budget: int
    setting: Setting
    loss: str
    workers: int

    def trials(self) -> list[Trial]:
        """Return the draws to tune on."""
        return [Trial(self.robot, self.budget, draw, self.setting, "tuning") for draw in range(-TUNING, 0)]

    def tried(self, choices: Sequence[Choice], members: int) -> dict[Choice, float]:
        """Return the mean loss of each choice over the draws."""
        units = [Tuning(trial, choice, members) for choice in choices for trial in self.trials()]
        found = done(units, try_out, self.workers, f"{self.robot}: trainings to tune {members} member(s)")
        losses = np.array([one[self.loss] for one in found]).reshape(len(choices), TUNING).mean(1)
        return dict(zip(choices, losses.tolist(), strict=True))

    def best(self, start: Choice, members: int, most_decay: float, free: Sequence[str]) -> Tuned:
        """Return the choice none of whose neighbours is better."""
        tried: dict[Choice, float] = {}
        at = start
        while True:
            near = [at, *at.neighbours(most_decay, self.setting.most_epochs, free)]
            tried |= self.tried([c for c in near if c not in tried], members)
            best = min(near, key=lambda c: tried[c])
            if best == at:
                edges = tuple(n for n in free if sum(getattr(c, n) != getattr(at, n) for c in near) < 2)
                return Tuned(at, tried, edges)
            at = best

    def students(self, choice: Choice, teacher: Choice) -> dict[str, Tuned]:
        """Return each kind of student with its best jitter, trained as one model is."""
        units = [Tuning(trial, choice, self.setting.members, teacher) for trial in self.trials()]
        found = done(units, try_out, self.workers, f"{self.robot}: draws to tune students")
        best = {}
        for name in STUDENTS:
            losses = {
                replace(choice, jitter=j): float(np.mean([one[f"{name}/{j}"][self.loss] for one in found]))
                for j in JITTERS
            }
            at = min(losses, key=lambda c: losses[c])
            best[name] = Tuned(at, losses, ("jitter",) if at.jitter in (JITTERS[0], JITTERS[-1]) else ())
        return best


def tuned(robot: str, budget: int, setting: Setting, loss: str, workers: int) -> dict[str, Tuned]:
    """Return the choice of every arm at a budget; an ensemble keeps the rate of one model and is tuned with half its members."""
    search, every = Search(robot, budget, setting, loss, workers), ("rate", "decay", "epochs")
    start = Choice(1e-2, 0.01, min(setting.most_epochs, 64))
    standard = search.best(start, 1, ORDINARY, every)
    decay = search.best(standard.choice, 1, DECAYS[-1], every)
    ensemble = search.best(decay.choice, max(2, setting.members // 2), DECAYS[-1], every[1:])
    arms = {"standard": standard, "decay": decay, "ensemble": ensemble}
    return arms | search.students(decay.choice, ensemble.choice)
