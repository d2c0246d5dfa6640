"""What the latents of a world model know, and what it imagines: probes of the state, straightness, and pictures of open-loop futures.

All on episodes that nothing was learned from. A picture of docs/ shows some of them: what was seen, what was imagined from the first
picture and the actions alone, drawn by the decoder, and the frame of the training data whose latent is nearest to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import Options, Result, Table, command, mean_interval
from benchmarks.lewm import WORLDS, shipped
from configs.models import LATENT_MODELS
from configs.presets import PRESETS
from deploy.dreams import strip as pictured
from deploy.machine import ROOT
from envs.frames import FrameData
from envs.robots import robot_spec
from world_models.checkpoint import load_part
from world_models.decoder import Decoder
from world_models.jepa import Jepa
from world_models.latent_heads import frames_of, latents
from world_models.probes import explained, readable, ridge
from world_models.temporal import mlp

AHEAD = (1, 2, 5, 10)
"""Blocks that are imagined ahead."""
SHOWN, BLOCKS = 3, 8
"""Episodes in the picture, and blocks of each."""
PLACES = ("px", "m")
"""Units of where things are."""
SEARCHED = 20_000
"""Frames of the training data among which the nearest is looked for."""


@dataclass(frozen=True)
class ProbeOptions(Options):
    """What this benchmark can be told."""

    worlds: tuple[str, ...] = field(default_factory=lambda: shipped(WORLDS))
    data: Path = Path("data")


@dataclass(frozen=True)
class Seen:
    """A model, and frames with their latents: of the training data, and others."""

    preset: str
    model: Jepa
    known: FrameData
    known_ND: Tensor
    other: FrameData
    other_ND: Tensor

    @staticmethod
    def of(preset: str, data: Path) -> Seen:
        """Return them; raises ValueError, in one line, for what is not there."""
        model = load_part(PRESETS[preset][1].agent.folder, "jepa")  # pyright: ignore
        assert isinstance(model, Jepa)
        names = LATENT_MODELS[preset].jepa.data, (WORLDS[preset][0],)
        known, other = (frames_of(n, data, model.cfg.image) for n in names)
        known = first(known, SEARCHED)
        return Seen(preset, model, known, latents(model, known.frame_NHWC), other, latents(model, other.frame_NHWC))


def first(data: FrameData, frames: int) -> FrameData:
    """Return the first whole episodes, of no more than so many frames."""
    count = max(1, int((data.first_E <= frames).sum()) - 1)
    end = int(data.first_E[count])
    return FrameData(data.frame_NHWC[:end], data.state_NO[:end], data.action_NA[:end], data.first_E[: count + 1])


def network(x_ND: Tensor, y_NC: Tensor, other_ND: Tensor, steps: int = 1500) -> Tensor:
    """Return what a small network says of others."""
    torch.manual_seed(0)
    mean_C, std_C = y_NC.mean(0), y_NC.std(0)
    net = mlp(x_ND.shape[1], 256, 2, y_NC.shape[1])
    optimiser, generator = (
        torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-2),
        torch.Generator().manual_seed(0),
    )
    for _ in range(steps):
        rows = torch.randint(len(x_ND), (256,), generator=generator)
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x_ND[rows]), (y_NC[rows] - mean_C) / std_C).backward()
        optimiser.step()
    with torch.no_grad():
        return net(other_ND) * std_C + mean_C


def probed(seen: Seen) -> list[dict[str, Any]]:
    """Return the rows of the probes."""
    both = torch.from_numpy(np.concatenate([seen.known.state_NO, seen.other.state_NO]))
    names, asked = readable(robot_spec(PRESETS[seen.preset][1].robot), both)
    x, y, true = seen.known_ND, asked[: len(seen.known_ND)], asked[len(seen.known_ND) :]
    linear, bent = (explained(probe(x, y, seen.other_ND), true) for probe in (ridge, network))
    return [
        {"world": seen.preset, "of": name, "linear R2": a, "network R2": b, "n": len(true)}
        for name, a, b in zip(names, linear, bent, strict=True)
    ]


def imagined(seen: Seen, starts_N: np.ndarray, blocks: int) -> Tensor:
    """Return the latents (N, blocks, D) that follow from single frames and the actions that were taken."""
    block = seen.model.cfg.block
    steps = starts_N[:, None] + np.arange(block * blocks)
    rows_NHX = torch.from_numpy(seen.other.action_NA[steps].reshape(len(starts_N), blocks, -1))
    with torch.inference_mode():
        return seen.model.rollout(seen.other_ND[starts_N][:, None], rows_NHX[:, :0], rows_NHX).clone()


def nearest(seen: Seen, z_ND: Tensor) -> Tensor:
    """Return the numbers of the training frames whose latents are nearest."""
    return torch.cdist(z_ND, seen.known_ND).argmin(1)


def foreseen(seen: Seen, count: int = 400) -> list[dict[str, Any]]:
    """Return how wrong imagination is, so many blocks ahead: in latents, and by where things are in the nearest frame."""
    block, rng = seen.model.cfg.block, np.random.default_rng(0)
    starts_N = rng.choice(seen.other.windows(block * AHEAD[-1]), count)
    z_NHD = imagined(seen, starts_N, AHEAD[-1])
    spec, rows = robot_spec(PRESETS[seen.preset][1].robot), []
    half = spec.state_size // 2
    places = [column for column, unit in enumerate(spec.state_units[:half]) if unit in PLACES]
    for ahead in AHEAD:
        at_N = starts_N + block * ahead
        true_ND, guess_ND = seen.other_ND[at_N], z_NHD[:, ahead - 1]
        where_N = nearest(seen, guess_ND).numpy()
        off_N = np.linalg.norm((seen.known.state_NO[where_N] - seen.other.state_NO[at_N])[:, places], axis=1)
        share = (guess_ND - true_ND).square().mean(1) / seen.other_ND.var(0).mean()
        rows.append(
            {
                "world": seen.preset,
                "blocks ahead": ahead,
                "error, share of variance": mean_interval(share.tolist()),
                f"nearest frame is off by [{' or '.join(PLACES)}]": mean_interval(off_N.tolist()),
                "n": count,
            }
        )
    return rows


def straightness(seen: Seen) -> float:
    """Return the mean cosine between the ways of two blocks that follow each other."""
    block = seen.model.cfg.block
    at_N = seen.other.windows(2 * block)
    ways = [seen.other_ND[at_N + block * (i + 1)] - seen.other_ND[at_N + block * i] for i in range(2)]
    return float(nn.functional.cosine_similarity(*ways, dim=1).mean())


def strip(seen: Seen, decoder: Decoder) -> bytes:
    """Return a PNG: of some episodes what was seen, what was imagined, and the nearest frames."""
    block, rng = seen.model.cfg.block, np.random.default_rng(4)
    starts_N = rng.choice(seen.other.windows(block * BLOCKS), SHOWN, replace=False)
    z_NHD = imagined(seen, starts_N, BLOCKS)
    lines: list[tuple[str, np.ndarray]] = []
    for index, start in enumerate(starts_N):
        lines.append(("seen", seen.other.frame_NHWC[start + block * np.arange(1, BLOCKS + 1)]))
        lines.append(("imagined", decoder.picture(z_NHD[index]).numpy()))
        lines.append(("nearest", seen.known.frame_NHWC[nearest(seen, z_NHD[index]).numpy()]))
    return pictured(lines, [f"{block * n} steps" for n in range(1, BLOCKS + 1)])


def rows_of(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Return rows as a table."""
    return Table(title, tuple(rows[0]), tuple(tuple(r.values()) for r in rows))


def measure(options: ProbeOptions) -> Result:
    """Return the tables, and draw the pictures."""
    probes, futures, straight = [], [], {}
    for preset in options.worlds:
        seen = Seen.of(preset, options.data)
        probes += probed(seen)
        futures += foreseen(seen)
        straight[preset] = straightness(seen)
        decoder = load_part(PRESETS[preset][1].agent.folder, "decoder")  # pyright: ignore
        assert isinstance(decoder, Decoder)
        if not options.quick:
            (ROOT / "docs" / f"imagination-{robot_spec(PRESETS[preset][1].robot).name}.png").write_bytes(
                strip(seen, decoder)
            )
    figures: dict[str, Any] = {f"straightness, {preset}": value for preset, value in straight.items()}
    for preset in options.worlds:
        figures[f"least linear R2, {preset}"] = min(r["linear R2"] for r in probes if r["world"] == preset)
    tables = rows_of(probes, "what probes read off single latents"), rows_of(futures, "open-loop imagination")
    claim = "Latents that were trained to be foreseen hold where things are, and futures that are imagined from one picture go on to."
    return Result("latent_probes", claim, figures, tables, (0,), sum(r["n"] for r in futures))


main = command(ProbeOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
