"""From a few human demonstrations of Push-T to many episodes: mirrored and turned, begun anywhere, and followed unsteadily.

The world is a square and the T has an axis, so that each demonstration stands for eight. An episode begins at a random step of one
of them and follows its targets with a slowly wandering error until they end. In a share of the episodes the pusher goes to random
places around the block instead, no faster than people move it: hurried pushes would be most of all motion, and none of any use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.collect import run_episode
from envs.pusht import REACH, WORLD, turned
from envs.robots import make_env
from envs.shapes import check

if TYPE_CHECKING:
    from envs.episodes import Episode

_CORRELATION = 0.9  # of the wandering error, from one step to the next
_AROUND = 100.0  # [px] how far from the block a random place is, per axis
_SPEED = (0.1, 0.6)  # of the largest action, on the way there
_EDGE = 15.0  # [px] the pusher's radius: people keep it inside, and walls do not
_STAY = (3, 12)  # steps for which it is headed for


@dataclass(frozen=True, slots=True)
class Demo:
    """One demonstration: poses (T, 5) of pusher and block, and where the pusher was sent from each, (T, 2) [px]."""

    pose_T5: np.ndarray
    target_T2: np.ndarray


def read_demos(path: Path) -> list[Demo]:
    """Return the demonstrations in an npz with `state` (N, 5), `action` (N, 2) [px] and `episode_ends`, as Diffusion Policy keeps them.

    Raises ValueError, in one line, for anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            states_N5, actions_N2, ends_E = (np.asarray(file[key]) for key in ("state", "action", "episode_ends"))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no file of Push-T demonstrations: {error}") from None
    check(f"state in {path}", states_N5, "N X", X=5)
    check(f"action in {path}", actions_N2, "N X", N=len(states_N5), X=2)
    cuts = np.concatenate([[0], ends_E])
    return [Demo(states_N5[a:b].astype(float), actions_N2[a:b].astype(float)) for a, b in pairwise(cuts)]


def transformed(points: np.ndarray, quarters: int, mirrored: bool) -> np.ndarray:
    """Return points (..., 2) mirrored left to right, if so asked, then turned by so many quarters about the world's centre."""
    x, y = np.moveaxis(points - WORLD / 2, -1, 0)
    x = -x if mirrored else x
    for _ in range(quarters):
        x, y = -y, x
    return np.stack([x, y], -1) + WORLD / 2


def again(demo: Demo, quarters: int, mirrored: bool) -> Demo:
    """Return what the demonstration would have been in the mirrored and turned world."""
    pose_T5, angle_T = demo.pose_T5, demo.pose_T5[:, 4]
    pusher_T2, block_T2 = (transformed(pose_T5[:, part], quarters, mirrored) for part in (slice(2), slice(2, 4)))
    angle_T = turned((-angle_T if mirrored else angle_T) + quarters * np.pi / 2)
    return Demo(
        np.concatenate([pusher_T2, block_T2, angle_T[:, None]], 1), transformed(demo.target_T2, quarters, mirrored)
    )


@dataclass(frozen=True)
class GrowConfig:
    """How far an episode strays from its demonstration."""

    steps: int = 100
    wander_px: float = 25.0
    """Largest standard deviation of the error about the targets; each episode draws its own."""
    explore: float = 0.15
    """Share of the episodes that only go to random places around the block."""
    shortest: int = 40
    """Steps that an episode follows its demonstration at least, if that has as many."""
    seed: int = 0


def grow(demos: Sequence[Demo], cfg: GrowConfig, index: int) -> Episode:
    """Return episode `index`, a function of the arguments alone."""
    rng = np.random.default_rng([cfg.seed, index])
    demo = again(demos[int(rng.integers(len(demos)))], int(rng.integers(4)), bool(rng.integers(2)))
    first = int(rng.integers(max(1, len(demo.pose_T5) - cfg.shortest)))
    wander, exploring = rng.uniform(0.0, cfg.wander_px), rng.random() < cfg.explore
    error_2, place_2, left, speed = np.zeros(2), np.zeros(2), 0, 1.0

    def act(state_O: np.ndarray, step: int) -> np.ndarray:
        nonlocal error_2, place_2, left, speed
        error_2 = _CORRELATION * error_2 + np.sqrt(1 - _CORRELATION**2) * wander * rng.standard_normal(2)
        if not exploring:
            place_2 = demo.target_T2[first + step]
        elif left == 0:
            place_2, left = state_O[2:4] + rng.uniform(-_AROUND, _AROUND, 2), int(rng.integers(*_STAY))
            speed = rng.uniform(*_SPEED)
        left = max(0, left - 1)
        inside_2 = np.clip(place_2 + error_2, _EDGE, WORLD - _EDGE)
        return np.clip((inside_2 - state_O[:2]) / REACH, -speed, speed)

    options: dict[str, Any] = {"start": np.clip(demo.pose_T5[first], *_LEGAL), "goal": _ELSEWHERE}
    env = make_env("pusht")
    steps = cfg.steps if exploring else min(cfg.steps, len(demo.target_T2) - first)
    return run_episode(env, act, int(rng.integers(2**31)), steps, {"index": index, "first": first}, options)


def replay(demos: Sequence[Demo], index: int) -> Episode:
    """Return demonstration `index` as it was: the same targets from the same start."""
    demo = demos[index]

    def act(state_O: np.ndarray, step: int) -> np.ndarray:
        return np.clip((demo.target_T2[step] - state_O[:2]) / REACH, -1.0, 1.0)

    options: dict[str, Any] = {"start": np.clip(demo.pose_T5[0], *_LEGAL), "goal": _ELSEWHERE}
    return run_episode(make_env("pusht"), act, index, len(demo.target_T2), {"index": index}, options)


_LEGAL = np.array([0.0, 0, 0, 0, -10.0]), np.array([WORLD] * 4 + [10.0])
_ELSEWHERE = np.zeros(5)
"""A goal in the wall, which no episode meets: they have none."""
