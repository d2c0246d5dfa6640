"""`surefoot certify CHECKPOINT --out FILE`: how often is a checkpoint's one-step model off, at worst, and with which confidence?

C0 measures the model on held-out episodes; C1, C2 and C3 write a small model down in bits (FILE with the ending .cert) and bound it
from the episodes that it was learned from: docs/certificates.md. Without --data the checkpoint's own policy acts in simulation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import Progress, track

from deploy.commandline import guarded, in_one_line
from world_models.certificate import TOLERANCE, Certificate, Question, Unit, Variant
from world_models.subspace import CompressConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from world_models.certificate import Steps
    from world_models.step import StepModel

KEPT = Path("runs/certificates")
"""Where fresh episodes are kept, so that an interrupted command goes on where it was."""
HELD_OUT, LEARNED = 200, 1000
"""Fresh episodes, of C0 and of the other variants."""


@dataclass(frozen=True)
class CertifyArgs:
    """Certify the one-step model of a checkpoint."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of the weights; looked for here, then in the checkout, then under its checkpoints/."""
    out: Path
    """Where the certificate goes, as JSON."""
    variant: Variant = "C0"
    """C0: held-out episodes; C1, C2, C3: by compression, from the data that it was learned from."""
    unit: Unit = "transitions"
    """What C3 counts; C0 and C1 count episodes, C2 transitions."""
    data: Path | None = None
    """LeRobotDataset of episodes that the checkpoint has not learned from; None: fresh ones in simulation."""
    tolerance: float = TOLERANCE
    """What counts as wrong, in standard deviations of a sensor's change in one step."""
    delta: float = 0.05
    """Probability that the certificate does not hold."""
    heldout: int = HELD_OUT
    """Fresh episodes of C0; all of --data are taken."""
    episodes: int = LEARNED
    """Fresh episodes of C1, C2 and C3; all of --data are taken."""
    noise: float = 0.1
    """On the actions of fresh episodes, in standard deviations of what the policy does."""
    faults: tuple[str, ...] = ()
    """Of the robot in fresh episodes: KIND:TARGET:VALUE@START[-END] ..."""
    seed: int = 1
    """Of fresh episodes."""
    compress: CompressConfig = field(default_factory=CompressConfig)

    def __post_init__(self) -> None:
        if self.heldout < 1 or self.episodes < 1:
            raise ValueError(f"heldout and episodes must be >= 1, got {self.heldout} and {self.episodes}")
        if self.out.is_dir() or self.out.suffix == ".cert":
            raise ValueError(f"--out {self.out} must be a file of JSON; the code goes beside it, ending in .cert")


def find(checkpoint: Path) -> Path:
    """Return the folder that is meant. Raises ValueError where there is none."""
    from deploy.machine import ROOT

    for folder in (checkpoint, ROOT / checkpoint, ROOT / "checkpoints" / checkpoint):
        if folder.is_dir():
            return folder
    there = sorted(path.parent.name for path in (ROOT / "checkpoints").glob("*/step.json"))
    raise ValueError(f"no checkpoint {str(checkpoint)!r}; shipped are {', '.join(there)}")


def recorded(folder: Path, card: dict, model: StepModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return states and actions of each episode. Raises ValueError where the model has learned from the data or does not fit."""
    from envs.dataset import EpisodeData

    if folder.name in {Path(name).name for name in card["data"]}:
        raise ValueError(f"the checkpoint has learned from {folder.name!r}: name data that it has not seen")
    data = EpisodeData.load(folder)
    sizes = data.state_NO.shape[1], data.action_NA.shape[1]
    if sizes != (len(model.state.mean), len(model.action.mean)):
        raise ValueError(f"{folder} has {sizes[0]} sensors and {sizes[1]} actuators, which are not those of the model")
    return [data.states_and_actions(episode) for episode in range(data.episodes)]


def fresh(args: CertifyArgs, folder: Path, console: Console) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Return states and actions of episodes that nobody has seen, and who acted in them."""
    from deploy.behaviour import Behaviour, kept_episodes
    from envs.faults import parse_faults
    from envs.robots import robot_spec
    from world_models.checkpoint import read_card

    of = Behaviour(folder, args.noise, args.faults)
    parse_faults(args.faults, robot_spec(read_card(folder, "policy")["robot"]))  # refused before anything is begun
    count = args.heldout if args.variant == "C0" else args.episodes
    made = kept_episodes(of, range(count), args.seed, KEPT)
    shown = track(made, "episodes", count, console=console)
    return [(e.state_TO, e.action_TA) for e in shown], of.words


def baseline(folder: Path, model: StepModel) -> Tensor | None:
    """Return the linear predictor of the old data that the checkpoint carries; None where it carries none."""
    from agents.learned import load_replay
    from world_models.certificate import linear_of, steps_of

    if not (folder / "replay.safetensors").exists():
        return None
    states, actions = (x.numpy() for x in load_replay(folder))
    return linear_of(steps_of(model, zip(states, actions, strict=True)))


def answer(
    of: Question, model: StepModel, steps: Steps, args: CertifyArgs, folder: Path, console: Console
) -> Certificate:
    """Return the certificate; the code of a compressed model goes to a file."""
    from world_models.certificate import best, compress, held_out, learned
    from world_models.coding import write_code

    if of.variant == "C0":
        return held_out(of, model, steps, baseline(folder, model))
    cfg, code = args.compress, args.out.with_suffix(".cert")
    with Progress(console=console) as bars:
        bar = bars.add_task("learning", total=cfg.total)
        found = compress(of, model, steps, cfg, lambda told, done: bars.update(bar, description=told, completed=done))
    made = best(of, steps, found)
    write_code(code, made.bits)
    return replace(learned(of, made, steps), about={"code": code.name})


def certify(args: CertifyArgs, console: Console) -> Certificate:
    """Return the certificate that is asked for. Raises ValueError, KeyError or FileNotFoundError, in one line, for bad input."""
    from deploy.telemetry import commit
    from world_models.certificate import fingerprint, steps_of
    from world_models.checkpoint import load_part, read_card
    from world_models.step import StepModel

    folder = find(args.checkpoint)
    of = Question(args.variant, folder.name, args.tolerance, args.delta, unit=args.unit)
    card, model = read_card(folder, "step"), load_part(folder, "step")
    assert isinstance(model, StepModel)
    if args.data is None:
        rows, who = fresh(args, folder, console)
    else:
        rows, who = recorded(args.data, card, model), f"the episodes of {args.data.name}"
    steps = steps_of(model, rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    made = answer(replace(of, process=who), model, steps, args, folder, console)
    about = {"checkpoint": folder.name, "robot": card["robot"], "weights": fingerprint(folder), "data": who}
    return replace(made, about={**about, "steps": len(steps.change_NO), "commit": commit(), **made.about})


def main(argv: Sequence[str] | None = None) -> int:
    """Certify a checkpoint, say what was found, and return the exit code: 0, 2 (bad input) or 130 (interrupted)."""
    import torch

    from deploy.telemetry import write_json

    def body() -> int:
        args = in_one_line(lambda: tyro.cli(CertifyArgs, args=argv, prog="surefoot certify"))
        torch.set_num_threads(1)
        made = certify(args, Console(stderr=True))
        write_json(args.out, asdict(made))
        print(made.sentence)
        print(f"wrote {args.out}")
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
