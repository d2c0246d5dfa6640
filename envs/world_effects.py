"""What faults do to worlds that are seen from above: things jump, change colour, are hidden, stick, or are moved less."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from envs.fault_effects import values_of

if TYPE_CHECKING:
    from envs.faults import Fault

_TRIES = 64
_PATCH = np.array([128, 128, 128], np.uint8)


class World(Protocol):
    """A world with named objects that can be tampered with."""

    state_O: np.ndarray
    hues: dict[str, float]
    """Shift of the colour of each object, in whole circles; none: as it is."""
    patches: list[tuple[np.ndarray, float]]
    """Grey squares over the picture: centre and side, in sides of the picture."""
    gain: float
    """Of the actions."""
    friction: float
    """Of what is pushed and of what pushes it; 0: they slide."""

    def place(self, name: str) -> np.ndarray:
        """Return where an object is, (2,), in sides of the picture."""
        ...

    def jump(self, name: str, by_2: np.ndarray) -> bool:
        """Let an object be elsewhere at once, by so many pixels of the world; False, and nothing, where that is not possible."""
        ...

    def outcome(self) -> dict[str, Any]:
        """Return what a step's info says of the goal."""
        ...


class WorldEffects:
    """The faults of one world's objects."""

    def __init__(self, world: World, faults: Sequence[Fault]) -> None:
        self._world = world
        self._jumped: set[Fault] = set()
        self._hidden: dict[Fault, tuple[np.ndarray, float]] = {}
        self._rngs = {fault: np.random.default_rng(index) for index, fault in enumerate(faults)}

    def begin(self, seed: int | None, active: Sequence[Fault]) -> None:
        """Begin an episode: what is to jump from the start on does not, for nobody saw where it was before."""
        if seed is not None:
            self._rngs = {fault: np.random.default_rng((seed, index)) for index, fault in enumerate(self._rngs)}
        self._hidden.clear()
        self._jumped = {fault for fault in active if fault.kind == "teleport"}
        self._set(active)

    def apply(
        self, active: Sequence[Fault], state_O: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Let the active faults hold; return the state and the info of the step as they are then."""
        due = [fault for fault in active if fault.kind == "teleport" and fault not in self._jumped]
        moved = [self._teleport(fault) for fault in due]
        self._jumped.update(due)
        self._set(active)
        return (self._world.state_O.copy(), {**info, **self._world.outcome()}) if any(moved) else (state_O, info)

    def _teleport(self, fault: Fault) -> bool:
        """Try directions until there is room; with room nowhere, nothing happens."""
        rng = self._rngs[fault]
        angles = rng.uniform(-np.pi, np.pi, _TRIES)
        steps = float(fault.value or 0.0) * np.stack([np.cos(angles), np.sin(angles)], 1)
        return any(self._world.jump(fault.target, by_2) for by_2 in steps)

    def _set(self, active: Sequence[Fault]) -> None:
        world = self._world
        world.gain = float(np.prod(values_of(active, "gain")))
        world.friction = max(values_of(active, "sticky"), default=0.0)
        coloured = [fault for fault in active if fault.kind == "colour"]
        world.hues = {fault.target: sum(values_of(coloured, "colour", fault.target)) for fault in coloured}
        for fault in active:
            if fault.kind == "occlude" and fault not in self._hidden:
                self._hidden[fault] = (world.place(fault.target), float(fault.value or 0.0))
        self._hidden = {fault: patch for fault, patch in self._hidden.items() if fault in active}
        world.patches = list(self._hidden.values())


def hued(colour: Sequence[float] | np.ndarray, shift: float) -> np.ndarray:
    """Return a colour (3,), 0 .. 255, with its hue shifted by so many whole circles."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(np.asarray(colour, float)[:3] / 255))
    return 255 * np.array(colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value))


def patched(picture_HWC: np.ndarray, patches: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """Return a picture with grey squares over it, each given by centre and side in sides of the picture; no square: the same array."""
    if not patches:
        return picture_HWC
    covered_HWC, side = picture_HWC.copy(), len(picture_HWC)
    for centre_2, part in patches:
        low, high = (np.clip(np.round((centre_2 + half) * side), 0, side).astype(int) for half in (-part / 2, part / 2))
        covered_HWC[low[1] : high[1], low[0] : high[0]] = _PATCH
    return covered_HWC
