"""What a sweep is asked for: a command, a preset, the options that are searched, seeds, and what counts as good.

A spec is a YAML file, or a name in configs/sweeps.py. Options are named as on the command line, without the dashes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from deploy.config import near, overlay

Scalar = bool | int | float | str | None
Value = Scalar | tuple[Scalar, ...]
"""What an option is given; a tuple: several words."""
VerbName = Literal["run", "evaluate", "train", "collect"]
Kind = Literal["uniform", "log-uniform", "integer", "log-integer", "choice"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Draw:
    """What random search draws an option from: between two bounds, both included, or one of several values."""

    kind: Kind
    of: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.of:
                raise ValueError("choice needs at least one value, got none")
            return
        if len(self.of) != 2 or not all(type(bound) in (int, float) for bound in self.of):
            raise ValueError(f"{self.kind} needs [low, high], got {list(self.of)}")
        low, high = self.bounds
        if not low < high or (self.kind.startswith("log") and low <= 0):
            least = "0 < low < high" if self.kind.startswith("log") else "low < high"
            raise ValueError(f"{self.kind} needs {least}, got {list(self.of)}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high; not of a choice."""
        low, high = self.of
        return float(low), float(high)  # pyright: ignore[reportArgumentType]


def _none_or_positive(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and value > 0)


@dataclass(frozen=True)
class Resources:
    """What one trial is given; Ray starts it where so much is free."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_gb: float | None = None
    """A trial that takes more is ended; None: no limit."""

    def __post_init__(self) -> None:
        if not self.num_cpus > 0 or self.num_gpus < 0 or not _none_or_positive(self.memory_gb):
            raise ValueError(f"resources need num_cpus > 0, num_gpus >= 0 and memory_gb > 0, got {self}")


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving: of those that came to `first * factor**k`, the best 1/factor go on."""

    first: int = 1
    """Steps of training, or episodes of an evaluation, before which nothing is stopped."""
    factor: int = 3

    def __post_init__(self) -> None:
        if self.first < 1 or self.factor < 2:
            raise ValueError(f"asha needs first >= 1 and factor >= 2, got {self.first} and {self.factor}")


@dataclass(frozen=True)
class SweepSpec:
    """One sweep. Every point of the grid is tried with every draw and every seed."""

    verb: VerbName
    preset: str
    metric: str
    """Dotted name of a number in the JSON that the command writes; for train PART.metrics.NAME."""
    direction: Literal["max", "min"] = "max"
    options: Mapping[str, Value] = field(default_factory=dict)
    """Given to every trial."""
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    random: Mapping[str, Draw] = field(default_factory=dict)
    draws: int = 0
    """How many points are drawn from `random`."""
    search_seed: int = 0
    seeds: tuple[int, ...] = (0,)
    resources: Resources = field(default_factory=Resources)
    time_out_s: float | None = None
    """A try that takes longer is ended."""
    retries: int = 1
    """How often a trial that failed is tried again; a lost node or driver does not count."""
    asha: Asha | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers >= 0, at least one, got {list(self.seeds)}")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}")
        if not _none_or_positive(self.time_out_s):
            raise ValueError(f"time_out_s must be a number > 0, or null, got {self.time_out_s!r}")
        if (self.draws > 0) != bool(self.random) or self.draws < 0:
            raise ValueError(f"random and draws > 0 go together, got {len(self.random)} options and draws {self.draws}")
        empty = [name for name, values in self.grid.items() if not values]
        twice = sorted({*self.grid} & {*self.random} | ({*self.grid, *self.random} & {*self.options}))
        if empty or twice:
            wrong = f"{empty[0]!r} has no values" if empty else f"{twice[0]!r} is given twice"
            raise ValueError(f"options, grid and random name each option once, with values: {wrong}")

    @property
    def searched(self) -> tuple[str, ...]:
        """The options that differ between trials."""
        return (*self.grid, *self.random)


def read_spec(path: Path) -> dict[str, Any]:
    """Return what a spec file holds, as YAML has it. Raises ValueError, in one line."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} needs verb, preset and metric, got {tree!r}")
    return tree


def spec_of(tree: Mapping[str, Any], where: str) -> SweepSpec:
    """Return the spec that `tree` holds. Raises ValueError, in one line, for names, types and values that it cannot have."""
    names = [f.name for f in dataclasses.fields(SweepSpec)]
    for key in tree:
        if key not in names:
            raise ValueError(f"{where}: no setting {key!r}; near misses: {', '.join(near(str(key), names))}")
    missing = [name for name in ("verb", "preset", "metric") if name not in tree]
    if missing:
        raise ValueError(f"{where} needs {missing[0]}")
    if tree["verb"] not in get_args(VerbName):
        raise ValueError(f"{where}: no verb {tree['verb']!r}; choose from {', '.join(get_args(VerbName))}")
    if tree.get("direction", "max") not in ("max", "min"):
        raise ValueError(f"{where}: direction must be max or min, got {tree['direction']!r}")
    parts = dict(tree)
    for name, read in (("options", _value), ("grid", _values), ("random", _draw)):
        parts[name] = _mapped(tree.get(name), read, f"{where}: {name}")
    parts["resources"] = _part(Resources(), tree.get("resources"), f"{where}: resources")
    if tree.get("asha") is not None:
        parts["asha"] = _part(Asha(), tree["asha"], f"{where}: asha")
    parts["seeds"] = _seeds(tree.get("seeds", 1), where)
    bare = SweepSpec(tree["verb"], str(tree["preset"]), str(tree["metric"]))
    return overlay(bare, {name: parts[name] for name in parts if name in _PLAIN}, where, **_built(parts))


_PLAIN = ("verb", "preset", "metric", "direction", "draws", "search_seed", "time_out_s", "retries")


def _built(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if name not in _PLAIN}


def _part(base: Any, tree: Any, where: str) -> Any:
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"{where} has settings of its own, got {tree!r}")
    return overlay(base, tree or {}, where)


def _mapped(tree: Any, read: Any, where: str) -> dict[str, Any]:
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"{where} must name options, got {tree!r}")
    named = {str(name).removeprefix("--").replace("_", "-"): value for name, value in (tree or {}).items()}
    return {name: read(value, f"{where}: {name}") for name, value in named.items()}


def _scalar(value: Any, where: str) -> Scalar:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{where} must be a number, a word, true, false or null, got {value!r}")
    return value


def _value(value: Any, where: str) -> Value:
    return tuple(_scalar(item, where) for item in value) if isinstance(value, list | tuple) else _scalar(value, where)


def _values(values: Any, where: str) -> tuple[Value, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(f"{where} must be a list of values, got {values!r}")
    return tuple(_value(value, where) for value in values)


def _draw(tree: Any, where: str) -> Draw:
    if not isinstance(tree, dict) or len(tree) != 1:
        raise ValueError(f"{where} must be one of {', '.join(KINDS)} and its bounds or values, got {tree!r}")
    ((kind, of),) = tree.items()
    kind = str(kind).replace("_", "-")
    if kind not in KINDS:
        raise ValueError(f"{where}: no distribution {kind!r}; near misses: {', '.join(near(kind, KINDS))}")
    try:
        return Draw(kind, tuple(_scalar(item, where) for item in of) if isinstance(of, list | tuple) else (of,))  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = range(value) if type(value) is int else value
    if not isinstance(seeds, list | tuple | range) or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"{where}: seeds must be how many, or a list of whole numbers, got {value!r}")
    return tuple(seeds)


def tree_of(spec: SweepSpec) -> dict[str, Any]:
    """Return a spec as YAML and JSON have it: `spec_of` of it is the same spec."""
    tree = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    tree["grid"] = {name: [_listed(value) for value in values] for name, values in spec.grid.items()}
    tree["options"] = {name: _listed(value) for name, value in spec.options.items()}
    tree["random"] = {name: {draw.kind: list(draw.of)} for name, draw in spec.random.items()}
    tree |= {"seeds": list(spec.seeds), "resources": dataclasses.asdict(spec.resources)}
    return tree | {"asha": None if spec.asha is None else dataclasses.asdict(spec.asha)}


def _listed(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
