"""Units of work of the long benchmarks: each is done once and kept, so that hours of them may be spread over days and machines.

What was found is a line of `benchmarks/results/units/FILE.jsonl`, under a name that says all that it depends on (weights and
settings by checksum) but the code, of which the line names the commit: delete a line to have it measured again.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from benchmarks.common import RESULTS
from deploy.records import plain
from deploy.telemetry import commit

UNITS = RESULTS / "units"
GAP = str.maketrans({" ": "-", ",": None, ":": "_"})


class Unit(Protocol):
    """A piece of work that does not depend on any other."""

    @property
    def key(self) -> str:
        """FILE/NAME under which its result is kept."""
        ...


def kept() -> dict[str, Any]:
    """Return all that was found so far, by key; a line that a kill cut off counts for nothing."""
    found = {}
    for path in sorted(UNITS.glob("*.jsonl")):
        for text in path.open():
            with suppress(json.JSONDecodeError):
                line = json.loads(text)
                found[f"{path.stem}/{line['unit']}"] = line["found"]
    return found


def keep(key: str, found: Any) -> None:
    """Keep what was found; the line is written at once, so that several may do it side by side."""
    file, _, name = key.translate(GAP).partition("/")
    UNITS.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"unit": name, "commit": commit(), "found": plain(found)}, separators=(",", ":"))
    path = UNITS / f"{file}.jsonl"
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("ab", buffering=0) as journal:
        journal.write(f"{'' if whole else chr(10)}{line}\n".encode())


def _do[U: Unit](unit: U, work: Callable[[U], Any]) -> None:
    import torch

    torch.set_num_threads(1)
    keep(unit.key, work(unit))


def missing[U: Unit](units: Sequence[U]) -> list[U]:
    """Return those that nothing is kept of."""
    before = kept()
    return [unit for unit in units if unit.key.translate(GAP) not in before]


def done[U: Unit](units: Sequence[U], work: Callable[[U], Any], workers: int, what: str) -> list[Any]:
    """Return what `work` finds in each unit, in order; each that was done before is read, the others are kept as they end."""
    left = missing(units)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for count, _ in enumerate(pool.imap_unordered(partial(_do, work=work), left), 1):
            print(f"{count} of {len(left)} {what}", file=sys.stderr)
    found = kept()
    return [found[unit.key.translate(GAP)] for unit in units]
