"""A real SDL controller without hardware: SDL's own virtual device, seen by the gamepad's thread as any other."""

import ctypes
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.operators.gamepad import AXES, BUTTONS, PAD, Gamepad, PadMap, load_sdl
from deploy.operators.helm import Helm
from deploy.operators.joints import Joints, Stick
from deploy.orders import Orders
from deploy.realtime.feed import SharedSwitch
from deploy.safety import RobotLimits
from envs.types import ActionSpec

SIX = Joints.of(
    ActionSpec(-np.ones(6), np.ones(6), ("N m",) * 6, tuple("abcdef")),
    RobotLimits(low=(-1.0,) * 6, high=(1.0,) * 6, max_rate=(1e3,) * 6, hold=(0.0,) * 6),
    dt_s=0.1,
)
CONTROLLER = 1  # SDL_JOYSTICK_TYPE_GAMECONTROLLER


class Virtual:
    """SDL's virtual controller, plugged in until `unplug`."""

    def __init__(self):
        sdl, controllers = load_sdl()
        sdl.display.init()
        sdl.joystick.init()
        controllers.init()
        maps = Path("/proc/self/maps")
        names = (
            {line.split()[-1] for line in maps.read_text().splitlines() if "libSDL2-2" in line} if maps.exists() else ()
        )
        if not names:
            pytest.skip("SDL is not a library of its own here, so that it lends no virtual controller")
        self._sdl = ctypes.CDLL(names.pop())
        self._sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        self.plug()

    def plug(self):
        self._number = self._sdl.SDL_JoystickAttachVirtual(CONTROLLER, len(AXES), len(BUTTONS), 0)
        if self._number < 0:
            pytest.skip("this SDL was built without virtual controllers")
        self._device = ctypes.c_void_p(self._sdl.SDL_JoystickOpen(self._number))
        for trigger in ("lefttrigger", "righttrigger"):
            self.move(trigger, -1.0)  # a trigger at rest is an axis at its low end

    def unplug(self):
        self._sdl.SDL_JoystickDetachVirtual(self._number)

    def move(self, axis, value):
        self._sdl.SDL_JoystickSetVirtualAxis(self._device, AXES.index(axis), ctypes.c_int16(int(32767 * value)))

    def press(self, button, down=True):
        self._sdl.SDL_JoystickSetVirtualButton(self._device, BUTTONS.index(button), int(down))


def until(true):
    end_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


class Rig:
    """A virtual controller, the gamepad that reads it, and what a loop would be asked for."""

    def __init__(self):
        self.pad = Virtual()
        self.orders, self.switch = Orders(), SharedSwitch()
        stick = Stick(SIX)
        self.helm = Helm(stick, SIX, self.orders, self.switch, True, "planner")
        self.gamepad = Gamepad(self.helm, stick, 0.5)

    def asks(self):
        asked_A = self.helm.wants(0.0, np.zeros(6))
        return None if asked_A is None else asked_A.round(2).tolist()

    def said(self):
        return [(order.word, order.reason) for order in self.orders.take()]


@pytest.fixture
def rig():
    made = Rig()
    with made.gamepad:
        yield made
        made.pad.unplug()


def test_whoever_moves_a_stick_steers_until_the_robot_is_handed_back(rig):
    assert rig.gamepad.name
    assert rig.asks() is None
    rig.pad.move("leftx", 0.1)  # not out of its middle
    rig.pad.move("righty", -1.0)  # up
    until(lambda: rig.asks() == [0, 0, 0.5, 0, 0, 0])
    rig.pad.move("righty", 0.0)
    until(lambda: rig.asks() == [0] * 6)
    assert rig.helm.by == "device"
    rig.pad.press("y")
    until(lambda: rig.asks() is None)


def test_sticks_triggers_and_pad_move_the_joints_of_the_map(rig):
    for axis, value in (("leftx", -1.0), ("lefty", 1.0), ("rightx", 1.0), ("righttrigger", 1.0)):
        rig.pad.move(axis, value)
    rig.pad.press("dpdown")
    until(lambda: rig.asks() == [-0.5, -0.5, 0, -0.5, 0.5, 0.5])


def test_buttons_give_orders(rig):
    rig.pad.press("b")
    until(lambda: rig.switch.thrown)
    assert rig.switch.thrown == "gamepad"
    assert rig.helm.by == "hold"
    rig.pad.press("back")
    until(lambda: rig.orders._given)
    assert rig.said() == [("reset", "gamepad")]
    rig.pad.press("start")
    until(lambda: len(rig.orders._given) == 2)
    assert rig.said() == [("arm", "gamepad"), ("start", "gamepad")]


def test_a_controller_that_is_gone_means_hold_and_one_that_comes_back_is_used(rig):
    rig.pad.move("leftx", 1.0)
    until(lambda: rig.asks() == [0.5, 0, 0, 0, 0, 0])
    rig.pad.unplug()
    until(lambda: rig.orders._given)
    assert rig.said() == [("hold", "the gamepad was disconnected")]
    assert rig.asks() == [0] * 6
    rig.pad.plug()
    until(lambda: rig.gamepad.name)
    rig.pad.move("leftx", -1.0)
    until(lambda: rig.asks() == [-0.5, 0, 0, 0, 0, 0])


def test_more_joints_than_moves_are_reached_by_a_button():
    rig = Rig()
    rig.gamepad = Gamepad(rig.helm, rig.helm._device, 0.5, PadMap(PAD.moves[:2], PAD.orders))
    with rig.gamepad:
        rig.pad.press("rightshoulder")
        rig.pad.move("leftx", 1.0)
        until(lambda: rig.asks() == [0, 0, 0.5, 0, 0, 0])
        rig.pad.unplug()


def test_without_a_controller_there_is_one_line():
    rig = Rig()
    rig.pad.unplug()
    with pytest.raises(ValueError, match="no gamepad is connected") as caught, rig.gamepad:
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pad", "said"),
    [
        ({"moves": ({"leftz": 1.0},), "orders": {}}, r"no \['leftz'\]; choose from a, b, back"),
        ({"moves": (), "orders": {"a": "jump"}}, r"buttons mean one of arm, .* got \['jump'\]"),
    ],
)
def test_a_map_of_what_is_not_there_is_refused(pad, said):
    with pytest.raises(ValueError, match=said):
        PadMap(**pad)
