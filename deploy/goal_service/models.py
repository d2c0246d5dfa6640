"""The models that a service is made of: the target, and the small one that drafts for it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from deploy.goal_service.drafters import ModelDrafter
from deploy.goal_service.linear import Kind
from deploy.goal_service.llama import Cache, Llama, LlamaConfig, Rope, Span
from deploy.goal_service.sampling import Rule
from deploy.goal_service.vocabulary import Vocabulary
from deploy.goal_service.weights import Weights, load_weights

WEIGHTS, CARD = "draft.safetensors", "draft.json"


class Slowed(Llama):
    """A model whose look takes at least `floor_s`, to stand in for a slower one."""

    floor_s = 0.0

    def forward(self, tokens: Tensor, spans: Sequence[Span], cache: Cache, wanted: Tensor | None = None) -> Tensor:
        """Return the logits, not before their time."""
        began_s = time.monotonic()
        found = super().forward(tokens, spans, cache, wanted)
        time.sleep(max(0.0, began_s + self.floor_s - time.monotonic()))
        return found


def save_drafter(
    folder: Path, config: LlamaConfig, tensors: dict[str, Tensor], ids: Tensor | None, about: dict
) -> None:
    """Write a small model: its card, its tensors, and which tokens of the target's vocabulary it knows."""
    from dataclasses import asdict

    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    held = {f"model.{name}": t.contiguous() for name, t in tensors.items()}
    save_file(held | ({} if ids is None else {"ids": ids}), folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps({"config": asdict(config), "about": about}, indent=1) + "\n")


def load_drafter(
    folder: Path,
    size: int,
    rows: int,
    length: int,
    rule: Rule = "coupled",
    factor: float = 1.0,
    budget: int = 12,
    floor_s: float = 0.0,
    kind: Kind = "bf16",
) -> ModelDrafter:
    """Return the drafter whose files `save_drafter` wrote. Raises ValueError, in one line, for what is none or of another target."""
    try:
        card = json.loads((folder / CARD).read_text())["config"]
        config = LlamaConfig(**{**card, "rope": Rope(**card["rope"])})
        held = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no drafter ({CARD}, {WEIGHTS}): {error}") from None
    ids = held.pop("ids", None)
    known = config.vocab if ids is None else len(ids)
    if known != config.vocab or (int(ids.max()) if ids is not None else config.vocab - 1) >= size:
        raise ValueError(f"{folder} drafts for another vocabulary than one of {size} tokens")
    config = LlamaConfig(**{**vars(config), "context": max(config.context, length)})
    model = Slowed(config, {name.removeprefix("model."): t for name, t in held.items()}, kind)
    model.floor_s = floor_s
    return ModelDrafter(model, size, rows, length, ids, rule, factor, budget)


def load_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a target. Raises ValueError as `load_weights`."""
    return load_weights(path).vocabulary


def load_target(weights: Weights, kind: Kind, device: str = "cpu") -> Llama:
    """Return the target."""
    return Llama(weights.config, weights.tensors, kind, device, weights.packed)


def pinned(cores: Sequence[int]) -> None:
    """Keep this process to these cores, with as many threads."""
    import os

    os.sched_setaffinity(0, set(cores))
    torch.set_num_threads(max(1, len(cores)))
