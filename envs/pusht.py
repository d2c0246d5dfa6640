"""Push-T from above (gym-pusht): a round pusher moves a T-shaped block; the goal is where both should be.

The world is 512 pixels wide and advances at 10 Hz. An action is how far the pusher's target lies from it, in units of 100 px per
axis; a PD controller goes there. Poses are x, y [px] and angle [rad]; the green T of the benchmark is drawn where it always was, and
means nothing.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import cv2
import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pygame's own, about a package of its set-up
    import pygame
    from gym_pusht.envs.pusht import PushTEnv

from envs.robots import RobotSpec
from envs.shapes import check
from envs.world_effects import hued, patched

WORLD, REACH = 512.0, 100.0
NEAR_PX, NEAR_RAD = 20.0, np.pi / 9
"""Success: distance over the four coordinates of pusher and block together, and angle."""
SIDE = 96
"""Of a picture [pixels of the picture]; as in the human demonstrations."""


def turned(angle: np.ndarray | float) -> Any:
    """Return an angle [rad] in [-pi, pi)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def is_met(pose_5: np.ndarray, goal_5: np.ndarray) -> bool:
    """Return whether pusher and block are where they should be: x, y of both, and the block's angle (Maes et al. 2026)."""
    near = np.linalg.norm(pose_5[:4] - goal_5[:4]) < NEAR_PX
    return bool(near and abs(turned(pose_5[4] - goal_5[4])) < NEAR_RAD)


class PushT(PushTEnv):
    """State: pusher x, y, block x, y, angle, and the same of the goal; success ends an episode.

    Reset options `start` and `goal`, (5,) each, set them; a random goal is what another reset would have drawn. Reward is minus
    what is missing, in units of what success allows.
    """

    def __init__(self, spec: RobotSpec, render_mode: str | None = "rgb_array") -> None:
        super().__init__("state", render_mode or "rgb_array", observation_width=SIDE, observation_height=SIDE)
        from gymnasium.spaces import Box

        self.goal_5 = np.zeros(5)
        self.hues: dict[str, float] = {}
        self.patches: list[tuple[np.ndarray, float]] = []
        self.gain, self.friction = 1.0, 0.0
        self.action_space = Box(spec.action.low_A, spec.action.high_A, dtype=np.float32)
        self.observation_space = Box(-np.inf, np.inf, (10,), np.float64)
        self._setup()  # it can be seen before its first reset

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start anywhere, with a goal anywhere. Raises ValueError for a pose that is none."""
        super(PushTEnv, self).reset(seed=seed)
        self._setup()  # a new space: contacts of the last episode would linger
        asked = options or {}
        start_5, goal_5 = (np.asarray(asked[k], float) if k in asked else self._anywhere() for k in ("start", "goal"))
        for name, pose_5 in (("start", start_5), ("goal", goal_5)):
            check(name, pose_5, "X", X=5)
            if not (np.isfinite(pose_5).all() and (pose_5[:4] >= 0).all() and (pose_5[:4] <= WORLD).all()):
                raise ValueError(f"{name} {pose_5.tolist()} is no pose: x, y, x, y in 0 .. {WORLD:g} px, and an angle")
        self.goal_5 = np.append(goal_5[:4], turned(goal_5[4]))
        self.put(start_5)
        return self.state_O, self.outcome()

    def put(self, pose_5: np.ndarray) -> None:
        """Place pusher and block, both at rest."""
        self.agent.position, self.agent.velocity = tuple(pose_5[:2]), (0.0, 0.0)
        self.block.angle = float(pose_5[4])  # first: to turn the block moves its origin
        self.block.position = tuple(pose_5[2:4])
        self.block.velocity, self.block.angular_velocity = (0.0, 0.0), 0.0
        self.space.reindex_shapes_for_body(self.agent)
        self.space.reindex_shapes_for_body(self.block)

    @property
    def pose_5(self) -> np.ndarray:
        """Pusher x, y, block x, y [px], angle [rad] in [-pi, pi)."""
        return np.array([*self.agent.position, *self.block.position, turned(self.block.angle)])

    @property
    def state_O(self) -> np.ndarray:
        """The pose and the goal's."""
        return np.concatenate([self.pose_5, self.goal_5])

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Let the pusher go towards where it is plus `action` times 100 px, for 0.1 s."""
        by_2 = self.gain * REACH * np.clip(np.asarray(action, float), -1.0, 1.0)
        for shape, friction in (
            (s, f) for body, f in ((self.agent, 1.0), (self.block, self.friction)) for s in body.shapes
        ):
            shape.friction = friction  # that of a contact is the product of both
        super().step(np.asarray(self.agent.position) + by_2)
        info = self.outcome()
        return self.state_O, -info["distance"], info["is_success"], False, info

    def render(self) -> np.ndarray:
        """Return what a camera above sees, (SIDE, SIDE, 3) uint8, without a mark where the pusher is sent."""
        named = {"pusher": self.agent, "block": self.block}
        before = {shape: shape.color for name in self.hues for shape in named[name].shapes}
        for name, shift in self.hues.items():
            for shape in named[name].shapes:
                shape.color = (*hued(tuple(before[shape]), shift).round().astype(int).tolist(), 255)
        shown = np.asarray(self._render())
        for shape, colour in before.items():
            shape.color = colour
        return patched(shown, self.patches)

    def _get_img(self, screen: pygame.Surface, width: int, height: int, render_action: bool = False) -> np.ndarray:
        """Return the parent's picture, without its mark, in less than half its time: read row by row, as the screen lies in memory."""
        rows_HWC = np.frombuffer(pygame.image.tobytes(screen, "RGB"), np.uint8).reshape(*screen.get_size()[::-1], 3)
        return cv2.resize(rows_HWC, (width, height))

    def place(self, name: str) -> np.ndarray:
        """Return where pusher or block is, (2,), in sides of the picture."""
        return np.array(self.agent.position if name == "pusher" else self.block.position) / WORLD

    def jump(self, name: str, by_2: np.ndarray) -> bool:
        """Put pusher or block elsewhere, by so many pixels, if it stays inside and touches nothing there."""
        body = self.agent if name == "pusher" else self.block
        before = body.position
        body.position = tuple(np.asarray(before) + by_2)
        self.space.reindex_shapes_for_body(body)
        if self._is_free(body):
            return True
        body.position = before
        self.space.reindex_shapes_for_body(body)
        return False

    def _is_free(self, body: Any) -> bool:
        """Return whether it is between the walls and touches nothing."""
        boxes = [shape.bb for shape in body.shapes]
        touched = [hit.shape for shape in body.shapes for hit in self.space.shape_query(shape)]
        inside = all(b.left > 5 and b.bottom > 5 and b.right < 506 and b.top < 506 for b in boxes)
        return inside and all(shape is not None and shape.body is body for shape in touched)

    def picture(self, state_O: np.ndarray) -> np.ndarray:
        """Return what it would see in another state; the world stays as it is."""
        agent, block = self.agent, self.block
        kept = agent.position, agent.velocity, block.angle, block.position, block.velocity, block.angular_velocity
        self.put(state_O[:5])
        shown = self.render()
        agent.position, agent.velocity, block.angle, block.position, block.velocity, block.angular_velocity = kept
        return shown

    def _anywhere(self) -> np.ndarray:
        """Return a random pose in which nothing is inside anything else, which would throw the block aside."""
        place, turn = self.np_random.integers, self.np_random.uniform
        while True:
            pose_5 = np.array([*place(50, 450, 2), *place(100, 400, 2), turn(-np.pi, np.pi)], float)
            self.put(pose_5)
            if self._is_free(self.agent) and self._is_free(self.block):
                return pose_5

    def _get_coverage(self) -> float:
        return 0.0  # of the benchmark's own goal: not ours, and half of what a step costs

    def outcome(self) -> dict[str, Any]:
        """Return what is missing, in units of what success allows, and whether that is near enough."""
        pose_5 = self.pose_5
        distance = np.linalg.norm(pose_5[:4] - self.goal_5[:4]) / NEAR_PX
        turn = abs(turned(pose_5[4] - self.goal_5[4])) / NEAR_RAD
        return {"distance": float(distance + turn), "is_success": is_met(pose_5, self.goal_5)}
