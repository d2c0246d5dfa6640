"""Shape contracts, checked at module doors and nowhere else."""

from typing import Any


def check(name: str, x: Any, spec: str, **sizes: int) -> dict[str, int]:
    """Return the size of each axis: `check("actions", a, "S H A", A=7)` gives `{"S": 64, "H": 20, "A": 7}`.

    `x` is anything with a `shape` (numpy or torch). Raises ValueError, naming both shapes, where they differ.
    """
    dims = spec.split()
    bound = dict(sizes)
    shape = tuple(x.shape)
    ok = len(shape) == len(dims) and all(bound.setdefault(d, n) == n for d, n in zip(dims, shape, strict=True))
    if not ok:
        raise ValueError(f"{name}: expected ({spec}) with {sizes}, got {shape}")
    return bound
