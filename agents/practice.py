"""Practice: a model learns to pursue goals by pursuing them (expert iteration, Anthony et al. 2017; Silver et al. 2017).

A round: the planner pursues random goals, the one-step model learns from what happened, a policy learns to do what the planner
did, told the goal, and a value learns in imagination what that policy earns for any goal. The next round's planner starts from
that policy and looks further with that value. It begins with what a teacher did (agents/teacher.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor, nn

from agents.adaptation import windows
from agents.goal_numbers import ALIKE, READINGS, Targets, context, payoff, random_goals, targets
from agents.imagination import ImagineConfig, Judge, evaluate_policy
from agents.learned import LearnedConfig, goal_planner
from agents.mpc import look_ahead
from envs.dataset import EpisodeData
from envs.episodes import Episode
from envs.robots import RobotSpec, make_env, place, readings
from envs.types import Belief
from world_models.checkpoint import GoalModel
from world_models.fit import batches
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig
from world_models.step import UNBOUNDED, StepModel
from world_models.trim import Trim
from world_models.value import ValueConfig, ValueEnsemble


@dataclass(frozen=True)
class PracticeConfig:
    """How much is practised in a round, and how it is learned from."""

    rounds: int = 20
    episodes: int = 72
    """Of each round."""
    episode_steps: int = 400
    goal_steps: int = 200
    """Control steps after which the goal changes."""
    side_by_side: int = 24
    plan_every: int = 4
    ahead: int = 4
    """Control steps that pass before a plan takes effect."""
    noise: float = 0.05
    """Standard deviation of white noise on what is done (action units): data around the plans."""
    kept: int = 400
    """Practised episodes that are remembered; the newer half counts twice."""
    batch: int = 640
    step_updates: int = 4000
    policy_updates: int = 2500
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    value: ValueConfig = field(default_factory=lambda: ValueConfig(width=192, fall_penalty=20.0))
    imagine: ImagineConfig = field(default_factory=lambda: ImagineConfig(iterations=300))
    planner: LearnedConfig = field(default_factory=LearnedConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        least = (self.rounds, self.episodes, self.episode_steps, self.goal_steps, self.side_by_side, self.plan_every)
        if min(least) < 1 or self.ahead < 0 or self.noise < 0:
            raise ValueError(f"need positive counts, ahead >= 0 and noise >= 0, got {self}")


MOVING = 1 / 3
"""Share of the episodes that begin in motion."""
FALLING = 60
"""Control steps before a fall that nobody should learn to do."""


@dataclass(frozen=True)
class Practised:
    """One episode: states (T + 1, O), actions (T, A) and the goal at each step (T, G), NaN where a reading was free."""

    state_TO: np.ndarray
    action_TA: np.ndarray
    goal_TG: np.ndarray
    fell: bool

    @classmethod
    def of(cls, episode: Episode) -> Practised:
        """Return an episode that was kept: its meta holds [first step, targets] of each goal, null where free."""
        goal_TG = np.full((episode.length, len(READINGS)), np.nan, np.float32)
        for first, goal in episode.meta["targets"]:
            goal_TG[first:] = [np.nan if x is None else x for x in goal]
        return cls(episode.state_TO, episode.action_TA, goal_TG, episode.terminated)


class Side:
    """Robots side by side: what each has seen and done, and the actions that are due."""

    def __init__(self, spec: RobotSpec, seeds: Sequence[int], starts_NO: np.ndarray, moving: float = MOVING) -> None:
        """A share `moving` of them begins in one of `starts_NO`."""
        self.spec, self.seeds = spec, seeds
        self.goal_BG = torch.full((len(seeds), len(READINGS)), torch.nan)
        self.envs = [make_env(spec.name, spec.version) for _ in seeds]
        self.noise = [np.random.default_rng(seed) for seed in seeds]
        self.states = [[env.reset(seed=seed)[0]] for env, seed in zip(self.envs, seeds, strict=True)]
        for env, states, rng in zip(self.envs, self.states, self.noise, strict=True):
            if rng.random() < moving:
                states[0] = starts_NO[rng.integers(len(starts_NO))]
                place(env, states[0].astype(np.float64))
        self.actions: list[list[np.ndarray]] = [[] for _ in seeds]
        self.rewards: list[list[float]] = [[] for _ in seeds]
        self.goals: list[list[object]] = [[] for _ in seeds]
        self.due: list[list[np.ndarray]] = [[] for _ in seeds]
        self.fell = [False] * len(seeds)
        self.generators = [Generator().manual_seed(seed) for seed in seeds]

    @property
    def live(self) -> list[int]:
        """Those that have not fallen."""
        return [i for i, fell in enumerate(self.fell) if not fell]

    def ask(self, t: int, ahead: int) -> None:
        """Give everyone another goal; it is what is done for from the first plan on that is made with it."""
        for i in self.live:
            self.goal_BG[i] = random_goals(1, self.generators[i])[0]
            self.goals[i].append(
                [t + (ahead if t else 0), [None if x != x else round(x, 4) for x in self.goal_BG[i].tolist()]]
            )

    @torch.inference_mode()
    def plan(self, model: GoalModel, cfg: PracticeConfig) -> None:
        """Append to what is due, for those that have not fallen, all in one batch."""
        live = self.live
        rest = np.zeros(self.spec.action.size, np.float32)
        first = not self.actions[live[0]]
        ahead = 0 if first else cfg.ahead
        due = [[*self.due[i], *[rest] * ahead][:ahead] for i in live]
        committed = np.array(due, np.float32).reshape(len(live), ahead, len(rest))
        seen = np.stack([np.stack(self.states[i][-1 if first else -2 :]) for i in live]).astype(np.float32)
        done = [self.actions[i][-1:] for i in live]
        past = torch.zeros(len(live), 0, len(rest)) if first else torch.from_numpy(np.array(done, np.float32))
        generators = [self.generators[i] for i in live]
        then = look_ahead(model.step, Belief(torch.from_numpy(seen), past), committed, generators)
        planner = goal_planner(cfg.planner, self.spec, model, Targets(self.goal_BG[live], ALIKE))
        found = planner.search(then, None, generators).actions_BHA.numpy()
        for row, i in enumerate(live):
            self.due[i] = [*committed[row], *found[row]]

    def act(self, noise: float) -> None:
        """Do what is due."""
        for i in self.live:
            action = self.due[i].pop(0) + noise * self.noise[i].standard_normal(self.spec.action.size)
            action = np.clip(action, self.spec.action.low_A, self.spec.action.high_A).astype(np.float32)
            state, reward, self.fell[i], _, _ = self.envs[i].step(action)
            self.states[i].append(state)
            self.actions[i].append(action)
            self.rewards[i].append(float(reward))

    def episodes(self) -> list[Episode]:
        """Return what happened."""
        made = []
        for i, seed in enumerate(self.seeds):
            sent, fell = np.stack(self.actions[i]), bool(self.fell[i])
            states, rewards, meta = np.stack(self.states[i]), np.array(self.rewards[i]), {"targets": self.goals[i]}
            made.append(Episode(states, sent, sent, sent, rewards, fell, not fell, seed, meta))
        return made


def practise(
    model: GoalModel, cfg: PracticeConfig, spec: RobotSpec, starts_NO: np.ndarray, numbers: Sequence[int]
) -> list[Episode]:
    """Return the episodes with these numbers, side by side; in each, random goals are pursued, one after another.

    Some begin in one of `starts_NO`, states that the robot may be in when it is given a goal.
    """
    side = Side(spec, [cfg.seed * 1_000_003 + number for number in numbers], starts_NO)
    for t in range(cfg.episode_steps):
        if t % cfg.goal_steps == 0:
            side.ask(t, cfg.ahead)
        if t % cfg.plan_every == 0:
            side.plan(model, cfg)
        side.act(cfg.noise)
        if not side.live:
            break
    return side.episodes()


SPEEDS = (-1.3, -1.0, -0.7, -0.4, 0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.1, 3.4)
"""That are asked for to see what comes of it [m/s]."""
SETTLE_STEPS = 1000
"""Control steps until then; the later half counts."""
TRIES = 3


def reached(model: GoalModel, cfg: PracticeConfig, spec: RobotSpec) -> Trim | None:
    """Return what comes of asking for each of SPEEDS; None where the robot falls too often to tell."""
    seeds = [cfg.seed * 1_000_003 + 50_000_000 + i for i in range(len(SPEEDS) * TRIES)]
    side = Side(spec, seeds, np.empty((0, spec.state_size), np.float32), 0.0)
    side.goal_BG[:, READINGS.index("speed")] = torch.tensor(SPEEDS).repeat_interleave(TRIES)
    for t in range(SETTLE_STEPS):
        if t % cfg.plan_every == 0:
            side.plan(model, cfg)
        side.act(0.0)
        if not side.live:
            break
    column, rows = spec.columns["speed"], []
    for n, asked in enumerate(SPEEDS):
        stood = [i for i in range(n * TRIES, (n + 1) * TRIES) if not side.fell[i]]
        if stood:
            came = [float(np.stack(side.states[i])[SETTLE_STEPS // 2 :, column].mean()) for i in stood]
            rows.append((asked, float(np.median(came))))
    return Trim(*zip(*rows, strict=True)) if len(rows) > 1 else None


def refit_step(
    step: StepModel,
    practised: tuple[Tensor, Tensor] | None,
    data: Sequence[EpisodeData],
    cfg: PracticeConfig,
    seed: int,
) -> StepModel:
    """Return a one-step model that has learned from practice (two fifths of each batch) and, evenly, from the data sets."""
    made = copy.deepcopy(step).train().requires_grad_(True)
    fresh = 0 if practised is None else 2 * cfg.batch // 5
    drawn = [batches(one, (cfg.batch - fresh) // len(data), 2) for one in data]
    seen = [torch.from_numpy(one.state_NO) for one in data] + ([practised[0].flatten(0, 1)] if practised else [])
    made.low = torch.stack([made.low, *[x.amin(0) for x in seen]]).amin(0)
    made.high = torch.stack([made.high, *[x.amax(0) for x in seen]]).amax(0)

    def loss(generator: Generator) -> Tensor:
        parts = [draw(generator) for draw in drawn]
        if practised is not None:
            pick = torch.randint(0, len(practised[0]), (fresh,), generator=generator)
            parts.append((practised[0][pick], practised[1][pick]))
        states, actions = (torch.cat(x) for x in zip(*parts, strict=True))
        return made.loss(states, actions, generator).mean()

    return descend(made, loss, cfg.step_updates, 5e-4, seed)  # pyright: ignore


def descend(made: nn.Module, loss: Callable[[Generator], Tensor], updates: int, rate: float, seed: int) -> nn.Module:
    """Return the model after so many steps of AdamW; the rate rises quickly and falls to zero along a cosine."""
    optimiser = torch.optim.AdamW(made.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, updates, pct_start=0.05)
    for update in range(updates):
        value = loss(Generator().manual_seed(seed * 1_000_003 + update))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return made.eval().requires_grad_(False)


def told_rows(episodes: Sequence[Practised]) -> tuple[Tensor, Tensor]:
    """Return states with what was told there (N, O + C) and what was done (N, A), but for what led to a fall."""
    ends = [max(1, len(e.action_TA) - FALLING * e.fell) for e in episodes]
    pairs = list(zip(episodes, ends, strict=True))
    states = torch.from_numpy(np.concatenate([e.state_TO[:end] for e, end in pairs]).astype(np.float32))
    told = context(torch.from_numpy(np.concatenate([e.goal_TG[:end] for e, end in pairs])))
    return torch.cat([states, told], -1), torch.from_numpy(np.concatenate([e.action_TA[:end] for e, end in pairs]))


def blank_told(state: Normaliser) -> Normaliser:
    """Return statistics of states with contexts, which are at unit scale already."""
    c = 2 * len(READINGS)
    return Normaliser(torch.cat([state.mean, torch.zeros(c)]), torch.cat([state.std, torch.ones(c)]))


def clone(policy: Policy, episodes: Sequence[Practised], cfg: PracticeConfig, seed: int) -> Policy:
    """Return a policy that does what was done in the episodes."""
    made = copy.deepcopy(policy).train().requires_grad_(True)
    states, actions = told_rows(episodes)

    def loss(generator: Generator) -> Tensor:
        pick = torch.randint(0, len(states), (1024,), generator=generator)
        return made.loss(states[pick], actions[pick]).mean()

    return descend(made, loss, cfg.policy_updates, 1e-3, seed)  # pyright: ignore


class ToldStep:
    """A one-step model of states that carry a context along, which never changes."""

    def __init__(self, step: StepModel) -> None:
        self.step, self.size = step, len(step.state.mean)
        c = 2 * len(READINGS)
        self.change = Normaliser(*(torch.cat([x, torch.zeros(c)]) for x in (step.change.mean, step.change.std)))
        bound = torch.full((c,), UNBOUNDED)
        self.low, self.high = torch.cat([step.low, -bound]), torch.cat([step.high, bound])

    def predict(
        self, state: Tensor, action: Tensor, before: Tensor, past: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log scale of the change, with zeros for the context, whose standard deviation is zero."""
        mean, log = self.step.predict(state[:, : self.size], action, before[:, : self.size], past, known)
        rest = torch.zeros_like(state[:, self.size :])
        return torch.cat([mean, rest], -1), torch.cat([log, rest], -1)


def goal_judge(spec: RobotSpec) -> Judge:
    """Return what a step earns in states that carry a context."""

    def judge(state_NO: Tensor, action_NA: Tensor) -> tuple[Tensor, Tensor]:
        found = readings(spec, state_NO[:, : spec.state_size])
        return payoff(found, targets(state_NO[:, spec.state_size :]), ALIKE), found["alive"]

    return judge


def moments(data: Sequence[EpisodeData], count: int = 20_000) -> tuple[Tensor, Tensor]:
    """Return as many windows of two steps of each data set, states (N, 3, O) and actions (N, 2, A)."""
    found = [batches(one, count, 2)(Generator().manual_seed(0)) for one in data]
    states, actions = zip(*found, strict=True)
    return torch.cat(states), torch.cat(actions)


def evaluate(
    model: GoalModel, where: tuple[Tensor, Tensor], cfg: PracticeConfig, spec: RobotSpec, seed: int
) -> ValueEnsemble:
    """Return what the policy earns in the one-step model, for random goals from windows (of two steps) of where the robot was."""
    states, actions = where
    goals = context(random_goals(len(states), Generator().manual_seed(seed)))
    starts = torch.cat([states[:, :2], goals[:, None].expand(-1, 2, -1)], -1), actions[:, :1]
    return evaluate_policy(model.value, ToldStep(model.step), model.policy, starts, goal_judge(spec), cfg.imagine, seed)  # pyright: ignore


def begin(step: StepModel, cfg: PracticeConfig) -> GoalModel:
    """Return a model that knows nothing of goals yet."""
    torch.manual_seed(cfg.seed)
    state = blank_told(step.state)
    returns = Normaliser(torch.tensor([40.0]), torch.tensor([25.0]))
    return GoalModel(step, Policy(cfg.policy, state, step.action), ValueEnsemble(cfg.value, state, returns))


def learn(
    model: GoalModel,
    taught: Sequence[Practised],
    practised: Sequence[Practised],
    data: Sequence[EpisodeData],
    cfg: PracticeConfig,
    spec: RobotSpec,
    seed: int,
) -> GoalModel:
    """Return the model after one round of learning."""
    practised = practised[-cfg.kept :]
    step = refit_step(model.step, windows(practised, 2) if practised else None, data, cfg, seed)
    everything = [*taught, *practised]
    policy = clone(model.policy, [*everything, *practised[len(practised) // 2 :]], cfg, seed)
    where = windows(everything, 2), moments(data)
    states, actions = (torch.cat(x) for x in zip(*where, strict=True))
    return GoalModel(step, policy, evaluate(GoalModel(step, policy, model.value), (states, actions), cfg, spec, seed))
