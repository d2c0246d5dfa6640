"""The points of a sweep: a grid, and random draws by a few lines of ours. The same spec gives the same points."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np

from deploy.sweeps.spec import Draw, Scalar, SweepSpec, Value

Point = dict[str, Value]
"""Option -> its value in one trial."""


def points(spec: SweepSpec) -> list[Point]:
    """Return every point of the grid with every draw; with neither, the one point without options."""
    grid = [dict(zip(spec.grid, values, strict=True)) for values in itertools.product(*map(_given, spec.grid.values()))]
    drawn = [drawn_point(spec, number) for number in range(spec.draws)] or [{}]
    return [{**at, **more} for at in grid for more in drawn]


def _given(values: tuple[Value, ...]) -> list[Value]:
    """Return the values without repetitions; 1 and True are not the same."""
    return list({(type(value), value): value for value in values}.values())


def drawn_point(spec: SweepSpec, number: int) -> Point:
    """Return a draw, which depends on the search seed, its number and the names of the options alone."""
    seeds = {name: (spec.search_seed, number, zlib.crc32(name.encode())) for name in spec.random}
    return {name: drawn(draw, np.random.default_rng(seeds[name])) for name, draw in spec.random.items()}


def drawn(draw: Draw, rng: np.random.Generator) -> Scalar:
    """Return one value, a float with six significant digits, as it is written on the command line."""
    if draw.kind == "choice":
        return draw.of[int(rng.integers(len(draw.of)))]
    low, high = draw.bounds
    if draw.kind == "integer":
        return int(rng.integers(round(low), round(high), endpoint=True))
    if draw.kind == "log-integer":
        return min(round(high), int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
    if draw.kind == "log-uniform":
        return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.6g}")
    return float(f"{rng.uniform(low, high):.6g}")


def words(options: Point) -> list[str]:
    """Return options as the command line has them: --name value ..., --name or --no-name for true and false."""
    said: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            head, dot, last = name.rpartition(".")
            said.append(f"--{name}" if value else f"--{head}{dot}no-{last}")
        else:
            several = value if isinstance(value, tuple) else (value,)
            said += [f"--{name}", *(str(item) for item in several)]
    return said
