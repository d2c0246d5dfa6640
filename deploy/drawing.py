"""Poses as pictures: MuJoCo's own renderer, or what needs no OpenGL: runners as thick lines, which read best small, others by rays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from envs.poses import ASIDE, configure
from envs.robots import make_env, painter, robot_spec, wanted

if TYPE_CHECKING:
    from envs.robots import RobotSpec

SIZE = (320, 240)  # width, height
CAPTION = 26  # rows at the top
_SLIDE, _HINGE = 2, 3  # kinds of joints, as MuJoCo counts them
SKY, GROUND, BODY, LEFT, CART = (246, 248, 250), (214, 218, 222), (214, 138, 89), (122, 62, 140), (21, 101, 192)


class Painter(Protocol):
    """Draws one pose."""

    def __call__(self, pose: np.ndarray, /) -> np.ndarray:
        """Return the picture, (height, width, 3) uint8."""
        ...


class GlPainter:
    """MuJoCo's own renderer: a runner is followed from its side, anything else is seen by the model's camera for people."""

    def __init__(self, model: Any) -> None:
        import mujoco as mj

        self._model, self._data = model, mj.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
        self._renderer = mj.Renderer(model, SIZE[1], SIZE[0])
        self._aside = mj.MjvCamera()  # pyright: ignore[reportAttributeAccessIssue]
        self._aside.distance, self._aside.azimuth, self._aside.elevation = 3.0, 90.0, -8.0
        self._camera = self._aside if runs(model) else watching(model)
        self._kinematics = mj.mj_forward  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, pose: np.ndarray, /) -> np.ndarray:
        """Return the rendered picture."""
        configure(self._data, pose)
        self._kinematics(self._model, self._data)
        self._aside.lookat[:] = (self._data.xpos[1, 0], 0.0, 0.8)
        self._renderer.update_scene(self._data, self._camera)
        return self._renderer.render().copy()


class RayPainter:
    """The model's camera for people, ray by ray, which needs no OpenGL; at half the size, as that takes a quarter of the time."""

    def __init__(self, model: Any) -> None:
        import mujoco as mj

        self._model, self._data = model, mj.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
        self._kinematics = mj.mj_fwdPosition  # pyright: ignore[reportAttributeAccessIssue]
        self._camera = watching(model)

    def __call__(self, pose: np.ndarray, /) -> np.ndarray:
        """Return the drawn picture."""
        import cv2

        from envs.raycast import raycast

        configure(self._data, pose)
        self._kinematics(self._model, self._data)
        small = raycast(self._model, self._data, self._camera, SIZE[1] // 2, SIZE[0] // 2)
        return np.asarray(cv2.resize(small, SIZE, interpolation=cv2.INTER_LINEAR))


def watching(model: Any) -> int:
    """Return the number of the camera through which people see a model: the one that is named so, or the first."""
    names = [model.camera(n).name for n in range(model.ncam)]
    return names.index(ASIDE) if ASIDE in names else 0


def runs(model: Any) -> bool:
    """Return whether a model is a planar runner, or has no camera: it is best seen from its side."""
    root = model.jnt_type[model.body_jntadr[1] :][: model.body_jntnum[1]]
    return list(root) == [_SLIDE, _SLIDE, _HINGE] or not model.ncam


class CapsulePainter:
    """The capsules of a planar robot as thick lines, seen from its side; the left leg in another colour."""

    def __init__(self, model: Any) -> None:
        import mujoco as mj

        self._model, self._data = model, mj.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
        self._kinematics = mj.mj_kinematics  # pyright: ignore[reportAttributeAccessIssue]
        capsule = int(mj.mjtGeom.mjGEOM_CAPSULE)  # pyright: ignore[reportAttributeAccessIssue]
        self._geoms = [n for n in range(model.ngeom) if model.geom_type[n] == capsule]
        self._geoms.sort(key=lambda n: "left" not in model.geom(n).name)  # the far leg first

    def __call__(self, pose: np.ndarray, /) -> np.ndarray:
        """Return the drawn picture."""
        configure(self._data, pose)
        self._kinematics(self._model, self._data)
        canvas = Canvas(centre_x=float(self._data.xpos[1, 0]), low=-0.25, metres=2.2)
        canvas.ground()
        for n in self._geoms:
            half = self._data.geom_xmat[n].reshape(3, 3)[:, 2] * self._model.geom_size[n, 1]
            a, b = self._data.geom_xpos[n] - half, self._data.geom_xpos[n] + half
            colour = LEFT if "left" in self._model.geom(n).name else BODY
            canvas.line((a[0], a[2]), (b[0], b[2]), 2 * self._model.geom_size[n, 0], colour)
        return canvas.picture()


def paint_cart(pose: np.ndarray) -> np.ndarray:
    """Return the picture of a point mass at pose[0] [m]; the target, 0, is marked."""
    canvas = Canvas(centre_x=0.0, low=-1.1, metres=2.4)
    canvas.ground()
    canvas.line((0.0, 0.0), (0.0, 0.6), 0.02, (46, 125, 50))
    x = float(np.clip(pose[0], -1.5, 1.5))
    canvas.line((x - 0.08, 0.1), (x + 0.08, 0.1), 0.16, CART)
    return canvas.picture()


class WorldPainter:
    """A world that is seen from above, and faintly in it what is wanted."""

    def __init__(self, spec: RobotSpec) -> None:
        self._spec, self._picture = spec, painter(spec.name, spec.version)

    def __call__(self, pose: np.ndarray, /) -> np.ndarray:
        """Return the drawn picture, in the middle of an empty one."""
        import cv2

        now, then = (self._picture(state).astype(float) for state in (pose, wanted(self._spec, pose)))
        shown = np.where(now.sum(-1, keepdims=True) <= then.sum(-1, keepdims=True), now, 0.7 * now + 0.3 * then)
        side = SIZE[1] - CAPTION
        square = cv2.resize(shown.round().astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        out = np.full((SIZE[1], SIZE[0], 3), SKY, np.uint8)
        left = (SIZE[0] - side) // 2
        out[CAPTION:, left : left + side] = square
        return out


class Canvas:
    """A picture in metres, drawn at twice its size so that edges come out smooth."""

    def __init__(self, centre_x: float, low: float, metres: float) -> None:
        self._scale = 2 * SIZE[1] / metres
        self._left = centre_x - SIZE[0] / self._scale
        self._low, self._centre_x = low, centre_x
        self._pixels = np.full((2 * SIZE[1], 2 * SIZE[0], 3), SKY, dtype=np.uint8)

    def _at(self, point: tuple[float, float]) -> tuple[int, int]:
        x, z = point
        return round((x - self._left) * self._scale), round(2 * SIZE[1] - (z - self._low) * self._scale)

    def ground(self) -> None:
        """Draw the floor with a mark each half metre, so that moving shows."""
        import cv2

        right, floor = 2 * SIZE[0], self._at((0.0, 0.0))[1]
        cv2.rectangle(self._pixels, (0, floor), (right, 2 * SIZE[1]), GROUND, -1)
        first = np.floor(2 * self._left) / 2
        for mark in np.arange(first, self._left + right / self._scale + 0.5, 0.5):
            x = self._at((float(mark), 0.0))[0]
            cv2.line(self._pixels, (x, floor), (x, floor + 14), (150, 156, 162), 2, cv2.LINE_AA)

    def line(self, a: tuple[float, float], b: tuple[float, float], width: float, colour: tuple[int, int, int]) -> None:
        """Draw a thick line with round ends; all lengths in metres."""
        import cv2

        cv2.line(self._pixels, self._at(a), self._at(b), colour, max(1, round(width * self._scale)), cv2.LINE_AA)

    def picture(self) -> np.ndarray:
        """Return the picture at its size."""
        import cv2

        return np.asarray(cv2.resize(self._pixels, SIZE, interpolation=cv2.INTER_AREA))


def caption(
    picture: np.ndarray, text: str, dim: bool = False, colour: tuple[int, int, int] = (40, 44, 52)
) -> np.ndarray:
    """Return the picture with a line of text in its upper left corner; dimmed where the episode is over."""
    import cv2

    out = picture.copy()
    if dim:
        out = (0.45 * out + 0.55 * 255).astype(np.uint8)
    cv2.rectangle(out, (0, 0), (out.shape[1], CAPTION), (255, 255, 255), -1)
    cv2.putText(out, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return out


def make_painter(robot: str, version: str, gl: bool) -> Painter:
    """Return the painter of a robot."""
    spec = robot_spec(robot, version)
    if spec.drawn:
        return WorldPainter(spec)
    model: Any = getattr(make_env(robot, version).unwrapped, "model", None)
    if model is None:
        return paint_cart
    if gl:
        return GlPainter(model)
    return CapsulePainter(model) if runs(model) else RayPainter(model)
