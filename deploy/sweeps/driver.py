"""Hands trials to Ray and writes down what becomes of them. All that it knows is in the journal; Ray may die at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from deploy.sweeps.halving import falls_behind, last_rung
from deploy.sweeps.journal import LOST, Outcome, Trial
from deploy.sweeps.plan import Sweep
from deploy.sweeps.spec import SweepSpec
from deploy.sweeps.trial import Order, carry_out
from deploy.sweeps.verbs import VERBS, direction_of_reports

WAIT_S = 0.5
LOOK_S = 2.0
"""Between two looks at what trials report."""


def _on_a_node(order: Order) -> Outcome:
    """Carry out an order on the node that Ray has chosen."""
    from deploy.sweeps.cluster import this_node

    return carry_out(order, this_node())


def command_of(spec: SweepSpec, trial: Trial) -> tuple[str, ...]:
    """Return the command that a trial is: one of ours, by the code beside it and not by a checkout that is installed."""
    return ("{python}", "-P", "-m", "deploy.cli", spec.verb, *trial.words, *VERBS[spec.verb].placed)


class Driver:
    """Runs what is not over of a sweep."""

    def __init__(
        self,
        sweep: Sweep,
        shield: Callable[[], AbstractContextManager[None]],
        told: Callable[[Trial], None],
        command: Callable[[SweepSpec, Trial], tuple[str, ...]] = command_of,
    ) -> None:
        self._sweep, self._shield, self._told, self._command = sweep, shield, told, command
        self._journal, self._store = sweep.journal, sweep.store
        self._under_way: dict[Any, tuple[Trial, int]] = {}  # Ray's reference -> trial and number of the try
        self._judged: dict[str, int] = {}  # trial -> rung
        self._looked_s = time.monotonic()

    @staticmethod
    def place(trial: Trial, number: int) -> str:
        """Return the folder of a try in the store."""
        return f"{trial.id}/try-{number}"

    def close(self) -> None:
        """End the tries that are running in the journal, but no longer: with their outcome, where that is in the store."""
        self._under_way.clear()
        for trial in self._journal.trials.values():
            if trial.status == "running":
                number = trial.tries[-1].number
                said = self._store.read(f"{self.place(trial, number)}/outcome.json")
                self._end(trial, number, Outcome("interrupted", "the sweep ended") if said is None else Outcome(**said))

    def run(self) -> None:
        """Run every trial that is not over. Raises ConnectionError where the cluster is gone, ValueError where no try can run."""
        from ray.exceptions import RayError

        try:
            self._run()
        except RayError as error:
            raise ConnectionError(f"the Ray cluster is gone: {' '.join(str(error).split()):.200}") from None

    def _run(self) -> None:
        import ray

        from deploy.sweeps.cluster import AHEAD, remote, slots

        task = remote(_on_a_node, self._sweep.spec.resources)
        waiting = [trial for trial in self._journal.trials.values() if trial.status == "waiting"]
        while waiting or self._under_way:
            room = slots(self._sweep.spec.resources) + AHEAD - len(self._under_way)
            while waiting and room > 0:
                self._hand_out(task, waiting.pop(0))
                room -= 1
            ready, _ = ray.wait(list(self._under_way), timeout=WAIT_S)
            for reference in ready:
                trial = self._settle(reference)
                if trial.status == "waiting":
                    waiting.append(trial)
            self._look()

    def _hand_out(self, task: Any, trial: Trial) -> None:
        sweep, spec = self._sweep, self._sweep.spec
        after = self._left_by(trial) if VERBS[spec.verb].goes_on else None
        with self._shield():
            number = self._journal.start(trial)
            place = self.place(trial, number)
            order = Order(spec, self._command(spec, trial), sweep.storage, place, after, sweep.cwd, sweep.commit)
            self._under_way[task.remote(order)] = (trial, number)

    def _left_by(self, trial: Trial) -> str | None:
        """Return the folder that the next try goes on from: the newest since the last failure that has one."""
        for one in reversed(trial.tries):
            if one.ended not in LOST:
                return None
            if self._store.has(self.place(trial, one.number)):
                return self.place(trial, one.number)
        return None

    def _settle(self, reference: Any) -> Trial:
        import ray
        from ray.exceptions import RayError, RayTaskError

        trial, number = self._under_way[reference]
        try:
            outcome: Any = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):  # no node would do better
                raise ValueError(str(error.cause)) from None
            outcome = Outcome("failed", f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            outcome = Outcome("lost", f"{type(error).__name__}: {str(error).strip().partition('. ')[0]:.200}")
        with self._shield():
            del self._under_way[reference]
            self._end(trial, number, outcome)
        return trial

    def _end(self, trial: Trial, number: int, outcome: Outcome) -> None:
        if self._journal.end(trial, number, outcome, self._store.at(self.place(trial, number))):
            self._told(trial)

    def _look(self) -> None:
        """Read what the trials under way report, and tell those to stop that fall behind."""
        asha = self._sweep.spec.asha
        if asha is None or time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        direction = direction_of_reports(self._sweep.spec)
        for trial, number in self._under_way.values():
            status = self._store.read(f"{self.place(trial, number)}/status.json")
            trial.reports = trial.reports if status is None else status["reports"]
            rung = last_rung(trial.reports, asha)
            if rung is None or self._judged.get(trial.id) == rung:
                continue
            self._judged[trial.id] = rung
            others = [other.reports for other in self._journal.trials.values() if other is not trial]
            if falls_behind(trial.reports, others, asha, direction):
                self._store.write(f"{self.place(trial, number)}/stop", {"rung": rung})
