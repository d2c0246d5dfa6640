"""What a latent world model knows and imagines, for the report of a run: pictures for people, of which nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy.plots import axes, png
from envs.robots import painter
from envs.video import resized
from world_models.checkpoint import load_part, read_card
from world_models.decoder import Decoder
from world_models.jepa import Jepa

if TYPE_CHECKING:
    from agents.latent import LatentConfig
    from deploy.records import EpisodeRecord

BLOCKS = 8
"""That are imagined, at most."""
KNOWS = "linear R2 of "
"""How the figures of a card begin that say what a linear probe reads off the latents."""


def knowledge(cfg: LatentConfig) -> list[tuple[str, float]]:
    """Return what the latents know of the state, by the card of the model: names and R2 on held-out episodes."""
    figures = read_card(cfg.folder, "jepa").get("metrics", {})
    return [(name.removeprefix(KNOWS), value) for name, value in figures.items() if name.startswith(KNOWS)]


def longest(episodes: Sequence[EpisodeRecord]) -> EpisodeRecord | None:
    """Return the longest episode whose arrays are here."""
    return max((e for e in episodes if e.full), key=lambda e: e.steps, default=None)


def dream(cfg: LatentConfig, robot: str, version: str, episodes: Sequence[EpisodeRecord]) -> bytes | None:
    """Return a PNG: the longest episode as it was, and as the model imagines it from its first picture and its actions.

    None where the checkpoint cannot draw (part `decoder`), or no episode is a block long.
    """
    episode = longest(episodes)
    if episode is None or not (cfg.folder / "decoder.safetensors").exists():
        return None
    model, decoder = load_part(cfg.folder, "jepa"), load_part(cfg.folder, "decoder")
    assert isinstance(model, Jepa)
    assert isinstance(decoder, Decoder)
    block, draw = model.cfg.block, painter(robot, version)
    blocks = min(BLOCKS, (episode.steps - 1) // block)
    if blocks < 1:
        return None
    seen = [resized(draw(episode.states_TO[block * n]), model.cfg.image) for n in range(blocks + 1)]
    rows_1HX = torch.from_numpy(episode.sent_TA[: block * blocks].astype(np.float32)).view(1, blocks, -1)
    with torch.inference_mode():
        first_1TD = model.encode(torch.from_numpy(np.ascontiguousarray(seen[0]))[None])[:, None]
        imagined = decoder.picture(model.rollout(first_1TD, rows_1HX[:, :0], rows_1HX)[0]).numpy()
    return strip([("seen", seen[1:]), ("imagined", imagined)], [f"{block * n} steps" for n in range(1, blocks + 1)])


def strip(lines: Sequence[tuple[str, Sequence[np.ndarray] | np.ndarray]], titles: Sequence[str]) -> bytes:
    """Return a PNG of rows of pictures, each with its name; titles are those of the columns."""
    figure, grid = axes(1.2 * len(lines) + 0.2, len(titles), len(lines))
    grid = np.reshape(grid, (len(lines), len(titles)))
    for number, (row, (name, pictures)) in enumerate(zip(grid, lines, strict=True)):
        for axis, picture, title in zip(row, pictures, titles, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[], title=title if not number else "")
            axis.grid(visible=False)
        row[0].set_ylabel(name)
    return png(figure)
