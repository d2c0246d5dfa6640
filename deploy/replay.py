"""`surefoot replay PATH --episode K [--on PRESET_OR_ROBOT]`: send the recorded actions again, and compare the states.

The simulated robot starts from the recorded seed and is sent, in lockstep, what the recorded one was sent. The same robot
repeats its recording to the last bit; another one, a real one, or another version of the simulator differs by what is
reported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.loop import Robot

ANY_SEED = 0
"""Where the start was not drawn from a seed that is known."""


@dataclass(frozen=True)
class Recording:
    """One recorded episode; T steps."""

    fps: int
    seed: int
    start_s: float
    sent_TA: np.ndarray
    state_NO: np.ndarray | None
    """N = T states before each step, and the one after the last where it was recorded."""


@dataclass(frozen=True)
class Replayed:
    """What a replay found."""

    steps: int
    """How many were sent before the recording or the robot's episode ended."""
    altered: int
    """How many of them the robot's limits changed."""
    difference: float | None
    """The largest one between a state and the recorded one; None where they have different sizes."""
    first: int | None
    """The first step whose state differs."""


def read_recording(root: Path, episode: int) -> Recording:
    """Return an episode of a LeRobotDataset v3, whoever recorded it. Raises ValueError, in one line, where it cannot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not root.is_dir():
        raise ValueError(f"there is no data set at {root}")
    try:
        info = json.loads((root / "meta/info.json").read_text())
        if not 0 <= episode < info["total_episodes"]:
            raise ValueError(f"--episode {episode}: {root} has episodes 0 to {info['total_episodes'] - 1}")
        parts = [
            pq.read_table(file, filters=[("episode_index", "=", episode)])
            for file in sorted(root.glob("data/chunk-*/file-*.parquet"))
        ]
    except (OSError, pa.ArrowInvalid, json.JSONDecodeError) as error:
        raise ValueError(f"{root} cannot be read ({error}); try surefoot repair {root}") from None
    table = pa.concat_tables(part for part in parts if len(part))
    columns = {name: _rows(table, name) for name in ("action", "observation.state", "next.state", "episode_seed")}
    sent_TA, states = columns["action"], columns["observation.state"]
    if sent_TA is None:
        raise ValueError(f"{root} has no column 'action'")
    if states is not None and columns["next.state"] is not None:
        states = np.concatenate([states, columns["next.state"][-1:]])
    seed = ANY_SEED if columns["episode_seed"] is None else max(ANY_SEED, int(columns["episode_seed"][0, 0]))
    times = _rows(table, "measured_time_s")
    return Recording(info["fps"], seed, 0.0 if times is None else float(times[0, 0]), sent_TA, states)


def _rows(table: Any, name: str) -> np.ndarray | None:
    """Return a column as (T, D), in its own precision."""
    if name not in table.column_names:
        return None
    return np.array(table[name].to_pylist()).reshape(len(table), -1)


def replay(recording: Recording, robot: Robot) -> Replayed:
    """Send the actions and compare. Raises ValueError for a robot of another rate or with other actions."""
    if abs(recording.fps * robot.dt_s - 1.0) > 1e-6:
        raise ValueError(f"recorded at {recording.fps} Hz, but this robot runs at {1 / robot.dt_s:g} Hz")
    if recording.sent_TA.shape[1:] != robot.hold_A.shape:
        raise ValueError(f"recorded actions are {recording.sent_TA.shape[1:]}, this robot takes {robot.hold_A.shape}")
    states = [robot.reset(recording.seed, recording.start_s).state_O]
    altered = 0
    for step, action_A in enumerate(recording.sent_TA, 1):
        altered += bool(robot.send(action_A).altered_by)
        outcome = robot.read(recording.start_s + step * robot.dt_s)
        states.append(outcome.observation.state_O)
        if outcome.terminated or not np.isfinite(outcome.observation.state_O).all():
            break
    found, recorded = np.stack(states), recording.state_NO
    if recorded is None or recorded.shape[1] != found.shape[1]:
        return Replayed(len(states) - 1, altered, None, None)
    both = min(len(found), len(recorded))
    difference_N = np.abs(found[:both] - recorded[:both]).max(axis=1)
    apart = np.flatnonzero(difference_N)
    return Replayed(len(states) - 1, altered, float(difference_N.max()), int(apart[0]) if len(apart) else None)


def said(found: Replayed, recording: Recording, root: Path, on: str) -> str:
    """Return the line that tells what was found."""
    parts = [f"{found.steps} of {len(recording.sent_TA)} steps of {root} on {on}"]
    if found.difference is None:
        parts.append("its states are of another size and were not compared")
    else:
        where = "" if found.first is None else f", first at step {found.first}"
        parts.append(f"largest difference of states {found.difference:g}{where}")
    if found.altered:
        parts.append(f"limits changed {found.altered} actions")
    return "; ".join(parts)


def _config(root: Path, on: str | None) -> RunConfig:
    """Return the config of the robot to replay on. Raises ValueError, in one line."""
    from configs.limits import LIMITS
    from configs.presets import PRESETS
    from deploy.config import RunConfig, from_yaml, near
    from deploy.teleop import bases_for

    presets = {name: cfg for name, (_, cfg) in PRESETS.items()}
    if on is None:
        path = root / "meta/config.yaml"
        if not path.exists():
            raise ValueError(f"{root} does not say which robot it is of: name one, --on PRESET_OR_ROBOT")
        text = path.read_text()
        return from_yaml(text, bases_for(text), str(path))
    if on in presets:
        return presets[on]
    if on in LIMITS:
        return RunConfig(preset=on, robot=on, limits=LIMITS[on])
    raise ValueError(f"--on {on!r} is neither preset nor robot; near misses: {near(on, [*presets, *LIMITS])}")


def other_versions(root: Path) -> str | None:
    """Return how the versions that a replay depends on differ from the recorded ones, None where they do not."""
    from deploy.recording import VERSIONS, versions

    path = root / "meta" / VERSIONS
    then = json.loads(path.read_text()) if path.exists() else {}
    now = versions()
    changed = [f"{name} {then[name]}, now {now[name]}" for name in now if name in then and then[name] != now[name]]
    return f"recorded with {'; '.join(changed)}" if changed else None


def main(argv: Sequence[str]) -> int:
    """Replay an episode; return the exit code, 1 where a recording of the same robot was not repeated to the last bit."""
    from deploy.commandline import Options, guarded
    from deploy.robots.hardware import kind_of
    from deploy.robots.sim import make_robot
    from envs.faults import FaultWrapper

    own = Options("surefoot replay", __doc__)
    own.add_argument("path", type=Path)
    own.add_argument("--episode", type=int, required=True)
    own.add_argument("--on", help="preset or robot; without it, the recorded one", metavar="PRESET_OR_ROBOT")

    def body() -> int:
        known = own.parse_args(argv)
        recording, cfg = read_recording(known.path, known.episode), _config(known.path, known.on)
        robot = make_robot(cfg)[0]
        if isinstance(robot.env, FaultWrapper):
            robot.env.go_to(recording.start_s)
        found = replay(recording, robot)
        print(said(found, recording, known.path, known.on or cfg.robot))
        if known.on is None and cfg.hardware:
            print(f"recorded on a real {kind_of(cfg.hardware)}, which no simulation repeats; nothing real was moved")
            return 0
        differs = known.on is None and found.difference != 0.0
        if differs and (changed := other_versions(known.path)):
            print(changed)
        return int(differs)

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
