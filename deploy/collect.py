"""`surefoot collect`: trained policies walk, and what they did becomes a data set.

$ python -m deploy.collect walker2d-medium --policies PATH/TO/policies --workers 2
An interrupted collection continues when the same command is given again.
"""

from __future__ import annotations

import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.commandline import complain
from envs.collect import RECIPES, Collected, Recipe, collect_dataset

INTERRUPTED = 130  # the shell's code for an end by Ctrl-C


@dataclass(frozen=True)
class CollectConfig:
    """What to collect, from what, and where to."""

    recipe: Recipe
    policies: Path
    """Folder of the trained policies (npz files)."""
    out: Path = Path("data")
    """The data set becomes a folder in this one."""
    workers: int = 2
    """Processes that run episodes; the data do not depend on it."""


def main(argv: list[str] | None = None) -> int:
    """Collect one data set and return the exit code: 0 when done, 1 on failure, 130 when interrupted."""
    defaults = {name: (text, CollectConfig(recipe, policies=tyro.MISSING)) for name, (text, recipe) in RECIPES.items()}
    config = tyro.extras.overridable_config_cli(defaults, args=argv, prog="surefoot collect")
    try:
        done = run(config, Console(stderr=True))
    except KeyboardInterrupt:
        return complain("interrupted: give the same command again to continue", INTERRUPTED)
    except (ValueError, KeyError, OSError, BrokenProcessPool) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        return complain(str(text), 1)
    print(f"{config.out / config.recipe.name}: {_summary(done)}")
    return 0


def run(config: CollectConfig, console: Console) -> Collected:
    """Collect with a progress bar on the console; raises as `collect_dataset` does."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        steps = progress.add_task("steps", total=config.recipe.steps, note="")
        frames = progress.add_task("episodes written", total=None, note="", start=False, visible=False)

        def report(done: Collected) -> None:
            progress.update(steps, completed=min(done.steps, config.recipe.steps), note=_summary(done))
            progress.update(frames, total=done.episodes)

        def report_written(episodes: int) -> None:
            if episodes == 1:
                progress.start_task(frames)
            progress.update(frames, completed=episodes, visible=True)

        return collect_dataset(config.recipe, config.policies, config.out, config.workers, report, report_written)


def _summary(done: Collected) -> str:
    return f"{done.episodes} episodes, {done.steps} steps, mean return {done.mean_return:.1f}"


if __name__ == "__main__":
    sys.exit(main())
