"""`surefoot train PRESET [--PART.SETTING ...]`: train the parts of a world model, with progress.

Whatever the preset says can be overridden, for example --step.train.weight-decay 0.1. Ctrl-C keeps what is done, and the
same command resumes.
"""

from __future__ import annotations

import difflib
import sys
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from configs.models import LATENT_MODELS, MODELS
from deploy.commandline import complain, guarded, in_one_line, refuse_unknown
from deploy.config import option_names
from deploy.telemetry import commit
from world_models.checkpoint import LATENT_PARTS, PARTS, save_part, save_tensors
from world_models.fit import TASKS, ModelConfig, Task, replay_windows
from world_models.latent_heads import frames_of
from world_models.latents import HEAD_TASKS, LATENT_TASKS, LatentModelConfig
from world_models.training import Run, TrainConfig, train

Part = Literal["proposal", "dynamics", "step", "value", "policy", "jepa", "temporal", "inverse", "decoder", "ensemble"]
Model = ModelConfig | LatentModelConfig
ALL_MODELS: dict[str, Model] = {**MODELS, **LATENT_MODELS}


@dataclass(frozen=True)
class TrainArgs:
    """Train a world model part by part and write its weights and cards.

    What the preset says of a part is overridden by its name, for example --step.train.weight-decay 0.1.
    """

    preset: Annotated[str, tyro.conf.Positional]
    """Which model: see configs/models.py."""
    parts: tuple[Part, ...] | None = None
    """All that the preset has if not given."""
    data: Path = Path("data")
    """Folder with the data sets that `surefoot collect` made."""
    dataset: tuple[Path, ...] = ()
    """Learn from these LeRobotDatasets alone, whatever the preset names: own recordings of the robot."""
    out: Path | None = None
    """Where weights go; checkpoints/PRESET if not given."""
    work: Path = Path("runs/training")
    """Folder for resumable state."""
    overwrite: bool = False
    """Replace weights that are there and that this training, or the one it goes on from, has not made."""
    steps: int | None = None
    """Fewer or more optimiser steps than the preset's."""
    seed: int | None = None
    """Of every part's training, instead of the preset's."""
    skip_missing: bool = False
    """Learn from the data sets that are there: the first pass, before the planner itself could act."""
    threads: int = 2


def read(argv: list[str] | None) -> tuple[TrainArgs, Model]:
    """Return the command line's own options, and the preset's model with what it overrides. Raises ValueError, in one line."""
    args, rest = in_one_line(lambda: tyro.cli(TrainArgs, args=argv, prog="surefoot train", return_unknown_args=True))
    if args.preset not in ALL_MODELS:
        near = difflib.get_close_matches(args.preset, ALL_MODELS) or sorted(ALL_MODELS)
        raise ValueError(f"no model preset {args.preset!r}; choose from {near}")
    base = ALL_MODELS[args.preset]
    model, unknown = in_one_line(lambda: _overridden(base, rest))
    if unknown:
        refuse_unknown(unknown, [*option_names(args), *option_names(base)])
    return args, model


def _overridden(base: Model, rest: list[str]) -> tuple[Model, list[str]]:
    config = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(type(base), default=base, args=rest, config=config, return_unknown_args=True)


def part_config(args: TrainArgs, model: Model, part: str) -> tuple[Model, TrainConfig]:
    """Return the model with what was asked for of a part changed, and the part's training."""
    own = getattr(model, part, None)
    if own is None:
        raise ValueError(f"{args.preset} has no part {part!r}: leave it out of --parts")
    if args.steps is not None:
        own = replace(own, train=replace(own.train, steps=args.steps))
    if args.seed is not None:
        own = replace(own, train=replace(own.train, seed=args.seed))
    if args.dataset:
        own = replace(own, data=tuple(str(path.absolute()) for path in args.dataset))
    elif args.skip_missing:
        there = tuple(name for name in own.data if (args.data / name).is_dir())
        own = replace(own, data=there or getattr(model, "proposal", own).data)
    return replace(model, **{part: own}), own.train


def task_of(part: str, cfg: Any, data: Path, out: Path) -> Task:
    """Return a part, ready to be trained; heads of latents learn from the model that was trained to `out` before."""
    if part in HEAD_TASKS:
        return HEAD_TASKS[part](cfg, data, out)
    return LATENT_TASKS[part](cfg, data) if part in LATENT_TASKS else TASKS[part](cfg, data)


def draw(cfg: LatentModelConfig, part: str, folder: Path, console: Console) -> None:
    """Have the pictures that a part learns from ready before it wants them: of a large data set that takes minutes."""
    with Progress(console=console) as bars:
        bar = bars.add_task("pictures", visible=False)
        told = partial(bars.update, bar, visible=True)
        frames_of(
            getattr(cfg, part).data, folder, cfg.jepa.jepa.image, lambda done, total: told(completed=done, total=total)
        )


def train_part(task: Task, run: Run, part: str, console: Console) -> list[list[float]]:
    """Train with a progress bar (lines when there is no terminal); return the held-out curve."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task(part, total=run.cfg.steps, completed=run.step, note="")
        for report in train(run, task.train_loss, task.heldout_loss):
            bars.update(bar, completed=report.step, note=f"loss {report.loss:.4f}")
            if report.heldout is not None:
                rate = report.seconds / max(1, report.step)
                left = (report.steps - report.step) * rate
                line = f"{part} {report.step}/{report.steps} loss {report.loss:.4f} held-out {report.heldout:.4f}"
                console.print(f"{line} about {left / 60:.0f} min left", highlight=False)
    return run.curve


def train_all(args: TrainArgs, console: Console, overridden: Model | None = None) -> None:
    """Train the parts of the preset, or of the `overridden` one, one after the other."""
    torch.set_num_threads(args.threads)
    out = args.out or Path("checkpoints") / args.preset
    model = overridden or ALL_MODELS[args.preset]
    parts = args.parts or [part for part in (*PARTS, *LATENT_PARTS) if getattr(model, part, None) is not None]
    for part in parts:
        cfg, training = part_config(args, model, part)
        if isinstance(cfg, LatentModelConfig):
            draw(cfg, part, args.data, console)
        torch.manual_seed(training.seed)
        task = task_of(part, cfg, args.data, out)
        data = zlib.crc32(f"{task.card['data']} {task.card['transitions']}".encode())  # other data: another training
        run = Run(task.model, training, args.work / args.preset / f"{part}-{data:08x}")
        if run.step == 0 and (out / f"{part}.json").exists() and not args.overwrite:
            raise ValueError(f"{out} has its {part} already: name another folder with --out, or say --overwrite")
        curve = train_part(task, run, part, console)
        figures = task.finish(run.use_ema().eval())
        card = task.card | {"commit": commit(), "torch": torch.__version__, "curve": curve, "metrics": figures}
        save_part(out, part, task.model, card, half=part != "step")  # which is exact to more digits than bf16 has
        console.print(f"wrote {out / part}.safetensors {figures}", highlight=False, soft_wrap=True)
        if part == "proposal":
            assert isinstance(cfg, ModelConfig)
            save_tensors(out / "replay.safetensors", replay_windows(cfg, args.data))


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0 done, 2 bad input, 130 interrupted (the same command resumes)."""

    def body() -> int:
        console = Console()
        args, model = read(argv)
        try:
            train_all(args, console, model)
        except KeyboardInterrupt:
            return complain("interrupted: run the same command again to go on from the last saved step", 130)
        except FloatingPointError as error:
            return complain(str(error))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
