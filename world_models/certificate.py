"""How often is the one-step model off by more than a tolerance, at worst? A bound with its confidence and what it assumes.

A step is wrong if any sensor's predicted change is off by more than `tolerance` standard deviations of what that sensor changes in a
step; the deviations are the checkpoint's, and so older than the data. Data are (states (T + 1, O), actions (T, A)) per episode.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from world_models.bounds import (
    any_length,
    azuma_bound,
    clopper_pearson,
    episode_bound,
    kl_bound,
    martingale_bound,
    price,
)
from world_models.coding import Bits, decode, encode, read_code
from world_models.coding import Code as Code
from world_models.step import StepConfig, StepModel
from world_models.subspace import CompressConfig, Plan, Subspace, learn

Variant = Literal["C0", "C1", "C2", "C3"]
Unit = Literal["episodes", "transitions"]
TOLERANCE = 0.5
"""Half a standard deviation of the change: to predict no change is off by as much nearly always."""
BAD = 0.1
"""An episode is bad if more than this share of its steps are wrong."""
CERTIFICATE = "certificate.json"
"""Name of the certificate beside the weights of a checkpoint."""
ALL = 10**9
"""A size of code that is one number per weight."""

PLANS: Mapping[Variant, tuple[Plan, ...]] = {
    "C0": (),
    "C1": (Plan(0, 3, 0, StepConfig(32, 1)), Plan(100, 3, 0, StepConfig(32, 1))),
    "C2": (Plan(ALL, 5, 0, StepConfig(32, 1)), Plan(ALL, 7, 0, StepConfig(64, 2))),
    "C3": (Plan(0, 3, 1), Plan(64, 3, 1, effort=0.2), Plan(256, 3, 4, effort=0.2), Plan(ALL, 5, 1, effort=0.2)),
}
"""What each variant may write down; fixed before any data, and the choice among them is part of the code."""

Episodes = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Steps:
    """All steps of all episodes, one after another, as the network sees them."""

    inputs_NI: Tensor
    change_NO: Tensor
    """What changed, at unit scale."""
    still_O: Tensor
    """No change at all, at unit scale."""
    starts: np.ndarray
    """(episodes + 1,): episode e is steps starts[e] to starts[e + 1]."""

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.starts) - 1

    def shares(self, wrong_N: np.ndarray) -> np.ndarray:
        """Return the share of wrong steps per episode, (episodes,) float64."""
        return np.add.reduceat(wrong_N.astype(float), self.starts[:-1]) / np.diff(self.starts)


@torch.inference_mode()
def steps_of(model: StepModel, episodes: Episodes) -> Steps:
    """Return every step of every episode; at its first nothing is known of the past. Raises ValueError where there is none."""
    inputs, changes, lengths = [], [], []
    for states, actions in episodes:
        state_NO, action_NA = torch.from_numpy(states).float(), torch.from_numpy(actions).float()
        now, known_N1 = state_NO[:-1], torch.ones(len(action_NA), 1)
        known_N1[0] = 0.0
        before, past = torch.cat([now[:1], now[:-1]]), torch.cat([action_NA[:1], action_NA[:-1]])
        inputs.append(model.inputs(now, action_NA, before, past, known_N1))
        changes.append((state_NO[1:] - now - model.change.mean) / model.change.std)
        lengths.append(len(action_NA))
    if not lengths:
        raise ValueError("a certificate needs at least one episode, got none")
    still_O = -model.change.mean / model.change.std
    return Steps(torch.cat(inputs), torch.cat(changes), still_O, np.concatenate([[0], np.cumsum(lengths)]))


def is_wrong(mean_NO: Tensor, change_NO: Tensor, tolerance: float) -> np.ndarray:
    """Return which predictions are off by more than the tolerance, (N,) bool; what is not finite is."""
    return (~((mean_NO - change_NO).abs().amax(1) <= tolerance)).numpy()


@torch.inference_mode()
def wrong_steps(model: StepModel, steps: Steps, tolerance: float, rows: int = 16_384) -> np.ndarray:
    """Return which steps the model predicts wrongly, (N,) bool."""
    pairs = zip(steps.inputs_NI.split(rows), steps.change_NO.split(rows), strict=True)
    return np.concatenate([is_wrong(model.net(x).float().chunk(2, -1)[0], y, tolerance) for x, y in pairs])


def linear_of(steps: Steps) -> Tensor:
    """Return the linear map from inputs, and 1, to changes with the least squared error, (inputs + 1, O)."""
    x_NI = _with_one(steps.inputs_NI).double()
    return (torch.linalg.pinv(x_NI.T @ x_NI, hermitian=True) @ (x_NI.T @ steps.change_NO.double())).float()


def _with_one(x_NI: Tensor) -> Tensor:
    return torch.cat([x_NI, torch.ones(len(x_NI), 1)], 1)


def trivial_of(
    steps: Steps, linear: Tensor | None, tolerance: float, measure: Callable[[np.ndarray], float]
) -> dict[str, float]:
    """Return the same figure for predictors that need no network: nothing changes, and a linear map."""
    found = {"no_change": measure(is_wrong(steps.still_O, steps.change_NO, tolerance))}
    if linear is not None:
        found["linear"] = measure(is_wrong(_with_one(steps.inputs_NI) @ linear, steps.change_NO, tolerance))
    return found


@dataclass(frozen=True)
class Certificate:
    """A bound, and all that it takes to read it."""

    variant: Variant
    tolerance: float
    """In standard deviations of a sensor's change in one step."""
    bound: float
    """Share of steps, at most."""
    observed: float
    trivial: Mapping[str, float]
    n: int
    unit: Unit
    bits: int
    """Length of the code; 0 where the model itself is certified."""
    delta: float
    terms: Mapping[str, float]
    """What the bound is made of, and other bounds that hold on their own."""
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]
    sentence: str
    about: Mapping[str, object] = field(default_factory=dict)
    """Checkpoint, robot, checksum of its weights, data, file of the code."""

    @property
    def vacuous(self) -> bool:
        """Whether it says no more than what predicting no change does."""
        return self.bound >= min(1.0, self.trivial["no_change"])


@dataclass(frozen=True)
class Question:
    """What is asked: of which model, with which tolerance, and how sure."""

    variant: Variant
    name: str
    tolerance: float = TOLERANCE
    delta: float = 0.05
    process: str = "the data"
    """Where the episodes come from, in words."""
    unit: Unit = "transitions"
    """What C3 counts; C0 and C1 count episodes, C2 transitions."""

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerance < float("inf"):
            raise ValueError(f"tolerance must be > 0, got {self.tolerance}")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must be in (0, 1), got {self.delta}")

    @property
    def by_step(self) -> bool:
        """Whether what is counted are transitions."""
        return self.variant == "C2" or (self.variant == "C3" and self.unit == "transitions")

    @property
    def off(self) -> str:
        """What is bounded, in words."""
        return f"off by more than {self.tolerance:g} standard deviations of a one-step change, in any sensor,"


@dataclass(frozen=True)
class Compressed:
    """A model that is written in bits."""

    code: Code
    bits: Bits
    model: StepModel
    wrong_N: np.ndarray
    """Which of the steps that it was learned from it predicts wrongly."""


NOT_COVERED = (
    "states that a planner visits: they are not those of this behaviour; the surprise alarm watches there",
    "another robot, body, noise or task than that of the data",
    "predictions over several steps, and how sure the model says it is",
    "the rounding to bfloat16 in which planners may compute",
)
INDEPENDENT = "episodes are independent and drawn alike"
OLDER = "checkpoint (its statistics, which set the tolerance) and tolerance were fixed before the data were looked at"


def held_out(of: Question, model: StepModel, steps: Steps, linear: Tensor | None) -> Certificate:
    """Return C0: of a model that never saw these episodes. Both of its bounds hold together, with delta / 2 for each."""
    share_E = steps.shares(wrong_steps(model, steps, of.tolerance))
    bad = int((share_E > BAD).sum())
    nats = np.log(2 / of.delta)
    bound = episode_bound(share_E, nats)
    most_bad = clopper_pearson(bad, steps.episodes, of.delta / 2)
    sentence = (
        f"With {1 - of.delta:.0%} confidence the one-step model of {of.name} is {of.off} on at most {bound:.2%} of the steps of a new "
        f"episode on average, and on more than {BAD:.0%} of its steps in at most {most_bad:.1%} of the episodes, if they come as the "
        f"{steps.episodes} held-out ones did: {of.process}."
    )
    return Certificate(
        variant="C0",
        tolerance=of.tolerance,
        bound=bound,
        observed=float(share_E.mean()),
        trivial=trivial_of(steps, linear, of.tolerance, lambda wrong_N: float(steps.shares(wrong_N).mean())),
        n=steps.episodes,
        unit="episodes",
        bits=0,
        delta=of.delta,
        terms={"nats": float(nats), "kl": kl_bound(share_E, nats), "bad_episodes": bad, "bad_episodes_bound": most_bad},
        assumptions=(INDEPENDENT, "the model was frozen before these episodes were seen", OLDER),
        not_covered=NOT_COVERED,
        sentence=sentence,
    )


def compress(
    of: Question,
    given: StepModel,
    steps: Steps,
    cfg: CompressConfig,
    report: Callable[[str, int], None] = lambda *_: None,
) -> list[Compressed]:
    """Return a coded model for each plan of the variant, learned on the steps."""
    plans = PLANS[of.variant]
    spaces = [Subspace(given, plan) for plan in plans]
    forms = [space.form for space in spaces]
    rows, found = (steps.inputs_NI, steps.change_NO), list[Compressed]()
    for number, (plan, space) in enumerate(zip(plans, spaces, strict=True)):
        told = partial(report, f"{space.form.size} numbers ({number + 1} of {len(plans)})")
        code = Code(number, *learn(space, rows, of.tolerance, cfg.share(plan.effort), told))
        bits = encode(code, forms)
        model = space.model(decode(bits, forms).numbers_D)
        found.append(Compressed(code, bits, model, wrong_steps(model, steps, of.tolerance)))
    return found


def best(of: Question, steps: Steps, found: Sequence[Compressed]) -> Compressed:
    """Return the coded model with the smallest bound; that it was chosen is paid for in its bits."""
    return min(found, key=lambda made: bound_of(of, steps, made.wrong_N, made.bits.length))


def bound_of(of: Question, steps: Steps, wrong_N: np.ndarray, bits: int) -> float:
    """Return the bound of a model with such a code that is wrong on these of the steps that it was learned from."""
    nats = price(bits, of.delta)
    if of.by_step:
        return martingale_bound(float(wrong_N.mean()), len(wrong_N), nats + any_length(len(wrong_N)))
    return episode_bound(steps.shares(wrong_N), nats)


def decoded(given: StepModel, variant: Variant, path: Path) -> StepModel:
    """Return the model in a file. Raises ValueError, in one line, for a file that is none."""
    spaces = [Subspace(given, plan) for plan in PLANS[variant]]
    code = decode(read_code(path), [space.form for space in spaces])
    return spaces[code.plan].model(code.numbers_D)


def learned(of: Question, made: Compressed, steps: Steps) -> Certificate:
    """Return C1, C2 or C3: of a coded model, from the steps that it was learned from, as the linear predictor beside it is."""
    by_step, bits = of.by_step, made.bits.length
    n, nats = len(made.wrong_N) if by_step else steps.episodes, price(made.bits.length, of.delta)
    bound = bound_of(of, steps, made.wrong_N, bits)

    def measure(wrong_N: np.ndarray) -> float:
        return float(wrong_N.mean()) if by_step else float(steps.shares(wrong_N).mean())

    observed, trivial = measure(made.wrong_N), trivial_of(steps, linear_of(steps), of.tolerance, measure)
    terms = {"nats": nats, "prefix_bits": (nats + math.log(of.delta)) / math.log(2) - bits}
    if by_step:
        terms |= {"any_length_nats": any_length(n), "azuma": azuma_bound(observed, n, nats + any_length(n))}
        where = f"where the robot was in the {n} that it was learned from, if what is done there and what follows are drawn anew"
    else:
        where = f"of a new episode on average, if they come as the {n} that it was learned from did"
    assumed = ["nothing on how steps depend on one another" if by_step else INDEPENDENT, OLDER]
    whose = f"a student of {of.name} that is written in {bits} bits"
    if of.variant == "C3":
        assumed.append("the model that is corrected has not learned from these data")
        correction = (
            f"with a correction that is written in {bits} bits" if len(made.code.symbols_D) else "without a correction"
        )
        whose = f"the one-step model of {of.name}, {correction},"
    vacuous = bound >= min(1.0, trivial["no_change"])
    share = f"at most {bound:.2%} of the steps"
    ending = f"; that says nothing: to predict no change is off on {trivial['no_change']:.1%}" if vacuous else ""
    return Certificate(
        variant=of.variant,
        tolerance=of.tolerance,
        bound=bound,
        observed=observed,
        trivial=trivial,
        n=n,
        unit="transitions" if by_step else "episodes",
        bits=bits,
        delta=of.delta,
        terms=terms,
        assumptions=tuple(assumed),
        not_covered=NOT_COVERED,
        sentence=f"With {1 - of.delta:.0%} confidence {whose} is {of.off} on {share} {where}: {of.process}{ending}.",
    )


def said_of_steps(model: StepModel, episodes: Sequence[tuple[np.ndarray, np.ndarray]], delta: float = 0.05) -> str:
    """Return C2 of a model without a code, on steps that it has not learned from, in words; "" where it says nothing."""
    if not episodes:
        return ""
    steps = steps_of(model, episodes)
    wrong_N = wrong_steps(model, steps, TOLERANCE)
    n = len(wrong_N)
    bound = martingale_bound(float(wrong_N.mean()), n, any_length(n) - math.log(delta))
    if bound >= is_wrong(steps.still_O, steps.change_NO, TOLERANCE).mean():
        return ""
    return f"a sensor off by over {TOLERANCE:g} deviations on at most {bound:.1%} of steps ({1 - delta:.0%}, {n} held-out steps)"


def fingerprint(folder: Path) -> str:
    """Return the checksum of a checkpoint's one-step model."""
    return hashlib.sha256((folder / "step.safetensors").read_bytes()).hexdigest()


def certified(folder: Path) -> str:
    """Return what is certified of the weights in a folder, in a sentence; "" if nothing is, or of other weights."""
    path = folder / CERTIFICATE
    try:
        found = json.loads(path.read_text())
        fits = found["about"]["weights"] == fingerprint(folder)
        return str(found["sentence"]) if fits else ""
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        return f"{path} is not a certificate: {' '.join(str(error).split())}"
