"""What data sets are made of: which policies act, how often each, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What a data set is made of."""

    name: str
    """Folder of the data set under the output folder."""
    policy: str
    """File of the policy, in the policies folder."""
    mixture: tuple[tuple[int | None, float], ...]
    """(snapshot, weight) pairs: each episode draws its policy. Snapshot None for files with a single one."""
    steps: int
    """Control steps to collect at least; the last episode is kept whole."""
    robot: str = "walker2d"
    version: str = "v4"
    seed: int = 0
    sampled: bool = True
    """Sample the policies' actions; False for their mean actions."""
    action_noise: float = 0.0
    """Standard deviation of Gaussian noise added to the actions, in fractions of half their range."""
    max_episode_steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_episode_steps < 1:
            raise ValueError(f"steps and max_episode_steps must be >= 1, got {self.steps}, {self.max_episode_steps}")
        if self.action_noise < 0:
            raise ValueError(f"action_noise must be >= 0, got {self.action_noise}")
        weights = [weight for _, weight in self.mixture]
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"mixture needs weights >= 0 with a positive sum, got {weights}")


_WALKER_LADDER = "Walker2d.openai_trpo_snapshots.log_Walker2d-v1_1.npz"
_HOPPER_LADDER = "Hopper.openai_trpo_snapshots.log_Hopper-v1_4.npz"
_CHEETAH_LADDER = "HalfCheetah.openai_trpo_snapshots.log_HalfCheetah-v1_2.npz"

RECIPES: dict[str, tuple[str, Recipe]] = {
    "walker2d-medium": (
        "half-trained walkers, sampled actions: mean return about 2850, as D4RL's walker2d-medium",
        Recipe(
            name="walker2d-medium",
            policy=_WALKER_LADDER,
            mixture=((60, 0.20), (80, 0.42), (100, 0.38)),
            steps=500_000,
        ),
    ),
    "walker2d-medium-replay": (
        "from the first steps to half-trained: mean return about 683, as D4RL's walker2d-medium-replay",
        Recipe(
            name="walker2d-medium-replay",
            policy=_WALKER_LADDER,
            mixture=((0, 0.38), (20, 0.33), (40, 0.14), (60, 0.08), (80, 0.05), (100, 0.02)),
            steps=300_000,
            seed=1,
        ),
    ),
    "hopper-medium": (
        "a half-trained hopper, sampled actions: mean return about 1420, as D4RL's hopper-medium",
        Recipe(
            name="hopper-medium", policy="Hopper.dlr_sac.npz", mixture=((None, 1.0),), steps=300_000, robot="hopper"
        ),
    ),
    "hopper-medium-replay": (
        "from the first steps to a few good hops: mean return about 467, as D4RL's hopper-medium-replay",
        Recipe(
            name="hopper-medium-replay",
            policy=_HOPPER_LADDER,
            mixture=((0, 0.56), (20, 0.345), (40, 0.065), (60, 0.03)),
            steps=200_000,
            robot="hopper",
            seed=1,
        ),
    ),
    "halfcheetah-medium": (
        "a half-trained cheetah, noisy actions: mean return about 4500, near D4RL's halfcheetah-medium",
        Recipe(
            name="halfcheetah-medium",
            policy="HalfCheetah.dlr_ars.npz",
            mixture=((None, 1.0),),
            steps=300_000,
            robot="halfcheetah",
            sampled=False,
            action_noise=0.1,
        ),
    ),
    "halfcheetah-medium-replay": (
        "from the first steps to half-trained: mean return about 2100, below D4RL's halfcheetah-medium-replay",
        Recipe(
            name="halfcheetah-medium-replay",
            policy=_CHEETAH_LADDER,
            mixture=((0, 0.05), (20, 0.05), (40, 0.1), (60, 0.15), (80, 0.2), (100, 0.2), (300, 0.25)),
            steps=200_000,
            robot="halfcheetah",
            seed=1,
        ),
    ),
    "walker2d-random": (
        "untrained walkers: mean return about 5",
        Recipe(name="walker2d-random", policy=_WALKER_LADDER, mixture=((0, 1.0),), steps=100_000, seed=2),
    ),
    "walker2d-expert": (
        "trained walkers, sampled actions: mean return about 4450",
        Recipe(name="walker2d-expert", policy=_WALKER_LADDER, mixture=((500, 1.0),), steps=500_000, seed=3),
    ),
    "hopper-random": (
        "an untrained hopper: mean return about 25",
        Recipe("hopper-random", _HOPPER_LADDER, mixture=((0, 1.0),), steps=100_000, robot="hopper", seed=2),
    ),
    "hopper-expert": (
        "a trained hopper, sampled actions: mean return about 3700",
        Recipe("hopper-expert", _HOPPER_LADDER, mixture=((500, 1.0),), steps=300_000, robot="hopper", seed=3),
    ),
    "halfcheetah-random": (
        "an untrained cheetah: mean return about -310",
        Recipe("halfcheetah-random", _CHEETAH_LADDER, mixture=((0, 1.0),), steps=100_000, robot="halfcheetah", seed=2),
    ),
    "halfcheetah-expert": (
        "a trained cheetah, sampled actions: mean return about 11500",
        Recipe(
            name="halfcheetah-expert",
            policy="HalfCheetah.dlr_tqc.npz",
            mixture=((None, 1.0),),
            steps=300_000,
            robot="halfcheetah",
            seed=3,
        ),
    ),
}
