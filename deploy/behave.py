"""`surefoot behave ROBOT --out DIR`: policies to collect data sets from, trained by RLlib, untrained to expert.

$ surefoot behave walker2d --steps 1000000 --out data/policies/walker2d
$ surefoot collect walker2d-medium --policies data/policies/walker2d
Ctrl-C keeps what is trained; the same command goes on, with more --steps also further.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agents.behaviour import BehaviourConfig, Training, check_robot
from deploy.commandline import complain, guarded, in_one_line
from deploy.interrupt import Interrupts
from deploy.sweeps.cluster import connected
from envs.ladder import LEVELS, Ladder

INTERRUPTED = 130  # the shell's code for an end by Ctrl-C


@dataclass(frozen=True)
class BehaveArgs(BehaviourConfig):
    """Train policies with RLlib, and keep a ladder of them from untrained to expert."""

    robot: Annotated[str, tyro.conf.Positional]
    """Whose actions are in [-1, 1]: walker2d, hopper, halfcheetah, dm_control:DOMAIN-TASK ..."""
    out: Path | None = None
    """Folder of the ladder and of the checkpoint to go on from; data/policies/ROBOT if none is named."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.out or Path("data/policies") / self.robot.replace(":", "-")


def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit code: 0 when done, 1 where Ray fails, 2 for bad input, 130 when interrupted."""
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    if not argv:
        raise ValueError("behave needs a robot: surefoot behave walker2d --out data/policies/walker2d")
    args = in_one_line(lambda: tyro.cli(BehaveArgs, args=argv, prog="surefoot behave"))
    check_robot(args.robot)
    if args.folder.exists() and not args.folder.is_dir():
        raise ValueError(f"--out {args.folder} is a file, not a folder")
    try:
        with tempfile.TemporaryDirectory(prefix="surefoot-code-") as code, connected(None, Path(code), cpus=1):
            logging.getLogger("ray.rllib").setLevel(logging.ERROR)
            steps, done = train(args, Console(stderr=True))
    except ConnectionError as error:
        return complain(str(error), 1)
    if done:
        return 0
    return complain(
        f"interrupted after {steps} steps, which are kept: give the same command again to go on", INTERRUPTED
    )


def train(args: BehaveArgs, console: Console) -> tuple[int, bool]:
    """Train with a progress bar on the console, say what was reached; return the steps done, and whether they are all."""
    with Interrupts() as interrupts:
        with interrupts.shield():
            training = Training(args, args.folder)
        try:
            watch(training, interrupts, console)
        except KeyboardInterrupt:
            with interrupts.shield():
                training.save()
        finally:
            training.close()
    print(f"{args.folder}: {said(Ladder(args.robot, training.rungs, {}))}")
    return training.steps, training.done


def watch(training: Training, interrupts: Interrupts, console: Console) -> None:
    """Go on until it is done; an interrupt waits for the end of an iteration."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        asked = training.cfg.steps
        task = progress.add_task("steps", total=asked, completed=min(training.steps, asked), note="")
        while not training.done:
            rungs = len(training.rungs)
            with interrupts.shield():
                earned = training.advance()
            note = "" if math.isnan(earned) else f"return {earned:.0f} while learning"
            progress.update(task, completed=min(training.steps, asked), note=note)
            if len(training.rungs) > rungs:
                rung = training.rungs[-1]
                progress.console.print(
                    f"{rung.steps} steps: return {rung.mean_return:.0f}, {rung.mean_length:.0f} steps an episode"
                )


def said(ladder: Ladder) -> str:
    """Return one line about what can be collected from the ladder."""
    earns = {rung.steps: rung.mean_return for rung in ladder.rungs}
    try:
        levels = {name: ladder.level(name) for name in LEVELS if name != "medium-replay"}
    except ValueError as error:
        return str(error)
    told = [f"{name} {earns[snapshot]:.0f} ({snapshot} steps)" for name, ((snapshot, _),) in levels.items()]
    return f"{len(ladder.rungs)} policies; mean return: {', '.join(told)}"


if __name__ == "__main__":
    sys.exit(main())
