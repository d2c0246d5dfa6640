"""`surefoot record PRESET --out PATH --episodes N`: the preset's planner drives its simulated robot and is recorded.

Every episode stands alone, on a clock of its own that starts at 0, without adaptation: `surefoot replay` repeats it. The
same command again goes on where the data set ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.record import Recorder
from deploy.shards import Form

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.loop import Robot

CONFIG, VERSIONS = "config.yaml", "surefoot.json"


def form_of(cfg: RunConfig, robot: Robot) -> Form:
    """Return the columns of a recording of this robot. Raises ValueError where its rate is not a whole number of Hz."""
    from deploy.robots.hardware import spec_of
    from envs.dataset import Layout

    return Form(Layout.of(spec_of(cfg)), tuple(limit.name for limit in robot.limits), robot.camera)


def notes_of(cfg: RunConfig) -> dict[str, str]:
    """Return what a replay needs to know, as files of the data set."""
    from deploy.config import to_yaml

    return {CONFIG: to_yaml(cfg), VERSIONS: json.dumps(versions(), indent=1, sort_keys=True) + "\n"}


def recorder_of(cfg: RunConfig, robot: Robot, root: Path) -> Recorder:
    """Return what records a run into the folder `root`, which may hold episodes of the same config already.

    It waits for its writer where time does. Raises ValueError, in one line, for a folder with something else.
    """
    notes = notes_of(cfg)
    episodes_in(root, notes[CONFIG])
    return Recorder(root, form_of(cfg, robot), notes, patient=cfg.time == "lockstep")


def finish(recorder: Recorder) -> int:
    """Let the recorder save what has ended, and say how it went; return the exit code, 1 where something was not kept."""
    status = recorder.close()
    wrong = [f"{status.lost} could not be kept"] if status.lost else []
    wrong += [f"{status.cut} end early"] if status.cut else []
    wrong += [*status.reasons, *filter(None, [status.ended])]
    print(f"recorded: {status.saved} episodes into {recorder.root}{': ' if wrong else ''}{'; '.join(wrong)}")
    return int(bool(wrong))


def record_episode(recorder: Recorder, cfg: RunConfig, number: int) -> None:
    """Run episode `number` of the config in lockstep, recorded."""
    from deploy.arms import build, unlogged

    unlogged(cfg, build(cfg), lambda history, _: not history.episodes, number, recorder)


def versions() -> dict[str, str]:
    """Return what a replay depends on beside the config."""
    from importlib.metadata import version

    from deploy.telemetry import commit

    names = ("mujoco", "gymnasium", "numpy", "lerobot")
    return {"surefoot": commit(), **{name: version(name) for name in names}}


def record(cfg: RunConfig, root: Path, episodes: int) -> str:
    """Record until the data set has so many episodes; return a line about it. Raises ValueError where it cannot."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from deploy.arms import build

    torch.set_num_threads(1)
    notes = notes_of(cfg)
    with Recorder(root, form_of(cfg, build(cfg).robot), notes, patient=True) as recorder:
        first = episodes_in(root, notes[CONFIG])
        for number in track(range(first, episodes), "episodes", console=Console(stderr=True)):
            record_episode(recorder, cfg, number)
            status = recorder.wait()
            if status.saved <= number - first:
                why = status.ended or " ".join(status.reasons) or "the writer takes too long"
                raise ValueError(f"episode {number} could not be kept ({why}); {episodes_in(root)} are in {root}")
    return f"{episodes_in(root)} episodes are in {root}"


def episodes_in(root: Path, config: str | None = None) -> int:
    """Return how many there are. Raises ValueError where they were recorded with another config."""
    info = root / "meta/info.json"
    if not info.exists():
        return 0
    there = root / "meta" / CONFIG
    if config is not None and (not there.exists() or there.read_text() != config):
        raise ValueError(f"{root} was recorded with another config, see {there}: name a new folder")
    return json.loads(info.read_text())["total_episodes"]


def main(argv: Sequence[str]) -> int:
    """Record episodes of a preset; return the exit code."""
    from configs.presets import PRESETS
    from deploy.commandline import HELP, Options, complain, guarded, resolve
    from deploy.interrupt import Interrupts

    own = Options("surefoot record")
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--episodes", type=int, required=True)

    def body() -> int:
        if not argv or any(arg in HELP for arg in argv):
            print(f"{own.format_usage()}{__doc__}")
            resolve([arg for arg in argv[:1] if arg not in HELP] + ["--help"], PRESETS, own.prog)
        known, rest = own.parse_known_args(argv)
        if known.episodes < 1:
            raise ValueError(f"--episodes must be >= 1, got {known.episodes}")
        cfg = replace(resolve(rest, PRESETS, own.prog), adapt=False, control_arm=False)
        try:
            print(record(cfg, known.out, known.episodes))
        except KeyboardInterrupt:
            said = f"interrupted; {episodes_in(known.out)} of {known.episodes} episodes are in {known.out}"
            return complain(f"{said}: give the same command again to continue", 130)
        return 0

    with Interrupts():
        return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
