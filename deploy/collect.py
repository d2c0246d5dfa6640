"""`surefoot collect`: trained policies walk, or a planner does, and what they did becomes a data set.

$ python -m deploy.collect walker2d-medium --policies PATH/TO/policies --workers 2
An interrupted collection continues when the same command is given again.
"""

from __future__ import annotations

import difflib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from agents.teacher import TeacherConfig, teach
from deploy.commandline import complain, in_one_line
from envs.collect import Collected, collect_dataset
from envs.dataset import Layout
from envs.dataset_writer import write_dataset
from envs.episodes import Episode, Spool
from envs.grown import GrowConfig
from envs.ladder import on_ladder
from envs.recipes import RECIPES, Recipe
from envs.robots import painter, robot_spec

INTERRUPTED = 130  # the shell's code for an end by Ctrl-C


@dataclass(frozen=True)
class CollectConfig:
    """What to collect, from what, and where to."""

    recipe: Recipe
    policies: Path
    """Folder of the trained policies: the recipe's own file, or what `surefoot behave` left there."""
    out: Path = Path("data")
    """The data set becomes a folder in this one."""
    workers: int = 2
    """Processes that run episodes; the data do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every collection of so many episodes is told."""

    name: str
    """Folder of the data set under the output folder."""
    episodes: int
    out: Path = Path("data")
    workers: int = 2
    address: str | None = None
    """Ray cluster (HOST:PORT, or auto) whose nodes run the episodes, instead of processes of this machine."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"episodes and workers must be >= 1, got {self.episodes} and {self.workers}")


@dataclass(frozen=True, kw_only=True)
class OwnConfig(Asked):
    """Which preset's planner acts, for how many episodes, and where to."""

    preset: str
    episodes: int = 400
    plan_latency_s: float = 0.032
    """Simulated seconds that a plan takes."""


@dataclass(frozen=True, kw_only=True)
class DemosConfig(Asked):
    """How many episodes of a scripted demonstrator, and where to."""

    robot: str
    episodes: int = 300
    noise: float = 0.05
    """Standard deviation of smooth noise on its actions [rad]: data around what it does, not on that alone."""
    seed: int = 0


DEMOS: dict[str, tuple[str, DemosConfig]] = {
    "so101-reach": (
        "the SO-101 brings its tip to random points (a minute)",
        DemosConfig(name="so101-reach", robot="so101"),
    ),
    "so101-push": ("the SO-101 pushes a block to random places", DemosConfig(name="so101-push", robot="so101_push")),
}


@dataclass(frozen=True, kw_only=True)
class ExpertConfig(Asked):
    """How many episodes of a world's scripted expert, and where to."""

    robot: Literal["tworoom", "cube"]
    episodes: int
    noise: float
    """Standard deviation of the noise on the expert's actions, which are in [-1, 1]."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GrownConfig(Asked):
    """How many episodes of Push-T to grow from which demonstrations, and where to."""

    demos: Path
    """npz of human demonstrations (state, action, episode_ends), as Diffusion Policy publishes them."""
    held_out: int = 20
    """The last demonstrations of the file, which nothing is grown from: goals to test with."""
    episodes: int = 3000
    grow: GrowConfig = field(default_factory=GrowConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out < 0:
            raise ValueError(f"held_out must be >= 0, got {self.held_out}")


@dataclass(frozen=True, kw_only=True)
class ReplayedConfig(Asked):
    """Which demonstrations of Push-T to play as they are, and where to."""

    demos: Path
    """npz of human demonstrations, as for pusht-grown."""
    episodes: int = 20
    """The last so many of the file."""


WORLDS: dict[str, tuple[str, ExpertConfig | GrownConfig | ReplayedConfig]] = {
    "tworoom-expert": (
        "a noisy expert goes to random places in two rooms (minutes)",
        ExpertConfig(name="tworoom-expert", robot="tworoom", episodes=3000, noise=2.0),
    ),
    "tworoom-heldout": (
        "the same expert, other episodes: starts and goals to test with",
        ExpertConfig(name="tworoom-heldout", robot="tworoom", episodes=600, noise=2.0, seed=1),
    ),
    "cube-expert": (
        "OGBench's noisy oracle brings a cube to random places (half an hour)",
        ExpertConfig(name="cube-expert", robot="cube", episodes=600, noise=0.2),
    ),
    "cube-heldout": (
        "the same oracle, other episodes: starts and goals to test with",
        ExpertConfig(name="cube-heldout", robot="cube", episodes=50, noise=0.2, seed=1),
    ),
    "pusht-heldout": (
        "Push-T, the human demonstrations that nothing is grown from: starts and goals to test with",
        ReplayedConfig(name="pusht-heldout", demos=tyro.MISSING),
    ),
    "pusht-grown": (
        "Push-T, grown from a file of human demonstrations (minutes)",
        GrownConfig(name="pusht-grown", demos=tyro.MISSING),
    ),
}


@dataclass(frozen=True, kw_only=True)
class GoalsConfig(Asked):
    """How many episodes of random goals, pursued by the oracle planner, and where to."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    episodes: int = 250


GOALS: dict[str, tuple[str, GoalsConfig]] = {
    "walker-goals": (
        "random speeds, heights and pitches, pursued with the simulator as the model (hours: 40 s per 1000 steps and core)",
        GoalsConfig(name="walker-goals"),
    )
}

FIRST = 3_000_000
"""Number of the first episode: none that a run, a calibration or a benchmark uses."""

OWN: dict[str, tuple[str, OwnConfig]] = {
    "walker2d-own": (
        "the walker's planner, healthy: the one-step model learns from it",
        OwnConfig(name="walker2d-own", preset="walker"),
    ),
    "hopper-own": ("the hopper's planner, healthy", OwnConfig(name="hopper-own", preset="hopper", episodes=200)),
    "halfcheetah-own": ("the cheetah's planner", OwnConfig(name="halfcheetah-own", preset="halfcheetah", episodes=100)),
}


def read(argv: list[str] | None) -> CollectConfig | Other:
    """Return what the command line asks for. Raises ValueError, in one line."""
    recipes = {name: (text, CollectConfig(recipe, policies=tyro.MISSING)) for name, (text, recipe) in RECIPES.items()}
    known = {**recipes, **OWN, **GOALS, **DEMOS, **WORLDS}
    name = next(iter(sys.argv[1:] if argv is None else argv), "-")
    if not name.startswith("-") and name not in known:
        raise ValueError(f"no data set {name!r}; choose from {difflib.get_close_matches(name, known) or sorted(known)}")
    return in_one_line(lambda: tyro.extras.overridable_config_cli(known, args=argv, prog="surefoot collect"))


def main(argv: list[str] | None = None) -> int:
    """Collect one data set and return the exit code: 0 when done, 1 on failure, 130 when interrupted."""
    try:
        config = read(argv)
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
    recipe = on_ladder(config.recipe, config.policies)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        steps = progress.add_task("steps", total=recipe.steps, note="")
        frames = progress.add_task("episodes written", total=None, note="", start=False, visible=False)

        def report(done: Collected) -> None:
            progress.update(steps, completed=min(done.steps, recipe.steps), note=_summary(done))
            progress.update(frames, total=done.episodes)

        def report_written(episodes: int) -> None:
            if episodes == 1:
                progress.start_task(frames)
            progress.update(frames, completed=episodes, visible=True)

        return collect_dataset(recipe, config.policies, config.out, config.workers, report, report_written)


Other = OwnConfig | GoalsConfig | DemosConfig | ExpertConfig | GrownConfig | ReplayedConfig


def _run_other(config: Other, console: Console) -> str:
    match config:
        case OwnConfig():
            return run_own(config, console)
        case GoalsConfig():
            return run_goals(config, console)
        case DemosConfig():
            return run_demos(config, console)
        case ExpertConfig():
            about = {"noise": config.noise, "seed": config.seed}
            return run_world(config, config.robot, partial(_expert(config.robot), **about), about, console)
        case GrownConfig():
            from envs.grown import grow, read_demos

            demos = read_demos(config.demos)
            kept = demos[: len(demos) - config.held_out]
            if not kept:
                raise ValueError(f"{config.demos} has {len(demos)} demonstrations, and {config.held_out} are held out")
            about = {"grow": asdict(config.grow), "demos": len(kept)}
            return run_world(config, "pusht", partial(grow, kept, config.grow), about, console)
        case ReplayedConfig():
            from envs.grown import read_demos, replay

            demos = read_demos(config.demos)
            if config.episodes > len(demos):
                raise ValueError(f"{config.demos} has {len(demos)} demonstrations, not {config.episodes}")
            last = demos[len(demos) - config.episodes :]
            return run_world(config, "pusht", partial(replay, last), {"demos": len(demos)}, console)


def run_own(config: OwnConfig, console: Console) -> str:
    """Let the planner act and write what it did; return a line about it. An interrupted collection goes on where it was."""
    from configs.presets import PRESETS
    from deploy.watch import made_with, watch_and_keep

    if config.preset not in PRESETS:
        raise ValueError(f"no preset {config.preset!r}; choose from {', '.join(PRESETS)}")
    base = PRESETS[config.preset][1]
    cfg = replace(base, faults=(), adapt=False, control_arm=False, plan_latency_s=config.plan_latency_s)
    spool = config.out / f"{config.name}.spool"
    made = watch_and_keep(cfg, FIRST, config.episodes, config.workers, spool, config.address)
    about = {"preset": config.preset, "made_with": made_with(cfg)}
    return write(made, config, Layout.of(robot_spec(cfg.robot, cfg.version)), about, console)


def run_goals(config: GoalsConfig, console: Console) -> str:
    """Let the teacher pursue goals and write what it did; return a line about it. An interrupted collection goes on where it was."""
    teacher = config.teacher
    made = spooled(config, teacher, partial(teach, teacher))
    layout = Layout.of(robot_spec(teacher.robot, teacher.version))
    return write(made, config, layout, {"teacher": asdict(teacher)}, console)


def run_demos(config: DemosConfig, console: Console) -> str:
    """Let the demonstrator act and write what it did; return a line about it. An interrupted collection goes on where it was."""
    from configs.limits import LIMITS
    from deploy.demonstrate import demonstrate

    how = (config.robot, LIMITS[config.robot], config.noise, config.seed)
    made = spooled(config, how, partial(demonstrate, *how))
    about = {"robot": config.robot, "noise": config.noise, "seed": config.seed}
    return write(made, config, Layout.of(robot_spec(config.robot)), about, console)


def _expert(robot: Literal["tworoom", "cube"]) -> Callable[..., Episode]:
    if robot == "cube":
        from envs.cube import played

        return played
    from envs.tworoom import shown

    return shown


def run_world(
    config: ExpertConfig | GrownConfig | ReplayedConfig,
    robot: str,
    play: Callable[[int], Episode],
    about: dict[str, object],
    console: Console,
) -> str:
    """Play in a world that is seen from above and write it, with video; return a line about it. Goes on where it was."""
    return write(spooled(config, about, play), config, Layout.of(robot_spec(robot)), about, console, painter(robot))


def spooled(config: Asked, how: object, play: Callable[[int], Episode]) -> Iterator[Episode]:
    """Yield the episodes, `play(0)` first; those that an interrupted collection of the same kind, `how`, has made are read."""
    from deploy.watch import keep, side_by_side

    spool = Spool(config.out / f"{config.name}.spool" / f"{zlib.crc32(repr(how).encode()):08x}")
    return keep(
        spool, range(config.episodes), lambda missing: side_by_side(play, missing, config.workers, config.address)
    )


def write(
    made: Iterator[Episode],
    config: Asked,
    layout: Layout,
    about: dict[str, object],
    console: Console,
    pictures: Callable[[np.ndarray], np.ndarray] | None = None,
) -> str:
    """Write the episodes as they come, then drop their spool; return a line about them."""
    folder = config.out / config.name
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it to collect it again")
    done = list(track(made, "episodes", config.episodes, console=console))
    mean = sum(e.total_reward for e in done) / len(done)
    written = track(done, "written", len(done), console=console)
    write_dataset(written, layout, folder, about | {"mean_return": mean}, pictures=pictures)
    shutil.rmtree(config.out / f"{config.name}.spool")
    return f"{len(done)} episodes, {sum(e.length for e in done)} steps, mean return {mean:.1f}"


def _summary(done: Collected) -> str:
    return f"{done.episodes} episodes, {done.steps} steps, mean return {done.mean_return:.1f}"


if __name__ == "__main__":
    sys.exit(main())
