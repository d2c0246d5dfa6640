"""Recordings killed with SIGKILL at random times: how many saved episodes are lost, and does every data set open?

A control loop with a real `Recorder` is killed in one of three ways: the loop alone, the writer's process alone, both at
once. Whatever is left is opened by stock lerobot at once, then after `repair`, and every row is compared with what was
sent. The next loop goes on in the same data set.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Result, Table, parse, publish, quantiles
from deploy.record import LOADED, Recorder, Step
from deploy.repair import repair
from deploy.shards import Form, alone
from envs.dataset import Layout
from envs.types import Observation

WAYS = ("loop", "writer", "both")
IN_A_ROW = 5
"""Kills of one data set before the next is begun; every second data set has a camera."""
LONGEST_S = 3.0
STEP_S = 0.005
LAYOUT = Layout("toy", 100, ("episode", "step"), ("1", "1"), ("a",), ("1",))


@dataclass(frozen=True)
class KillOptions(Options):
    """Options of this benchmark."""

    kills: int = 50


@dataclass
class Kill:
    """What one kill left behind."""

    way: str
    saved: int = 0
    """Episodes that had been reported as saved."""
    lost: int = 0
    """Saved ones that are gone."""
    gone: int = 0
    """All that had been begun before the kill and are gone: the running one, which may just have ended."""
    opened: bool | None = None
    """Whether lerobot opened what there was before any repair; None where the first episode was not saved yet."""
    mended: int = 0
    """Things that `repair` had to do."""
    went_on: bool = True
    """Whether the loop went on and knew why recording had ended, where the writer was killed."""
    record_us: list[float] = field(default_factory=list)
    save_ms: list[float] = field(default_factory=list)


def state(number: int, step: int) -> np.ndarray:
    """Return what the robot of this benchmark sees."""
    return np.array([number, step], dtype=np.float64)


def picture(number: int, step: int) -> np.ndarray:
    """Return what its camera sees."""
    return np.full((64, 64, 3), (40 * number + step) % 256, np.uint8)


def length(number: int) -> int:
    """Return the number of steps of an episode."""
    return 20 + 7 * number % 31


def control(root: Path, form: Form, first: int, says: Connection) -> None:
    """Record until killed; tell `says` what is done."""
    recorder = Recorder(root, form, patient=True, start="fork")
    says.send(("writer", recorder.writer_pid))
    for done, number in enumerate(itertools.count(first), 1):
        if recorder.begin(seed=number):
            says.send(("begun", number))
        for step in range(length(number)):
            images = {name: picture(number, step) for name in form.cameras}
            action_A = np.array([number + step / 7])
            before_s = time.perf_counter()
            recorder.record(Step(Observation(step / 100, state(number, step)), action_A, action_A, images=images))
            says.send(("record", 1e6 * (time.perf_counter() - before_s)))
            time.sleep(STEP_S)
        if not recorder.end(final_O=state(number, length(number))):
            says.send(("over", 0))  # and the loop goes on
            continue
        says.send(("ended", number))
        before_s = time.perf_counter()
        if recorder.wait().saved == done:  # while a robot goes back to its start
            says.send(("saved", 1e3 * (time.perf_counter() - before_s)))


@contextlib.contextmanager
def looping(root: Path, form: Form, first: int) -> Iterator[tuple[int, Connection]]:
    """Run `control` in a process; yield its id and where it tells what is done."""
    context = multiprocessing.get_context("forkserver")  # which has lerobot loaded, and no threads
    context.set_forkserver_preload([LOADED])
    hears, says = context.Pipe(duplex=False)
    process = context.Process(target=control, args=(root, form, first, says))
    process.start()
    says.close()
    assert process.pid is not None
    try:
        yield process.pid, hears
    finally:
        process.kill()
        process.join()
        hears.close()


def rest(hears: Connection, until: str = "") -> list[tuple[str, float]]:
    """Return all that is still told, or what is up to the word `until`."""
    said: list[tuple[str, float]] = []
    with contextlib.suppress(EOFError):
        while not said or said[-1][0] != until:
            said.append(hears.recv())
    return said


def kill(root: Path, form: Form, first: int, way: str, after_s: float) -> Kill:
    """Let a loop record, kill it, and return what is left."""
    with looping(root, form, first) as (pid, hears):
        (_, writer) = hears.recv()
        time.sleep(after_s)
        victims = {"loop": [pid], "writer": [writer], "both": [writer, pid]}[way]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        said = rest(hears, until="over") if way == "writer" else []
        went_on = way != "writer" or said[-1][0] == "over"
        os.kill(pid, signal.SIGKILL)
        said += rest(hears)
    told = {kind: [value for word, value in said if word == kind] for kind in ("begun", "ended", "saved", "record")}
    ended, save_ms = [int(number) for number in told["ended"]], told["saved"]
    found = Kill(way, len(save_ms), went_on=went_on, record_us=told["record"], save_ms=save_ms)
    judge(found, root, form, told["begun"], ended)
    return found


def judge(found: Kill, root: Path, form: Form, begun: Sequence[float], ended: Sequence[int]) -> None:
    """Open the data set, mend it, and count what is missing."""
    if root.exists():
        try:
            found.opened = bool(numbers_in(root, form))
        except (ValueError, OSError, RuntimeError) as error:
            found.opened = False
            print(f"{root}: {error}", file=sys.stderr)
    with alone(root, 60.0):  # a writer whose loop was killed saves what had ended
        pass
    if not root.exists() and not any(root.parent.glob(f".{root.name}.*")):
        there: list[int] = []
    else:
        with contextlib.suppress(ValueError):  # killed before its first episode was whole
            found.mended = len(repair(root))
        there = numbers_in(root, form) if root.exists() else []
    found.lost = len(set(ended[: found.saved]) - set(there))
    found.gone = len(set(begun) - set(there))


def numbers_in(root: Path, form: Form) -> list[int]:
    """Open a data set with lerobot and return the numbers of its episodes. Raises ValueError where a row is wrong."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset: Any = LeRobotDataset("surefoot/kill", root=root, video_backend="pyav")
    table = dataset.hf_dataset.with_format("arrow")[: len(dataset)]
    expected = [(n, step) for n in dict.fromkeys(table["episode_seed"].to_pylist()) for step in range(length(n))]
    wanted = {
        "observation.state": [[n, step] for n, step in expected],
        "next.state": [[n, step + 1] for n, step in expected],
        "action": [n + step / 7 for n, step in expected],
    }
    same = all(table[name].to_pylist() == values for name, values in wanted.items())
    numbers = list(dict.fromkeys(n for n, _ in expected))
    if not same or dataset.num_episodes != len(numbers):
        raise ValueError(f"{root} holds other rows than were recorded")
    if form.cameras:
        seen = 255 * dataset[len(dataset) - 1]["observation.images.eye"].numpy().mean()
        shown = picture(numbers[-1], length(numbers[-1]) - 1).mean()
        if abs(seen - shown) > 3:
            raise ValueError(f"{root} ends with a picture of {seen:.0f} instead of {shown:.0f}")
    return numbers


def measure(options: KillOptions) -> Result:
    """Kill so many times, and return the table."""
    from datasets import config, disable_progress_bars

    rng = np.random.default_rng(options.seed)
    kills: list[Kill] = []
    count = min(options.kills, 12) if options.quick else options.kills
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        config.HF_DATASETS_CACHE = Path(folder) / "cache"
        disable_progress_bars()
        for index in range(count):
            series = index // IN_A_ROW
            form = Form(LAYOUT, cameras={"eye": (64, 64)} if series % 2 else {})
            root, first = Path(folder) / f"recording-{series}", 1000 * (index % IN_A_ROW)
            kills.append(kill(root, form, first, WAYS[index % len(WAYS)], float(rng.uniform(0, LONGEST_S))))
            print(f"{index + 1} of {count}: {kills[-1].way}, {kills[-1].saved} saved", file=sys.stderr)
    return summarised(kills, options)


def summarised(kills: Sequence[Kill], options: KillOptions) -> Result:
    """Return the result of the kills."""
    columns = (
        "killed",
        "n",
        "saved before",
        "lost",
        "begun, but not there",
        "data sets",
        "opened at once",
        "repair acted",
    )
    rows = []
    for way in WAYS:
        these = [k for k in kills if k.way == way]
        sums = [sum(getattr(k, name) for k in these) for name in ("saved", "lost", "gone")]
        found = [k.opened for k in these if k.opened is not None]
        rows.append((way, len(these), *sums, len(found), sum(found), sum(k.mended > 0 for k in these)))
    record_us = quantiles([us for k in kills for us in k.record_us], 0.5, 0.99)
    save_ms = quantiles([ms for k in kills for ms in k.save_ms], 0.5, 0.99)
    figures = {
        "kills": len(kills),
        "saved episodes lost": sum(k.lost for k in kills),
        "most episodes lost by one kill, the running one included": max(k.gone for k in kills),
        "data sets that did not open": sum(k.opened is False for k in kills),
        "loops that did not go on after their writer was killed": sum(not k.went_on for k in kills),
        "hand-over of a step, median us": record_us[0],
        "hand-over of a step, 99 % us": record_us[1],
        "from the end of an episode to its being saved, median ms": save_ms[0],
        "the same, 99 % ms": save_ms[1],
    }
    claim = "Whenever a recording is killed, no saved episode is lost, and what is left opens with lerobot."
    table = Table("SIGKILL at random times, by what was killed", columns, tuple(rows))
    return Result("record_kill", claim, figures, (table,), (options.seed,), len(kills), ())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and publish; fails where an episode was lost or a data set did not open."""
    options = parse(KillOptions, __doc__, argv)
    result = measure(options)
    publish(result, options)
    bad = (
        "saved episodes lost",
        "data sets that did not open",
        "loops that did not go on after their writer was killed",
    )
    return int(any(result.headline[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
