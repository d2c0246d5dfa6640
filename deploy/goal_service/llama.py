"""Llama- and Qwen3-family models with a static cache, written so that a token's logits depend on nothing but what it sees.

    x += o(attention(rope(q(n(x))), rope(k(n(x))), v(n(x)))),   x += down(silu(gate(n(x))) * up(n(x))),   n = RMSNorm

Attention asks each token for the keys up to a multiple of STRIDE slots that its own last visible one decides, in rows padded to a
multiple of ROWS: then the kernel sums in the same order whoever else is in the call. Two calls agree to the last bit if a token sees
the same keys in the same slots, and the linear layers do their part (linear.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deploy.goal_service.linear import Kind, Linear, Packed, check_kind, linear

STRIDE = 64
ROWS = 8
MOST = 64
"""Tokens of a sequence in one call of the attention kernel."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions: their base, and how they are stretched for longer contexts."""

    base: float = 10_000.0
    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    """low, high, original: of llama3, the waves per original context between which it goes over to stretching."""
    divisors: tuple[float, ...] = ()
    """One for each frequency, as files may have them."""

    def frequencies(self, dim: int) -> Tensor:
        """Return the angles per position, float32 (dim / 2,)."""
        plain = 1.0 / self.base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        if self.divisors:
            return plain / torch.tensor(self.divisors)
        if self.kind == "none":
            return plain
        if self.kind == "linear":
            return plain / self.factor
        waves = self.original * plain / (2 * math.pi)
        kept = ((waves - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain * kept + plain / self.factor * (1 - kept)


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a model."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    """Of the gated layer."""
    context: int
    """Tokens that it was trained for."""
    rope: Rope = Rope()
    eps: float = 1e-5
    qk_norm: bool = False
    """Qwen3: queries and keys are normalised, head by head."""
    tied: bool = True
    """The output layer is the embedding."""

    def __post_init__(self) -> None:
        for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "inner", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(
                f"heads must be a multiple of kv_heads and head_dim even, got {self.heads}, {self.kv_heads}, {self.head_dim}"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the tensors."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = {"attention_norm": (self.width,), "q": (q, self.width), "k": (kv, self.width), "v": (kv, self.width)}
        layer |= {"o": (self.width, q), "mlp_norm": (self.width,), "down": (self.width, self.inner)}
        layer |= {"gate": (self.inner, self.width), "up": (self.inner, self.width)}
        if self.qk_norm:
            layer |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
        outer = {"embedding": (self.vocab, self.width), "norm": (self.width,)}
        if not self.tied:
            outer["output"] = (self.vocab, self.width)
        return outer | {f"layers.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()}


class Cache:
    """Keys and values of `rows` sequences with `length` slots each."""

    def __init__(
        self, cfg: LlamaConfig, rows: int, length: int, dtype: torch.dtype, device: str | torch.device
    ) -> None:
        self.rows, self.length = rows, -(-length // STRIDE) * STRIDE
        shape = (cfg.layers, rows, self.length, 2, cfg.kv_heads, cfg.head_dim)
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.flat = [layer.view(rows * self.length, 2 * cfg.kv_heads, cfg.head_dim) for layer in self.kv]
        """Per layer, of all slots of all rows: keys, then values."""
        self.k = [layer[:, :, 0].transpose(1, 2) for layer in self.kv]
        """Per layer (rows, kv_heads, length, head_dim)."""
        self.v = [layer[:, :, 1].transpose(1, 2) for layer in self.kv]

    def copy(self, from_row: int, to_row: int, length: int) -> None:
        """Copy the first `length` slots of a row to another."""
        self.kv[:, to_row, :length] = self.kv[:, from_row, :length]


@dataclass
class Span:
    """The tokens of one sequence in a call."""

    row: int
    slots: Tensor
    """(T,) int64, where the keys and values of its tokens are written."""
    positions: Tensor
    """(T,) rotary positions."""
    visible: Tensor | None = None
    """(T, L) bool, which slots each token attends to; None: all slots up to its own."""


@dataclass(frozen=True)
class Piece:
    """Tokens of one span that attend to the same number of slots."""

    row: int
    first: int
    """Its first token in the call."""
    count: int
    length: int
    visible: Tensor
    """(count, length) bool."""


@dataclass(frozen=True)
class Call:
    """One call of the attention kernel, for pieces of the same size in consecutive rows."""

    row: int
    rows: int
    length: int
    take: Tensor
    """Which rows of (N * heads, head_dim) are the queries (rows, kv_heads, R, head_dim)."""
    shape: tuple[int, int, int, int]
    bias: Tensor
    """(rows, 1, R, length): 0 or -inf."""


@dataclass(frozen=True)
class Plan:
    """What the layers of one forward pass have in common."""

    calls: tuple[Call, ...]
    back: Tensor
    """Which rows of the calls' results are (N * heads, head_dim)."""
    slots: Tensor
    """(N,) of all rows, where keys and values are written."""
    cos: Tensor
    """(N, heads + 2 kv_heads, head_dim) float32; the values are turned by nothing."""
    sin: Tensor
    """The first half of each head negative."""


class Norm:
    """RMSNorm over the last axis, in float32."""

    def __init__(self, weight: Tensor, eps: float, dtype: torch.dtype) -> None:
        size = weight.shape[-1]
        self.weight = weight.float() * size**0.5
        self.floor = torch.tensor((size * eps) ** 0.5, device=weight.device)
        self.dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x^2) + eps) * weight."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x / torch.hypot(size, self.floor) * self.weight).to(self.dtype)


@dataclass(frozen=True)
class Layer:
    """The parts of one layer; q, k, v are one matrix, and gate and up."""

    attention_norm: Norm
    qkv: Linear
    o: Linear
    mlp_norm: Norm
    gate_up: Linear
    down: Linear
    qk_norm: Norm | None


class Llama:
    """A model that is only asked, never trained."""

    def __init__(
        self,
        config: LlamaConfig,
        tensors: Mapping[str, Tensor],
        kind: Kind,
        device: str | torch.device = "cpu",
        packed: Mapping[str, Packed] | None = None,
    ) -> None:
        """Take the tensors that `config.shapes()` names; those in `packed` already have the 4 bits of kind int4."""
        check_kind(kind)
        missing = [name for name in config.shapes() if name not in tensors]
        if missing:
            raise ValueError(f"tensors must have a {missing[0]} of shape {config.shapes()[missing[0]]}")
        self.config, self.device = config, torch.device(device)
        self.kind: Kind = kind
        self.dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        outer: Kind = "int8" if kind == "int4" else kind
        self.embedding = tensors["embedding"].to(self.device, self.dtype)
        self.output = linear(tensors["embedding" if config.tied else "output"].to(self.device), outer)
        self.norm = self._norm(tensors["norm"])
        self.layers = [self._layer(tensors, packed or {}, f"layers.{i}.") for i in range(config.layers)]
        angles = torch.arange(config.context).double()[:, None] * config.rope.frequencies(config.head_dim).double()
        self._cos, self._sin = angles.cos().float().to(self.device), angles.sin().float().to(self.device)
        self._queries: dict[int, tuple[Tensor, Tensor]] = {}

    def _norm(self, weight: Tensor) -> Norm:
        return Norm(weight.to(self.device), self.config.eps, self.dtype)

    def _layer(self, tensors: Mapping[str, Tensor], packed: Mapping[str, Packed], prefix: str) -> Layer:
        def joined(*names: str) -> Linear:
            full = [prefix + name for name in names]
            if self.kind == "int4" and all(name in packed for name in full):
                return linear(Packed.joined([packed[name] for name in full]), "int4")
            return linear(torch.cat([tensors[name].to(self.device).float() for name in full]), self.kind)

        qk_norm = None
        if self.config.qk_norm:
            q, k = (tensors[prefix + name].float() for name in ("q_norm", "k_norm"))
            heads = [q] * self.config.heads + [k] * self.config.kv_heads
            qk_norm = self._norm(torch.stack(heads))
        attention_norm, mlp_norm = (self._norm(tensors[prefix + n]) for n in ("attention_norm", "mlp_norm"))
        qkv, gate_up = joined("q", "k", "v"), joined("gate", "up")
        return Layer(attention_norm, qkv, joined("o"), mlp_norm, gate_up, joined("down"), qk_norm)

    def cache(self, rows: int, length: int) -> Cache:
        """Return an empty cache for so many sequences of so many tokens."""
        return Cache(self.config, rows, length, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, spans: Sequence[Span], cache: Cache, wanted: Tensor | None = None) -> Tensor:
        """Return the logits float32 (M, vocab) of the tokens (N,) whose index is in `wanted` (None: all).

        The tokens are those of all spans, one after another; their keys and values are written into the cache first.
        """
        x = self.features(tokens, spans, cache, self.config.layers)
        if wanted is not None:
            x = x.index_select(0, wanted)
        return self.output(self.norm(x)).float()

    @torch.inference_mode()
    def features(self, tokens: Tensor, spans: Sequence[Span], cache: Cache, depth: int) -> Tensor:
        """Return what stands behind the first `depth` layers, float32 (N, width); only theirs are the keys and values written."""
        plan = self._plan(spans, cache)
        x = self.embedding.index_select(0, tokens).float()
        for layer, flat, k, v in zip(self.layers[:depth], cache.flat, cache.k, cache.v, strict=False):
            x += layer.o(self._attend(layer, layer.attention_norm(x), plan, flat, k, v))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
            x += layer.down(F.silu(gate).mul_(up))
        return x

    def _attend(self, layer: Layer, x: Tensor, plan: Plan, flat: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (N, heads * head_dim); writes keys and values."""
        cfg = self.config
        heads = layer.qkv(x).view(len(x), -1, cfg.head_dim)
        if layer.qk_norm is not None:
            turned = cfg.heads + cfg.kv_heads
            heads = torch.cat([layer.qk_norm(heads[:, :turned]), heads[:, turned:]], 1)
        turned = torch.addcmul(heads * plan.cos, heads.roll(cfg.head_dim // 2, -1), plan.sin).to(self.dtype)
        flat.index_copy_(0, plan.slots, turned[:, cfg.heads :])
        rows = turned.view(-1, cfg.head_dim)
        parts = []
        for call in plan.calls:
            q = rows.index_select(0, call.take).view(call.shape)
            keys = k[call.row : call.row + call.rows, :, : call.length]
            values = v[call.row : call.row + call.rows, :, : call.length]
            part = F.scaled_dot_product_attention(q, keys, values, attn_mask=call.bias)
            parts.append(part.reshape(-1, cfg.head_dim))
        done = parts[0] if len(parts) == 1 else torch.cat(parts)
        return done.index_select(0, plan.back).view(len(x), -1)

    def _plan(self, spans: Sequence[Span], cache: Cache) -> Plan:
        """Return what the layers share."""
        cfg = self.config
        positions = torch.cat([span.positions for span in spans])
        slots = torch.cat([span.slots + span.row * cache.length for span in spans])
        still = torch.zeros(len(positions), cfg.kv_heads, cfg.head_dim, device=self.device)
        cos, sin = self._cos[positions], self._sin[positions]
        turned = (len(positions), cfg.heads + cfg.kv_heads, cfg.head_dim)
        cos = torch.cat([torch.cat([cos, cos], -1)[:, None].expand(turned), still + 1], 1)
        sin = torch.cat([torch.cat([-sin, sin], -1)[:, None].expand(turned), still], 1)
        pieces, first = [], 0
        for span in spans:
            pieces += _pieces(span, first)
            first += len(span.slots)
        calls, places = [], []
        for group in _groups(pieces):
            call, back = self._call(group, sum(c.take.numel() for c in calls))
            calls.append(call)
            places += back
        back = torch.cat([place for _, place in sorted(places, key=lambda pair: pair[0])])
        return Plan(tuple(calls), back, slots, cos, sin)

    def _call(self, group: Sequence[Piece], offset: int) -> tuple[Call, list[tuple[int, Tensor]]]:
        """Return the call for some pieces, and for each its first token and where its heads' results are, from `offset` on."""
        cfg, count, length = self.config, group[0].count, group[0].length
        take, back = self._index(count)
        padded = take.shape[1]
        all_heads = cfg.heads + 2 * cfg.kv_heads
        shape = (len(group), cfg.kv_heads, padded, cfg.head_dim)
        takes = torch.cat([(take + piece.first * all_heads).flatten() for piece in group])
        backs = [(piece.first, back + offset + i * cfg.kv_heads * padded) for i, piece in enumerate(group)]
        seen = torch.stack([piece.visible for piece in group]).repeat_interleave(cfg.heads // cfg.kv_heads, 1)
        bias = torch.zeros(len(group), 1, padded, length, dtype=self.dtype, device=self.device)
        bias[:, 0, : seen.shape[1]].masked_fill_(~seen, -torch.inf)
        return Call(group[0].row, len(group), length, takes, shape, bias), backs

    def _index(self, count: int) -> tuple[Tensor, Tensor]:
        """Return which heads of `count` tokens the queries (kv_heads, R) are, and back (count * heads,)."""
        if count not in self._queries:
            cfg = self.config
            group = cfg.heads // cfg.kv_heads
            padded = -(-count * group // ROWS) * ROWS
            token, head = torch.arange(count)[:, None], torch.arange(group)[None]
            of, row = torch.arange(cfg.kv_heads)[:, None], (token * group + head).flatten()
            source = of * group + (token * (cfg.heads + 2 * cfg.kv_heads) + head).flatten()
            take = F.pad(source, (0, padded - count * group))
            back = (of * padded + row).view(cfg.kv_heads, count, group).transpose(0, 1).flatten()
            self._queries[count] = take.to(self.device), back.to(self.device)
        return self._queries[count]


def _pieces(span: Span, first: int) -> list[Piece]:
    """Return a span in pieces whose tokens attend to the same number of slots."""
    if span.visible is None:
        last = span.slots
    else:
        columns = torch.arange(span.visible.shape[1], device=span.slots.device)
        last = (span.visible * columns).amax(1)
    lengths = ((last // STRIDE + 1) * STRIDE).tolist()
    cuts = [0, *(i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]), len(lengths)]
    pieces = []
    for start, stop in itertools.pairwise(cuts):
        for begin in range(start, stop, MOST):
            end, length = min(begin + MOST, stop), lengths[begin]
            if span.visible is None:
                seen = torch.arange(length, device=last.device) <= last[begin:end, None]
            else:
                seen = span.visible[begin:end, :length]
                seen = F.pad(seen, (0, length - seen.shape[1]))
            pieces.append(Piece(span.row, first + begin, end - begin, length, seen))
    return pieces


def _groups(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return pieces of the same size in consecutive rows together."""
    groups: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: (p.length, p.count, p.row)):
        last = groups[-1][-1] if groups else None
        if last and (last.length, last.count, last.row + 1) == (piece.length, piece.count, piece.row):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups
