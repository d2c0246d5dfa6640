"""Any lerobot teleoperator as an operator: a process reads it, the newest angles win, and silence means hold."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deploy.interrupt import ignored_by_children
from deploy.operators.joints import Joints
from deploy.operators.leader_process import follow
from deploy.realtime.channel import Latest
from deploy.robots.lerobot_units import Unit

if TYPE_CHECKING:
    from deploy.orders import Orders

START_S = 120.0
"""Longest wait for lerobot to load and the device to answer."""


@dataclass(frozen=True)
class LeaderConfig:
    """Which device, and how it is understood."""

    options: tuple[str, ...]
    """lerobot's own: --teleop.type=... --teleop.port=..."""
    units: Mapping[str, Unit] = field(default_factory=dict)
    """Joint -> unit of its number, where the device's motors do not say; "" stands for every joint."""
    stale_s: float = 0.25
    """Without anything newer than this the robot is held, until a person arms it."""

    def __post_init__(self) -> None:
        if not self.stale_s > 0:
            raise ValueError(f"stale_s must be > 0, got {self.stale_s}")

    @property
    def kind(self) -> str:
        """What lerobot calls the device."""
        given = [option.partition("=")[2] for option in self.options if option.startswith("--teleop.type=")]
        return given[0] if given else "teleoperator"


class Leader:
    """An Operator that goes where a lerobot teleoperator is; it reads between `with` and its end.

    It comes to the device at `approach`, a share of the joints' fastest rate, whenever it begins to follow, and keeps up
    from then on.
    """

    def __init__(
        self, cfg: LeaderConfig, joints: Joints, orders: Orders, approach: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._cfg, self._joints, self._orders, self._approach, self._now_s = cfg, joints, orders, approach, now_s
        self.newest = Latest(8 * (1 + len(joints.names)))
        self._number, self._there_A, self._read_s = 0, np.zeros(0), -math.inf
        self._asked_s, self._near = -math.inf, False

    def __enter__(self) -> Leader:
        """Connect. Raises ValueError, in one line, where that fails."""
        context = multiprocessing.get_context("spawn")
        self._hears, says = context.Pipe(duplex=False)
        bounds = self._joints.low_A.tolist(), self._joints.high_A.tolist()
        work = (self._cfg.options, dict(self._cfg.units), self._joints.names, bounds, self.newest, says)
        self._process = context.Process(target=follow, args=work, daemon=True, name="teleoperator")
        with ignored_by_children():
            self._process.start()
        says.close()
        said = self._said(START_S)
        if said:
            self.__exit__()
            raise ValueError(said)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()

    def _said(self, longest_s: float) -> str:
        """Return what went wrong with the device in that time; nothing if it is connected."""
        try:
            if self._hears.poll(longest_s):
                said = json.loads(self._hears.recv_bytes())
                return f"{self._cfg.kind}: {said}" if said else ""
        except EOFError:
            self._process.join(1.0)
            return f"{self._cfg.kind} ended with exit code {self._process.exitcode}"
        return f"{self._cfg.kind} did not connect within {longest_s:g} s"

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return where the device is, (A,), as far as the joints get there in one step; hold where it is silent."""
        found = self.newest.read(self._number)
        if found is not None:
            self._number, row = found[0], np.frombuffer(found[1])
            self._read_s, self._there_A = float(row[0]), row[1:]
        silent_s = self._now_s() - self._read_s
        if silent_s > self._cfg.stale_s:
            self._orders.give("hold", f"{self._cfg.kind} has said nothing for {silent_s:.2f} s")
            self._asked_s = -math.inf
            return self._joints.held(last_A)
        began = t_s - self._asked_s > 1.5 * self._joints.dt_s
        self._near, self._asked_s = self._near and not began, t_s
        return self._approached(last_A)

    def _approached(self, last_A: np.ndarray) -> np.ndarray:
        joints = self._joints
        step_A = np.where(joints.position_A, self._approach * joints.rate_A * joints.dt_s, np.inf)
        gap_A = self._there_A - last_A
        self._near = self._near or bool((np.abs(gap_A) <= step_A).all())
        return self._there_A if self._near else last_A + np.clip(gap_A, -step_A, step_A)


def options_of(device: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return lerobot's options for the device of a type, or for one that `given` names already."""
    named = any(option.startswith("--teleop.type=") for option in given)
    return tuple(given) if named else (f"--teleop.type={device}", *given)
