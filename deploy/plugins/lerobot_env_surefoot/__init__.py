"""Our environments for lerobot: `--env.type=surefoot --env.task=walker2d`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import gymnasium
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGE, OBS_STATE

from configs.limits import LIMITS
from deploy.refusal import refused
from deploy.robots.simulated import Simulated
from deploy.task_env import TaskEnv, shapes

KINDS = {"agent_pos": FeatureType.STATE, "environment_state": FeatureType.ENV, "pixels": FeatureType.VISUAL}


@EnvConfig.register_subclass("surefoot")
@dataclass
class SurefootEnv(EnvConfig):
    """Which robot, what is broken, and what is shown of it."""

    # the robot
    task: str | None = "walker2d"
    version: str = "v4"
    # KIND:TARGET:VALUE@START[-END], separated by spaces, in seconds of each episode
    faults: str = ""
    # in control steps; the robot's own if not given
    episode_length: int | None = None
    # agent_pos, environment_state_agent_pos or pixels_agent_pos
    obs_type: str = "agent_pos"
    # drawn, or rendered by mujoco (where MUJOCO_GL works)
    pictures: str = "drawn"
    # the robot's own rate, and no other
    fps: int = 0
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            "environment_state": OBS_ENV_STATE,
            "pixels": OBS_IMAGE,
        }
    )

    def __post_init__(self) -> None:
        with refused("env"):
            task = self.as_task
            shown = shapes(task, self.obs_type)
            if self.fps not in (0, task.fps):
                raise ValueError(f"{self.task} runs at {task.fps} steps per second, got fps {self.fps}")
        self.fps = task.fps
        self.features = {name: PolicyFeature(KINDS[name], shape) for name, shape in shown.items()}
        self.features[ACTION] = PolicyFeature(FeatureType.ACTION, (task.spec.action.size,))

    @property
    def as_task(self) -> Simulated:
        """The environment by our names."""
        return Simulated(self.task or "", LIMITS, self.version, self.faults, self.episode_length, self.pictures)

    @property
    def gym_kwargs(self) -> dict:
        """Nothing: `create_envs` needs no registry."""
        return {}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gymnasium.vector.VectorEnv]]:
        """Return {"surefoot": {0: n environments}}, each in a process of its own if there are several and that is asked for.

        An environment whose episode is over rests for one step, without reward, before its next: lerobot-eval counts the step
        after the last as well.
        """
        makers = [partial(TaskEnv, self.as_task, self.obs_type)] * n_envs
        rest = gymnasium.vector.AutoresetMode.NEXT_STEP
        if use_async_envs and n_envs > 1:
            vector = gymnasium.vector.AsyncVectorEnv(makers, context="forkserver", autoreset_mode=rest)
        else:
            vector = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=rest)
        return {self.type: {0: vector}}
