"""What `surefoot run` can be asked for by name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from agents.build import LinearConfig, OracleConfig
from agents.latent import LatentConfig
from agents.learned import LearnedConfig
from configs.limits import LIMITS
from deploy.config import RunConfig
from deploy.guard import GuardConfig
from planners.cem import Cem

_LINEAR = RunConfig(
    preset="linear-cem",
    robot="double_integrator",
    limits=LIMITS["double_integrator"],
    agent=LinearConfig(),
    control_arm=False,
    adapt=False,
    episode_steps=100,
    max_episodes=5,
)
_PIXELS = replace(_LINEAR, preset="linear-pixels", agent=LinearConfig(pixels=True))
_SMOKE = RunConfig(
    preset="smoke",
    robot="double_integrator",
    limits=LIMITS["double_integrator"],
    agent=LinearConfig(horizon=10, samples=32),
    faults=("actuator_gain:force:0.5@4",),
    plan_latency_s=0.1,
    adapt_latency_s=1.0,
    episode_steps=30,
    max_episodes=4,
)

_WALKER = RunConfig(
    preset="walker",
    robot="walker2d",
    limits=LIMITS["walker2d"],
    agent=LearnedConfig(),
    control_arm=False,
    plan_every=4,
    max_episodes=5,
)
_BROKEN_ANKLE = replace(
    _WALKER,
    preset="walker-broken-ankle",
    faults=("actuator_limit:foot_left_joint:0.5@36",),
    control_arm=True,
    adapted_episodes=30,
    max_episodes=100,
    max_s=450.0,
)

_HOPPER = replace(
    _WALKER,
    preset="hopper",
    robot="hopper",
    limits=LIMITS["hopper"],
    # it falls now and then, which is as surprising as a fault: at 1 % per episode the threshold would be that of the worst falls
    agent=LearnedConfig(
        checkpoint=Path("checkpoints/hopper-small"), surprise=replace(LearnedConfig().surprise, false_alarm_rate=0.02)
    ),
)
_CHEETAH = replace(
    _WALKER,
    preset="halfcheetah",
    robot="halfcheetah",
    limits=LIMITS["halfcheetah"],
    agent=LearnedConfig(checkpoint=Path("checkpoints/halfcheetah-small")),
    plan_every=1,  # its control step is six times as long
)

_ROOMS = RunConfig(
    preset="lewm-tworoom-small",
    robot="tworoom",
    limits=LIMITS["tworoom"],
    # as widely as what it has learned from was moved
    agent=LatentConfig(init_std=0.85, distance="temporal", delay=0.6, amortised=True),
    plan_every=5,  # one block of its model
    guard=GuardConfig(frozen_s=math.inf),  # who pushes against a wall stands still, to the last bit
    episode_steps=150,
    adapt=False,
    control_arm=False,
    max_episodes=10,
)

_TEE = replace(
    _ROOMS,
    preset="lewm-pusht-small",
    robot="pusht",
    limits=LIMITS["pusht"],
    # pushes of people are short, and its head of time is no surer than latents are apart
    agent=LatentConfig(checkpoint=Path("checkpoints/lewm-pusht-small"), init_std=0.2),
)

_HAND = replace(
    _ROOMS,
    preset="lewm-cube-small",
    robot="cube",
    limits=LIMITS["cube"],
    agent=LatentConfig(checkpoint=Path("checkpoints/lewm-cube-small"), distance="temporal"),
)

_DM_WALKER = RunConfig(
    preset="dm-walker-oracle",
    robot="dm_control:walker-walk+physics",
    limits=LIMITS["dm_control:walker-walk+physics"],
    agent=OracleConfig(planner=Cem(elites=8, iterations=2, trust=float("inf")), horizon=24, samples=24),
    plan_every=3,
    plan_latency_s=0.0,
    control_arm=False,
    adapt=False,
    max_episodes=1,
)

_ARM = replace(
    _WALKER,
    preset="arm-small",
    robot="so101",
    limits=LIMITS["so101"],
    agent=LearnedConfig(checkpoint=Path("checkpoints/arm-small")),
    plan_every=1,
)

PRESETS: dict[str, tuple[str, RunConfig]] = {
    "walker-broken-ankle": ("diffusion MPC walks, its left ankle breaks, the model adapts", _BROKEN_ANKLE),
    "walker": ("diffusion MPC walks, with whatever goal and faults are asked for", _WALKER),
    "hopper": ("the same on one leg", _HOPPER),
    "halfcheetah": ("the same on a body that cannot fall", _CHEETAH),
    "arm-small": ("an arm reaches for points as it was shown", _ARM),
    "lewm-tworoom-small": ("a latent world model goes through a door, from a picture to a picture", _ROOMS),
    "lewm-pusht-small": ("the same for Push-T: a disc and the T that it pushes", _TEE),
    "lewm-cube-small": ("the same for a cube that a gripper carries (OGBench)", _HAND),
    "linear-cem": ("a point mass, CEM with its exact model", _LINEAR),
    "linear-pixels": ("the same, seen through a camera only: no state is read", _PIXELS),
    "dm-walker-oracle": (
        "a task of dm_control, CEM with the simulator as its model: 0 s charged for planning",
        _DM_WALKER,
    ),
    "smoke": ("a few seconds: the point mass loses half its force; no checkpoint needed", _SMOKE),
}
