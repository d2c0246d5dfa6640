"""Matrices that are only multiplied with: as they are, or as 8- or 4-bit integers with scales.

The integer kernels give a row the same bits whatever other rows there are (a test holds it for 1 to 640), which is what makes
speculation lossless to the last bit. The dense ones do not quite: for one row and for several another kernel may run, and the last bit
of a sum differ. Therefore nothing here chooses its kernel by the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["int4", "int8", "bf16", "fp32"]
KINDS: tuple[Kind, ...] = ("int4", "int8", "bf16", "fp32")
GROUP = 32
"""Weights along a row that share a scale and a minimum."""
_ROWS = 16  # of the matrix, that the int4 kernel takes at a time
_KERNELS = {
    "int4": ("_convert_weight_to_int4pack_for_cpu", "_weight_int4pack_mm_for_cpu"),
    "int8": ("_weight_int8pack_mm",),
}


@dataclass(frozen=True)
class Packed:
    """A matrix (out, in) of 4-bit numbers: weight = q * scale + minimum."""

    q: Tensor
    """(out, in), 0 to 15."""
    scale: Tensor
    """(out, in / GROUP), float32."""
    minimum: Tensor

    def dense(self) -> Tensor:
        """Return the matrix, float32 (out, in)."""
        grouped = self.q.view(len(self.q), -1, GROUP).float()
        return (grouped * self.scale[:, :, None] + self.minimum[:, :, None]).flatten(1)

    @staticmethod
    def joined(parts: Sequence[Packed]) -> Packed:
        """Return one matrix with the rows of all."""
        return Packed(*(torch.cat([getattr(part, name) for part in parts]) for name in ("q", "scale", "minimum")))


class Linear(Protocol):
    """A matrix (out, in)."""

    shape: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for contiguous (N, in), in the type that it works in."""
        ...


class Dense:
    """A matrix in float32 or bf16."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.shape = (weight.shape[0], weight.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out)."""
        return F.linear(x, self.weight)


class Int8:
    """A matrix of 8-bit integers with one bf16 scale per row; input and output are bf16."""

    def __init__(self, weight: Tensor) -> None:
        scale = (weight.abs().amax(1) / 127).clamp_min(1e-30).bfloat16()
        q = (weight / scale.float()[:, None]).round().clamp(-127, 127)
        self.q, self.scale = q.to(torch.int8).contiguous(), scale
        self.shape = (weight.shape[0], weight.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out)."""
        return torch._weight_int8pack_mm(x, self.q, self.scale)  # pyright: ignore


class Int4:
    """A matrix of 4-bit integers with a bf16 scale and zero per GROUP of a row; input and output are bf16."""

    def __init__(self, packed: Packed) -> None:
        self.shape = (packed.q.shape[0], packed.q.shape[1])
        pad = -self.shape[0] % _ROWS
        q = F.pad(packed.q, (0, 0, 0, pad)).to(torch.int32)
        self.packed = torch._convert_weight_to_int4pack_for_cpu(q, 1)  # pyright: ignore
        zero = packed.minimum + 8 * packed.scale
        pairs = torch.stack([packed.scale.T, zero.T], -1).bfloat16()
        self.scales_and_zeros = F.pad(pairs, (0, 0, 0, pad)).contiguous()
        self._cut = pad > 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out)."""
        y = torch._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales_and_zeros)  # pyright: ignore
        return y[:, : self.shape[0]] if self._cut else y


def pack(weight: Tensor) -> Packed:
    """Return a matrix in 4 bits, with minimum and scale of each group as the file formats have them (Q4_1)."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(2), groups.amax(2)
    scale = ((high - low) / 15).bfloat16().float()
    minimum = (low + 8 * scale).bfloat16().float() - 8 * scale  # so that what the kernel stores is exact
    steps = (groups - minimum[:, :, None]) / scale.clamp_min(1e-30)[:, :, None]
    return Packed(steps.round().clamp(0, 15).to(torch.uint8).flatten(1), scale, minimum)


def check_kind(kind: str) -> None:
    """Raise ValueError, in one line, where a kind is unknown or this torch has no kernel for it."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    missing = [name for name in _KERNELS.get(kind, ()) if not hasattr(torch, name)]
    if missing:
        raise ValueError(
            f"kind {kind!r} needs {missing[0]}, which torch {torch.__version__} lacks: choose bf16 or fp32"
        )


def linear(weight: Tensor | Packed, kind: Kind) -> Linear:
    """Return a matrix (out, in) of a kind. Raises ValueError where the kind's kernel is missing or the matrix does not fit it."""
    check_kind(kind)
    q = weight.q if isinstance(weight, Packed) else weight
    if kind in _KERNELS and (q.shape[1] % GROUP or q.device.type != "cpu"):
        raise ValueError(
            f"kind {kind!r} takes rows of a multiple of {GROUP} on the CPU, got {q.shape[1]} on {q.device}"
        )
    if kind == "int4":
        return Int4(weight if isinstance(weight, Packed) else pack(weight))
    dense = weight.dense() if isinstance(weight, Packed) else weight.float()
    return Int8(dense) if kind == "int8" else Dense(dense, torch.bfloat16 if kind == "bf16" else torch.float32)
