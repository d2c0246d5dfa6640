"""A servo bus without servos: an SO-101 in MuJoCo that speaks the STS3215 protocol on a pseudo-terminal.

$ python -m deploy.robots.servo_bus --port-link /tmp/so101 --calibration-dir /tmp/so101-calibration
and any driver of the arm (lerobot's so101_follower, Feetech's SDK) connects to /tmp/so101. Lines on its input break and
mend it while it runs: drop 0.1 | corrupt 0.1 | delay 0.02 | freeze JOINT | weak JOINT 0.3 | power off | power on | heal.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import sys
import threading
import time
import tty
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tyro

from deploy.clock import Clock, MonotonicClock
from deploy.robots.servo_arm import JOINTS, TICKS_PER_RAD, ServoArm, calibration
from deploy.robots.sts3215 import (
    BROADCAST,
    PING,
    READ,
    REGISTERS,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    Packet,
    Servo,
    take_packets,
)

_POLL_S = 0.005
_GOAL = REGISTERS["Goal_Position"]


@dataclass(frozen=True)
class BusFaults:
    """What is wrong with the bus and the servos; probabilities are per packet, in both directions."""

    drop: float = 0.0
    corrupt: float = 0.0
    """One byte, anywhere, becomes another."""
    delay_s: float = 0.0
    """Every answer comes so much later."""
    frozen: frozenset[str] = frozenset()
    """Joints whose encoder reports what it did when it froze; the servo itself is not fooled."""
    strength: Mapping[str, float] = field(default_factory=dict)
    """Joint -> share of its torque that is left."""
    power: bool = True

    def __post_init__(self) -> None:
        for name in ("drop", "corrupt"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        if not 0 <= self.delay_s < float("inf"):
            raise ValueError(f"delay_s must be >= 0 and finite, got {self.delay_s}")
        unknown = {*self.frozen, *self.strength} - {*JOINTS}
        if unknown:
            raise ValueError(f"no joint {sorted(unknown)}; choose from {', '.join(JOINTS)}")
        if not all(0 <= share <= 1 for share in self.strength.values()):
            raise ValueError(f"strength must be between 0 and 1, got {dict(self.strength)}")


@dataclass(frozen=True, slots=True)
class GoalWrite:
    """One write to goal positions as it arrived, before the servo limits it: joint -> ticks, at simulated time."""

    t_s: float
    ticks: Mapping[str, int]


def violations(writes: Sequence[GoalWrite], max_rate: float, dt_s: float) -> list[str]:
    """Return what was written against the arm's calibration or faster than `max_rate` [rad/s] in steps of `dt_s`.

    Where a write was lost on the wire, the next one may be as far ahead as the time that has passed allows.
    """
    found = []
    for name, entry in calibration().items():
        seen = [(write.t_s, write.ticks[name]) for write in writes if name in write.ticks]
        low, high = entry["range_min"], entry["range_max"]
        found += [
            f"{name} to {at} at {t_s:.3f} s: outside [{low}, {high}]" for t_s, at in seen if not low <= at <= high
        ]
        for (t0_s, before), (t1_s, at) in pairwise(seen):
            steps = max(1, round((t1_s - t0_s) / dt_s))
            most = max_rate * steps * dt_s * TICKS_PER_RAD + 1.5  # ticks are whole numbers
            if abs(at - before) > most:
                found.append(f"{name} from {before} to {at} at {t1_s:.3f} s: further than {most:.0f}")
    return found


class ServoBus:
    """The bus, served by a thread between `with` and its end; `faults` may be replaced at any time.

    The arm's time is that of `clock`: a test that holds a SimulatedClock decides when the arm moves. `goal_writes` and
    `packets` (instructions that were understood) are the record of all that arrived.
    """

    def __init__(self, arm: ServoArm | None = None, clock: Clock | None = None, seed: int = 0) -> None:
        self.arm, self.faults = arm or ServoArm(), BusFaults()
        self.goal_writes: list[GoalWrite] = []
        self.packets = 0
        self._clock = clock or MonotonicClock()
        self._start_s = self._clock.now_s() - self.arm.t_s
        self._random = random.Random(seed)
        self._frozen: dict[str, int] = {}
        self._powered = True
        self._inbox, self._outbox = bytearray(), list[tuple[float, bytes]]()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._thread = threading.Thread(target=self._serve, name="servo bus", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        for fd in (self._master, self._slave):
            os.close(fd)

    def angles(self) -> np.ndarray:
        """Return the true joint angles now, (6,) [rad]."""
        with self._lock:
            self._catch_up()
            return self.arm.angles_A

    def register(self, joint: str, name: str) -> int:
        """Return what a register of a joint's servo holds now."""
        with self._lock:
            self._catch_up()
            return self.arm.servos[JOINTS.index(joint)][name]

    def _serve(self) -> None:
        while not self._stop.is_set():
            wait_s = min([due_s - time.monotonic() for due_s, _ in self._outbox[:1]], default=_POLL_S)
            ready, _, _ = select.select([self._master], [], [], min(max(wait_s, 0.0), _POLL_S))
            with self._lock:
                if ready:
                    self._inbox += os.read(self._master, 4096)
                self._catch_up()
                for packet in take_packets(self._inbox):
                    self._answer(packet)
            self._send_due()

    def _catch_up(self) -> None:
        """Bring arm and registers to the present, under the faults of the moment."""
        faults = self.faults
        self.arm.strength = faults.strength
        if faults.power and not self._powered:
            self.arm.power_up()
        self._powered = faults.power
        self.arm.advance(self._clock.now_s() - self._start_s, faults.power)
        present = zip(JOINTS, self.arm.servos, strict=True)
        self._frozen = {n: self._frozen.get(n, s["Present_Position"]) for n, s in present if n in faults.frozen}
        self.arm.refresh(self._frozen)

    def _answer(self, packet: Packet) -> None:
        garbled = self._on_the_wire(packet.encode())
        if not self._powered or not garbled or not take_packets(bytearray(garbled)):
            return
        self.packets += 1
        ids, data = packet.id, packet.parameters
        targets = [s for s in self.arm.servos if ids in (s.id, BROADCAST)]
        if packet.code == PING:
            self._reply(targets, [b""] * len(targets))
        elif packet.code == READ and len(data) == 2:
            self._reply(targets[:1], [bytes(s.memory[data[0] : data[0] + data[1]]) for s in targets[:1]])
        elif packet.code == WRITE and data:
            self._write({s.id: data[1:] for s in targets}, data[0])
            level = [s for s in targets if s["Response_Status_Level"] and ids != BROADCAST]
            self._reply(level, [b""] * len(level))
        elif packet.code == SYNC_READ and len(data) > 2:
            asked = [s for i in data[2:] for s in self.arm.servos if s.id == i]
            self._reply(asked, [bytes(s.memory[data[0] : data[0] + data[1]]) for s in asked])
        elif packet.code == SYNC_WRITE and len(data) > 2 and (len(data) - 2) % (data[1] + 1) == 0:
            rows = [data[k : k + data[1] + 1] for k in range(2, len(data), data[1] + 1)]
            self._write({row[0]: row[1:] for row in rows}, data[0])

    def _write(self, rows: Mapping[int, bytes], address: int) -> None:
        """Write bytes into servos by id, and note the goals among them."""
        goals = {}
        for name, servo in zip(JOINTS, self.arm.servos, strict=True):
            row = rows.get(servo.id)
            if row is None:
                continue
            servo.write(address, row)
            if address < _GOAL.address + _GOAL.size and address + len(row) > _GOAL.address:
                goals[name] = servo["Goal_Position"]
        if goals:
            self.goal_writes.append(GoalWrite(self.arm.t_s, goals))

    def _reply(self, servos: Sequence[Servo], data: Sequence[bytes]) -> None:
        for servo, row in zip(servos, data, strict=True):
            due_s = time.monotonic() + 2e-6 * servo["Return_Delay_Time"] + self.faults.delay_s
            self._outbox.append((due_s, self._on_the_wire(Packet(servo.id, 0, row).encode())))

    def _on_the_wire(self, data: bytes) -> bytes:
        """Return what arrives of a packet."""
        if self._random.random() < self.faults.drop:
            return b""
        if self._random.random() < self.faults.corrupt:
            at = self._random.randrange(len(data))
            return data[:at] + bytes([data[at] ^ self._random.randrange(1, 256)]) + data[at + 1 :]
        return data

    def _send_due(self) -> None:
        now_s = time.monotonic()
        due = [data for due_s, data in self._outbox if due_s <= now_s]
        self._outbox = [(due_s, data) for due_s, data in self._outbox if due_s > now_s]
        with contextlib.suppress(BlockingIOError):  # nobody reads: lost, as on a wire
            os.write(self._master, b"".join(due))


def command(faults: BusFaults, line: str) -> BusFaults:
    """Return the faults after one line of input. Raises ValueError, in one line, for what it cannot read."""
    words = line.split()
    try:
        match words:
            case ["drop" | "corrupt" as kind, share]:
                return replace(faults, **{kind: float(share)})
            case ["delay", seconds]:
                return replace(faults, delay_s=float(seconds))
            case ["freeze", joint]:
                return replace(faults, frozen=faults.frozen | {joint})
            case ["weak", joint, share]:
                return replace(faults, strength={**faults.strength, joint: float(share)})
            case ["power", "on" | "off" as state]:
                return replace(faults, power=state == "on")
            case ["heal"]:
                return BusFaults()
    except ValueError as error:
        raise ValueError(f"cannot do {line.strip()!r}: {error}") from None
    raise ValueError(
        f"cannot read {line.strip()!r}: drop P, corrupt P, delay S, freeze J, weak J P, power on|off, heal"
    )


def _obey(bus: ServoBus, line: str) -> None:
    try:
        bus.faults = command(bus.faults, line)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")


@dataclass(frozen=True)
class BusConfig:
    """Where the emulated arm appears, and what becomes of the record."""

    port_link: Path
    """A link to the pseudo-terminal; an existing link is replaced."""
    calibration_dir: Path | None = None
    """Where to write the arm's calibration for lerobot, as ID.json (its --robot.calibration_dir)."""
    id: str = "emulated"
    """The arm's name (lerobot's --robot.id)."""
    hand: bool = False
    """Somebody waves the arm about, as one moves a leader."""
    log: Path | None = None
    """On exit, every goal position that was written, one JSON line each."""


def wave(t_s: float) -> np.ndarray:
    """Return the angles of a leader that is waved about, (6,) [rad]."""
    phase = np.sin(2 * np.pi * 0.25 * t_s)
    return np.array([0.4 * phase, -0.5, 0.5 + 0.2 * phase, 0.8, 0.0, 0.6 + 0.4 * phase])


def write_calibration(folder: Path, name: str) -> Path:
    """Write the emulated arm's calibration where lerobot looks for that of `name`; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(calibration(), indent=4))
    return path


def main(argv: list[str] | None = None) -> int:
    """Serve the bus until Ctrl-C or SIGTERM; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cfg = tyro.cli(BusConfig, args=argv, prog="python -m deploy.robots.servo_bus")
    if cfg.calibration_dir is not None:
        write_calibration(cfg.calibration_dir, cfg.id)
    if cfg.port_link.exists() and not cfg.port_link.is_symlink():
        print(f"error: {cfg.port_link} exists and is no link", file=sys.stderr)
        return 1
    with ServoBus(ServoArm(hand=wave if cfg.hand else None)) as bus:
        cfg.port_link.unlink(missing_ok=True)
        cfg.port_link.symlink_to(bus.port)
        print(f"SO-101 on {cfg.port_link} ({bus.port}); Ctrl-C ends", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            for line in sys.stdin:
                _obey(bus, line)
            threading.Event().wait()
        cfg.port_link.unlink(missing_ok=True)
    print(f"{bus.packets} packets, {len(bus.goal_writes)} writes of goal positions")
    if cfg.log is not None:
        rows = [json.dumps({"t_s": w.t_s, "ticks": dict(w.ticks)}) for w in bus.goal_writes]
        cfg.log.write_text("".join(row + "\n" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
