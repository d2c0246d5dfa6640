"""A model as bits: which plan it follows, a codebook, how often each of its levels occurs, and the symbols, arithmetically coded.

The file is 4 bytes SFC1, 4 of the number of valid bits, 4 of their CRC-32, then the bits, padded to bytes. Only the valid bits say
which model it is, and only they are counted (world_models/bounds.py pays for their number, too).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]

from envs.episodes import write_atomically

MAGIC = b"SFC1"
HEADER = struct.Struct("<4sII")
WORD = 32


@dataclass(frozen=True)
class Form:
    """What can be written in a plan's code: `size` numbers, each one of `levels` values."""

    size: int
    levels: int

    def __post_init__(self) -> None:
        if self.size < 0 or self.levels < 2:
            raise ValueError(f"need size >= 0 and levels >= 2, got {self.size} and {self.levels}")

    @property
    def count_bits(self) -> int:
        """Length of a count of symbols."""
        return math.ceil(math.log2(self.size + 1))


@dataclass(frozen=True)
class Code:
    """A plan's number, and what its numbers are: `codebook_L[symbols_D]`."""

    plan: int
    codebook_L: np.ndarray
    symbols_D: np.ndarray

    @property
    def numbers_D(self) -> np.ndarray:
        """The numbers, float32."""
        return self.codebook_L.astype(np.float16).astype(np.float32)[self.symbols_D]


@dataclass(frozen=True)
class Bits:
    """A string of `length` bits, the first the most significant of `value`."""

    value: int = 0
    length: int = 0

    def then(self, value: int, length: int) -> Bits:
        """Return the string with `value` behind it, in `length` bits."""
        if not 0 <= value < 1 << length:
            raise ValueError(f"{value} does not fit into {length} bits")
        return Bits(self.value << length | value, self.length + length)

    def take(self, length: int) -> tuple[int, Bits]:
        """Return the first `length` bits as a number, and the rest. Raises ValueError where there are fewer."""
        if length > self.length:
            raise ValueError(f"the code ends {length - self.length} bits too early")
        left = self.length - length
        return self.value >> left, Bits(self.value & (1 << left) - 1, left)


def encode(code: Code, forms: Sequence[Form]) -> Bits:
    """Return the bits of a code, one of the plans with these `forms`. Raises ValueError where it does not fit its form."""
    form = forms[code.plan]
    if len(code.symbols_D) != form.size or (form.size and len(code.codebook_L) != form.levels):
        raise ValueError(f"a code of {len(code.symbols_D)} symbols, {len(code.codebook_L)} levels is not of {form}")
    bits = Bits().then(code.plan, _plan_bits(forms))
    if not form.size:
        return bits
    for number in code.codebook_L.astype(np.float16).view(np.uint16):
        bits = bits.then(int(number), 16)
    count_L = np.bincount(code.symbols_D, minlength=form.levels)
    for count in count_L[:-1]:
        bits = bits.then(int(count), form.count_bits)
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(code.symbols_D.astype(np.int32), _model(count_L))
    words = int.from_bytes(coder.get_compressed().tobytes(), "little")
    return bits.then(words, words.bit_length())


def decode(bits: Bits, forms: Sequence[Form]) -> Code:
    """Return the code. Raises ValueError, in one line, for bits that are none."""
    plan, bits = bits.take(_plan_bits(forms))
    if plan >= len(forms):
        raise ValueError(f"the code names plan {plan} of {len(forms)}")
    form = forms[plan]
    if not form.size:
        return Code(plan, np.zeros(0, np.float16), np.zeros(0, np.int32))
    numbers, counts = [], []
    for _ in range(form.levels):
        number, bits = bits.take(16)
        numbers.append(number)
    for _ in range(form.levels - 1):
        count, bits = bits.take(form.count_bits)
        counts.append(count)
    codebook_L = np.array(numbers, np.uint16).view(np.float16)
    if sum(counts) > form.size or not np.isfinite(codebook_L).all():
        raise ValueError(f"the code counts {sum(counts)} of {form.size} symbols, or has a level that is not finite")
    if bits.value.bit_length() < bits.length:
        raise ValueError("the symbols of a code begin with a one")
    words = np.frombuffer(bits.value.to_bytes(4 * math.ceil(bits.length / WORD), "little"), np.uint32)
    coder = stream.stack.AnsCoder(words.copy() if bits.length else None)
    symbols_D = coder.decode(_model(np.array([*counts, form.size - sum(counts)])), form.size)
    if not coder.is_empty():
        raise ValueError("the code goes on after its last symbol")
    return Code(plan, codebook_L, symbols_D)


def _plan_bits(forms: Sequence[Form]) -> int:
    return math.ceil(math.log2(len(forms)))


def _model(count_L: np.ndarray) -> stream.model.Categorical:
    return stream.model.Categorical(count_L / count_L.sum(), perfect=False)


def write_code(path: Path, bits: Bits) -> None:
    """Write a code's file."""
    body = (bits.value << -bits.length % 8).to_bytes(math.ceil(bits.length / 8), "big")
    write_atomically(path, HEADER.pack(MAGIC, bits.length, zlib.crc32(body)) + body)


def read_code(path: Path) -> Bits:
    """Return the bits in a file. Raises ValueError, in one line, where it is missing, cut short or corrupt."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise ValueError(f"{path} is not a coded model: it does not begin with {MAGIC.decode()}")
    _, length, checksum = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if len(body) != math.ceil(length / 8) or zlib.crc32(body) != checksum:
        raise ValueError(f"{path} is corrupt or cut short: its {length} bits are not whole")
    return Bits(int.from_bytes(body, "big") >> -length % 8, length)
