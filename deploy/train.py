"""`surefoot train PRESET`: train the parts of a world model, with progress; Ctrl-C keeps what is done, the same command resumes."""

from __future__ import annotations

import difflib
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from configs.models import LATENT_MODELS, MODELS
from deploy.commandline import complain, guarded, in_one_line
from deploy.telemetry import commit
from world_models.checkpoint import LATENT_PARTS, PARTS, save_part, save_tensors
from world_models.fit import TASKS, ModelConfig, Task, replay_windows
from world_models.latents import HEAD_TASKS, LATENT_TASKS, LatentModelConfig
from world_models.training import Run, TrainConfig, train

Part = Literal["proposal", "dynamics", "step", "value", "policy", "jepa", "temporal", "inverse", "decoder", "ensemble"]
ALL_MODELS: dict[str, ModelConfig | LatentModelConfig] = {**MODELS, **LATENT_MODELS}


@dataclass(frozen=True)
class TrainArgs:
    """Train a world model part by part and write its weights and cards."""

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
    steps: int | None = None
    """Fewer or more optimiser steps than the preset's."""
    skip_missing: bool = False
    """Learn from the data sets that are there: the first pass, before the planner itself could act."""
    threads: int = 2


def part_config(args: TrainArgs, part: str) -> tuple[ModelConfig | LatentModelConfig, TrainConfig]:
    """Return the preset's config with what was asked for changed, and the part's training."""
    cfg = ALL_MODELS[args.preset]
    own = getattr(cfg, part, None)
    if own is None:
        raise ValueError(f"{args.preset} has no part {part!r}: leave it out of --parts")
    if args.steps is not None:
        own = replace(own, train=replace(own.train, steps=args.steps))
    if args.dataset:
        own = replace(own, data=tuple(str(path.absolute()) for path in args.dataset))
    elif args.skip_missing:
        there = tuple(name for name in own.data if (args.data / name).is_dir())
        own = replace(own, data=there or getattr(cfg, "proposal", own).data)
    return replace(cfg, **{part: own}), own.train


def task_of(part: str, cfg: Any, data: Path, out: Path) -> Task:
    """Return a part, ready to be trained; heads of latents learn from the model that was trained to `out` before."""
    if part in HEAD_TASKS:
        return HEAD_TASKS[part](cfg, data, out)
    return LATENT_TASKS[part](cfg, data) if part in LATENT_TASKS else TASKS[part](cfg, data)


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


def train_all(args: TrainArgs, console: Console) -> None:
    """Train the parts one after the other."""
    if args.preset not in ALL_MODELS:
        near = difflib.get_close_matches(args.preset, ALL_MODELS) or sorted(ALL_MODELS)
        raise ValueError(f"no model preset {args.preset!r}; choose from {near}")
    torch.set_num_threads(args.threads)
    out = args.out or Path("checkpoints") / args.preset
    model = ALL_MODELS[args.preset]
    parts = args.parts or [part for part in (*PARTS, *LATENT_PARTS) if getattr(model, part, None) is not None]
    for part in parts:
        cfg, training = part_config(args, part)
        torch.manual_seed(training.seed)
        task = task_of(part, cfg, args.data, out)
        data = zlib.crc32(f"{task.card['data']} {task.card['transitions']}".encode())  # other data: another training
        run = Run(task.model, training, args.work / args.preset / f"{part}-{data:08x}")
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
        args = in_one_line(lambda: tyro.cli(TrainArgs, args=argv, prog="surefoot train"))
        try:
            train_all(args, console)
        except KeyboardInterrupt:
            return complain("interrupted: run the same command again to go on from the last saved step", 130)
        except FloatingPointError as error:
            return complain(str(error))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
