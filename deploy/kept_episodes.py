"""Episodes of an evaluation on disk, one file each, so that one that was interrupted or killed goes on where it was.

A file is there whole or not at all, and says what it depends on: episodes of other settings, weights or code are refused.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.episodes import TornEpisodeError, write_atomically

if TYPE_CHECKING:
    from deploy.config import RunConfig

PACKAGES = ("envs", "world_models", "planners", "agents", "deploy")


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode gave."""

    episode: int
    env_seed: int
    episode_return: float
    steps: int
    ended: str
    success: bool | None  # None: success means nothing for this robot
    nonfinite: int
    plan_ms: tuple[float, ...]
    poses_TP: np.ndarray  # (steps + 1, P) configurations, for pictures


def mark(cfg: RunConfig) -> int:
    """Return a checksum of all that an episode depends on: settings, weights and code, but not how it is shown."""
    from deploy.telemetry import ROOT
    from deploy.watch import made_with

    shown = {"out": None, "pictures": "none", "view": "none", "view_out": None, "view_host": "", "view_port": 8080}
    total = made_with(replace(cfg, **shown, max_episodes=1))
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("**/*.py")):
            total = zlib.crc32(path.read_bytes(), total)
    return total


def encode(result: EpisodeResult, made_of: int) -> bytes:
    """Return the result, and the mark of what it was made with, as bytes."""
    plain = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "poses_TP"}
    out = io.BytesIO()
    np.savez(out, result=np.array(json.dumps(plain)), mark=np.array(made_of), poses_TP=result.poses_TP)
    return out.getvalue()


def decode(data: bytes) -> tuple[EpisodeResult, int]:
    """Return what `encode` was given. Raises TornEpisodeError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:  # a checksum guards each array
            values: dict[str, Any] = json.loads(arrays["result"].item())
            values |= {"plan_ms": tuple(values["plan_ms"]), "poses_TP": arrays["poses_TP"]}
            return EpisodeResult(**values), int(arrays["mark"])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise TornEpisodeError(f"not a whole episode: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class KeptEpisodes:
    """A folder of results, which is made on the first write; `made_of` marks what belongs into it."""

    folder: Path
    made_of: int

    def path(self, episode: int) -> Path:
        """Where the result of an episode is, or would be."""
        return self.folder / f"episode-{episode:06d}.npz"

    def write(self, result: EpisodeResult) -> None:
        """Put the result on disk."""
        write_atomically(self.path(result.episode), encode(result, self.made_of))

    def read(self, episode: int) -> EpisodeResult | None:
        """Return a result; None where it is missing.

        Raises ValueError for one made with something else, TornEpisodeError for one that is not whole.
        """
        path = self.path(episode)
        try:
            result, made_of = decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except TornEpisodeError as error:
            raise TornEpisodeError(f"{path}: {error}") from None
        if made_of != self.made_of:
            raise ValueError(
                f"{self.folder} holds episodes made with other settings, weights or code; "
                f"delete it to begin again, or name another --out"
            )
        return result
