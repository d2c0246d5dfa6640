"""`surefoot calibrate PRESET`: run whole healthy episodes and keep what surprise looks like in them, beside the weights.

A real robot never moves quite as its model says, and surprises more than the simulated one: with --dataset PATH the episodes
are those that were recorded while the preset's planner moved it (surefoot run PRESET --robot.type=... --record PATH).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from deploy.config import RunConfig

KEPT = Path("runs/calibration")
FIRST = 1_000_000
"""Number of the first calibration episode: none that a run or a benchmark uses."""


def calibration_file(
    cfg: RunConfig, done: Sequence[tuple[np.ndarray, np.ndarray]], about: Mapping[str, Any], commit: str
) -> str:
    """Return the JSON text of surprise.json, from states (T + 1, O) and actions (T, A) of each episode, and what is said of them.

    Raises ValueError where there are too few episodes for the set rate.
    """
    from agents.learned import LearnedConfig
    from agents.monitor import episode_errors
    from world_models.checkpoint import load_model

    assert isinstance(cfg.agent, LearnedConfig)
    step = load_model(cfg.agent.folder).step
    return text_of(cfg, [episode_errors(step, state_TO, action_TA) for state_TO, action_TA in done], about, commit)


def text_of(cfg: RunConfig, done: Sequence[np.ndarray], about: Mapping[str, Any], commit: str) -> str:
    """Return the same, from the errors (T,) of each episode."""
    from agents.calibration import calibrate

    made = calibrate(done, cfg.agent.surprise)  # pyright: ignore
    said = {
        "preset": cfg.preset,
        "episodes": len(done),
        "plan_latency_s": cfg.plan_latency_s,
        **about,
        "commit": commit,
    }
    return json.dumps({"calibration": made.to_dict(), "about": said}, indent=1) + "\n"


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
    return_mean, falls = sum(e.total_reward for e in done) / len(done), sum(e.terminated for e in done)
    about = {"first_episode": FIRST, "return_mean": return_mean, "falls": falls}
    write_atomic(path, calibration_file(cfg, [(e.state_TO, e.action_TA) for e in done], about, commit()))
    print(f"{episodes} healthy episodes; mean return {return_mean:.0f}; wrote {path}")
    return 0


def latent_errors(cfg: RunConfig, number: int) -> list[float]:
    """Return the errors of an agent that sees pictures, over one episode."""
    import torch

    from agents.latent import LatentAgent
    from deploy.arms import build, unlogged

    torch.set_num_threads(1)
    parts = build(cfg)
    assert isinstance(parts.agent, LatentAgent)
    assert parts.agent.monitor is not None
    unlogged(cfg, parts, lambda history, _: not history.episodes, number)
    return parts.agent.monitor.errors


def run_latent(cfg: RunConfig, episodes: int, workers: int) -> int:
    """Run the episodes with progress and write `surprise.json`; each is kept as it ends, and the same command goes on."""
    from functools import partial

    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from deploy.telemetry import commit, write_atomic
    from deploy.watch import made_with, side_by_side

    path = KEPT / f"{cfg.preset}-{made_with(cfg):08x}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [line for line in (path.read_text().splitlines() if path.exists() else ()) if line.endswith("]")]
    done = [json.loads(line) for line in whole[:episodes]]
    missing = range(FIRST + len(done), FIRST + episodes)
    made = side_by_side(partial(latent_errors, cfg), missing, workers)
    for errors in track(made, "episodes", episodes, completed=len(done), console=Console(stderr=True)):
        done.append(errors)
        write_atomic(path, "".join(f"{json.dumps(e)}\n" for e in done))
    about = {"first_episode": FIRST}
    text = text_of(cfg, [np.array(errors) for errors in done if len(errors) > 1], about, commit())
    write_atomic(cfg.agent.folder / "surprise.json", text)  # pyright: ignore
    print(f"{episodes} healthy episodes; wrote {cfg.agent.folder / 'surprise.json'}")  # pyright: ignore
    return 0


def run_recorded(cfg: RunConfig, dataset: Path) -> int:
    """Write `surprise.json` from the recorded episodes in which nobody else steered.

    Raises ValueError where they are not of this robot, or too few.
    """
    import numpy as np

    from agents.learned import LearnedConfig
    from deploy.telemetry import commit, write_atomic
    from envs.dataset import EpisodeData, Layout, steered
    from envs.robots import robot_spec

    assert isinstance(cfg.agent, LearnedConfig)
    data, layout = EpisodeData.load(dataset), Layout.of(robot_spec(cfg.robot, cfg.version))
    if data.layout.state_names != layout.state_names or data.layout.action_names != layout.action_names:
        raise ValueError(
            f"{dataset} is of {data.layout.robot!r}, whose sensors or actuators are not those of {cfg.robot!r}"
        )
    alone = np.flatnonzero(~steered(dataset))
    rows = [data.states_and_actions(episode) for episode in alone]
    path = cfg.agent.folder / "surprise.json"
    about = {"dataset": dataset.name, "falls": int(data.take(alone).terminated_N.sum()) if len(alone) else 0}
    write_atomic(path, calibration_file(cfg, rows, about, commit()))
    left_out = (
        f", {data.episodes - len(rows)} left out, as a person steered in them" if len(rows) < data.episodes else ""
    )
    print(f"{len(rows)} recorded episodes of {dataset}{left_out}; wrote {path}")
    return 0


def main(argv: Sequence[str]) -> int:
    """Calibrate a preset; return the exit code."""
    from agents.latent import LatentConfig
    from agents.learned import LearnedConfig
    from configs.presets import PRESETS
    from deploy.commandline import Options, guarded, resolve
    from deploy.interrupt import Interrupts

    own = Options("surefoot calibrate")
    own.add_argument("--episodes", type=int, default=480)
    own.add_argument("--workers", type=int, default=2)
    own.add_argument("--dataset", type=Path)

    def body() -> int:
        mine, rest = own.parse_known_args(argv)
        cfg = resolve(rest, PRESETS, "surefoot calibrate")
        if not isinstance(cfg.agent, LearnedConfig | LatentConfig):
            raise ValueError(f"preset {cfg.preset!r} has no learned model to calibrate")
        if mine.episodes < 1 or mine.workers < 1:
            raise ValueError(f"--episodes and --workers must be >= 1, got {mine.episodes} and {mine.workers}")
        healthy = replace(cfg, faults=(), adapt=False, control_arm=False)
        if isinstance(cfg.agent, LatentConfig):
            if mine.dataset is not None:
                raise ValueError("--dataset is for robots that are known by their states; this preset sees pictures")
            return run_latent(healthy, mine.episodes, mine.workers)
        return run(healthy, mine.episodes, mine.workers) if mine.dataset is None else run_recorded(cfg, mine.dataset)

    with Interrupts():
        return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
