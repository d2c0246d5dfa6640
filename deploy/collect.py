"""`surefoot collect`: trained policies walk, or the planner itself does, and what they did becomes a data set.

$ python -m deploy.collect walker2d-medium --policies PATH/TO/policies --workers 2
An interrupted collection continues when the same command is given again.
"""

from __future__ import annotations

import shutil
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from deploy.commandline import complain, in_one_line
from envs.collect import RECIPES, Collected, Recipe, collect_dataset
from envs.dataset import Layout, write_dataset
from envs.robots import robot_spec

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


@dataclass(frozen=True)
class OwnConfig:
    """Which preset's planner acts, for how many episodes, and where to."""

    name: str
    """Folder of the data set under the output folder."""
    preset: str
    episodes: int = 400
    plan_latency_s: float = 0.024
    """Simulated seconds that a plan takes."""
    out: Path = Path("data")
    workers: int = 2

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"episodes and workers must be >= 1, got {self.episodes} and {self.workers}")


FIRST = 3_000_000
"""Number of the first episode: none that a run, a calibration or a benchmark uses."""

OWN: dict[str, tuple[str, OwnConfig]] = {
    "walker2d-own": (
        "the walker's planner, healthy: the one-step model learns from it",
        OwnConfig("walker2d-own", "walker"),
    )
}


def main(argv: list[str] | None = None) -> int:
    """Collect one data set and return the exit code: 0 when done, 1 on failure, 130 when interrupted."""
    defaults = {name: (text, CollectConfig(recipe, policies=tyro.MISSING)) for name, (text, recipe) in RECIPES.items()}
    try:
        config = in_one_line(
            lambda: tyro.extras.overridable_config_cli({**defaults, **OWN}, args=argv, prog="surefoot collect")
        )
        if isinstance(config, OwnConfig):
            print(f"{config.out / config.name}: {run_own(config, Console(stderr=True))}")
            return 0
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


def run_own(config: OwnConfig, console: Console) -> str:
    """Let the planner act and write what it did; return a line about it. An interrupted collection goes on where it was."""
    from configs.presets import PRESETS
    from deploy.watch import made_with, watch_and_keep

    folder = config.out / config.name
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it to collect it again")
    if config.preset not in PRESETS:
        raise ValueError(f"no preset {config.preset!r}; choose from {', '.join(PRESETS)}")
    base = PRESETS[config.preset][1]
    cfg = replace(base, faults=(), adapt=False, control_arm=False, plan_latency_s=config.plan_latency_s)
    spool = config.out / f"{config.name}.spool"
    kept = watch_and_keep(cfg, FIRST, config.episodes, config.workers, spool)
    done = list(track(kept, "episodes", config.episodes, console=console))
    about = {
        "preset": config.preset,
        "made_with": made_with(cfg),
        "mean_return": sum(e.total_reward for e in done) / len(done),
    }
    write_dataset(done, Layout.of(robot_spec(cfg.robot, cfg.version)), folder, about)
    shutil.rmtree(spool)
    return f"{len(done)} episodes, {sum(e.length for e in done)} steps, mean return {about['mean_return']:.1f}"


def _summary(done: Collected) -> str:
    return f"{done.episodes} episodes, {done.steps} steps, mean return {done.mean_return:.1f}"


if __name__ == "__main__":
    sys.exit(main())
