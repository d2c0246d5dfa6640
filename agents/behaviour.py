"""Behaviour policies trained by Ray's RLlib (PPO or SAC, its new API stack): a ladder from the untrained one to the best.

RLlib only trains. What is kept is ours and no pickle: the ladder (envs/ladder.py), which `collect` reads, and a checkpoint from which
training goes on. Ray must run already, or RLlib starts one of its own; Ray is imported where it is used, for that takes seconds.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agents.rllib_state import pack, policy_arrays, read_state, unpack, write_state
from envs.collect import Collector
from envs.ladder import CARD, POLICIES, Ladder, Rung, read_ladder, write_ladder
from envs.policies import read_policies, write_policies
from envs.recipes import Recipe
from envs.robots import make_env, robot_spec

if TYPE_CHECKING:
    import gymnasium
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

NAME = "surefoot"
"""Of our environments in RLlib; `env_config` says which: {"robot": "hopper", "reward_scale": 1.0}."""
CHECKPOINT = "checkpoint.safetensors"
OBS_CLIP = 10.0
MEASURED_FROM = 1_000_000
"""Episodes that measure a rung are numbered from here, away from those of a collection."""


@dataclass(frozen=True)
class PpoConfig:
    """Proximal policy optimisation; observations are normalised by their running mean and deviation."""

    learning_rate: float = 3e-4
    batch: int = 2048
    minibatch: int = 128
    epochs: int = 10
    gamma: float = 0.99
    gae: float = 0.95
    clip: float = 0.2
    reward_scale: float = 0.05
    """Rewards are multiplied by it for the learner, which wants returns of about one; what is reported is not."""
    hidden: tuple[int, ...] = (64, 64)
    envs: int = 16
    """Robots that are simulated side by side."""


@dataclass(frozen=True)
class SacConfig:
    """Soft actor-critic: fewer control steps, many more seconds for each. Its replay buffer is not kept: it fills anew when training
    goes on."""

    learning_rate: float = 3e-4
    batch: int = 256
    gamma: float = 0.99
    tau: float = 0.005
    first: int = 10_000
    """Control steps before learning starts."""
    buffer: int = 1_000_000
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (256, 256)


@dataclass(frozen=True)
class BehaviourConfig:
    """Who is trained, how, and how far."""

    robot: str
    algorithm: Literal["ppo", "sac"] = "ppo"
    steps: int = 1_000_000
    """Control steps in all; more of them later goes on from the checkpoint."""
    every: int = 50_000
    """Control steps from one rung of the ladder to the next."""
    episodes: int = 10
    """By which each rung is measured, its actions sampled."""
    seed: int = 0
    ppo: PpoConfig = field(default_factory=PpoConfig)
    sac: SacConfig = field(default_factory=SacConfig)

    def __post_init__(self) -> None:
        if min(self.steps, self.every, self.episodes) < 1:
            raise ValueError(f"steps, every, episodes must be >= 1, got {self.steps}, {self.every}, {self.episodes}")

    @property
    def reward_scale(self) -> float:
        """Of the chosen algorithm."""
        return self.ppo.reward_scale if self.algorithm == "ppo" else self.sac.reward_scale

    @property
    def about(self) -> dict[str, Any]:
        """What the policies depend on, as JSON values; how far training goes and what measures it is not part of that."""
        own = asdict(self.ppo if self.algorithm == "ppo" else self.sac)
        said = {"algorithm": self.algorithm, "robot": self.robot, "every": self.every, "seed": self.seed, **own}
        return json.loads(json.dumps(said))


def check_robot(name: str) -> None:
    """Raise KeyError or ValueError, in one line, for a robot that is unknown or whose actions are not in [-1, 1]."""
    action = robot_spec(name).action
    if (action.low_A != -1).any() or (action.high_A != 1).any():
        raise ValueError(
            f"a policy file has actions in [-1, 1], and {name} is commanded otherwise: it cannot be trained so"
        )


def make_scaled(context: dict[str, Any]) -> gymnasium.Env:
    """Return the environment that RLlib asks for, its rewards scaled."""
    from gymnasium.wrappers import TransformReward

    scale = context.get("reward_scale", 1.0)
    return TransformReward(make_env(context["robot"]), lambda reward: scale * float(reward))


def register() -> None:
    """Make our environments known to RLlib, under NAME."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RLlib loads dm_control, which looks for a display
        import ray.rllib  # noqa: F401
    from ray.tune.registry import register_env

    register_env(NAME, make_scaled)


def rllib_config(cfg: BehaviourConfig, seed: int) -> AlgorithmConfig:
    """Return what RLlib is told."""
    config = _ppo(cfg.ppo) if cfg.algorithm == "ppo" else _sac(cfg.sac)
    config.environment(NAME, env_config={"robot": cfg.robot, "reward_scale": cfg.reward_scale})
    # This process simulates: from several, RLlib 2.60 merges the running means of its filter wrongly (a height of 1.2 became 0.3).
    config.framework("torch").env_runners(num_env_runners=0)
    return config.learners(num_learners=0).debugging(seed=seed, log_level="ERROR")


def _ppo(ppo: PpoConfig) -> AlgorithmConfig:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.connectors.env_to_module import MeanStdFilter
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    def normaliser(*_: object, **__: object) -> MeanStdFilter:
        return MeanStdFilter(clip_by_value=OBS_CLIP)

    model = DefaultModelConfig(
        fcnet_hiddens=list(ppo.hidden),
        fcnet_activation="tanh",
        fcnet_kernel_initializer="orthogonal_",
        fcnet_kernel_initializer_kwargs={"gain": math.sqrt(2.0)},
        fcnet_bias_initializer="zeros_",
        head_fcnet_kernel_initializer="orthogonal_",
        head_fcnet_kernel_initializer_kwargs={"gain": 0.01},
        head_fcnet_bias_initializer="zeros_",
        free_log_std=True,
        vf_share_layers=False,
    )
    config = PPOConfig().rl_module(model_config=model)
    config.env_runners(num_envs_per_env_runner=ppo.envs, env_to_module_connector=normaliser)
    return config.training(
        lr=ppo.learning_rate,
        train_batch_size_per_learner=ppo.batch,
        minibatch_size=ppo.minibatch,
        num_epochs=ppo.epochs,
        gamma=ppo.gamma,
        lambda_=ppo.gae,
        clip_param=ppo.clip,
        vf_clip_param=float("inf"),
        vf_loss_coeff=0.5,
        entropy_coeff=0.0,
        use_kl_loss=False,
        grad_clip=0.5,
    )


def _sac(sac: SacConfig) -> AlgorithmConfig:
    from ray.rllib.algorithms.sac import SACConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    model = DefaultModelConfig(fcnet_hiddens=list(sac.hidden), fcnet_activation="relu", head_fcnet_hiddens=[])
    config = SACConfig().rl_module(model_config=model)
    config.reporting(min_sample_timesteps_per_iteration=1000)
    return config.training(
        actor_lr=sac.learning_rate,
        critic_lr=sac.learning_rate,
        alpha_lr=sac.learning_rate,
        lr=None,
        train_batch_size_per_learner=sac.batch,
        gamma=sac.gamma,
        tau=sac.tau,
        n_step=1,
        num_steps_sampled_before_learning_starts=sac.first,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": sac.buffer},
    )


class Training:
    """One training run in a folder, going on from what the folder holds."""

    def __init__(self, cfg: BehaviourConfig, folder: Path) -> None:
        """Begin, or go on. Raises ValueError or KeyError, in one line, for a bad robot and a folder of another training."""
        check_robot(cfg.robot)
        self.cfg, self.folder = cfg, folder
        self.steps = 0
        self.rungs: tuple[Rung, ...] = ()
        state = self._kept()
        register()
        seed = int(np.random.SeedSequence([cfg.seed, self.steps]).generate_state(1)[0]) >> 1
        self.algorithm: Algorithm = rllib_config(cfg, seed).build_algo()
        if state is None:
            self.keep_rung()
        else:
            unpack(self.algorithm, state)
        self._before = self.steps

    @property
    def done(self) -> bool:
        """Whether it went as far as it was asked to."""
        return self.steps >= self.cfg.steps

    def advance(self) -> float:
        """Let RLlib sample and learn once; return the mean return of its last episodes, nan before the first.

        Where that completes a rung, the rung and the checkpoint are written.
        """
        result = self.algorithm.train()
        due = self.steps // self.cfg.every + 1
        self.steps = self._before + int(result["num_env_steps_sampled_lifetime"])
        if self.steps // self.cfg.every >= due or self.done:
            self.keep_rung()
        return float(result["env_runners"].get("episode_return_mean", math.nan)) / self.cfg.reward_scale

    def keep_rung(self) -> None:
        """Add the policy of now to the ladder, measured, then write the checkpoint."""
        state = pack(self.algorithm)
        arrays, act, out = policy_arrays(state, self.cfg.algorithm, OBS_CLIP)
        earlier = read_policies(self.folder / POLICIES) if self.rungs else {}
        known = {rung.steps for rung in self.rungs}
        write_policies(
            self.folder / POLICIES, {**{n: x for n, x in earlier.items() if n in known}, self.steps: arrays}, act, out
        )
        self.rungs = (*(rung for rung in self.rungs if rung.steps != self.steps), self._measured())
        write_ladder(self.folder, Ladder(self.cfg.robot, self.rungs, self.cfg.about))
        write_state(self.folder / CHECKPOINT, state, {"steps": self.steps})

    def save(self) -> None:
        """Write the checkpoint of now; the ladder stays as it is."""
        write_state(self.folder / CHECKPOINT, pack(self.algorithm), {"steps": self.steps})

    def close(self) -> None:
        """End RLlib's part."""
        self.algorithm.stop()

    def _kept(self) -> dict[str, Any] | None:
        """Take over what the folder holds and return RLlib's state."""
        if not (self.folder / CHECKPOINT).is_file():
            if (self.folder / CARD).is_file():
                raise ValueError(
                    f"{self.folder} has a ladder without the checkpoint to go on from: name another folder"
                )
            return None
        ladder = read_ladder(self.folder)
        theirs = {name: ladder.about.get(name) for name in self.cfg.about}
        if other := [name for name, value in self.cfg.about.items() if theirs[name] != value]:
            said = ", ".join(f"{name} {theirs[name]}" for name in other)
            raise ValueError(f"{self.folder} holds a training with {said}: go on with that, or name another folder")
        state, about = read_state(self.folder / CHECKPOINT)
        self.steps = int(about["steps"])
        self.rungs = tuple(rung for rung in ladder.rungs if rung.steps <= self.steps)
        return state

    def _measured(self) -> Rung:
        """Return the rung of now, measured as `collect` will run it."""
        recipe = Recipe("rung", POLICIES, ((self.steps, 1.0),), steps=1, robot=self.cfg.robot, seed=self.cfg.seed)
        collector = Collector(recipe, self.folder)
        made = [collector.run(MEASURED_FROM + i) for i in range(self.cfg.episodes)]
        collector.env.close()
        mean_return = sum(e.total_reward for e in made) / len(made)
        return Rung(self.steps, mean_return, sum(e.length for e in made) / len(made), len(made))
