"""Heads on a trained encoder: pairs of latents of one episode, half of the first ones imagined, and what each head learns from them.

Searches compare imagined latents with that of a goal, so imagined ones are what the heads must be right about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from envs.frames import CACHE, FrameData, load_frames
from world_models.checkpoint import load_part
from world_models.decoder import Decoder, DecoderConfig
from world_models.fit import Task, present
from world_models.inverse import InverseConfig, InverseDynamics
from world_models.jepa import Jepa, batch_norms, settle_norms
from world_models.latent_ensemble import LatentEnsemble, LatentEnsembleConfig
from world_models.temporal import TemporalConfig, TemporalDistance
from world_models.training import TrainConfig

if TYPE_CHECKING:
    from world_models.latents import LatentModelConfig

AT_ONCE = 512
"""Frames that are encoded together."""


def _quick() -> TrainConfig:
    return TrainConfig(steps=6_000, batch=256, learning_rate=1e-3, warmup=100, weight_decay=1e-2, clip=1.0)


@dataclass(frozen=True)
class TemporalPart:
    """The time between latents, its training and the data sets it learns from."""

    head: TemporalConfig = field(default_factory=TemporalConfig)
    train: TrainConfig = field(default_factory=_quick)
    data: tuple[str, ...] = ()
    longest: int = 100
    """Control steps between the latents of a pair, at most."""
    imagined: int = 5
    """Blocks that are imagined ahead, at most."""


@dataclass(frozen=True)
class InversePart:
    """The actions between latents, its training and the data sets it learns from."""

    head: InverseConfig = field(default_factory=InverseConfig)
    train: TrainConfig = field(default_factory=_quick)
    data: tuple[str, ...] = ()
    longest: int = 100
    imagined: int = 5


@dataclass(frozen=True)
class DecoderPart:
    """Latents as pictures, its training and the data sets it learns from."""

    head: DecoderConfig = field(default_factory=DecoderConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=3_000, batch=64, learning_rate=1e-3, warmup=100, weight_decay=1e-3)
    )
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnsemblePart:
    """Further predictors, their training and the data sets they learn from."""

    head: LatentEnsembleConfig = field(default_factory=LatentEnsembleConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=6_000, batch=128, learning_rate=1e-3, final_rate=1e-6, warmup=100, weight_decay=1e-3, clip=1.0
        )
    )
    data: tuple[str, ...] = ()
    settled: int = 64
    """Batches that the statistics of the batch norms are taken from."""


Head = TemporalPart | InversePart | DecoderPart | EnsemblePart


@dataclass(frozen=True, slots=True)
class Pairs:
    """Latents, what was done from there on, and later latents of the same episodes."""

    here_BD: Tensor
    """Half of them imagined from an earlier one."""
    goal_BD: Tensor
    steps_B: Tensor
    """Control steps between the two."""
    block_BX: Tensor
    """Of actions that leave `here`, (B, block * A)."""


@dataclass(frozen=True)
class Encoded:
    """A trained model and the latents of all frames that it is given."""

    model: Jepa
    data: FrameData
    z_ND: Tensor

    @staticmethod
    def of(part: Head, folder: Path, weights: Path) -> Encoded:
        """Return the data of a part. Raises ValueError, in one line, where the model or a data set is missing."""
        path = weights / "jepa.safetensors"
        return _encoded(part.data, folder, weights, path.stat().st_mtime_ns if path.exists() else 0)

    def sampler(self, part: TemporalPart | InversePart, episodes: np.ndarray) -> Callable[[Generator], Pairs]:
        """Return a sampler of pairs from these episodes. Raises ValueError where none is long enough."""
        block, ahead, batch = self.model.cfg.block, part.imagined, part.train.batch
        data, starts_W = self.data, self.data.starts(block * (ahead + 1), episodes)
        last_N = np.repeat(data.first_E[1:] - 1, np.diff(data.first_E))
        rows_B = torch.arange(batch)

        def draw(generator: Generator) -> Pairs:
            start_B = torch.from_numpy(starts_W)[torch.randint(0, len(starts_W), (batch,), generator=generator)]
            steps_BK = start_B[:, None] + torch.arange(block * (ahead + 1))
            blocks_BHX = torch.from_numpy(data.action_NA[steps_BK.numpy()]).view(batch, ahead + 1, -1)
            later_B = torch.randint(0, ahead + 1, (batch,), generator=generator)
            at_B = start_B + block * later_B
            here_BD = self.z_ND[at_B]
            if ahead:
                with torch.no_grad():
                    past_BPX = blocks_BHX[:, :0]
                    dreamt_BHD = self.model.rollout(self.z_ND[start_B][:, None], past_BPX, blocks_BHX[:, :ahead])
                dreamt_B1 = (torch.rand(batch, 1, generator=generator) < 0.5) & (later_B[:, None] > 0)
                here_BD = torch.where(dreamt_B1, dreamt_BHD[rows_B, (later_B - 1).clamp_min(0)], here_BD)
            longest_B = torch.from_numpy(last_N)[at_B].sub(at_B).clamp_max(part.longest)
            apart_B = (torch.rand(batch, generator=generator) * (longest_B + 1)).long()
            return Pairs(here_BD, self.z_ND[at_B + apart_B], apart_B.float(), blocks_BHX[rows_B, later_B])

        return draw


def frames_of(
    names: tuple[str, ...], folder: Path, side: int, report: Callable[[int, int], None] = lambda done, total: None
) -> FrameData:
    """Return the episodes of the named data sets with pictures of that side. Raises ValueError where one is missing.

    `report` hears of episodes done and of all, if their pictures have to be made first.
    """
    return load_frames(present(names, folder), side, folder / CACHE, report)


@torch.inference_mode()
@lru_cache(1)
def _encoded(names: tuple[str, ...], folder: Path, weights: Path, written_ns: int) -> Encoded:
    """Return what all heads of one model learn from: to encode it takes minutes."""
    model = load_part(weights, "jepa")
    assert isinstance(model, Jepa)
    data = frames_of(names, folder, model.cfg.image)
    return Encoded(model, data, latents(model, data.frame_NHWC))


def latents(model: Jepa, frame_NHWC: np.ndarray) -> Tensor:
    """Return the latents (N, D) of pictures."""
    parts = [frame_NHWC[i : i + AT_ONCE] for i in range(0, len(frame_NHWC), AT_ONCE)]
    return torch.cat([model.encode(torch.from_numpy(np.array(part))) for part in parts]).clone()


def head_task[B](
    name: str,
    cfg: LatentModelConfig,
    part: Head,
    encoded: Encoded,
    model: nn.Module,
    sampler: Callable[[np.ndarray], Callable[[Generator], B]],
    loss_of: Callable[[Any, B], Tensor],
    figures: Callable[[Any, list[B]], dict[str, float]],
) -> Task:
    """Return what all heads share: samplers of both splits, and a card."""
    fresh, unseen = map(sampler, encoded.data.split(part.train.heldout_share, part.train.seed))
    card: dict[str, Any] = {"part": name, "robot": cfg.robot, "data": list(part.data)}
    card |= {"transitions": len(encoded.z_ND), "jepa": asdict(encoded.model.cfg), **asdict(part)}

    def finish(trained: nn.Module) -> dict[str, float]:
        generator = Generator().manual_seed(part.train.seed)
        with torch.no_grad():
            return figures(trained, [unseen(generator) for _ in range(16)])

    return Task(
        model,
        lambda made, step, generator: loss_of(made, fresh(generator)).mean(),
        lambda made, step, generator: loss_of(made, unseen(generator)).mean(),
        card,
        finish,
    )


def temporal_task(cfg: LatentModelConfig, folder: Path, weights: Path) -> Task:
    """Return the time between latents, to be trained on those of the model in `weights`."""
    part = cfg.temporal
    assert part is not None
    encoded = Encoded.of(part, folder, weights)
    block, model = encoded.model.cfg.block, TemporalDistance(part.head, encoded.model.cfg.latent)

    def loss(made: TemporalDistance, pairs: Pairs) -> Tensor:
        return made.loss(pairs.here_BD, pairs.goal_BD, pairs.steps_B / block)

    def figures(made: TemporalDistance, some: list[Pairs]) -> dict[str, float]:
        guess = torch.cat([block * made(p.here_BD, p.goal_BD) for p in some])
        true = torch.cat([p.steps_B for p in some])
        return {
            "error_steps": float((guess - true).abs().mean()),
            "correlation": float(torch.corrcoef(torch.stack([guess, true]))[0, 1]),
        }

    return head_task("temporal", cfg, part, encoded, model, partial(encoded.sampler, part), loss, figures)


def inverse_task(cfg: LatentModelConfig, folder: Path, weights: Path) -> Task:
    """Return the actions between latents, to be trained on those of the model in `weights`."""
    part = cfg.inverse
    assert part is not None
    encoded = Encoded.of(part, folder, weights)
    of = encoded.model
    model = InverseDynamics(part.head, of.cfg.latent, of.action, of.cfg.block)

    def loss(made: InverseDynamics, pairs: Pairs) -> Tensor:
        return made.loss(pairs.here_BD, pairs.goal_BD, pairs.block_BX)

    def figures(made: InverseDynamics, some: list[Pairs]) -> dict[str, float]:
        error = torch.cat([made.error(p.here_BD, p.goal_BD, p.block_BX) for p in some])
        made.std.copy_(error.square().mean(0).sqrt())  # pyright: ignore
        return {"error": float(error.square().mean())}

    return head_task("inverse", cfg, part, encoded, model, partial(encoded.sampler, part), loss, figures)


def ensemble_task(cfg: LatentModelConfig, folder: Path, weights: Path) -> Task:
    """Return further predictors, to be trained on the latents of the model in `weights`."""
    part = cfg.ensemble
    assert part is not None
    encoded = Encoded.of(part, folder, weights)
    of, data = encoded.model, encoded.data
    frames, block = of.cfg.history + 1, of.cfg.block

    def sampler(episodes: np.ndarray) -> Callable[[Generator], tuple[Tensor, Tensor]]:
        starts_W = torch.from_numpy(data.starts(block * of.cfg.history, episodes))

        def draw(generator: Generator) -> tuple[Tensor, Tensor]:
            at_B = starts_W[torch.randint(0, len(starts_W), (part.train.batch,), generator=generator)]
            steps_BK = (at_B[:, None] + torch.arange(block * of.cfg.history)).numpy()
            actions = torch.from_numpy(data.action_NA[steps_BK]).view(len(at_B), of.cfg.history, -1)
            return encoded.z_ND[at_B[:, None] + block * torch.arange(frames)], actions

        return draw

    def loss(made: LatentEnsemble, batch: tuple[Tensor, Tensor]) -> Tensor:
        for norm in batch_norms(made):
            norm.train()
        return made.loss(of, *batch)

    def figures(made: LatentEnsemble, some: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        generator = Generator().manual_seed(part.train.seed)
        fresh = sampler(data.split(part.train.heldout_share, part.train.seed)[0])
        batches = [fresh(generator) for _ in range(part.settled)]
        settle_norms(made, lambda: [made.loss(of, *batch) for batch in batches])
        return {"error": float(torch.stack([made.loss(of, *batch) for batch in some]).mean())}

    model = LatentEnsemble(part.head, of.cfg)
    return head_task("ensemble", cfg, part, encoded, model, sampler, loss, figures)


def decoder_task(cfg: LatentModelConfig, folder: Path, weights: Path) -> Task:
    """Return latents as pictures, to be trained on those of the model in `weights`."""
    part = cfg.decoder
    assert part is not None
    encoded = Encoded.of(part, folder, weights)
    of, data = encoded.model.cfg, encoded.data

    def sampler(episodes: np.ndarray) -> Callable[[Generator], tuple[Tensor, Tensor]]:
        rows_N = torch.from_numpy(data.windows(0, episodes))

        def draw(generator: Generator) -> tuple[Tensor, Tensor]:
            at_B = rows_N[torch.randint(0, len(rows_N), (part.train.batch,), generator=generator)]
            return encoded.z_ND[at_B], torch.from_numpy(data.frame_NHWC[at_B.numpy()])

        return draw

    def figures(made: Decoder, some: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        return {"error": float(torch.stack([made.loss(*batch).mean() for batch in some]).mean())}

    model = Decoder(part.head, of.latent, of.image)
    return head_task("decoder", cfg, part, encoded, model, sampler, lambda made, batch: made.loss(*batch), figures)
