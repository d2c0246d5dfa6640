"""Any controller that SDL knows, through pygame, without a display: a thread polls it and pushes the stick.

A controller that is gone is an order to hold; one that comes back is used again, once the robot is armed.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deploy.operators.helm import Helm
    from deploy.operators.joints import Stick

AXES = ("leftx", "lefty", "rightx", "righty", "lefttrigger", "righttrigger")
BUTTONS = (
    *("a", "b", "x", "y", "back", "guide", "start", "leftstick", "rightstick", "leftshoulder", "rightshoulder"),
    *("dpup", "dpdown", "dpleft", "dpright"),
)
"""SDL's names, in SDL's order; they mean the same on every controller."""
POLL_S = 0.01
EXPIRES_S = 0.1
"""A push lasts so long: were the thread to stand still, so would the robot."""


@dataclass(frozen=True)
class PadMap:
    """What each part of a controller does."""

    moves: tuple[Mapping[str, float], ...]
    """For the first joint, the second ...: axes and buttons that move it, and how far they go at most."""
    orders: Mapping[str, str]
    """Buttons: stop, arm, reset, hold, planner, quit, or `more`: the moves are for the next joints."""
    dead: float = 0.15
    """A stick within this of its middle is in it."""

    def __post_init__(self) -> None:
        known, meant = {*AXES, *BUTTONS}, {"stop", "arm", "reset", "hold", "planner", "quit", "more"}
        unknown = {name for move in self.moves for name in move} | {*self.orders}
        if not unknown <= known:
            raise ValueError(f"a controller has no {sorted(unknown - known)}; choose from {', '.join(sorted(known))}")
        if not {*self.orders.values()} <= meant:
            raise ValueError(f"buttons mean one of {', '.join(sorted(meant))}, got {sorted(self.orders.values())}")


PAD = PadMap(
    moves=(
        {"leftx": 1.0},
        {"lefty": -1.0},
        {"righty": -1.0},
        {"dpup": 1.0, "dpdown": -1.0},
        {"rightx": 1.0},
        {"righttrigger": 1.0, "lefttrigger": -1.0},
    ),
    orders={
        "b": "stop",
        "back": "reset",
        "start": "arm",
        "x": "hold",
        "y": "planner",
        "guide": "quit",
        "rightshoulder": "more",
    },
)


class Gamepad:
    """Polls the first controller between `with` and its end."""

    def __init__(self, helm: Helm, stick: Stick, speed: float, pad: PadMap = PAD) -> None:
        self._helm, self._stick, self._speed, self._pad = helm, stick, speed, pad
        self._first = 0  # the joint that the first move is for
        self._moving = self._closing = False
        self._controller: Any = None
        self._instance = -1  # of the controller: SDL gives each that is plugged in another
        self._ready, self._wrong = threading.Event(), ""
        self._thread = threading.Thread(target=self._serve, name="gamepad", daemon=True)

    def __enter__(self) -> Gamepad:
        """Open the controller. Raises ValueError, in one line, where there is none."""
        self._thread.start()
        self._ready.wait()
        if self._wrong:
            self._thread.join()
            raise ValueError(self._wrong)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._thread.join()

    @property
    def name(self) -> str:
        """What the controller calls itself; empty while it is gone."""
        controller = self._controller
        return "" if controller is None else controller.name

    def _serve(self) -> None:
        """All of SDL happens in this thread."""
        sdl, controllers = load_sdl()
        try:
            sdl.display.init()
            sdl.joystick.init()
            controllers.init()
            self._wrong = self._open(sdl, controllers)
            self._ready.set()
            while not (self._wrong or self._closing):
                self.turn(sdl, controllers)
                time.sleep(POLL_S)
        except sdl.error as error:
            self._wrong = f"the gamepad failed: {error}"
        finally:
            if not self._closing:
                self._helm.lose(self._wrong or "the gamepad is not read any more")
            self._controller = None
            controllers.quit()
            sdl.quit()
            self._ready.set()

    def _open(self, sdl: Any, controllers: Any) -> str:
        """Open the first controller that SDL has a layout for; return why there is none, else nothing."""
        seen = range(sdl.joystick.get_count())
        number = next((n for n in seen if controllers.is_controller(n)), None)
        if number is not None:
            self._controller = controllers.Controller(number)
            self._instance = self._controller.as_joystick().get_instance_id()
            return ""
        if not seen:
            return "no gamepad is connected (SDL sees none; is /dev/input readable?)"
        names = ", ".join(sdl.joystick.Joystick(n).get_name() for n in seen)
        return f"SDL knows no layout of {names}: describe it in SDL_GAMECONTROLLERCONFIG"

    def turn(self, sdl: Any, controllers: Any) -> None:
        """Take in what has happened since the last turn."""
        for event in sdl.event.get():
            if event.type == sdl.CONTROLLERBUTTONDOWN and event.instance_id == self._instance:
                self._press(BUTTONS[event.button] if event.button < len(BUTTONS) else "")
            elif event.type == sdl.CONTROLLERDEVICEREMOVED and event.instance_id == self._instance:
                self._controller, self._instance = None, -1
                self._helm.lose("the gamepad was disconnected")
            elif event.type == sdl.CONTROLLERDEVICEADDED and self._controller is None:
                self._open(sdl, controllers)
        if self._controller is not None:
            self._push(self._readings())

    def _readings(self) -> dict[str, float]:
        """Return every axis and button, -1 .. 1; triggers and buttons from 0."""
        controller = self._controller
        axes = {name: max(controller.get_axis(n) / 32767, -1.0) for n, name in enumerate(AXES)}
        sticks = {name: value if abs(value) > self._pad.dead else 0.0 for name, value in axes.items()}
        return {**sticks, **{name: float(controller.get_button(n)) for n, name in enumerate(BUTTONS)}}

    def _push(self, readings: Mapping[str, float]) -> None:
        """Push what the sticks say; whoever moves one steers."""
        joints = len(self._stick.joints.names)
        push_A = np.zeros(joints)
        for joint, move in enumerate(self._pad.moves[:joints], self._first):
            push_A[joint % joints] = self._speed * sum(weight * readings[name] for name, weight in move.items())
        moving = bool(push_A.any())
        if moving or self._moving:
            self._stick.push(push_A, EXPIRES_S)
        if moving:
            self._helm.take()
        self._moving = moving

    def _press(self, button: str) -> None:
        helm = self._helm
        deeds: dict[str, Callable[[], None]] = {
            "stop": lambda: helm.stop("gamepad"),
            "reset": lambda: helm.reset("gamepad"),
            "arm": lambda: helm.arm("gamepad"),
            "hold": helm.hold,
            "planner": helm.hand_back,
            "quit": helm.quit,
            "more": self._more,
        }
        word = self._pad.orders.get(button)
        if word is not None:
            deeds[word]()

    def _more(self) -> None:
        self._first = (self._first + len(self._pad.moves)) % len(self._stick.joints.names)


def load_sdl() -> tuple[Any, Any]:
    """Return pygame and its controllers, set up for a machine without a display; signals stay ours."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    for name in ("PYGAME_HIDE_SUPPORT_PROMPT", "SDL_NO_SIGNAL_HANDLERS", "SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS"):
        os.environ[name] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what pygame itself imports
        import pygame
        from pygame._sdl2 import controller

    return pygame, controller
