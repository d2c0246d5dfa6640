"""Weights on disk: safetensors and a JSON card per part, `checkpoints/<preset>/<part>.safetensors`; never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from world_models.decoder import Decoder, DecoderConfig
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.dynamics import DiffusionDynamics
from world_models.inverse import InverseConfig, InverseDynamics
from world_models.jepa import Jepa, JepaConfig
from world_models.latent_ensemble import LatentEnsemble, LatentEnsembleConfig
from world_models.normaliser import Normaliser
from world_models.policy import Policy, PolicyConfig
from world_models.proposal import DiffusionProposal
from world_models.step import StepConfig, StepModel
from world_models.temporal import TemporalConfig, TemporalDistance
from world_models.trim import Trim
from world_models.value import ValueConfig, ValueEnsemble

FORMAT = 1
PARTS = ("proposal", "dynamics", "step", "value", "policy")
LATENT_PARTS = ("jepa", "temporal", "inverse", "decoder", "ensemble")
"""Of a model that plans from pictures."""
OPTIONAL = ("dynamics",)
"""A model without it is searched with its one-step part alone."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file through a temporary name, so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, temporary)
    temporary.chmod(0o644)
    os.replace(temporary, path)


def save_part(folder: Path, part: str, model: nn.Module, card: Mapping[str, Any], half: bool = True) -> None:
    """Write weights (bf16 for the networks, float32 for statistics, unless `half` is false) and the card beside them."""
    nets = {name for name, _ in model.named_parameters()}
    tensors = {n: t.bfloat16() if half and n in nets else t for n, t in model.state_dict().items()}
    save_tensors(folder / f"{part}.safetensors", tensors)
    write_json(folder / f"{part}.json", {"format": FORMAT, "part": part, **card})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON that is never seen half written."""
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def read_card(folder: Path, part: str) -> dict[str, Any]:
    """Return the card of a part. Raises ValueError, in one line, where it is missing or not a card."""
    path = folder / f"{part}.json"
    if not path.exists():
        raise ValueError(
            f"no checkpoint {part!r} in {folder}: `surefoot train {folder.name}` makes it, or name another folder"
        )
    try:
        card = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON card: {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a card of format {FORMAT}")
    return card


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, as float32. Raises ValueError, in one line, where it is missing, cut short or corrupt."""
    try:
        return {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): fetch it again or retrain") from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy a file's tensors into the model. Raises ValueError where names, shapes or values are wrong."""
    tensors = read_tensors(path)
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        raise ValueError(f"{path} does not fit the model of its card: {', '.join(wrong[:3])} differ")
    bad = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise ValueError(f"{path} holds non-finite values in {bad[0]}")
    model.load_state_dict(tensors)


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a model's parts follow from."""

    state: int
    action: int
    horizon: int


def blank(size: tuple[int, ...]) -> Normaliser:
    """Return statistics to be filled by `load_weights`."""
    return Normaliser(torch.zeros(size), torch.ones(size))


def build_part(card: Mapping[str, Any]) -> nn.Module:
    """Return the untrained model that a card describes."""
    part = card["part"]
    if part == "jepa":
        sizes = JepaConfig.from_card(card["jepa"])
        return Jepa(sizes, blank((sizes.action,)))
    if part == "temporal":
        return TemporalDistance(TemporalConfig(**card["head"]), JepaConfig.from_card(card["jepa"]).latent)
    if part == "inverse":
        of = JepaConfig.from_card(card["jepa"])
        return InverseDynamics(InverseConfig(**card["head"]), of.latent, blank((of.action,)), of.block)
    if part == "ensemble":
        return LatentEnsemble(LatentEnsembleConfig(**card["head"]), JepaConfig.from_card(card["jepa"]))
    if part == "decoder":
        of = JepaConfig.from_card(card["jepa"])
        return Decoder(DecoderConfig(tuple(card["head"]["stages"])), of.latent, of.image)
    size = Sizes(**card["sizes"])
    state, action = blank((size.state,)), blank((size.action,))
    if part == "value":
        return ValueEnsemble(ValueConfig(**card["value"]), state, blank((1,)))
    if part == "step":
        return StepModel(StepConfig(**card["step"]), state, action, blank((size.state,)))
    if part == "policy":
        return Policy(PolicyConfig(**card["policy"]), state, action)
    net, diff = DenoiserConfig(**card["denoiser"]), DiffusionConfig(**card["diffusion"])
    if part == "proposal":
        return DiffusionProposal(net, diff, size.horizon, state, action)
    if part == "dynamics":
        return DiffusionDynamics(net, diff, state, action, blank((size.horizon, size.state)))
    raise ValueError(f"no part named {part!r}; choose from {sorted((*PARTS, *LATENT_PARTS))}")


def load_part(folder: Path, part: str) -> nn.Module:
    """Return a trained part in evaluation mode, float32."""
    model = build_part(read_card(folder, part))
    load_weights(model, folder / f"{part}.safetensors")
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class GoalModel:
    """What is known of goals: a one-step model that has seen them pursued, and a policy and a value that are told the goal.

    Policy and value see states with a context behind them (agents/goal_numbers.py).
    """

    step: StepModel
    policy: Policy
    value: ValueEnsemble
    speed: Trim | None = None
    """What speed to ask for; None: the one that is wanted."""


GOAL_PARTS = ("step", "policy", "value")
TRIM = "speed.json"
GOALS = "goals"
"""Folder of the goal model inside a checkpoint."""


@dataclass(frozen=True)
class WorldModel:
    """What would I do, what would then happen, in a while and at once, how good would that be, and what is done there?"""

    proposal: DiffusionProposal
    dynamics: DiffusionDynamics | None
    step: StepModel
    value: ValueEnsemble
    policy: Policy
    card: Mapping[str, Any]
    goals: GoalModel | None = None
    """None: goals are pursued within the horizon alone."""


def load_goals(folder: Path) -> GoalModel:
    """Return the goal model in `folder`. Raises ValueError, in one line, for whatever is missing or does not fit."""
    parts = {part: load_part(folder, part) for part in GOAL_PARTS}
    return GoalModel(**parts, speed=read_trim(folder / TRIM))  # pyright: ignore


def read_trim(path: Path) -> Trim | None:
    """Return what `write_trim` wrote, if it is there. Raises ValueError, in one line, for what is no trim."""
    if not path.exists():
        return None
    try:
        return Trim(**{key: tuple(value) for key, value in json.loads(path.read_text()).items()})
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a trim: {error}") from None


def write_trim(path: Path, trim: Trim) -> None:
    """Write a trim that is never seen half written."""
    write_json(path, asdict(trim))


def load_model(folder: Path) -> WorldModel:
    """Return the parts in `folder`. Raises ValueError, in one line, for whatever is missing or does not fit."""
    there = [part for part in PARTS if part not in OPTIONAL or (folder / f"{part}.json").exists()]
    parts = {part: load_part(folder, part) for part in there}
    cards = {part: read_card(folder, part) for part in there}
    goals = load_goals(folder / GOALS) if (folder / GOALS).is_dir() else None
    return WorldModel(**dict.fromkeys(OPTIONAL) | parts, card=cards, goals=goals)  # pyright: ignore


def fast(part: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Convert the network of a part that a planner asks, in place; statistics stay float32."""
    if isinstance(part, DiffusionProposal | DiffusionDynamics | StepModel):
        part.net.to(dtype)
    return part


def describe(**configs: Any) -> dict[str, Any]:
    """Return config dataclasses as the plain values a card holds."""
    return {name: asdict(cfg) for name, cfg in configs.items()}
