"""`surefoot evaluate PRESET --episodes N --seed S [--faults ...] --out FILE`: measure the return over many episodes.

Every episode stands alone, on a clock of its own that starts at 0 (so that a fault at 0 breaks each of them), without
adaptation: the result does not depend on how the episodes are shared between workers, if the plan's latency is given.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.config import RunConfig


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode gave."""

    episode: int
    env_seed: int
    episode_return: float
    steps: int
    ended: str
    nonfinite: int
    plan_ms: tuple[float, ...]


def run_episode(cfg: RunConfig, episode: int) -> EpisodeResult:
    """Return the result of one episode, which depends on the config and its number alone."""
    import torch

    from deploy.arms import build, unlogged

    torch.set_num_threads(1)
    session = unlogged(cfg, build(cfg), lambda history, _: not history.episodes, episode)
    (done,) = session.history.episodes
    plan_ms, nonfinite = tuple(session.history.plan_ms.values.tolist()), session.history.nonfinite.total
    return EpisodeResult(episode, done.env_seed, done.episode_return, done.steps, done.ended, nonfinite, plan_ms)


def results(cfg: RunConfig, episodes: int, workers: int) -> Iterator[EpisodeResult]:
    """Yield the results in the order of the episodes."""
    one = partial(run_episode, cfg)
    if workers == 1:
        yield from map(one, range(episodes))
        return
    from deploy.interrupt import ignored_by_children

    with ExitStack() as stack:
        with ignored_by_children():
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
        yield from pool.imap(one, range(episodes))


def collected(cfg: RunConfig, done: Sequence[EpisodeResult], commit: str) -> dict[str, Any]:
    """Return what is written to FILE."""
    from deploy.summary import interval, percentiles

    mean, lo, hi = interval([r.episode_return for r in done])
    per_episode = [
        {"episode": r.episode, "env_seed": r.env_seed, "return": r.episode_return, "steps": r.steps, "ended": r.ended}
        for r in done
    ]
    return {
        "preset": cfg.preset,
        "seed": cfg.seed,
        "faults": list(cfg.faults),
        "metric": "return",
        "mean": mean,
        "lo": lo,
        "hi": hi,
        "n": len(done),
        "per_episode": per_episode,
        "plan_ms": percentiles([ms for r in done for ms in r.plan_ms]),
        "plan_latency_s": cfg.plan_latency_s,
        "nonfinite_rejected": sum(r.nonfinite for r in done),
        "commit": commit,
    }


def measure(cfg: RunConfig, episodes: int, workers: int, out: Path) -> int:
    """Run the episodes with progress and write FILE, also when interrupted: then with those that are done."""
    from rich.console import Console
    from rich.progress import track

    from deploy.commandline import complain
    from deploy.telemetry import commit, write_json

    done: list[EpisodeResult] = []
    console = Console(stderr=True)
    try:
        for result in track(results(cfg, episodes, workers), "episodes", episodes, console=console):
            done.append(result)
    except KeyboardInterrupt:
        write_json(out, {**collected(cfg, done, commit()), "status": "interrupted"})
        return complain(f"interrupted; {len(done)} of {episodes} episodes are in {out}", 130)
    report = {**collected(cfg, done, commit()), "status": "ok"}
    write_json(out, report)
    shown = [f"{report[key]:.1f}" if report[key] is not None else "-" for key in ("mean", "lo", "hi")]
    print(f"return {shown[0]} [{shown[1]}, {shown[2]}] over {len(done)} episodes; {out}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of what is this command's own; the rest overrides the preset."""
    from deploy.commandline import Options

    own = Options("surefoot evaluate")
    own.add_argument("--episodes", type=int, required=True)
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--workers", type=int, default=1)
    return own


def main(argv: Sequence[str]) -> int:
    """Evaluate a preset; return the exit code."""
    from configs.presets import PRESETS
    from deploy.arms import build
    from deploy.commandline import HELP, guarded, resolve
    from deploy.interrupt import Interrupts

    def body() -> int:
        if any(arg in HELP for arg in argv):
            print(f"{parser().format_usage()}{__doc__}")
        if not argv or any(arg in HELP for arg in argv):
            resolve([arg for arg in argv[:1] if arg not in HELP] + ["--help"], PRESETS, "surefoot evaluate")
        own, rest = parser().parse_known_args(argv)
        cfg = replace(resolve(rest, PRESETS, "surefoot evaluate"), adapt=False, control_arm=False)
        if own.episodes < 1 or own.workers < 1:
            raise ValueError(f"--episodes and --workers must be >= 1, got {own.episodes} and {own.workers}")
        if not own.out.resolve().parent.is_dir():
            raise ValueError(f"--out {own.out}: there is no folder {own.out.resolve().parent}")
        build(cfg)  # refuses bad input before anything runs
        return measure(cfg, own.episodes, own.workers, own.out)

    with Interrupts():
        return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
