"""The process that learns: a fit's inputs and results are files, safetensors and JSON, whole or absent."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.mind import JobStarted, Tell
from deploy.realtime.latent_jobs import TRACKS, do_latent_job, read_latent_candidates, write_latent_job
from deploy.records import JobRecord, JobTiming
from deploy.telemetry import write_atomic

if TYPE_CHECKING:
    from agents.adaptation import Candidate, Play
    from agents.jobs import Job
    from deploy.config import RunConfig

NICE = 10
"""How much it steps back behind loop and planner."""
LONGEST_S = 900.0
"""After so long nobody waits for an adaptation any more: its process is gone."""
KEPT = ("before", "after", "better_share", "play_steps", "play_episodes", "certified")


def parts_of(job: Job) -> tuple[str, ...]:
    """Return the parts of the model that a job reads."""
    return ("step", "policy", "value", *(("dynamics",) if "dynamics" in job.cfg.parts else ()))


def write_job(folder: Path, job: Job) -> None:
    """Write what a job needs beyond what the checkpoint holds; `job.json` comes last, and says that it is all there."""
    from safetensors.numpy import save_file

    from world_models.checkpoint import save_part

    folder.mkdir(parents=True)
    for part in parts_of(job):
        card = {k: v for k, v in job.model.card[part].items() if k not in ("format", "part")}
        save_part(folder, part, getattr(job.model, part), card, half=False)
    arrays: dict[str, np.ndarray] = {}
    for number, play in enumerate(job.play):
        arrays |= {f"{number}.{name}": np.ascontiguousarray(getattr(play, name)) for name in PLAYED}
    save_file(arrays, folder / "play.safetensors")
    about = {"fell": [p.terminated for p in job.play], "recent": job.recent, "seed": job.seed, "parts": job.cfg.parts}
    write_atomic(folder / "job.json", json.dumps(about))


PLAYED = ("state_TO", "action_TA", "reward_T")


def read_play(folder: Path, fell: list[bool]) -> list[Play]:
    """Return the play of a job."""
    from safetensors.numpy import load_file

    from agents.adaptation import Play

    arrays = load_file(folder / "play.safetensors")
    return [Play(*(arrays[f"{i}.{name}"] for name in PLAYED), terminated=bool(end)) for i, end in enumerate(fell)]  # pyright: ignore


def do_job(cfg: RunConfig, folder: Path) -> None:
    """Do the job in `folder` and leave its candidates there; `done.json` comes last."""
    from agents.jobs import job
    from agents.learned import LearnedConfig, judge_of, load_replay
    from envs.robots import robot_spec
    from world_models.checkpoint import load_model, load_part, read_card, save_part

    assert isinstance(cfg.agent, LearnedConfig)
    about = json.loads((folder / "job.json").read_text())
    model = load_model(cfg.agent.folder)
    there = [part for part in ("step", "policy", "value", "dynamics") if (folder / f"{part}.json").exists()]
    model = replace(model, **{part: load_part(folder, part) for part in there})  # pyright: ignore
    adapt, judge = (
        replace(cfg.agent.adapt, parts=tuple(about["parts"])),
        judge_of(robot_spec(cfg.robot, cfg.version)),
    )
    play = read_play(folder, about["fell"])
    made = job(model, play, about["recent"], load_replay(cfg.agent.folder), judge, adapt, about["seed"])
    for candidate in made:
        card = {k: v for k, v in read_card(folder, candidate.part).items() if k not in ("format", "part")}
        save_part(folder / "candidates", candidate.part, candidate.model, card, half=False)
    write_atomic(folder / "done.json", json.dumps([shallow(candidate) for candidate in made]))


def shallow(candidate: Candidate) -> dict[str, Any]:
    """Return what is said about a candidate, without its weights."""
    return {"part": candidate.part} | {name: getattr(candidate, name) for name in KEPT}


def read_candidates(folder: Path) -> list[Candidate]:
    """Return what `do_job` left."""
    from agents.adaptation import Candidate
    from world_models.checkpoint import load_part

    told = json.loads((folder / "done.json").read_text())
    return [Candidate(model=load_part(folder / "candidates", c["part"]), **c) for c in told]


def adapt(cfg: RunConfig, asked: Connection) -> None:
    """Do jobs as their folders are named, until the other end is closed; the body of the process."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.nice(NICE)
    while True:
        try:
            folder = asked.recv_bytes().decode()
        except EOFError:
            return
        do = do_latent_job if (Path(folder) / TRACKS).exists() else do_job
        try:
            do(cfg, Path(folder))
        except (ValueError, RuntimeError, ArithmeticError, OSError) as error:  # the robot goes on with what it has
            print(f"an adaptation failed, and nothing is changed: {error!r}", file=sys.stderr)
            write_atomic(Path(folder) / "done.json", "[]")


class AdapterJobs:
    """Jobs of the thinker that are done in the adapter; a result is there when its file is."""

    def __init__(self, asked: Connection, folder: Path, tell: Tell, dt_s: float) -> None:
        self._asked, self._folder, self._tell, self._dt_s = asked, folder, tell, dt_s
        self._count, self._under_way, self._began_s = 0, "", (0.0, 0.0)

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return bool(self._under_way)

    def start(self, job: Callable[[], Any], step: int, /) -> None:
        """Hand a job over."""
        from agents.latent_adaptation import LatentJob

        self._count += 1
        folder = self._folder / f"adaptation-{self._count}"
        if isinstance(job, LatentJob):
            write_latent_job(folder, job)
        else:
            write_job(folder, job)  # pyright: ignore
        self._asked.send_bytes(str(folder).encode())
        self._under_way, self._began_s = str(folder), (step * self._dt_s, time.monotonic())
        self._tell(JobStarted(step * self._dt_s))

    def done(self, step: int, /) -> Any | None:
        """Return the candidates, once they are there; none of a fit that failed."""
        began_s, wall_s = self._began_s
        if not self._under_way:
            return None
        if not (Path(self._under_way) / "done.json").exists():
            if time.monotonic() - wall_s < LONGEST_S:
                return None
            self._under_way = ""
            return []
        folder, self._under_way = Path(self._under_way), ""
        result = (read_latent_candidates if (folder / TRACKS).exists() else read_candidates)(folder)
        self._tell(JobRecord(began_s, step * self._dt_s))
        self._tell(JobTiming(began_s, time.monotonic() - wall_s))
        return result
