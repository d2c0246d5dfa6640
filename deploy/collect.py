"""`surefoot collect`: trained policies walk, or a planner does, and what they did becomes a data set.

$ python -m deploy.collect walker2d-medium --policies PATH/TO/policies --workers 2
An interrupted collection continues when the same command is given again.
"""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from agents.teacher import TeacherConfig, teach
from deploy.commandline import complain, in_one_line
from envs.collect import RECIPES, Collected, Recipe, collect_dataset
from envs.dataset import Layout, write_dataset
from envs.episodes import Episode, Spool
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
    plan_latency_s: float = 0.032
    """Simulated seconds that a plan takes."""
    out: Path = Path("data")
    workers: int = 2

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"episodes and workers must be >= 1, got {self.episodes} and {self.workers}")


@dataclass(frozen=True)
class DemosConfig:
    """How many episodes of a scripted demonstrator, and where to."""

    name: str
    """Folder of the data set under the output folder."""
    robot: str
    episodes: int = 300
    noise: float = 0.05
    """Standard deviation of smooth noise on its actions [rad]: data around what it does, not on that alone."""
    seed: int = 0
    out: Path = Path("data")
    workers: int = 2

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"episodes and workers must be >= 1, got {self.episodes} and {self.workers}")


DEMOS: dict[str, tuple[str, DemosConfig]] = {
    "so101-reach": ("the SO-101 brings its tip to random points (a minute)", DemosConfig("so101-reach", "so101")),
    "so101-push": ("the SO-101 pushes a block to random places", DemosConfig("so101-push", "so101_push")),
}


@dataclass(frozen=True)
class GoalsConfig:
    """How many episodes of random goals, pursued by the oracle planner, and where to."""

    name: str
    """Folder of the data set under the output folder."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    episodes: int = 250
    out: Path = Path("data")
    workers: int = 2

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"episodes and workers must be >= 1, got {self.episodes} and {self.workers}")


GOALS: dict[str, tuple[str, GoalsConfig]] = {
    "walker-goals": (
        "random speeds, heights and pitches, pursued with the simulator as the model (hours: 40 s per 1000 steps and core)",
        GoalsConfig("walker-goals"),
    )
}

FIRST = 3_000_000
"""Number of the first episode: none that a run, a calibration or a benchmark uses."""

OWN: dict[str, tuple[str, OwnConfig]] = {
    "walker2d-own": (
        "the walker's planner, healthy: the one-step model learns from it",
        OwnConfig("walker2d-own", "walker"),
    ),
    "hopper-own": ("the hopper's planner, healthy", OwnConfig("hopper-own", "hopper", episodes=200)),
    "halfcheetah-own": ("the cheetah's planner", OwnConfig("halfcheetah-own", "halfcheetah", episodes=100)),
}


def main(argv: list[str] | None = None) -> int:
    """Collect one data set and return the exit code: 0 when done, 1 on failure, 130 when interrupted."""
    defaults = {name: (text, CollectConfig(recipe, policies=tyro.MISSING)) for name, (text, recipe) in RECIPES.items()}
    try:
        config = in_one_line(
            lambda: tyro.extras.overridable_config_cli(
                {**defaults, **OWN, **GOALS, **DEMOS}, args=argv, prog="surefoot collect"
            )
        )
        if not isinstance(config, CollectConfig):
            print(f"{config.out / config.name}: {_run_other(config, Console(stderr=True))}")
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


def _run_other(config: OwnConfig | GoalsConfig | DemosConfig, console: Console) -> str:
    match config:
        case OwnConfig():
            return run_own(config, console)
        case GoalsConfig():
            return run_goals(config, console)
        case DemosConfig():
            return run_demos(config, console)


def run_own(config: OwnConfig, console: Console) -> str:
    """Let the planner act and write what it did; return a line about it. An interrupted collection goes on where it was."""
    from configs.presets import PRESETS
    from deploy.watch import made_with, watch_and_keep

    if config.preset not in PRESETS:
        raise ValueError(f"no preset {config.preset!r}; choose from {', '.join(PRESETS)}")
    base = PRESETS[config.preset][1]
    cfg = replace(base, faults=(), adapt=False, control_arm=False, plan_latency_s=config.plan_latency_s)
    spool = config.out / f"{config.name}.spool"
    made = watch_and_keep(cfg, FIRST, config.episodes, config.workers, spool)
    about = {"preset": config.preset, "made_with": made_with(cfg)}
    return write(made, config, Layout.of(robot_spec(cfg.robot, cfg.version)), about, console)


def run_goals(config: GoalsConfig, console: Console) -> str:
    """Let the teacher pursue goals and write what it did; return a line about it. An interrupted collection goes on where it was."""
    from deploy.watch import keep, side_by_side

    teacher = config.teacher
    spool = Spool(config.out / f"{config.name}.spool" / f"{zlib.crc32(repr(teacher).encode()):08x}")
    made = keep(
        spool, range(config.episodes), lambda missing: side_by_side(partial(teach, teacher), missing, config.workers)
    )
    return write(
        made, config, Layout.of(robot_spec(teacher.robot, teacher.version)), {"teacher": asdict(teacher)}, console
    )


def run_demos(config: DemosConfig, console: Console) -> str:
    """Let the demonstrator act and write what it did; return a line about it. An interrupted collection goes on where it was."""
    from configs.limits import LIMITS
    from deploy.demonstrate import demonstrate
    from deploy.watch import keep, side_by_side

    how = (config.robot, LIMITS[config.robot], config.noise, config.seed)
    spool = Spool(config.out / f"{config.name}.spool" / f"{zlib.crc32(repr(how).encode()):08x}")
    made = keep(
        spool, range(config.episodes), lambda missing: side_by_side(partial(demonstrate, *how), missing, config.workers)
    )
    about = {"robot": config.robot, "noise": config.noise, "seed": config.seed}
    return write(made, config, Layout.of(robot_spec(config.robot)), about, console)


def write(
    made: Iterator[Episode],
    config: OwnConfig | GoalsConfig | DemosConfig,
    layout: Layout,
    about: dict[str, object],
    console: Console,
) -> str:
    """Write the episodes as they come, then drop their spool; return a line about them."""
    folder = config.out / config.name
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it to collect it again")
    done = list(track(made, "episodes", config.episodes, console=console))
    mean = sum(e.total_reward for e in done) / len(done)
    write_dataset(done, layout, folder, about | {"mean_return": mean})
    shutil.rmtree(config.out / f"{config.name}.spool")
    return f"{len(done)} episodes, {sum(e.length for e in done)} steps, mean return {mean:.1f}"


def _summary(done: Collected) -> str:
    return f"{done.episodes} episodes, {done.steps} steps, mean return {done.mean_return:.1f}"


if __name__ == "__main__":
    sys.exit(main())
