"""The process that reads a lerobot teleoperator, so that neither its driver nor lerobot's weight is in the loop's way."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import make_dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.robots.lerobot_units import SUFFIX, JointScale, Unit, joint_scale, joint_units, units_of

if TYPE_CHECKING:
    from lerobot.teleoperators import Teleoperator

    from deploy.realtime.channel import Latest

PERIOD_S = 0.01
# What drivers raise for a packet that was lost, a device that is not there, a library that is not installed.
_DRIVER = (OSError, RuntimeError, ValueError, ImportError, EOFError, termios.error)


def lerobot_teleoperator(options: Sequence[str]) -> Teleoperator:
    """Return lerobot's teleoperator, not yet connected, from lerobot's own options: `--teleop.type=... --teleop.port=...`.

    Raises ValueError, in one line, for options that lerobot refuses.
    """
    import draccus
    import lerobot.scripts.lerobot_teleoperate  # registers every teleoperator that lerobot ships  # noqa: F401
    from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    known = TeleoperatorConfig.get_known_choices()
    kinds = [option.partition("=")[2] for option in options if option.startswith("--teleop.type=")]
    if len(kinds) != 1 or kinds[0] not in known:
        said = ", ".join(kinds) or "nothing"
        raise ValueError(
            f"no device {said!r}: keyboard, gamepad, script, or one of lerobot's: {', '.join(sorted(known))}"
        )
    shape: Any = make_dataclass("Options", [("teleop", TeleoperatorConfig)])
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            config = draccus.parse(shape, args=list(options)).teleop
    except (draccus.ParsingError, SystemExit) as error:
        said = complaint.getvalue().strip().splitlines()[-1:] or str(error).split("\n")
        raise ValueError(f"lerobot refuses {' '.join(options)}: {' '.join(said)}") from None
    return make_teleoperator_from_config(config)


def scale_for(
    device: Teleoperator,
    names: Sequence[str],
    bounds: tuple[Sequence[float], Sequence[float]],
    units: Mapping[str, Unit],
) -> JointScale:
    """Return how the device's numbers become a robot's, whose joints have these names and bounds [rad].

    Raises ValueError, in one line, where the device does not speak of every joint, or not in a known unit.
    """
    features = [f"{name}{SUFFIX}" for name in names]
    missing = [name for name in features if name not in device.action_features]
    if missing:
        there = ", ".join(map(str, device.action_features))
        raise ValueError(f"{device.name} has no {', '.join(missing)} for this robot; it has {there}")
    found = joint_units(device, units_of(map(str, device.action_features), units))
    low_A, high_A = (np.array(row) for row in bounds)
    return joint_scale({feature: found[feature] for feature in features}, low_A, high_A)


def follow(
    options: Sequence[str],
    units: Mapping[str, Unit],
    names: Sequence[str],
    bounds: tuple[Sequence[float], Sequence[float]],
    newest: Latest,
    says: Connection,
) -> None:
    """Publish where the device is until terminated: a time, then angles; the body of the process.

    What goes wrong before the first reading is said in one line; nothing said is well.
    """
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGHUP):  # the loop decides when it is over
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.disable(logging.ERROR)  # one line is said for them
    device = None
    try:
        try:
            device = lerobot_teleoperator(options)
            scale = scale_for(device, names, bounds, units)
            device.connect(calibrate=False)
            if not device.is_calibrated:
                raise ValueError(f"{device.name} is not calibrated: run lerobot-calibrate {' '.join(options)}")
            publish(device, scale, newest)
        except _DRIVER as error:
            says.send_bytes(json.dumps(f"{type(error).__name__}: {' '.join(str(error).split())}").encode())
            return
        says.send_bytes(json.dumps("").encode())
        while os.getppid() == parent:
            with suppress(*_DRIVER):  # whoever waits for it sees how long it has been silent
                publish(device, scale, newest)
            time.sleep(PERIOD_S)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
        with suppress(*_DRIVER):  # a device that is gone cannot be told that it is let go
            if device is not None and device.is_connected:
                device.disconnect()


def publish(device: Teleoperator, scale: JointScale, newest: Latest) -> None:
    """Read the device once and hand its angles over. Raises what its driver raises, ValueError for what is not finite."""
    began_s = time.monotonic()
    angles_A = scale.radians(device.get_action())
    newest.write(np.concatenate([[began_s], angles_A]).tobytes())
