"""`surefoot evaluate PRESET --episodes N --out FILE [--against ...]`: measure a preset over many episodes, and compare.

Every episode stands alone, on a clock of its own that starts at 0 (so that a fault at 0 breaks each of them), without
adaptation: the result does not depend on how the episodes are shared between workers, if the plan's latency is given.

--against NAME="OVERRIDES" adds an arm that runs the same episodes, for example --against direct="--no-compensate"; it may
be another preset of the same robot, NAME="PRESET OVERRIDES", or an earlier result, NAME=FILE.json. May be repeated. Arms
that cannot be told apart are not ranked: it is said how many episodes would tell. Success is to be at the goal at the end,
or not to fall; some robots have neither.

--workers N runs episodes in so many processes, --address HOST:PORT (or auto) on a Ray cluster: the result is the same.

--videos K shows K episodes, from the worst to the best (default 3). FILE is JSON; beside it, FILE without .json stands for
the page, .report.html, and the folder of finished episodes, .episodes/: the same command goes on from there after an
interruption, or with more --episodes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.kept_episodes import EpisodeResult

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.evaluation_arms import Arm, EarlierArm
    from deploy.kept_episodes import KeptEpisodes


def run_episode(cfg: RunConfig, episode: int) -> EpisodeResult:
    """Return the result of one episode, which depends on the config and its number alone."""
    import torch

    from deploy.arms import build, unlogged
    from deploy.robots.sim import SimRobot

    torch.set_num_threads(1)
    parts = build(cfg)
    assert isinstance(parts.robot, SimRobot)
    session = unlogged(cfg, parts, lambda history, _: not history.episodes, episode)
    (done,), (poses_TP,) = session.history.episodes, session.history.poses
    return EpisodeResult(
        episode=episode,
        env_seed=done.env_seed,
        episode_return=done.episode_return,
        steps=done.steps,
        ended=done.ended,
        success=succeeded(cfg, done.ended, parts.robot.info),
        nonfinite=session.history.nonfinite.total,
        plan_ms=tuple(session.history.plan_ms.values.tolist()),
        poses_TP=poses_TP,
    )


def succeeded(cfg: RunConfig, ended: str, info: Mapping[str, Any]) -> bool | None:
    """Return whether the goal was met at the end, or a robot that can fall did not; None for robots that can do neither."""
    from envs.robots import robot_spec

    if "is_success" in info:
        return ended in ("truncated", "terminated") and bool(info["is_success"])
    return ended == "truncated" if robot_spec(cfg.robot, cfg.version).healthy else None


def _one(work: tuple[RunConfig, int]) -> EpisodeResult:
    return run_episode(*work)


def collected(cfg: RunConfig, done: Sequence[EpisodeResult], commit: str) -> dict[str, Any]:
    """Return what is written of one arm."""
    from deploy.comparison import return_interval, scores_of, success_rate
    from deploy.records import plain
    from deploy.summary import percentiles

    per_episode = plain(
        [
            {"episode": r.episode, "env_seed": r.env_seed, "return": r.episode_return, "steps": r.steps}
            | {"ended": r.ended, "success": r.success}
            for r in done
        ]
    )
    scores = scores_of(cfg.preset, per_episode)
    mean, lo, hi = return_interval(scores.returns)
    return {
        "preset": cfg.preset,
        "robot": cfg.robot,
        "seed": cfg.seed,
        "faults": list(cfg.faults),
        "metric": "return",
        "mean": mean,
        "lo": lo,
        "hi": hi,
        "n": len(done),
        "success": success_rate(scores),
        "per_episode": per_episode,
        "plan_ms": percentiles([ms for r in done for ms in r.plan_ms]),
        "plan_latency_s": cfg.plan_latency_s,
        "nonfinite_rejected": sum(r.nonfinite for r in done),
        "commit": commit,
    }


def again(arm: EarlierArm) -> dict[str, Any]:
    """Return what an earlier evaluation found, its intervals made as those of the arms that run now."""
    from deploy.comparison import return_interval, scores_of, success_rate

    scores = scores_of(arm.name, arm.result["per_episode"])
    mean, lo, hi = return_interval(scores.returns)
    kept = {key: value for key, value in arm.result.items() if key not in ("arms", "comparisons", "status")}
    return kept | {"mean": mean, "lo": lo, "hi": hi, "n": len(scores.returns), "success": success_rate(scores)}


@dataclass
class Evaluation:
    """Arms, and what they have done so far; the first is what the others are compared with."""

    arms: Sequence[Arm | EarlierArm]
    episodes: int
    kept: Mapping[str, KeptEpisodes]  # of the arms that run
    done: dict[tuple[str, int], EpisodeResult]

    def results(self, arm: Arm) -> list[EpisodeResult]:
        """Return the results of an arm, in order, up to the first that is missing."""
        found: list[EpisodeResult] = []
        while (arm.name, len(found)) in self.done:
            found.append(self.done[arm.name, len(found)])
        return found

    def missing(self) -> list[tuple[Arm, int]]:
        """Return what is still to be run: an episode of all arms, then the next."""
        from deploy.evaluation_arms import Arm

        running = [arm for arm in self.arms if isinstance(arm, Arm)]
        work = [(arm, episode) for episode in range(self.episodes) for arm in running]
        return [(arm, episode) for arm, episode in work if (arm.name, episode) not in self.done]

    def report(self, status: str) -> dict[str, Any]:
        """Return what is written to FILE."""
        from deploy.comparison import compare, scores_of
        from deploy.evaluation_arms import Arm
        from deploy.telemetry import commit

        now = commit()
        found = [collected(a.cfg, self.results(a), now) if isinstance(a, Arm) else again(a) for a in self.arms]
        main, *others = [scores_of(a.name, f["per_episode"]) for a, f in zip(self.arms, found, strict=True)]
        pairs = zip(self.arms[1:], found[1:], strict=True)
        arms = [{"name": a.name, "about": a.about} | result for a, result in pairs]
        return {**found[0], "arms": arms, "comparisons": compare(main, others), "status": status}


def open_evaluation(arms: Sequence[Arm | EarlierArm], episodes: int, folder: Path) -> Evaluation:
    """Return an evaluation with what `folder` holds of it. Raises ValueError for episodes that are no part of it."""
    from deploy.evaluation_arms import Arm
    from deploy.kept_episodes import KeptEpisodes, mark
    from envs.episodes import TornEpisodeError

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, for the episodes that are done; delete it or name another --out")
    kept = {a.name: KeptEpisodes(folder / a.name, mark(a.cfg)) for a in arms if isinstance(a, Arm)}
    done: dict[tuple[str, int], EpisodeResult] = {}
    for name, store in kept.items():
        for episode in range(episodes):
            try:
                result = store.read(episode)
            except TornEpisodeError as error:
                print(f"run again: {error}", file=sys.stderr)
                continue
            if result is not None:
                done[name, episode] = result
    return Evaluation(arms, episodes, kept, done)


def absolute(cfg: RunConfig) -> RunConfig:
    """Return the config for a node, where relative paths begin elsewhere."""
    return cfg if cfg.goals_from is None else replace(cfg, goals_from=cfg.goals_from.absolute())


def run(evaluation: Evaluation, workers: int, address: str | None = None) -> None:
    """Run what is missing, with progress, in processes or on the Ray cluster there; each episode is kept once it is done."""
    from rich.console import Console
    from rich.progress import track

    from deploy.watch import side_by_side

    missing, before = evaluation.missing(), len(evaluation.done)
    work = [(arm.cfg if address is None else absolute(arm.cfg), episode) for arm, episode in missing]
    made = side_by_side(_one, work, workers, address)
    if before:
        print(f"{before} of {before + len(missing)} episodes were done before", file=sys.stderr)
    console, total = Console(stderr=True), before + len(missing)
    for (arm, episode), result in track(
        zip(missing, made, strict=True), "episodes", total, completed=before, console=console
    ):
        evaluation.kept[arm.name].write(result)
        evaluation.done[arm.name, episode] = result


def beside(out: Path, ending: str) -> Path:
    """Return a path beside FILE."""
    return out.with_name(out.name.removesuffix(".json") + ending)


def measure(arms: Sequence[Arm | EarlierArm], own: argparse.Namespace, command: str) -> int:
    """Run the episodes and write FILE and the page, also FILE when interrupted: then with those that are done."""
    from deploy.commandline import complain
    from deploy.evaluation_arms import Arm
    from deploy.evaluation_report import write_evaluation
    from deploy.telemetry import write_json

    evaluation = open_evaluation(arms, own.episodes, beside(own.out, ".episodes"))
    try:
        run(evaluation, own.workers, own.address)
    except KeyboardInterrupt:
        report = evaluation.report("interrupted")
        write_json(own.out, report)
        done = f"{report['n']} of {own.episodes} episodes are in {own.out}"
        return complain(f"interrupted; {done}; the same command goes on", 130)
    except ConnectionError as error:
        return complain(str(error), 1)
    report = evaluation.report("ok")
    write_json(own.out, report)
    results = {arm.name: evaluation.results(arm) for arm in arms if isinstance(arm, Arm)}
    page = beside(own.out, ".report.html")
    write_evaluation(page, arms, results, report, own.videos, command)
    for line in told(arms[0].name, report):
        print(line)
    print(f"{own.out}; {page}")
    return 0


def told(name: str, report: Mapping[str, Any]) -> list[str]:
    """Return the result in lines: each arm, then what may be said of their differences."""
    from deploy.evaluation_report import rate, spread

    lines: list[str] = []
    every: list[dict[str, Any]] = [{"name": name, **report}, *report["arms"]]
    for arm in every:
        success = f", success {rate(arm['success'])}" if arm["success"] else ""
        lines.append(f"{arm['name']}: return {spread(arm)}{success}, {arm['n']} episode{'s' * (arm['n'] > 1)}")
    return [*lines, *(line for found in report["comparisons"] for line in found["verdict"])]


def parser() -> argparse.ArgumentParser:
    """Return the parser of what is this command's own; the rest overrides the preset."""
    from deploy.commandline import Options

    own = Options("surefoot evaluate")
    own.add_argument("--episodes", type=int, required=True)
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--against", action="append", default=[], metavar="NAME=...")
    own.add_argument("--videos", type=int, default=3)
    own.add_argument("--workers", type=int, default=1)
    own.add_argument("--address")
    return own


def check(own: argparse.Namespace) -> None:
    """Raise ValueError, in one line, for options that cannot be."""
    if own.episodes < 1 or own.workers < 1:
        raise ValueError(f"--episodes and --workers must be >= 1, got {own.episodes} and {own.workers}")
    if own.videos < 0:
        raise ValueError(f"--videos must be >= 0, got {own.videos}")
    if not own.out.resolve().parent.is_dir():
        raise ValueError(f"--out {own.out}: there is no folder {own.out.resolve().parent}")
    if own.out.is_dir():
        raise ValueError(f"--out {own.out} is a folder; name a file in it")


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str], RunConfig]:
    """Return this command's own options, the other words, and the config that these name. Raises ValueError or KeyError."""
    from configs.presets import PRESETS
    from deploy.commandline import resolve
    from deploy.evaluation_arms import PROG, alone

    own, rest = parser().parse_known_args(argv)
    check(own)
    return own, rest, alone(resolve(rest, PRESETS, PROG))


def try_out(arms: Sequence[Arm | EarlierArm]) -> None:
    """Raise ValueError, in one line that names the arm, for one that cannot run."""
    from deploy.arms import build
    from deploy.evaluation_arms import Arm

    for arm in arms:
        try:
            if isinstance(arm, Arm):
                build(arm.cfg)
        except (ValueError, KeyError) as error:
            raise ValueError(f"arm {arm.name}: {error.args[0]}") from None


def main(argv: Sequence[str]) -> int:
    """Evaluate a preset; return the exit code."""
    from configs.presets import PRESETS
    from deploy.commandline import HELP, guarded, resolve
    from deploy.evaluation_arms import PROG, Arm, parse_arms
    from deploy.interrupt import Interrupts

    def body() -> int:
        if any(arg in HELP for arg in argv):
            print(f"{parser().format_usage()}{__doc__}")
        if not argv or any(arg in HELP for arg in argv):
            resolve([arg for arg in argv[:1] if arg not in HELP] + ["--help"], PRESETS, PROG)
        own, rest, cfg = read(argv)
        arms = [Arm(cfg.preset, shlex.join(rest), cfg), *parse_arms(own.against, cfg, own.episodes, PRESETS)]
        try_out(arms)
        return measure(arms, own, shlex.join(["surefoot", "evaluate", *argv]))

    with Interrupts():
        return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
