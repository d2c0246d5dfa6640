"""Two rooms and a door, seen from above: a disc goes to a place, perhaps in the other room; and an expert that shows how.

Lengths are pixels of a canvas of 224: a wall of thickness 10 at x = 112 has a door of 28 around y = 49; a disc of radius 7 moves up
to 5 per axis and step. As in LeWorldModel's TwoRoom (Maes et al. 2026), but that the disc cannot pass the wall between two steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from envs.collect import run_episode
from envs.robots import RobotSpec, make_env
from envs.shapes import check
from envs.world_effects import hued, patched

if TYPE_CHECKING:
    from envs.episodes import Episode

CANVAS, WALL_X, THICKNESS, DOOR_Y, DOOR, RADIUS, SPEED = 224.0, 112.0, 10.0, 49.0, 28.0, 7.0, 5.0
SUCCESS = 16.0
"""Distance from the goal [px]."""
FAR = 60.0
"""Distance of the expert's goals, at least [px]: less shows nothing."""
SIDE = 64
"""Of a picture [pixels of the picture]."""
_SUBSTEPS = 8
_PAPER, _INK, _DISC = np.array([255.0, 255, 255]), np.array([60.0, 60, 60]), np.array([220.0, 50, 40])


def is_free(at_2: np.ndarray) -> bool:
    """Return whether the disc may be here: inside the canvas, and not in the wall."""
    inside = ((at_2 >= RADIUS) & (at_2 <= CANVAS - RADIUS)).all()
    beside = abs(at_2[0] - WALL_X) >= THICKNESS / 2 + RADIUS
    return bool(inside and (beside or abs(at_2[1] - DOOR_Y) <= DOOR / 2 - RADIUS))


def moved(at_2: np.ndarray, by_2: np.ndarray) -> np.ndarray:
    """Return where the disc comes to, pushed by `by_2`: along a wall it slides."""
    for _ in range(_SUBSTEPS):
        step_2 = by_2 / _SUBSTEPS
        for try_2 in (step_2, step_2 * (1, 0), step_2 * (0, 1)):
            if is_free(at_2 + try_2):
                at_2 = at_2 + try_2
                break
    return at_2


def picture(at_2: np.ndarray, side: int = SIDE, disc: np.ndarray = _DISC) -> np.ndarray:
    """Return the rooms and the disc, (side, side, 3) uint8, edges smoothed."""
    pixel = CANVAS / side
    grid = (np.arange(side) + 0.5) * pixel
    x, y = grid[None, :], grid[:, None]
    wall = np.minimum(
        THICKNESS / 2 - abs(x - WALL_X), np.maximum(DOOR_Y - DOOR / 2 - y, y - DOOR_Y - DOOR / 2)
    )  # > 0 inside
    ball = RADIUS - np.hypot(x - at_2[0], y - at_2[1])
    shown = _PAPER + (_INK - _PAPER) * np.clip(0.5 + wall / pixel, 0, 1)[..., None]
    shown = shown + (disc - shown) * np.clip(0.5 + ball / pixel, 0, 1)[..., None]
    return shown.round().astype(np.uint8)


class TwoRoom(gymnasium.Env):
    """State: where the disc is and where it should be [px]. Reward: minus their distance, in units of what success allows.

    Success ends an episode. Reset options `start` and `goal`, (2,) each [px], set them. Raises ValueError for a place in a wall.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, spec: RobotSpec, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Box(spec.action.low_A, spec.action.high_A, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(0.0, CANVAS, (4,), np.float64)
        self.state_O = np.zeros(4)
        self.hues: dict[str, float] = {}
        self.patches: list[tuple[np.ndarray, float]] = []
        self.gain, self.friction = 1.0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start anywhere, with a goal anywhere."""
        super().reset(seed=seed)
        drawn = [self._anywhere(), self._anywhere()]
        asked = options or {}
        at_2, goal_2 = (np.asarray(asked.get(k, d), float) for k, d in zip(("start", "goal"), drawn, strict=True))
        for name, place_2 in (("start", at_2), ("goal", goal_2)):
            check(name, place_2, "X", X=2)
            if not is_free(place_2):
                raise ValueError(f"{name} {place_2.tolist()} is in a wall, or outside of {CANVAS:g} x {CANVAS:g} px")
        self.state_O = np.concatenate([at_2, goal_2])
        return self.state_O.copy(), self.outcome()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move by `action`, each axis in [-1, 1], times 5 px."""
        by_2 = self.gain * SPEED * np.clip(np.asarray(action, float), -1.0, 1.0)
        self.state_O[:2] = moved(self.state_O[:2], by_2)
        info = self.outcome()
        return self.state_O.copy(), -info["distance"] / SUCCESS, info["is_success"], False, info

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what a camera above sees, (SIDE, SIDE, 3) uint8: the goal is not to be seen."""
        disc = hued(_DISC, self.hues["disc"]) if self.hues else _DISC
        return patched(picture(self.state_O[:2], disc=disc), self.patches)

    def place(self, name: str) -> np.ndarray:
        """Return where the disc is, (2,), in sides of the picture."""
        return self.state_O[:2] / CANVAS

    def jump(self, name: str, by_2: np.ndarray) -> bool:
        """Put the disc elsewhere, by so many pixels, if it is free to be there."""
        if not is_free(self.state_O[:2] + by_2):
            return False
        self.state_O[:2] += by_2
        return True

    def picture(self, state_O: np.ndarray) -> np.ndarray:
        """Return what it would see in another state."""
        return picture(state_O[:2])

    def _anywhere(self) -> np.ndarray:
        while True:
            at_2 = self.np_random.uniform(RADIUS, CANVAS - RADIUS, 2)
            if is_free(at_2):
                return at_2

    def outcome(self) -> dict[str, Any]:
        """Return how far the goal is [px], and whether that is near enough."""
        distance = float(np.hypot(*(self.state_O[:2] - self.state_O[2:])))
        return {"distance": distance, "is_success": distance < SUCCESS}


def shown(index: int, seed: int = 0, noise: float = 2.0, steps: int = 200) -> Episode:
    """Return episode `index` of the expert, with noise on its actions, to a goal that is not near; a function of the arguments.

    It ends there, or after so many steps.
    """
    rng = np.random.default_rng([seed, index])
    env = make_env("tworoom")
    while True:
        env_seed = int(rng.integers(2**31))
        if env.reset(seed=env_seed)[1]["distance"] > FAR:
            break
    return run_episode(env, lambda state_O, step: expert(state_O, rng, noise), env_seed, steps, {"index": index})


def expert(state_O: np.ndarray, rng: np.random.Generator, noise: float = 2.0) -> np.ndarray:
    """Return the action (2,) that leads to the goal, through the door if need be, with noise of that standard deviation."""
    at_2, goal_2 = state_O[:2], state_O[2:]
    target_2 = goal_2
    near = THICKNESS / 2 + RADIUS
    if (at_2[0] < WALL_X) != (goal_2[0] < WALL_X) or abs(at_2[0] - WALL_X) < near:
        side = np.sign(goal_2[0] - WALL_X)
        in_line = abs(at_2[1] - DOOR_Y) < DOOR / 2 - RADIUS - 1
        target_2 = np.array([WALL_X + (side if in_line else -side) * (near + SPEED), DOOR_Y])
    away_2 = target_2 - at_2
    toward_2 = away_2 / max(float(np.hypot(*away_2)), SPEED)
    return np.clip(toward_2 + noise * rng.standard_normal(2), -1.0, 1.0).astype(np.float32)
