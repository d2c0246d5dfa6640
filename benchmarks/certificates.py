"""What can be certified of the shipped one-step models, and does it hold on fresh episodes?

Every variant of `surefoot certify` on episodes that the checkpoint's own policy makes, noise on its actions; then the true share of
wrong steps on other episodes, and the same with shuffled targets, of which nothing can be known. docs/certificates.md says what each
variant means. The episodes are kept in runs/certificates: an interrupted benchmark makes none twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Interval, Options, Result, Table, command, mean_interval
from deploy.behaviour import Behaviour, kept_episodes
from deploy.certify import HELD_OUT, KEPT, baseline
from deploy.machine import ROOT
from world_models.certificate import (
    Certificate,
    Compressed,
    Question,
    Steps,
    Unit,
    Variant,
    best,
    compress,
    decoded,
    held_out,
    learned,
    steps_of,
    wrong_steps,
)
from world_models.checkpoint import load_part
from world_models.coding import read_code, write_code
from world_models.step import StepModel
from world_models.subspace import CompressConfig

WEAK = ("actuator_gain:all:0.5@0",)
ALL: tuple[tuple[Variant, Unit], ...] = (
    ("C0", "episodes"),
    ("C1", "episodes"),
    ("C2", "transitions"),
    ("C3", "episodes"),
    ("C3", "transitions"),
)
CASES: dict[str, tuple[str, tuple[str, ...], tuple[tuple[Variant, Unit], ...]]] = {
    "walker": ("walker-small", (), ALL),
    "hopper": ("hopper-small", (), ALL),
    "walker at half its strength": ("walker-small", WEAK, (ALL[0], *ALL[3:])),
}
"""Name -> checkpoint, faults of the robot, and what is asked."""
TOGETHER = 200
"""Fresh episodes that are judged at once: what fits into memory."""


@dataclass(frozen=True)
class CertificateOptions(Options):
    """How much is looked at."""

    episodes: int = 1000
    """To learn from, and to certify."""
    fresh: int = 2000
    """Other episodes, on which the certificates are put to the test."""
    fresh_broken: int = 1000
    """The same, of a broken robot."""
    compress: CompressConfig = field(default_factory=CompressConfig)


@dataclass(frozen=True)
class Found:
    """A certificate and what came of it."""

    case: str
    certificate: Certificate
    fresh: Interval
    """Share of wrong steps on fresh episodes: per episode, for a certificate of transitions too."""
    fresh_steps: float
    """The same over all steps."""

    @property
    def holds(self) -> bool:
        """Whether the true share, as near as fresh episodes tell it, lies below the bound."""
        of_steps = self.certificate.unit == "transitions"
        return (self.fresh_steps if of_steps else self.fresh.mean) <= self.certificate.bound


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(f"{text}\n")


def rows_of(of: Behaviour, numbers: Sequence[int], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield states and actions of episodes."""
    return ((e.state_TO, e.action_TA) for e in kept_episodes(of, numbers, seed, KEPT))


def shuffled(steps: Steps, seed: int) -> Steps:
    """Return the same steps, each with what followed another one."""
    order = np.random.default_rng(seed).permutation(len(steps.change_NO))
    return replace(steps, change_NO=steps.change_NO[torch.from_numpy(order)])


def on_fresh(
    models: Sequence[StepModel], given: StepModel, of: Behaviour, numbers: Sequence[int], options: CertificateOptions
) -> list[tuple[Interval, float]]:
    """Return for each model the share of wrong steps per episode, and over all steps."""
    shares: list[list[float]] = [[] for _ in models]
    wrong, total = np.zeros(len(models)), 0
    for group in batched(numbers, TOGETHER):
        steps = steps_of(given, rows_of(of, group, options.seed))
        total += len(steps.change_NO)
        for index, model in enumerate(models):
            wrong_N = wrong_steps(model, steps, Question("C0", "").tolerance)
            shares[index] += steps.shares(wrong_N).tolist()
            wrong[index] += wrong_N.sum()
    return [(mean_interval(share_E), float(w / total)) for share_E, w in zip(shares, wrong, strict=True)]


def case_of(name: str, options: CertificateOptions) -> tuple[list[Found], dict[str, Any] | None]:
    """Return the certificates of a case, and what shuffled targets give (where a student is learned)."""
    checkpoint, faults, variants = CASES[name]
    folder = ROOT / "checkpoints" / checkpoint
    given = load_part(folder, "step")
    assert isinstance(given, StepModel)
    of = Behaviour(folder, faults=faults)
    steps = steps_of(given, rows_of(of, range(options.episodes), options.seed))
    made, models, codes = list[Certificate](), list[StepModel](), dict[Variant, list[Compressed]]()
    for variant, unit in variants:
        asked = Question(variant, checkpoint, process=of.words, unit=unit)
        tell = partial(progress, f"{name}, {variant}")
        if variant == "C0":
            few = steps_of(given, rows_of(of, range(min(HELD_OUT, options.episodes)), options.seed))
            made.append(held_out(asked, given, few, baseline(folder, given)))
            models.append(given)
        else:
            if variant not in codes:
                codes[variant] = compress(asked, given, steps, options.compress, tell)
            done = best(asked, steps, codes[variant])
            path = Path(KEPT) / f"{name.replace(' ', '-')}-{variant}-{unit}.cert"
            write_code(path, done.bits)
            made.append(learned(asked, done, steps))
            models.append(decoded(given, variant, path))
            if read_code(path).length != made[-1].bits:
                raise RuntimeError(f"{path} holds {read_code(path).length} bits, not the {made[-1].bits} of the bound")
        say(made[-1].sentence)
    count = options.fresh_broken if faults else options.fresh
    numbers = range(options.episodes, options.episodes + count)
    fresh = on_fresh(models, given, of, numbers, options)
    found = [Found(name, c, *f) for c, f in zip(made, fresh, strict=True)]
    if ALL[2] not in variants:
        return found, None
    asked, mixed = Question("C2", checkpoint), shuffled(steps, options.seed)
    tell = partial(progress, f"{name}, shuffled")
    nothing = learned(asked, best(asked, mixed, compress(asked, given, mixed, options.compress, tell)), mixed)
    return found, {
        "case": name,
        "bound": nothing.bound,
        "no_change": nothing.trivial["no_change"],
        "bits": nothing.bits,
    }


def progress(what: str, told: str, done: int) -> None:
    """Tell of every thousandth step."""
    if done % 1000 == 0:
        say(f"{what}: {told}, {done} steps")


def measure(options: CertificateOptions) -> Result:
    """Certify every case and put it to the test."""
    torch.set_num_threads(1)
    if options.quick:
        options = replace(options, episodes=60, fresh=60, compress=CompressConfig(steps=600, quantised=400))
    cases = ["walker"] if options.quick else list(CASES)
    found, nothing = list[Found](), list[dict[str, Any]]()
    for name in cases:
        those, mixed = case_of(name, options)
        found += those
        nothing += [mixed] if mixed else []
    return summarised(found, nothing, options)


def row_of(found: Found) -> dict[str, Any]:
    """Return a row of the table."""
    made = found.certificate
    return {
        "robot": found.case,
        "variant": made.variant,
        "n": made.n,
        "unit": made.unit,
        "bits": made.bits,
        "observed": made.observed,
        "bound": made.bound,
        "no change": made.trivial["no_change"],
        "linear": made.trivial.get("linear"),
        "fresh episodes": found.fresh,
        "fresh steps": found.fresh_steps,
        "holds": found.holds,
        "says something": not made.vacuous,
    }


def summarised(found: Sequence[Found], nothing: Sequence[dict[str, Any]], options: CertificateOptions) -> Result:
    """Return the tables."""
    rows = [row_of(f) for f in found]
    mixed = [(n["case"], n["bits"], n["bound"], n["no_change"], n["bound"] >= n["no_change"]) for n in nothing]
    headline = {
        "certificates": len(found),
        "certificates that hold on fresh episodes": sum(f.holds for f in found),
        "certificates that say more than no change does": sum(not f.certificate.vacuous for f in found),
        **{
            f"{f.case}, {f.certificate.variant} on {f.certificate.unit}: wrong steps at most": f.certificate.bound
            for f in found
        },
    }
    return Result(
        "certificates",
        "The share of steps on which a shipped one-step model is off by more than half a standard deviation of a one-step change, in "
        "any sensor, is bounded with 95 % confidence, and fresh episodes lie below the bounds; shuffled targets certify nothing.",
        headline,
        (
            Table("Share of wrong steps, 95 % confidence", tuple(rows[0]), tuple(tuple(row.values()) for row in rows)),
            Table(
                "Shuffled targets, C2",
                ("robot", "bits", "bound", "no change", "certifies nothing"),
                tuple(mixed),
            ),
        ),
        seeds=(options.seed,),
        n=options.episodes,
        notes=(
            "C0 is of the shipped model itself; C1 and C2 of a student that is written in so many bits, C3 of the shipped model with a "
            "correction of so many bits: the choice among plans of code is among them.",
            "Where the bits are only those of that choice, the plan without numbers had the smallest bound.",
            "Of a weak robot C0 is the healthy one's model on it; C3 corrects that, learned on the weak one.",
            "A bound on transitions is of the steps that were learned from, actions and outcomes drawn anew: fresh steps come near.",
        ),
        extra={"certificates": [{"case": f.case, **asdict(f.certificate)} for f in found]},
    )


main = command(CertificateOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
