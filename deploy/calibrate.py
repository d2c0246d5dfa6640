"""`surefoot calibrate PRESET`: run whole healthy episodes and keep what surprise looks like in them, beside the weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from envs.episodes import Episode

KEPT = Path("runs/calibration")
FIRST = 1_000_000
"""Number of the first calibration episode: none that a run or a benchmark uses."""


def calibration_file(cfg: RunConfig, done: Sequence[Episode], commit: str) -> str:
    """Return the JSON text of surprise.json. Raises ValueError where there are too few episodes for the set rate."""
    from agents.calibration import calibrate
    from agents.learned import LearnedConfig
    from agents.monitor import episode_errors
    from world_models.checkpoint import load_model

    assert isinstance(cfg.agent, LearnedConfig)
    step = load_model(cfg.agent.folder).step
    made = calibrate([episode_errors(step, e.state_TO, e.action_TA) for e in done], cfg.agent.surprise)
    about = {
        "preset": cfg.preset,
        "episodes": len(done),
        "first_episode": FIRST,
        "plan_latency_s": cfg.plan_latency_s,
        "return_mean": sum(e.total_reward for e in done) / len(done),
        "falls": sum(e.terminated for e in done),
        "commit": commit,
    }
    return json.dumps({"calibration": made.to_dict(), "about": about}, indent=1) + "\n"


def run(cfg: RunConfig, episodes: int, workers: int) -> int:
    """Run the episodes with progress and write `surprise.json` into the checkpoint's folder."""
    from rich.console import Console
    from rich.progress import track

    from agents.learned import LearnedConfig
    from deploy.telemetry import commit, write_atomic
    from deploy.watch import watch_and_keep

    if not isinstance(cfg.agent, LearnedConfig):
        raise ValueError(f"preset {cfg.preset!r} has no learned model to calibrate")
    kept = watch_and_keep(cfg, FIRST, episodes, workers, KEPT)
    done = list(track(kept, "episodes", episodes, console=Console(stderr=True)))
    path = cfg.agent.folder / "surprise.json"
    write_atomic(path, calibration_file(cfg, done, commit()))
    print(f"{episodes} healthy episodes; mean return {sum(e.total_reward for e in done) / episodes:.0f}; wrote {path}")
    return 0


def main(argv: Sequence[str]) -> int:
    """Calibrate a preset; return the exit code."""
    from agents.learned import LearnedConfig
    from configs.presets import PRESETS
    from deploy.commandline import Options, guarded, resolve
    from deploy.interrupt import Interrupts

    own = Options("surefoot calibrate")
    own.add_argument("--episodes", type=int, default=480)
    own.add_argument("--workers", type=int, default=2)

    def body() -> int:
        mine, rest = own.parse_known_args(argv)
        cfg = resolve(rest, PRESETS, "surefoot calibrate")
        if not isinstance(cfg.agent, LearnedConfig):
            raise ValueError(f"preset {cfg.preset!r} has no learned model to calibrate")
        if mine.episodes < 1 or mine.workers < 1:
            raise ValueError(f"--episodes and --workers must be >= 1, got {mine.episodes} and {mine.workers}")
        return run(replace(cfg, faults=(), adapt=False, control_arm=False), mine.episodes, mine.workers)

    with Interrupts():
        return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
