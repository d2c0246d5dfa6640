"""`surefoot practise CHECKPOINT`: it learns to pursue goals by pursuing them; Ctrl-C keeps what is done, the same command resumes.

Needs the data sets of `surefoot collect`, the teacher's among them; writes CHECKPOINT/goals.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console

from agents.goal_numbers import ENDS, PRICE, READINGS, TOLERANCE, Targets
from agents.practice import FALLING, MOVING, PracticeConfig, Practised, begin, learn, practise, reached
from configs.models import PRACTICE, Practice
from deploy.commandline import complain, guarded, in_one_line
from deploy.telemetry import commit
from deploy.watch import keep, side_by_side
from envs.dataset import EpisodeData
from envs.episodes import Episode, Spool
from envs.robots import RobotSpec, readings, robot_spec
from envs.tasks import read_tasks
from planners.objectives import parse_objective
from world_models.checkpoint import (
    GOAL_PARTS,
    GOALS,
    TRIM,
    GoalModel,
    load_goals,
    load_part,
    read_card,
    save_part,
    write_trim,
)
from world_models.fit import load


@dataclass(frozen=True)
class PractiseArgs:
    """Let a model practise goals, round after round, and write what it has become."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Which model: a folder of `checkpoints`, whose one-step model it starts with."""
    data: Path = Path("data")
    """Folder with the data sets that `surefoot collect` made."""
    checkpoints: Path = Path("checkpoints")
    work: Path = Path("runs/practice")
    """Folder for resumable state."""
    rounds: int | None = None
    """Fewer or more rounds than the preset's."""
    workers: int = 2
    threads: int = 2


def taught(folder: Path) -> list[Practised]:
    """Return the teacher's episodes with the goal of each step."""
    data, tasks = EpisodeData.load(folder), read_tasks(folder)
    goals = {text: Targets.of(parse_objective(text)) for text in set(tasks)}
    row = {text: np.full(len(READINGS), np.nan) if g is None else g.target[0].numpy() for text, g in goals.items()}
    made = []
    for episode, (start, end) in enumerate(pairwise(data.episode_start)):
        goal_TG = np.stack([row[text] for text in tasks[start:end]]).astype(np.float32)
        made.append(Practised(*data.states_and_actions(episode), goal_TG, bool(data.terminated_N[end - 1])))
    return made


def figures(episodes: Sequence[Practised], spec: RobotSpec, late: int = 100) -> dict[str, float]:
    """Return how near practice came: median error of the mean over the last `late` steps of a goal, and the share that fell."""
    errors: dict[str, list[float]] = {name: [] for name in READINGS}
    for e in episodes:
        goal_G = e.goal_TG[-1]
        if len(e.goal_TG) < late or not np.array_equal(e.goal_TG[-late], goal_G, equal_nan=True):
            continue
        found = readings(spec, torch.from_numpy(e.state_TO[-late:]))
        for name, asked in zip(READINGS, goal_G, strict=True):
            if np.isfinite(asked):
                errors[name].append(abs(float(found[name].mean()) - float(asked)))
    medians = {f"{name}_error": float(np.median(found)) for name, found in errors.items() if found}
    return medians | {"fell": float(np.mean([e.fell for e in episodes])), "episodes": len(episodes)}


def save(model: GoalModel, folder: Path, about: dict[str, Any], cfg: PracticeConfig, last: bool = False) -> None:
    """Write the parts and their cards; policy and value in bf16 if it is the last time."""
    action, state = len(model.step.action.mean), len(model.step.state.mean)
    told = len(model.policy.state.mean)
    sizes = {"step": state, "policy": told, "value": told}
    own = {"step": asdict(model.step.cfg), "policy": asdict(cfg.policy), "value": asdict(cfg.value)}
    for part in GOAL_PARTS:
        shape = {"state": sizes[part], "action": action, "horizon": cfg.planner.horizon}
        save_part(
            folder, part, getattr(model, part), about | {"sizes": shape, part: own[part]}, half=last and part != "step"
        )


def made_with(folder: Path, names: Sequence[str], cfg: PracticeConfig) -> int:
    """Return a checksum of what practice depends on, but for the number of rounds: another one is another practice."""
    rules = (names, replace(cfg, rounds=1), TOLERANCE, PRICE, ENDS, FALLING, MOVING)
    path = folder / "step.safetensors"
    return zlib.crc32(path.read_bytes() if path.exists() else b"", zlib.crc32(repr(rules).encode()))


def played(
    play: Callable[[Sequence[int]], list[Episode]], cfg: PracticeConfig, number: int, spool: Spool, workers: int
) -> Iterator[Episode]:
    """Yield the episodes of a round; those that an interrupted one has kept are not played again."""

    def make(missing: Sequence[int]) -> Iterator[Episode]:
        groups = [missing[i : i + cfg.side_by_side] for i in range(0, len(missing), cfg.side_by_side)]
        for made in side_by_side(play, groups, workers):
            yield from made

    return keep(spool, range(cfg.episodes * number, cfg.episodes * (number + 1)), make)


def play_some(
    model: GoalModel, cfg: PracticeConfig, spec: RobotSpec, starts_NO: np.ndarray, numbers: Sequence[int]
) -> list[Episode]:
    """Return the episodes with these numbers, on one thread."""
    torch.set_num_threads(1)
    return practise(model, cfg, spec, starts_NO, numbers)


def run(args: PractiseArgs, console: Console) -> None:
    """Practise, round after round."""
    if args.checkpoint not in PRACTICE:
        raise ValueError(f"no practice for {args.checkpoint!r}; choose from {', '.join(PRACTICE)}")
    who: Practice = PRACTICE[args.checkpoint]
    cfg = who.practice if args.rounds is None else replace(who.practice, rounds=args.rounds)
    spec, out = robot_spec(who.robot), args.checkpoints / args.checkpoint
    names = (who.taught, *who.data)
    data = [load((name,), args.data).split(0.05)[0] for name in names]
    work = args.work / f"{args.checkpoint}-{made_with(out, names, who.practice):08x}"
    moving = data[-1].state_NO[::50]
    teacher, spool = taught(args.data / who.taught), Spool(work / "episodes")
    done = max((n for n in range(cfg.rounds + 1) if (work / f"round-{n}" / "value.json").exists()), default=None)
    model = begin(load_part(out, "step"), cfg) if done is None else load_goals(work / f"round-{done}")  # pyright: ignore
    practised = [Practised.of(spool.read(i)) for i in range(cfg.episodes * (done or 0))]
    kept = {key: value for key, value in asdict(cfg).items() if key != "planner"}
    about: dict[str, Any] = {"robot": who.robot, "data": list(names), "practice": kept, "commit": commit()}
    if done is not None:
        about["metrics"] = read_card(work / f"round-{done}", "step").get("metrics", {})
    for number in range(0 if done is None else done + 1, cfg.rounds + 1):
        if number:
            play = partial(play_some, model, cfg, spec, moving)
            new = [Practised.of(e) for e in played(play, cfg, number - 1, spool, args.workers)]
            about["metrics"] = figures(new, spec)
            console.print(f"round {number} of {cfg.rounds}: {about['metrics']}", highlight=False, soft_wrap=True)
            practised += new
        torch.set_num_threads(args.threads)
        model = learn(model, teacher, practised, data, cfg, spec, cfg.seed + number)
        save(model, work / f"round-{number}", about, cfg)
    save(model, out / GOALS, about, cfg, last=True)
    (out / GOALS / TRIM).unlink(missing_ok=True)
    trim = reached(model, cfg, spec)
    if trim is not None:
        write_trim(out / GOALS / TRIM, trim)
        console.print(f"speeds asked for {trim.asked}, and what came {tuple(round(x, 2) for x in trim.came)}")
    console.print(f"wrote {out / GOALS}", highlight=False, soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0 done, 2 bad input, 130 interrupted (the same command resumes)."""

    def body() -> int:
        args = in_one_line(lambda: tyro.cli(PractiseArgs, args=argv, prog="surefoot practise"))
        try:
            run(args, Console())
        except KeyboardInterrupt:
            return complain("interrupted: run the same command again to go on from the last round", 130)
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
