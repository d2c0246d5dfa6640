"""Plan in latents: from the picture that is seen to the picture that is wanted, by a search over blocks of actions.

A plan covers `horizon` blocks from the last picture on; what is already committed is the beginning of all its candidates. The goal is
the picture of the state that the robot's goal columns name (`goal_...`), or a file: objective `image:PATH`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from agents.learned import CHECKOUT
from agents.types import AgentEvent, GoalChange
from envs.robots import painter, wanted
from envs.types import ActionSpec, Belief, Observation
from envs.video import resized
from planners.cem import Cem
from planners.mppi import Mppi
from planners.search import SearchPlanner
from planners.types import PlanStatus
from planners.warm import shifted
from world_models.checkpoint import load_part
from world_models.jepa import Jepa

if TYPE_CHECKING:
    from envs.robots import RobotSpec
    from planners.base import Readings
    from planners.types import ActionPlan

IMAGE = "image:"
"""How an objective begins that is a picture in a file."""


@dataclass(frozen=True)
class LatentConfig:
    """A robot that plans from pictures with a latent world model."""

    checkpoint: Path = Path("checkpoints/lewm-tworoom-small")
    """Folder of the weights; looked for here, then in the checkout."""
    method: Cem | Mppi = field(
        default_factory=lambda: Cem(elites=30, iterations=10, kernel=1.0, correlation=0.0, trust=float("inf"))
    )
    horizon: int = 5
    """Blocks of actions that a plan looks ahead."""
    samples: int = 300
    """Candidates per iteration."""
    init_std: float = 0.7
    """Of the first candidates around the last plan, in half ranges of the actuators."""

    @property
    def folder(self) -> Path:
        """Where the checkpoint is."""
        return self.checkpoint if self.checkpoint.is_dir() else CHECKOUT / self.checkpoint


@dataclass(frozen=True)
class LatentDynamics:
    """A latent model whose actions are blocks, the first of which begin with what is committed, (B, K * A)."""

    model: Jepa
    committed_BX: Tensor

    def rollout(self, belief: Belief, actions_BSHA: Tensor, generators: Sequence[Generator], /) -> Tensor:
        """Return the latent after each block, (B, S, H, D)."""
        B, S, H, A = actions_BSHA.shape
        due_BSX = self.committed_BX[:, None].expand(B, S, -1)
        rows_BSX = torch.cat([due_BSX, actions_BSHA.flatten(2)[:, :, due_BSX.shape[2] :]], 2)
        z_NTD = belief.z_BTD.repeat_interleave(S, 0)
        past_NPA = belief.actions_BTA.repeat_interleave(S, 0)
        return self.model.rollout(z_NTD, past_NPA, rows_BSX.reshape(B * S, H, A)).view(B, S, H, -1)


@dataclass(frozen=True)
class Distance:
    """Squared distance of the last latent from the goal's (Maes et al. 2026): the cost of a candidate."""

    reads: tuple[str, ...] = ("goal_distance",)

    def __call__(self, readings: Readings, actions_BSHA: Tensor, /) -> Tensor:
        """Return the cost per candidate, (B, S)."""
        return readings["goal_distance"][..., -1]


def toward(goal_BD: Tensor) -> Callable[[Tensor], Readings]:
    """Return a readout of the squared distance from a goal for each environment, (B, S, H)."""
    return lambda z_BSHD: {"goal_distance": (z_BSHD - goal_BD[:, None, None]).square().sum(-1)}


def blocks_of(action: ActionSpec, block: int) -> ActionSpec:
    """Return the actions of a block of control steps as one."""
    names = tuple(f"{name}_{step}" for step in range(block) for name in action.names)
    return ActionSpec(np.tile(action.low_A, block), np.tile(action.high_A, block), action.unit_A * block, names)


@dataclass
class LatentAgent:
    """An agent that sees pictures, and of the state only what goal it names."""

    model: Jepa
    planner: SearchPlanner
    """Over blocks; its readout and dynamics are made for each plan."""
    spec: RobotSpec
    draw: Callable[[np.ndarray], np.ndarray] | None
    """Picture of a state; None where only files are goals."""
    generator: Generator = field(default_factory=Generator)

    def __post_init__(self) -> None:
        self._goal_D: Tensor | None = None
        self._asked_D: Tensor | None = None  # by an objective
        self._last: ActionPlan | None = None
        self._seen: deque[tuple[Observation, Tensor]] = deque(maxlen=self._span + 1)
        self._sent: deque[np.ndarray] = deque(maxlen=self._span)

    @property
    def _span(self) -> int:
        return self.model.cfg.block * (self.model.cfg.history - 1)

    # --- what is seen

    @torch.inference_mode()
    def encode(self, picture_HWC: np.ndarray) -> Tensor:
        """Return the latent of a picture of any size, (D,)."""
        square = np.ascontiguousarray(resized(picture_HWC, self.model.cfg.image))
        return self.model.encode(torch.from_numpy(square)[None])[0]

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Forget the last episode; the same episode and seed give the same random numbers."""
        self.generator.manual_seed(seed * 1_000_003 + episode)
        self._goal_D, self._last = self._asked_D, None
        self._seen.clear()
        self._sent.clear()

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Take in the step."""
        self._see(before)
        self._sent.append(np.asarray(action_A, np.float32))
        self._see(after)
        return ()

    def _see(self, seen: Observation) -> None:
        """Encode the picture, once. Raises ValueError for an observation without one."""
        if self._seen and self._seen[-1][0] is seen:
            return
        if seen.image is None:
            raise ValueError(f"this agent plans from pictures, and the observation at {seen.t_s:.3f} s has none")
        self._seen.append((seen, self.encode(seen.image)))

    def _pictured(self, state_O: np.ndarray) -> np.ndarray:
        if self.draw is None:
            raise ValueError(f"{self.spec.name} names no goal: give a picture of it, --objective {IMAGE}PATH")
        return self.draw(wanted(self.spec, state_O))

    def belief(self) -> Belief:
        """Return the latents a block apart, up to the last, and the blocks between (B = 1)."""
        block = self.model.cfg.block
        known = min(len(self._seen) - 1, len(self._sent)) // block
        latents = [self._seen[-1 - block * back][1] for back in range(known, -1, -1)]
        sent = list(self._sent)[len(self._sent) - block * known :]
        past_TA = np.array(sent, np.float32).reshape(known, block * self.spec.action.size)
        return Belief(torch.stack(latents)[None], torch.from_numpy(past_TA)[None])

    # --- what is wanted

    def pursue(self, objective: str, t_s: float, /) -> Sequence[AgentEvent]:
        """Pursue the picture in a file, `image:PATH`; "" is what the state names. Raises ValueError, in one line, for anything else."""
        if objective and not objective.startswith(IMAGE):
            raise ValueError(f"this agent pursues pictures, {IMAGE}PATH, got {objective!r}")
        self._asked_D = self.encode(read_picture(Path(objective.removeprefix(IMAGE)))) if objective else None
        self._goal_D, self._last = self._asked_D, None
        return (GoalChange(t_s, objective),)

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return the plan that follows the K actions of `committed_KA` (K, A), in control steps; t0_s = t_s + K dt_s."""
        self._see(observation)
        if self._goal_D is None:
            self._goal_D = self.encode(self._pictured(observation.state_O))
        steps, size = len(committed_KA), self.spec.action.size
        rows = self.planner.horizon * self.model.cfg.block
        if steps >= rows:
            raise ValueError(f"a plan of {rows} control steps cannot begin after {steps} that are committed")
        start_s = observation.t_s + steps * self.spec.dt_s
        due_KA = np.asarray(committed_KA, np.float32).reshape(steps, size)
        planner = replace(
            self.planner,
            dynamics=LatentDynamics(self.model, torch.from_numpy(due_KA.reshape(1, -1))),
            readout=toward(self._goal_D[None]),
        )
        guess_BHA = self._guess(due_KA, start_s, rows)
        found = planner.search(self.belief(), guess_BHA, [self.generator])
        blocks = planner.as_plan(found, 0, start_s, observation.t_s)
        rows_HA = blocks.actions_HA.reshape(rows, size)[steps:]
        plan = replace(blocks, actions_HA=rows_HA, dt_s=self.spec.dt_s, futures_FHD=None)
        if plan.status is not PlanStatus.FAILED:
            self._last = plan
        return plan

    def _guess(self, due_KA: np.ndarray, start_s: float, rows: int) -> Tensor | None:
        """Return what is committed and then the rest of the last plan, as blocks (1, H, block * A)."""
        if self._last is None:
            return None
        rest_HA = shifted(self._last, start_s)
        if rest_HA is None:
            return None
        size = self.spec.action.size
        whole_HA = np.concatenate([due_KA, rest_HA, np.zeros((rows, size))])[:rows].astype(np.float32)
        return torch.from_numpy(whole_HA).view(1, self.planner.horizon, -1)

    # --- what is learned: nothing yet

    def end_episode(self, terminated: bool, /) -> Sequence[AgentEvent]:
        """Take no notice."""
        return ()

    def take_job(self) -> None:
        """Return None: there is nothing to learn."""

    def receive(self, result: object, t_s: float, /) -> Sequence[AgentEvent]:
        """Raise: no job was given out."""
        raise ValueError("a LatentAgent gives out no jobs, so it cannot receive a result")


def read_picture(path: Path) -> np.ndarray:
    """Return a picture from a file, (height, width, 3) uint8. Raises ValueError, in one line, where it is none."""
    import imageio.v3 as iio

    try:
        picture = np.asarray(iio.imread(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no picture: {' '.join(str(error).split())}") from None
    if picture.ndim != 3 or picture.shape[2] < 3 or picture.dtype != np.uint8:
        raise ValueError(f"{path} must be a colour picture of 8 bits, got {picture.shape} {picture.dtype}")
    return picture[..., :3]


def build_latent(cfg: LatentConfig, spec: RobotSpec, objective: str = "") -> LatentAgent:
    """Return the agent. Raises ValueError, in one line, for weights that are not there or are another robot's."""
    model = load_part(cfg.folder, "jepa")
    assert isinstance(model, Jepa)
    if model.cfg.action != spec.action.size:
        raise ValueError(f"{cfg.folder} is for {model.cfg.action} actuators, and {spec.name} has {spec.action.size}")
    planner = SearchPlanner(
        method=cfg.method,
        dynamics=LatentDynamics(model, torch.zeros(1, 0)),
        readout=toward(torch.zeros(1, model.cfg.latent)),
        objective=Distance(),
        action=blocks_of(spec.action, model.cfg.block),
        dt_s=spec.dt_s * model.cfg.block,
        horizon=cfg.horizon,
        samples=cfg.samples,
        init_std=cfg.init_std,
        correlation=0.0,
    )
    agent = LatentAgent(model, planner, spec, painter(spec.name, spec.version) if spec.drawn else None)
    if objective:
        agent.pursue(objective, 0.0)
    return agent
