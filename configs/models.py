"""The world models that `surefoot train` makes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agents.practice import PracticeConfig
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.fit import DiffusionPart, ModelConfig, PolicyPart, StepPart, ValuePart
from world_models.jepa import ConvConfig, JepaConfig
from world_models.latent_heads import DecoderPart, EnsemblePart, InversePart, TemporalPart
from world_models.latents import JepaPart, LatentModelConfig
from world_models.step import StepConfig
from world_models.training import TrainConfig
from world_models.value import ValueConfig

MEDIUM = ("walker2d-medium",)
BOTH = ("walker2d-medium", "walker2d-medium-replay")
OWN = ("walker2d-own",)
"""What the planner itself did: nothing else is as like what the one-step model will be asked about."""

_CLONED = TrainConfig(steps=4_000, batch=1024, bf16=False, weight_decay=0.01, learning_rate=1e-3, save_every=2000)

WALKER_SMALL = ModelConfig(
    robot="walker2d",
    proposal=DiffusionPart(
        DenoiserConfig(width=128, layers=3, mlp=512, patch=4),
        DiffusionConfig(sample_steps=2),
        TrainConfig(steps=10_000, batch=128, learning_rate=7e-4, weight_decay=0.1),
        MEDIUM,
    ),
    dynamics=DiffusionPart(
        DenoiserConfig(width=128, layers=4, mlp=512, patch=4, causal=True),
        DiffusionConfig(sample_steps=2),
        TrainConfig(steps=12_000, batch=128, learning_rate=7e-4, weight_decay=1.0),
        BOTH,
    ),
    step=StepPart(
        StepConfig(),
        TrainConfig(
            steps=40_000, batch=1024, bf16=False, weight_decay=0.01, learning_rate=1e-3, clip=1.0, save_every=2000
        ),
        (*BOTH, *OWN),
    ),
    value=ValuePart(
        ValueConfig(), TrainConfig(steps=4_000, batch=1024, bf16=False, weight_decay=0.1, learning_rate=1e-3), MEDIUM
    ),
    policy=PolicyPart(train=_CLONED, data=OWN),
)


def offline(robot: str, data: tuple[str, ...]) -> ModelConfig:
    """Return a small model that learns from given data alone, every part of it."""
    small = WALKER_SMALL
    return ModelConfig(
        robot=robot,
        proposal=replace(small.proposal, train=replace(small.proposal.train, steps=6_000), data=data),
        dynamics=None,
        step=replace(small.step, train=replace(small.step.train, steps=20_000), data=data),
        value=replace(small.value, data=data),
        policy=replace(small.policy, data=data),
    )


def sibling(robot: str) -> ModelConfig:
    """Return the walker's small model for another robot: without diffusion dynamics, and without goals but the task."""
    small, medium, own = WALKER_SMALL, f"{robot}-medium", f"{robot}-own"
    return ModelConfig(
        robot=robot,
        proposal=replace(small.proposal, data=(medium,)),
        dynamics=None,
        step=replace(small.step, data=(medium, f"{robot}-medium-replay", own)),
        value=replace(small.value, data=(medium,)),
        policy=replace(small.policy, data=(own,)),
    )


_PUBLISHED = DenoiserConfig(width=256, layers=5, heads=8, qkv=1024, mlp=2048, patch=1, fused=False)
_PUBLISHED_TRAINING = TrainConfig(steps=2_000_000, batch=512, learning_rate=1e-4, weight_decay=0.0, ema=0.99)
WALKER_PAPER = ModelConfig(
    robot="walker2d",
    proposal=DiffusionPart(
        _PUBLISHED, DiffusionConfig(32, "epsilon", eta=1.0, top_share=0.0), _PUBLISHED_TRAINING, MEDIUM
    ),
    dynamics=DiffusionPart(
        _PUBLISHED, DiffusionConfig(10, "epsilon", eta=0.0, top_share=0.0), _PUBLISHED_TRAINING, MEDIUM
    ),
    step=WALKER_SMALL.step,
    value=WALKER_SMALL.value,
    policy=WALKER_SMALL.policy,
)

ROBOTS = ("walker2d", "hopper", "halfcheetah")
OFFLINE = {
    f"{robot}-{kind}": offline(robot, (f"{robot}-{kind}",)) for robot in ROBOTS for kind in ("medium", "medium-replay")
}
"""Models of one data set each: what a planner can make of exactly that (benchmarks/walker.py)."""


def shown(robot: str, data: tuple[str, ...]) -> ModelConfig:
    """Return a small model of an arm from some minutes of demonstrations, whose goals are seconds away."""
    small = offline(robot, data)
    return replace(
        small,
        proposal=replace(small.proposal, train=replace(small.proposal.train, steps=3_000)),
        step=replace(small.step, train=replace(small.step.train, steps=8_000)),
        value=ValuePart(
            ValueConfig(discount=0.9, fall_penalty=0.0), replace(small.value.train, steps=2_000), small.value.data
        ),
        policy=replace(small.policy, train=replace(small.policy.train, steps=2_000)),
    )


ARM = shown("so101", ("so101-reach",))
"""An arm that was shown what to do, in simulation or by teleoperation (`--dataset`)."""


def pictured(robot: str, data: str, jepa: JepaConfig, steps: int, warmup: int, longest: int = 100) -> LatentModelConfig:
    """Return a small latent model of one data set, all its heads included; `longest`: control steps between latents of a pair."""
    train = TrainConfig(
        steps=steps, batch=64, learning_rate=5e-4, final_rate=1e-6, warmup=warmup, weight_decay=1e-3, clip=1.0
    )
    return LatentModelConfig(
        robot,
        JepaPart(jepa, train, (data,), directions=256),
        TemporalPart(data=(data,), longest=longest),
        InversePart(data=(data,), longest=longest),
        DecoderPart(data=(data,)),
        EnsemblePart(data=(data,)),
    )


_ROOMS = JepaConfig(
    image=64,
    encoder=ConvConfig((32, 64, 96, 128), 256),
    latent=96,
    hidden=512,
    layers=3,
    heads=4,
    head=32,
    mlp=384,
)
_TEE = replace(_ROOMS, encoder=ConvConfig((32, 64, 128, 192), 256), latent=128, hidden=768, layers=4, heads=6, mlp=512)
TWO_ROOMS = pictured("tworoom", "tworoom-expert", _ROOMS, steps=4_000, warmup=100)
_HAND = replace(_TEE, action=5)
TEE = pictured("pusht", "pusht-grown", _TEE, steps=8_000, warmup=200, longest=60)
CUBE = pictured("cube", "cube-expert", _HAND, steps=12_000, warmup=200, longest=60)


def paper(small: LatentModelConfig) -> LatentModelConfig:
    """Return the published model and training (ViT-tiny on 224 pixels, 18.0 million parameters: for a GPU) on the same data."""
    return replace(small, jepa=JepaPart(JepaConfig(action=small.jepa.jepa.action), data=small.jepa.data))


LATENT_MODELS: dict[str, LatentModelConfig] = {
    "lewm-tworoom-small": TWO_ROOMS,
    "lewm-tworoom-paper": paper(TWO_ROOMS),
    "lewm-pusht-small": TEE,
    "lewm-pusht-paper": paper(TEE),
    "lewm-cube-small": CUBE,
    "lewm-cube-paper": paper(CUBE),
}
"""Those that learn from pictures."""
MODELS: dict[str, ModelConfig] = {
    "arm-small": ARM,
    "walker-small": WALKER_SMALL,
    "hopper-small": sibling("hopper"),
    "halfcheetah-small": sibling("halfcheetah"),
    "walker-paper": WALKER_PAPER,
    **OFFLINE,
}


@dataclass(frozen=True)
class Practice:
    """Who practises goals: a robot, and what its one-step model has learned from and goes on learning from."""

    robot: str
    taught: str
    """Data set of a teacher that pursued goals."""
    data: tuple[str, ...]
    """The last one: what the planner does without a goal. Some episodes of practice begin there."""
    practice: PracticeConfig = field(default_factory=PracticeConfig)


PRACTICE = {"walker-small": Practice("walker2d", "walker-goals", (*BOTH, *OWN))}
"""Checkpoint -> how its goal model is made (`surefoot practise`)."""
