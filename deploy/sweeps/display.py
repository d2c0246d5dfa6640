"""A sweep while it runs: a live table on a terminal, one line per try that ended elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from deploy.sweeps.journal import Trial
from deploy.sweeps.plan import Sweep
from deploy.sweeps.results import best_of, named, shown
from deploy.terminal import clock

LAST = 12
"""Rows of the live table."""


class Display:
    """Shows a sweep, from the journal alone."""

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self._sweep, self._console = sweep, console
        self._began_s, self._stack = time.monotonic(), ExitStack()
        self._before = self.over
        self._told: list[Trial] = []

    def __enter__(self) -> Display:
        self._began_s = time.monotonic()
        if self._console.is_terminal:
            live = Live(get_renderable=self.picture, console=self._console, refresh_per_second=2, transient=True)
            self._stack.enter_context(live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def over(self) -> int:
        """How many trials have ended for good."""
        return sum(trial.over for trial in self._sweep.journal.trials.values())

    def remaining_s(self) -> float:
        """Return an estimate of the time that is left [s], from what this run of the sweep has done; infinite before that."""
        done = self.over - self._before
        left = len(self._sweep.journal.trials) - self.over
        return (time.monotonic() - self._began_s) / done * left if done else math.inf

    def tell(self, trial: Trial) -> None:
        """Note that a try of a trial has ended; without a terminal, print a line about it."""
        self._told = [*self._told, trial][-LAST:]
        if not self._console.is_terminal:
            total, last = len(self._sweep.journal.trials), trial.tries[-1]
            line = f"{self.over} of {total}  {trial.id}  {named(trial)}  {_end(trial)}  {last.seconds:.0f} s on {last.node}"
            self._console.print(f"{line}  about {clock(self.remaining_s())} left", highlight=False, soft_wrap=True)

    def picture(self) -> RenderableType:
        """Return the live table."""
        trials = list(self._sweep.journal.trials.values())
        counts = Counter(trial.status for trial in trials)
        said = "   ".join(
            f"{counts[status]} {status}" for status in ("done", "stopped", "failed", "running", "waiting")
        )
        best = best_of(self._sweep.spec, trials)
        first = f"best so far: {self._sweep.spec.metric} {shown(best.mean)}  {best.name}" if best else "no result yet"
        times = f"{clock(time.monotonic() - self._began_s)} elapsed, about {clock(self.remaining_s())} left"
        rows = Table(
            "trial", "options", "seed", self._sweep.spec.metric, "try", "s", "node", box=None, header_style="dim"
        )
        for trial in reversed(self._told):
            last = trial.tries[-1]
            cells = (named(trial, seed=False), str(trial.seed), _end(trial), str(last.number), f"{last.seconds:.0f}")
            rows.add_row(trial.id, *cells, last.node)
        return Group(ProgressBar(len(trials), self.over, width=60), f"{said}   {times}", first, rows)


def _end(trial: Trial) -> str:
    """Return what the last try came to."""
    last = trial.tries[-1]
    return (
        shown(trial.metric) if trial.status == "done" else f"{last.ended}: {last.reason}" if last.reason else last.ended
    )
