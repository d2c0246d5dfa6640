"""Goal-conditioned cloning, a baseline of benchmarks/lewm.py: from the picture and the goal's picture straight to a block of actions.

The same encoder, data and number of optimiser steps as the world model's, trained end to end on what was done.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from envs.dataset import EpisodeData
from envs.frames import FrameData
from world_models.checkpoint import load_weights, save_tensors
from world_models.jepa import MEAN_RGB, STD_RGB, ConvConfig, ConvNet
from world_models.latent_heads import frames_of
from world_models.latents import LatentModelConfig
from world_models.normaliser import Normaliser
from world_models.temporal import mlp
from world_models.training import Loss, Run, train

WIDTH, LAYERS = 384, 3


class GoalCloning(nn.Module):
    """One encoder for both pictures, and a network that makes a block of actions of them."""

    def __init__(self, cfg: LatentModelConfig, action: Normaliser) -> None:
        super().__init__()
        of = cfg.jepa.jepa
        assert isinstance(of.encoder, ConvConfig)
        self.action, self.block = action, of.block
        self.encoder = ConvNet(of.encoder, of.image)
        self.net = mlp(2 * of.encoder.width, WIDTH, LAYERS, of.block * len(action.mean))
        self.register_buffer("mean_rgb", 255 * torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std_rgb", 255 * torch.tensor(STD_RGB).view(1, 3, 1, 1), persistent=False)

    def unit(self, seen_NHWC: Tensor, goal_NHWC: Tensor) -> Tensor:
        """Return blocks in standard deviations of the data, (N, block * A)."""
        both_NCHW = torch.cat([seen_NHWC, goal_NHWC]).movedim(-1, 1).float()
        features = self.encoder((both_NCHW - self.mean_rgb) / self.std_rgb)  # pyright: ignore
        return self.net(torch.cat(features.chunk(2), -1))

    def forward(self, seen_NHWC: Tensor, goal_NHWC: Tensor) -> Tensor:
        """Return blocks of actions in the robot's units, (N, block, A)."""
        return self.action.inverse(self.unit(seen_NHWC, goal_NHWC).view(len(seen_NHWC), self.block, -1))


def mark(cfg: LatentModelConfig, data: Path, longest: int) -> str:
    """Return a checksum of all that the baseline depends on: encoder, training and data."""
    total = zlib.crc32(repr((cfg.jepa.jepa, cfg.jepa.train, longest)).encode())
    for name in cfg.jepa.data:
        total = zlib.crc32(content(data / name).encode(), total)
    return f"{total:08x}"


@cache
def content(folder: Path) -> str:
    """Return a checksum of what was seen and done in a data set; how its files were written does not matter."""
    data, total = EpisodeData.load(folder), 0
    for array in (data.state_NO, data.action_NA, data.episode_start):
        total = zlib.crc32(array.tobytes(), total)
    return f"{total:08x}"


def trained(cfg: LatentModelConfig, data: Path, work: Path, longest: int) -> GoalCloning:
    """Return the baseline on the world model's data, for goals up to so many steps ahead; trained once, and kept in `work`."""
    name = f"cloning-{mark(cfg, data, longest)}"
    part, path = cfg.jepa, work / f"{name}.safetensors"
    frames = frames_of(part.data, data, part.jepa.image)
    known, unseen = frames.split(part.train.heldout_share, part.train.seed)
    torch.manual_seed(part.train.seed)
    model = GoalCloning(cfg, Normaliser.fit(torch.from_numpy(frames.action_NA)))
    if not path.exists():

        def loss_on(episodes: np.ndarray) -> Loss:
            draw = sampler(frames, episodes, part.jepa.block, part.train.batch, longest)

            def loss(made: nn.Module, step: int, generator: Generator) -> Tensor:
                seen, goal, block_BX = draw(generator)
                steps_BKA = block_BX.view(len(seen), part.jepa.block, -1)
                return (made.unit(seen, goal) - made.action(steps_BKA).flatten(1)).square().mean()  # pyright: ignore

            return loss

        run = Run(model, part.train, work / name)
        for _ in train(run, loss_on(known), loss_on(unseen)):
            pass
        save_tensors(path, run.use_ema().state_dict())
    load_weights(model, path)
    return model.eval().requires_grad_(False)


def sampler(
    data: FrameData, episodes: np.ndarray, block: int, batch: int, longest: int
) -> Callable[[Generator], tuple[Tensor, Tensor, Tensor]]:
    """Return a sampler of pictures, later pictures of the same episodes, and the blocks of actions that leave the first."""
    starts_W = data.windows(block, episodes)
    last_N = np.repeat(data.first_E[1:] - 1, np.diff(data.first_E))

    def draw(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        at_B = starts_W[torch.randint(0, len(starts_W), (batch,), generator=generator).numpy()]
        apart_B = 1 + torch.rand(batch, generator=generator).numpy() * np.minimum(last_N[at_B] - at_B, longest)
        goal_B = np.minimum(at_B + apart_B.astype(int), last_N[at_B])
        block_BX = data.action_NA[at_B[:, None] + np.arange(block)].reshape(batch, -1)
        return tuple(map(torch.from_numpy, (data.frame_NHWC[at_B], data.frame_NHWC[goal_B], block_BX)))  # pyright: ignore

    return draw
