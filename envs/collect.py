"""Collecting a data set: trained policies act, and whole episodes go to a spool.

Each episode has its own random numbers, derived from (seed, episode index): number of workers, interruptions and order
of completion change nothing. The data set is the shortest run of episodes 0, 1, .. that holds `steps` control steps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from envs.dataset import Layout
from envs.dataset_writer import write_dataset
from envs.episodes import Episode, Spool, write_atomically
from envs.policies import Policy, load_policy
from envs.recipes import Recipe
from envs.robots import make_env, robot_spec

_RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the bookkeeping needs to know of an episode."""

    steps: int
    total_reward: float
    terminated: bool


@dataclass(frozen=True, slots=True)
class Collected:
    """How much there is so far, counted in the order of the episodes."""

    episodes: int = 0
    steps: int = 0
    total_reward: float = 0.0
    terminated: int = 0

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of an episode; nan before the first."""
        return self.total_reward / self.episodes if self.episodes else float("nan")

    def add(self, outcome: Outcome) -> Collected:
        """Return the sum with one more episode."""
        return Collected(
            self.episodes + 1,
            self.steps + outcome.steps,
            self.total_reward + outcome.total_reward,
            self.terminated + outcome.terminated,
        )


class Collector:
    """Runs the episodes of one recipe: an environment and the loaded policies of its mixture."""

    def __init__(self, recipe: Recipe, policies: Path) -> None:
        """Raise ValueError or FileNotFoundError, in one line, for a policy that cannot be used."""
        self.recipe = recipe
        self.policies: Mapping[int | None, Policy] = {
            snapshot: load_policy(policies / recipe.policy, snapshot) for snapshot, _ in recipe.mixture
        }
        self.env: gymnasium.Env = make_env(recipe.robot, recipe.version)

    def run(self, index: int) -> Episode:
        """Return episode `index`; a function of the recipe, the policies and the index."""
        seed_env, seed_policy = np.random.SeedSequence([self.recipe.seed, index]).spawn(2)
        rng = np.random.default_rng(seed_policy)
        snapshot = _draw(self.recipe.mixture, rng)
        seed = int(seed_env.generate_state(1)[0])
        act = self._actor(self.policies[snapshot], rng)
        meta = {"index": index, "snapshot": snapshot, "recipe": self.recipe.name}
        return run_episode(self.env, act, seed, self.recipe.max_episode_steps, meta)

    def outcome(self, index: int, spool: Spool) -> Outcome:
        """Make sure that episode `index` is on disk, running it where it is missing or torn."""
        episode = spool.read_if_whole(index)
        if episode is None:
            episode = self.run(index)
            spool.write(index, episode)
        return Outcome(episode.length, episode.total_reward, episode.terminated)

    def _actor(self, policy: Policy, rng: np.random.Generator) -> Actor:
        low_A, high_A = self.env.action_space.low, self.env.action_space.high  # pyright: ignore[reportAttributeAccessIssue]
        noise_A = self.recipe.action_noise * (high_A - low_A) / 2
        sampler = rng if self.recipe.sampled else None

        def act(state_O: np.ndarray, step: int) -> np.ndarray:
            action_A = policy.act(state_O[None], sampler, step)[0]
            if self.recipe.action_noise:
                action_A = action_A + noise_A * rng.standard_normal(action_A.shape)
            return np.clip(action_A, low_A, high_A)

        return act


Actor = Callable[[np.ndarray, int], np.ndarray]
"""(state_O, step) -> action_A."""


def run_episode(
    env: gymnasium.Env,
    act: Actor,
    seed: int,
    max_steps: int,
    meta: Mapping[str, object],
    options: dict[str, object] | None = None,
) -> Episode:
    """Return the episode that `act` makes of `env` from the reset with `seed` and `options`, cut after `max_steps`."""
    state_O, _ = env.reset(seed=seed, options=options)
    states, actions, applied, rewards = [state_O], [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        # What is stored is what is sent, to the bit, so that an episode can be replayed from its seed and its actions.
        action_A = act(state_O, len(rewards)).astype(np.float32)
        state_O, reward, terminated, truncated, info = env.step(action_A)
        states.append(state_O)
        actions.append(action_A)
        applied.append(info.get("action_applied", action_A))
        rewards.append(reward)
        truncated = bool(truncated) or len(rewards) == max_steps
    action_TA = np.stack(actions)
    return Episode(
        state_TO=np.stack(states),
        action_requested_TA=action_TA,
        action_TA=action_TA,
        action_applied_TA=np.stack(applied),
        reward_T=np.asarray(rewards),
        terminated=bool(terminated),
        truncated=truncated,
        seed=seed,
        meta=meta,
    )


def collect(
    recipe: Recipe,
    policies: Path,
    spool: Spool,
    workers: int = 1,
    report: Callable[[Collected], None] = lambda _: None,
) -> Collected:
    """Fill the spool with the recipe's episodes and return their number, steps and return; `report` hears of each.

    Continues a collection of the same recipe and policies. Raises ValueError where the spool holds another one, or
    `workers` is not positive; policy errors as `load_policy`.
    """
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    _claim(spool, recipe, policies)
    done = Collected()
    with _outcomes(recipe, policies, spool, workers) as outcomes:
        for outcome in outcomes:
            done = done.add(outcome)
            report(done)
            if done.steps >= recipe.steps:
                break
    spool.trim(done.episodes)
    return done


def collect_dataset(
    recipe: Recipe,
    policies: Path,
    out: Path,
    workers: int = 1,
    report: Callable[[Collected], None] = lambda _: None,
    report_written: Callable[[int], None] = lambda _: None,
) -> Collected:
    """Collect the recipe and write it as the LeRobotDataset `out`/`recipe.name`; returns what is in it.

    The spool, `out`/`recipe.name`.spool, is deleted when the data set is complete; until then the same call continues
    where an interrupted one stopped. `report_written` hears the number of episodes written. Raises FileExistsError
    where the data set exists, and as `collect` does.
    """
    folder, spool = out / recipe.name, Spool(out / f"{recipe.name}.spool")
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it to collect it again")
    layout = Layout.of(robot_spec(recipe.robot, recipe.version))
    done = collect(recipe, policies, spool, workers, report)
    card = {**provenance(recipe, policies), **dataclasses.asdict(done), "mean_return": done.mean_return}
    write_dataset(spool.episodes(done.episodes), layout, folder, card, report_written)
    shutil.rmtree(spool.folder)
    return done


def provenance(recipe: Recipe, policies: Path) -> dict[str, object]:
    """Return the recipe and the checksum of its policy file as JSON values. Raises FileNotFoundError without it."""
    path = policies / recipe.policy
    if not path.is_file():
        raise FileNotFoundError(f"no policy file {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return json.loads(json.dumps({"recipe": dataclasses.asdict(recipe), "policy_sha256": digest}))


def _claim(spool: Spool, recipe: Recipe, policies: Path) -> None:
    """Write down what the spool is for, or check it."""
    path, ours = spool.folder / _RECIPE_FILE, provenance(recipe, policies)
    if not path.exists():
        write_atomically(path, json.dumps(ours, indent=1).encode())
    elif json.loads(path.read_bytes()) != ours:
        raise ValueError(
            f"{spool.folder} holds episodes of another recipe or policy file: delete it or finish that one"
        )


def _draw(mixture: tuple[tuple[int | None, float], ...], rng: np.random.Generator) -> int | None:
    weights = np.array([weight for _, weight in mixture])
    return mixture[int(rng.choice(len(mixture), p=weights / weights.sum()))][0]


@contextmanager
def _outcomes(recipe: Recipe, policies: Path, spool: Spool, workers: int) -> Iterator[Iterator[Outcome]]:
    """Outcomes of episodes 0, 1, ... without end, computed here or by worker processes some way ahead."""
    collector = Collector(recipe, policies)  # also here with workers, so that an error is raised before they start
    if workers == 1:
        yield (collector.outcome(index, spool) for index in itertools.count())
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (recipe, policies, spool))
    try:
        with _interrupts_ignored():
            for _ in range(workers):
                pool.submit(int)  # each call starts a worker while none is idle
        yield _ahead(pool, 4 * workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(pool: ProcessPoolExecutor, window: int) -> Iterator[Outcome]:
    pending: deque[Future[Outcome]] = deque()
    for index in itertools.count():
        pending.append(pool.submit(_work, index))
        if len(pending) == window:
            yield pending.popleft().result()


_worker: tuple[Collector, Spool] | None = None


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which reaches the whole group: the parent decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(recipe: Recipe, policies: Path, spool: Spool) -> None:
    global _worker
    _worker = Collector(recipe, policies), spool


def _work(index: int) -> Outcome:
    assert _worker is not None
    collector, spool = _worker
    return collector.outcome(index, spool)
