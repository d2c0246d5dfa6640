"""A script as an operator: what is asked for when, from a table or a function of time. For tests and machines without people."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.orders import QUIT

if TYPE_CHECKING:
    from deploy.operators.joints import Joints
    from deploy.orders import Orders
    from deploy.realtime.feed import SharedSwitch

ORDERS = ("hold", "stop", QUIT)
"""What a script may order: nothing that only a person may."""


@dataclass(frozen=True, slots=True)
class Row:
    """From `t_s` on, `action_A` is asked for (None: nothing is; NaN: that joint is held), and `order` is given then."""

    t_s: float
    action_A: np.ndarray | None
    order: str = ""


def read_script(path: Path, joints: Joints) -> list[Row]:
    """Return the rows of a CSV file with the columns t_s, some joints' names and, if wanted, order.

    Raises ValueError, in one line that names the line of the file, for what is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--script {path} cannot be read: {error}") from None
    known = ("t_s", *joints.names, "order")
    head = [name.strip() for name in table[0]] if table else []
    if "t_s" not in head or len({*head}) < len(head) or not {*head} <= {*known} or len(table) < 2:
        raise ValueError(
            f"--script {path} needs a line of columns out of {', '.join(known)}, t_s among them, then rows"
        )
    rows = [
        _row(dict(zip(head, cells, strict=False)), joints, f"--script {path}, row {n}")
        for n, cells in enumerate(table[1:], 1)
    ]
    times = [row.t_s for row in rows]
    if times != sorted(times):
        raise ValueError(f"--script {path}: t_s goes back")
    return rows


def _row(cells: dict[str, str], joints: Joints, where: str) -> Row:
    try:
        t_s = float(cells.get("t_s", ""))
        asked_A = np.array([float(cells.get(name, "").strip() or "nan") for name in joints.names])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    order = cells.get("order", "").strip()
    if not math.isfinite(t_s) or np.isinf(asked_A).any():
        raise ValueError(f"{where}: numbers must be finite")
    if order not in ("", *ORDERS):
        raise ValueError(f"{where}: no order {order!r}; choose from {', '.join(ORDERS)}")
    return Row(t_s, None if np.isnan(asked_A).all() else asked_A, order)


class Script:
    """An Operator that does what its rows say, in order of time [s] on the run's clock, across episodes."""

    def __init__(
        self, rows: Sequence[Row], joints: Joints, orders: Orders, switch: SharedSwitch, then_quit: bool = False
    ) -> None:
        """`then_quit`: the last row ends the session."""
        self._rows, self._joints, self._orders, self._switch = [*rows], joints, orders, switch
        self._times, self._done, self._then_quit = [row.t_s for row in rows], 0, then_quit

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return what is asked for at `t_s`, (A,); None before the first row, and where a row asks for nothing."""
        begun = bisect_right(self._times, t_s + 1e-9)
        for row in self._rows[self._done : begun]:
            self._order(row.order)
        if self._then_quit and self._done < begun == len(self._rows):
            self._orders.give(QUIT)
        self._done = max(self._done, begun)
        asked_A = self._rows[begun - 1].action_A if begun else None
        if asked_A is None:
            return None
        return np.where(np.isnan(asked_A), self._joints.held(last_A), asked_A)

    def _order(self, word: str) -> None:
        if word == "stop":
            self._switch.throw("script")
        elif word:
            self._orders.give(word, "script")


class Scripted:
    """An Operator that is a function: time [s] -> what is asked for, (A,), or None."""

    def __init__(self, ask: Callable[[float], np.ndarray | None]) -> None:
        self._ask = ask

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return what the function says."""
        return self._ask(t_s)
