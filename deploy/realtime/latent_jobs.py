"""Fits of a latent model's dynamics as files, as `deploy/realtime/adapter.py` has them of other models."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.telemetry import write_atomic

if TYPE_CHECKING:
    from agents.latent_adaptation import LatentCandidate, LatentJob, Track
    from deploy.config import RunConfig
    from world_models.jepa import Jepa

TRACKS = "tracks.safetensors"


def save_model(folder: Path, model: Jepa) -> None:
    """Write a model with all its digits."""
    from world_models.checkpoint import describe, save_part

    save_part(folder, "jepa", model, describe(jepa=model.cfg), half=False)


def load_model(folder: Path) -> Jepa:
    """Return what `save_model` wrote."""
    from world_models.checkpoint import load_part
    from world_models.jepa import Jepa

    model = load_part(folder, "jepa")
    assert isinstance(model, Jepa)
    return model


def write_latent_job(folder: Path, job: LatentJob) -> None:
    """Write a job; `job.json` comes last, and says that it is all there."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    save_model(folder, job.model)
    arrays: dict[str, np.ndarray] = {}
    for number, (z_TD, action_TA) in enumerate(job.tracks):
        arrays |= {f"{number}.z": z_TD.numpy(), f"{number}.action": np.ascontiguousarray(action_TA)}
    save_file(arrays, folder / TRACKS)
    write_atomic(folder / "job.json", json.dumps({"tracks": len(job.tracks), "seed": job.seed}))


def do_latent_job(cfg: RunConfig, folder: Path) -> None:
    """Do the job in `folder` and leave its candidates there; `done.json` comes last."""
    import torch
    from safetensors.numpy import load_file

    from agents.latent import LatentConfig
    from agents.latent_adaptation import LatentJob

    assert isinstance(cfg.agent, LatentConfig)
    about, arrays = json.loads((folder / "job.json").read_text()), load_file(folder / TRACKS)
    tracks: tuple[Track, ...] = tuple(
        (torch.from_numpy(arrays[f"{number}.z"]), arrays[f"{number}.action"]) for number in range(about["tracks"])
    )
    made = LatentJob(load_model(folder), tracks, cfg.agent.adapt, about["seed"])()
    for number, candidate in enumerate(made):
        save_model(folder / "candidates" / str(number), candidate.model)
    write_atomic(folder / "done.json", json.dumps([_said(candidate) for candidate in made]))


def _said(candidate: LatentCandidate) -> dict[str, object]:
    return {f.name: getattr(candidate, f.name) for f in fields(candidate) if f.name != "model"}


def read_latent_candidates(folder: Path) -> list[LatentCandidate]:
    """Return what `do_latent_job` left."""
    from agents.latent_adaptation import LatentCandidate

    told = json.loads((folder / "done.json").read_text())
    return [
        LatentCandidate(load_model(folder / "candidates" / str(n)), **{**c, "gain_A": tuple(c["gain_A"])})
        for n, c in enumerate(told)
    ]
