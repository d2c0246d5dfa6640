"""What every benchmark shares: its options, intervals, and one way to show, close and keep a result.

A benchmark is `main(argv) -> int`, which `command` makes of its `Options` (or a subclass) and what it measures.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table as RichTable

from deploy.intervals import Interval as Interval
from deploy.intervals import holm as holm
from deploy.intervals import mean_interval as mean_interval
from deploy.intervals import paired_interval as paired_interval
from deploy.intervals import rate_interval as rate_interval
from deploy.machine import ROOT, describe_machine
from deploy.records import plain
from deploy.telemetry import commit, write_json

RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / "runs" / "quick"


@dataclass(frozen=True)
class Options:
    """What every benchmark can be told."""

    quick: bool = False
    """The direction of the main claim, in minutes; written to runs/quick instead of benchmarks/results."""
    seed: int = 0
    """First seed; runs use seed, seed + 1, ..."""
    out: Path | None = None
    """Where the result goes; default benchmarks/results/NAME.json (with --quick: runs/quick/NAME.json)."""


def parse[O: Options](kind: type[O], what: str | None, argv: Sequence[str] | None = None) -> O:
    """Return the options on the command line; exits with one line that names the near misses where one is misspelt."""
    return tyro.cli(kind, args=argv, description=what, prog=program())


def command[O: Options](kind: type[O], what: str | None, measure: Callable[[O], Result]) -> Callable[..., int]:
    """Return the `main(argv) -> int` of a benchmark that measures what its options say, and publishes that."""

    def main(argv: Sequence[str] | None = None) -> int:
        options = parse(kind, what, argv)
        publish(measure(options), options)
        return 0

    return main


def program() -> str:
    """Return how this benchmark is started."""
    return f"python -m benchmarks.{Path(sys.argv[0]).stem}"


def quantiles(values: Sequence[float] | np.ndarray, *at: float) -> list[float]:
    """Return the quantiles at `at` (0 .. 1) of finite values."""
    return [float(q) for q in np.quantile(np.asarray(values, dtype=float), at)]


# --- results


@dataclass(frozen=True)
class Table:
    """Rows of cells under column titles. A cell is text, a number, a truth value, None or an Interval."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"{len(self.columns)} columns {self.columns}, but a row of {len(wrong[0])}: {wrong[0]}")


@dataclass(frozen=True)
class Result:
    """One benchmark's finding. `headline` are the numbers the claim rests on, few and named with their unit."""

    name: str
    claim: str
    headline: Mapping[str, Any]
    tables: tuple[Table, ...]
    seeds: tuple[int, ...]
    n: int
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # raw values, kept but not shown
    results: Mapping[str, Any] = field(default_factory=dict)  # rows by name, for programs


PLAN_LATENCY_S = 0.032
"""Simulated seconds that a plan takes in the benchmarks that plan side by side: about what it takes alone, on one core."""


def keep(path: Path, value: Any) -> None:
    """Keep one unit of work of a benchmark as JSON, so that an interrupted one goes on where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


def cell(value: Any) -> str:
    """Return a cell as text: four significant digits, intervals as `mean [lo, hi]`, a dash for what is missing."""
    if isinstance(value, Interval):
        value = asdict(value)
    if isinstance(value, Mapping):
        return f"{cell(value['mean'])} [{cell(value['lo'])}, {cell(value['hi'])}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if not isinstance(value, float) or math.isinf(value):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def document(result: Result, options: Options) -> dict[str, Any]:
    """Return the result as JSON values, with the machine, the commit and the command that made it."""
    return {
        **asdict(result),
        "quick": options.quick,
        "command": " ".join([program(), *sys.argv[1:]]),
        "commit": commit(),
        "machine": describe_machine(),
    }


def show(table: Table, console: Console) -> None:
    """Print one table."""
    shown = RichTable(*table.columns, title=table.title, title_justify="left")
    for row in table.rows:
        shown.add_row(*[cell(value) for value in row])
    console.print(shown)


def publish(result: Result, options: Options) -> Path:
    """Keep the result, print its tables and notes, close with one JSON line; return the file it is kept in."""
    folder = QUICK_RESULTS if options.quick else RESULTS
    path = options.out or folder / f"{result.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = document(result, options)
    write_json(path, kept)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in result.tables:
        show(table, console)
    for note in result.notes:
        console.print(f"- {note}")
    closing = {"benchmark": result.name, "quick": options.quick, "n": result.n, **kept["headline"], "file": str(path)}
    print(json.dumps(plain(closing)))
    return path
