"""Our planners as lerobot policies: `--policy.type=surefoot --policy.preset=walker`, or a folder that `export` wrote."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from deploy.refusal import refused
from envs.robots import robot_spec

if TYPE_CHECKING:
    from deploy.config import RunConfig

UNTRAINED = "this policy is a planner: what it plans with is trained by `surefoot train`"


@PreTrainedConfig.register_subclass("surefoot")
@dataclass
class SurefootConfig(PreTrainedConfig):
    """Which planner."""

    preset: str = "walker"
    # as after `surefoot run PRESET`, e.g. "--objective speed:1.0 --agent.samples 96"
    overrides: str = ""
    device: str | None = "cpu"
    push_to_hub: bool = False
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        with refused("policy"):
            state, action = self.shapes.values()
        self.input_features = self.input_features or {OBS_STATE: PolicyFeature(FeatureType.STATE, state)}
        self.output_features = self.output_features or {ACTION: PolicyFeature(FeatureType.ACTION, action)}

    @property
    def run(self) -> RunConfig:
        """The preset, with what is overridden. Raises ValueError, in one line, for what does not exist."""
        from configs.presets import PRESETS
        from deploy.pilot import planning_config

        return planning_config([self.preset, *shlex.split(self.overrides)], PRESETS, "surefoot run")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The state's and the action's, by lerobot's names."""
        run = self.run
        spec = robot_spec(run.robot, run.version)
        return {OBS_STATE: (spec.state_size,), ACTION: (spec.action.size,)}

    def validate_features(self) -> None:
        """Raise ValueError unless states and actions are those of the preset's robot."""
        given = {**(self.input_features or {}), **(self.output_features or {})}
        for name, shape in self.shapes.items():
            got = given[name].shape if name in given else None
            if got != shape:
                raise ValueError(f"preset {self.preset!r} plans for a robot whose {name} is {shape}, got {got}")

    @property
    def observation_delta_indices(self) -> None:
        """None: the present is enough."""

    @property
    def action_delta_indices(self) -> None:
        """None."""

    @property
    def reward_delta_indices(self) -> None:
        """None."""

    def get_optimizer_preset(self) -> Any:
        """Raise: lerobot has nothing to train here."""
        raise NotImplementedError(UNTRAINED)

    def get_scheduler_preset(self) -> Any:
        """Raise: lerobot has nothing to train here."""
        raise NotImplementedError(UNTRAINED)


class SurefootPolicy(PreTrainedPolicy):
    """A planner, on the CPU. Each `select_action` is one control step of each robot of the batch, planned without latency."""

    config_class = SurefootConfig  # pyright: ignore[reportAssignmentType]
    name = "surefoot"  # pyright: ignore[reportAssignmentType]

    def __init__(self, config: SurefootConfig, **_: Any) -> None:
        super().__init__(config)
        from deploy.pilot import Pilot

        config.validate_features()
        self._pilot = Pilot(config.run)
        self.register_buffer("nothing", torch.zeros(1))  # lerobot saves and loads one tensor at least

    def get_optim_params(self) -> dict:
        """Raise: lerobot has nothing to train here."""
        raise NotImplementedError(UNTRAINED)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        """Raise: lerobot has nothing to train here."""
        raise NotImplementedError(UNTRAINED)

    def reset(self) -> None:
        """Begin new episodes with the next call."""
        self._pilot.reset()

    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the actions for now, (B, A), inside the robot's limits."""
        state_BO = batch[OBS_STATE]
        return torch.from_numpy(self._pilot.act(state_BO.double().cpu().numpy())).to(state_BO)

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the plans that start now, (B, H, A), one row per control step; NaN where none was found."""
        state_BO = batch[OBS_STATE]
        return torch.from_numpy(self._pilot.plan(state_BO.double().cpu().numpy())).to(state_BO)

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save_pretrained(save_directory, state_dict)
        for processor in make_surefoot_pre_post_processors(self.config):
            processor.save_pretrained(save_directory)


def make_surefoot_pre_post_processors(config: PreTrainedConfig, dataset_stats: Any = None) -> tuple[Any, Any]:
    """Return lerobot's own, without normalisation: states and actions are in physical units on both sides."""
    return make_default_pre_post_processors(config, dataset_stats)


def export(preset: str, overrides: str, folder: Path) -> None:
    """Write a folder for `--policy.path=FOLDER`. Raises ValueError, in one line, for what does not exist."""
    SurefootPolicy(SurefootConfig(preset=preset, overrides=overrides)).save_pretrained(folder)
