"""Plan in latents: from the picture that is seen to the picture that is wanted, by a search over blocks of actions.

A plan covers `horizon` blocks from the last picture on; what is already committed is the beginning of all its candidates. The goal is
the picture of the state that the robot's goal columns name (`goal_...`), or a file: objective `image:PATH`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from agents.latent_adaptation import LatentAdaptConfig, LatentCandidate, LatentJob, LatentLearner
from agents.latent_monitor import LatentMonitor
from agents.latent_search import Amortised, Arrive, Distance, LatentDynamics, Metric, blocks_of, squared, toward
from agents.learned import CHECKOUT, load_calibration
from agents.surprise import SurpriseConfig
from agents.types import AgentEvent, GoalChange
from envs.robots import painter, wanted
from envs.types import Belief, Observation
from envs.video import resized
from planners.cem import Cem
from planners.mppi import Mppi
from planners.search import SearchPlanner
from planners.ssr import Ssr
from planners.types import PlanStatus
from planners.warm import shifted
from world_models.checkpoint import load_part
from world_models.inverse import InverseDynamics
from world_models.jepa import Jepa, quick
from world_models.latent_ensemble import LatentEnsemble

if TYPE_CHECKING:
    from envs.robots import RobotSpec
    from planners.types import ActionPlan

IMAGE = "image:"
"""How an objective begins that is a picture in a file."""


@dataclass(frozen=True)
class LatentConfig:
    """A robot that plans from pictures with a latent world model."""

    checkpoint: Path = Path("checkpoints/lewm-tworoom-small")
    """Folder of the weights; looked for here, then in the checkout."""
    method: Cem | Mppi | Ssr = field(
        default_factory=lambda: Cem(elites=12, iterations=5, kernel=1.0, correlation=0.0, trust=float("inf"))
    )
    horizon: int = 5
    """Blocks of actions that a plan looks ahead."""
    samples: int = 120
    """Candidates per iteration."""
    context: int = 1
    """Pictures, a block apart, that a plan begins from; more than one is dearer, and says how things move."""
    caution: float = 0.0
    """Price of disagreement among the predictors of the part `ensemble`, in distances from the goal."""
    bf16: bool = False
    """Whether searches predict in bf16: faster where the processor has it, and a little less exact."""
    init_std: float = 0.7
    """Of the first candidates around the last plan, in half ranges of the actuators."""
    settled: float = 0.0
    """A search ends early when its next draw would be narrower than this, in shares of `init_std`; 0: never."""
    arrive: Arrive = "any"
    """When a plan is to be at its goal. One that is made anew at each block and may always be there at its `end` never is."""
    delay: float = 0.0
    """Price of each block that a plan takes to arrive, in distances from the goal; it may arrive later for that much nearer."""
    distance: Literal["squared", "temporal"] = "squared"
    """From the goal: of the latents, or in time, by the part `temporal` of the checkpoint."""
    amortised: bool = False
    """Whether the first candidates are what leads to the goal by the part `inverse` of the checkpoint; a single one is it alone."""

    surprise: SurpriseConfig = field(
        default_factory=lambda: SurpriseConfig(false_alarm_rate=0.04, refractory=20, settle=40, start_updates=10)
    )
    """Of the monitor, which watches where the checkpoint has a calibration (`surefoot calibrate`)."""
    adapt: LatentAdaptConfig = field(default_factory=LatentAdaptConfig)

    @property
    def folder(self) -> Path:
        """Where the checkpoint is."""
        return self.checkpoint if self.checkpoint.is_dir() else CHECKOUT / self.checkpoint


@dataclass
class LatentAgent:
    """An agent that sees pictures, and of the state only what goal it names."""

    model: Jepa
    planner: SearchPlanner
    """Over blocks; its readout and dynamics are made for each plan."""
    spec: RobotSpec
    draw: Callable[[np.ndarray], np.ndarray] | None
    """Picture of a state; None where only files are goals."""
    metric: Metric = squared
    inverse: InverseDynamics | None = None
    """Proposes the first candidates."""
    monitor: LatentMonitor | None = None
    learner: LatentLearner | None = None
    ensemble: LatentEnsemble | None = None
    context: int = 1
    bf16: bool = False
    arrive: Arrive = "any"
    generator: Generator = field(default_factory=Generator)

    def __post_init__(self) -> None:
        self._searched = quick(self.model) if self.bf16 else self.model
        self._goal_D: Tensor | None = None
        self._asked_D: Tensor | None = None  # by an objective
        self._last: ActionPlan | None = None
        span = self.model.cfg.block * self.model.cfg.history
        self._seen: deque[tuple[Observation, Tensor]] = deque(maxlen=span + 1)
        self._sent: deque[np.ndarray] = deque(maxlen=span)

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
        for part in (self.monitor, self.learner):
            if part is not None:
                part.begin_episode()

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Take in the step, and say whether it surprises."""
        self._see(before)
        self._sent.append(np.asarray(action_A, np.float32))
        self._see(after)
        latents = [z_D for _, z_D in self._seen]
        reading = None if self.monitor is None else self.monitor.read(after.t_s, latents, self._sent)
        if self.learner is not None:
            if reading is not None and reading.alarm and not self.learner.active:
                self.learner.alarm()
            self.learner.see(latents[-2], self._sent[-1], latents[-1])
        return () if reading is None else (reading,)

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
        known = min(min(len(self._seen) - 1, len(self._sent)) // block, self.context - 1)
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
        due_KA = np.array(committed_KA, np.float32).reshape(steps, size)
        others = () if self.ensemble is None else tuple(self.ensemble.models(self.model)[1:])
        dynamics = LatentDynamics(self._searched, torch.from_numpy(due_KA.reshape(1, -1)), others)
        goal_BD, inverse = self._goal_D[None], self.inverse
        planner = replace(
            self.planner,
            dynamics=dynamics,
            readout=toward(goal_BD, self.metric, self.arrive),
            proposal=inverse and Amortised(inverse, dynamics, goal_BD, self.planner.horizon),
        )
        guess_BHA = None if self.planner.samples == 1 else self._guess(due_KA, start_s, rows)
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

    # --- what is learned

    def end_episode(self, terminated: bool, whole: bool, /) -> Sequence[AgentEvent]:
        """Take no notice."""
        return ()

    def take_job(self) -> LatentJob | None:
        """Return a fit of the dynamics, where there was an alarm and enough was seen since."""
        return None if self.learner is None else self.learner.take_job(self.model)

    def receive(self, result: list[LatentCandidate], t_s: float, /) -> Sequence[AgentEvent]:
        """Use the better model, if there is one."""
        assert self.learner is not None
        chosen, events = self.learner.receive(result, t_s)
        if chosen is not None:
            self.model = chosen
            self._searched = quick(chosen) if self.bf16 else chosen
            if self.monitor is not None:
                self.monitor.use(chosen)
        return events


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


def build_latent(cfg: LatentConfig, spec: RobotSpec, objective: str = "", adapt: bool = False) -> LatentAgent:
    """Return the agent. Raises ValueError, in one line, for weights that are not there or are another robot's."""
    model = load_part(cfg.folder, "jepa")
    assert isinstance(model, Jepa)
    if not 1 <= cfg.context <= model.cfg.history:
        raise ValueError(f"context must be 1 to {model.cfg.history} pictures, got {cfg.context}")
    if model.cfg.action != spec.action.size:
        raise ValueError(f"{cfg.folder} is for {model.cfg.action} actuators, and {spec.name} has {spec.action.size}")
    heads = {"temporal": cfg.distance == "temporal", "inverse": cfg.amortised, "ensemble": cfg.caution > 0}
    parts = {name: load_part(cfg.folder, name) for name, needed in heads.items() if needed}
    calibration = load_calibration(cfg.folder) if (cfg.folder / "surprise.json").exists() else None
    planner = SearchPlanner(
        method=cfg.method,
        dynamics=LatentDynamics(model, torch.zeros(1, 0)),
        readout=toward(torch.zeros(1, model.cfg.latent)),
        objective=Distance(caution=cfg.caution, delay=cfg.delay),
        action=blocks_of(spec.action, model.cfg.block),
        dt_s=spec.dt_s * model.cfg.block,
        horizon=cfg.horizon,
        samples=cfg.samples,
        init_std=cfg.init_std,
        settled=cfg.settled,
        correlation=0.0,
    )
    agent = LatentAgent(
        model,
        planner,
        spec,
        painter(spec.name, spec.version) if spec.drawn else None,
        parts.get("temporal", squared),
        parts.get("inverse"),  # pyright: ignore
        LatentMonitor(model, calibration, cfg.surprise),
        LatentLearner(cfg.adapt) if adapt else None,
        parts.get("ensemble"),  # pyright: ignore
        cfg.context,
        cfg.bf16,
        cfg.arrive,
    )
    if objective:
        agent.pursue(objective, 0.0)
    return agent
