"""Fresh episodes of a checkpoint's own behaviour in simulation: its cloned policy with noise, many robots side by side.

Each episode is made of its own random numbers, derived from (seed, index): episodes are independent and alike in distribution.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy.watch import keep
from envs.episodes import Episode, Spool
from envs.faults import FaultWrapper, parse_faults
from envs.robots import make_env, robot_spec
from world_models.checkpoint import load_part, read_card
from world_models.policy import Policy

if TYPE_CHECKING:
    import gymnasium

SIDE_BY_SIDE = 64
"""Robots that are simulated together: the policy answers them in one batch, always of this size."""


@dataclass(frozen=True)
class Behaviour:
    """Who acts, and how much noise is on what it does."""

    checkpoint: Path
    noise: float = 0.1
    """Standard deviation, in standard deviations of the actions that the policy was cloned from; drawn anew at each step."""
    faults: tuple[str, ...] = ()
    """Of the robot that acts, in the grammar of `surefoot run`; an episode begins at 0 s."""

    def __post_init__(self) -> None:
        if not self.noise >= 0.0:
            raise ValueError(f"noise must be >= 0, got {self.noise}")

    @property
    def words(self) -> str:
        """What it is, for people."""
        broken = f", on a robot with {' '.join(self.faults)}" if self.faults else ""
        return f"the cloned policy of {self.checkpoint.name} with noise of {self.noise:g} deviations on its actions{broken}"


@dataclass
class Lane:
    """One robot and what its running episode has seen."""

    env: gymnasium.Env
    index: int
    seed: int
    rng: np.random.Generator
    states: list[np.ndarray]
    actions: list[np.ndarray]
    applied: list[np.ndarray]
    rewards: list[float]

    @staticmethod
    def begin(env: gymnasium.Env, seed: int, index: int) -> Lane:
        """Return episode `index` at its start."""
        body, noise = np.random.SeedSequence([seed, index]).spawn(2)
        number = int(body.generate_state(1)[0])
        if isinstance(env, FaultWrapper):
            env.go_to(0.0)
        state_O, _ = env.reset(seed=number)
        return Lane(env, index, number, np.random.default_rng(noise), [state_O], [], [], [])

    def act(self, mean_A: np.ndarray, noise_A: np.ndarray) -> Episode | None:
        """Do `mean_A` with noise; return the episode if that was its end."""
        low_A, high_A = self.env.action_space.low, self.env.action_space.high  # pyright: ignore[reportAttributeAccessIssue]
        action_A = np.clip(mean_A + noise_A * self.rng.standard_normal(len(mean_A)), low_A, high_A).astype(np.float32)
        state_O, reward, terminated, truncated, info = self.env.step(action_A)
        self.states.append(state_O)
        self.actions.append(action_A)
        self.applied.append(info.get("action_applied", action_A))
        self.rewards.append(float(reward))
        if not (terminated or truncated):
            return None
        actions_TA = np.stack(self.actions)
        rows = np.stack(self.states), actions_TA, actions_TA, np.stack(self.applied), np.array(self.rewards)
        return Episode(*rows, bool(terminated), bool(truncated), self.seed, {"index": self.index})


def fresh_episodes(of: Behaviour, numbers: Sequence[int], seed: int) -> Iterator[Episode]:
    """Yield the episodes with these numbers, in that order.

    Raises ValueError or KeyError, in one line, for a checkpoint without a policy, a robot that nobody can simulate or an illegal fault.
    """
    policy, spec = load_part(of.checkpoint, "policy"), robot_spec(read_card(of.checkpoint, "policy")["robot"])
    assert isinstance(policy, Policy)
    noise_A = of.noise * policy.action.std.numpy()
    left, due, waiting = iter(numbers), iter(numbers), dict[int, Episode]()
    faults = parse_faults(of.faults, spec)

    def robot() -> gymnasium.Env:
        return FaultWrapper(make_env(spec.name), faults) if faults else make_env(spec.name)

    lanes = [Lane.begin(robot(), seed, index) for index in islice(left, SIDE_BY_SIDE)]
    now_BO = torch.zeros(SIDE_BY_SIDE, spec.state_size)
    wanted = next(due, None)
    while wanted is not None:
        for row, lane in enumerate(lanes):
            now_BO[row] = torch.from_numpy(lane.states[-1])
        with torch.inference_mode():
            mean_BA = policy(now_BO).numpy()
        ended = [(row, lane, done) for row, lane in enumerate(lanes) if (done := lane.act(mean_BA[row], noise_A))]
        for row, lane, done in reversed(ended):
            waiting[lane.index] = done
            if (index := next(left, None)) is None:
                lanes.pop(row)
            else:
                lanes[row] = Lane.begin(lane.env, seed, index)
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted = next(due, None)


def kept_episodes(of: Behaviour, numbers: Sequence[int], seed: int, folder: Path) -> Iterator[Episode]:
    """Yield the same, kept in a spool under `folder`: the same call later goes on from there."""
    weights = (of.checkpoint / "policy.safetensors").read_bytes()
    made = zlib.crc32(weights, zlib.crc32(" ".join([str(of.noise), str(seed), *of.faults]).encode()))
    spool = Spool(folder / f"{of.checkpoint.name}-{made:08x}")
    return keep(spool, numbers, lambda missing: fresh_episodes(of, missing, seed))
