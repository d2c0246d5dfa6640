"""A robot as meshes that are moved by its pose, and the paths of its ends through predicted states; for any viewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.poses import configure

if TYPE_CHECKING:
    from deploy.realtime.feed import Feed, Foreseen
    from envs.robots import RobotSpec

CART = """<mujoco><worldbody>
  <geom type="plane" size="5 5 .1"/>
  <body name="cart" pos="0 0 .08">
    <joint type="slide" axis="1 0 0"/><geom type="box" size=".08 .08 .08" rgba=".1 .4 .75 1" mass="1"/>
  </body>
</worldbody></mujoco>"""
"""The point mass as a body; its model is a formula."""
SHOWN_GROUPS = (0, 1, 2)
"""Those that MuJoCo's own viewers show; higher ones are for collisions."""
DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)
BEST, OTHERS = (230, 81, 0), (120, 144, 156)
"""Colours of what the best candidate and the others would lead to."""


@dataclass(frozen=True)
class Part:
    """One geom of the model, in its own frame."""

    name: str
    vertices_V3: np.ndarray
    faces_F3: np.ndarray
    rgb: tuple[int, int, int]


def model_of(spec: RobotSpec) -> Any:
    """Return the MuJoCo model of a robot. Raises ValueError, in one line, for one that has none."""
    import mujoco as mj

    from envs.robots import make_env

    if spec.name == "double_integrator":
        return mj.MjModel.from_xml_string(CART)  # pyright: ignore[reportAttributeAccessIssue]
    model = getattr(make_env(spec.name, spec.version).unwrapped, "model", None)
    if not isinstance(model, mj.MjModel):  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"there is no MuJoCo model of {spec.name!r} to show")
    return model


class Scene:
    """The model of a robot, placed by forward kinematics."""

    def __init__(self, spec: RobotSpec) -> None:
        import mujoco as mj

        self._mj: Any = mj
        self._model = model = model_of(spec)
        self._data, self._speed = self._mj.MjData(model), spec.columns.get("speed")
        solid = {n: mesh for n in range(model.ngeom) if (mesh := _mesh(self._mj, model, n)) is not None}
        self._geoms = list(solid)
        self.parts = [Part(f"{n}", *mesh, _rgb(model, n)) for n, mesh in solid.items()]
        parents = set(model.body_parentid[1:].tolist())
        leaves = [n for n in range(1, model.nbody) if n not in parents]
        self._root = next((n for n in range(1, model.nbody) if model.body_parentid[n] == 0), 0)
        self._ends = sorted({self._root, *leaves[:4]})

    def place(self, pose_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where the parts are, (N, 3) and (N, 4) as wxyz, and the point on the ground under the robot, (3,)."""
        self._pose(pose_P)
        wxyz_N4 = np.zeros((len(self._geoms), 4))
        for row, n in enumerate(self._geoms):
            self._mj.mju_mat2Quat(wxyz_N4[row], self._data.geom_xmat[n])
        under = np.array([*self._data.xpos[self._root][:2], 0.0])
        return self._data.geom_xpos[self._geoms].copy(), wxyz_N4, under

    def paths(self, foreseen: Foreseen, pose_P: np.ndarray, t_s: float) -> np.ndarray:
        """Return where root and ends of the robot would be, (F, H, L, 3), seen from its pose at `t_s` [s].

        Empty where no pose can be read from the predicted states.
        """
        poses = self._poses(foreseen, pose_P, t_s)
        if poses is None or not np.isfinite(poses).all():
            return np.zeros((0, 0, 0, 3))
        found = np.empty((*poses.shape[:2], len(self._ends), 3))
        for at in np.ndindex(poses.shape[:2]):
            self._pose(poses[at])
            found[at] = self._data.xpos[self._ends]
        return found

    def _pose(self, pose_P: np.ndarray) -> None:
        configure(self._data, pose_P)
        self._mj.mj_kinematics(self._model, self._data)

    def _poses(self, foreseen: Foreseen, pose_P: np.ndarray, t_s: float) -> np.ndarray | None:
        """Return poses (F, H, nq). A runner's state is its pose without x, then the rates; others' begins with the pose."""
        states_FHO, nq = foreseen.states_FHO.astype(np.float64), self._model.nq
        if self._speed is not None and states_FHO.shape[2] == 2 * nq - 1:
            run_FH = np.cumsum(states_FHO[..., self._speed], 1) * foreseen.dt_s
            rows = (t_s - foreseen.t0_s) / foreseen.dt_s  # before the first one it runs as it will there
            known = [min(rows, 0.0), *range(states_FHO.shape[1] + 1)]
            passed_F = [np.interp(rows, known, [known[0] * run_H[0], 0.0, *run_H]) for run_H in run_FH]
            x_FH = pose_P[0] + run_FH - np.array(passed_F)[:, None]
            return np.concatenate([x_FH[..., None], states_FHO[..., : nq - 1]], 2)
        return states_FHO[..., :nq] if states_FHO.shape[2] >= nq else None


def _rgb(model: Any, geom: int) -> tuple[int, int, int]:
    rgba, material = model.geom_rgba[geom], model.geom_matid[geom]
    if material >= 0 and np.allclose(rgba, DEFAULT_RGBA):
        rgba = model.mat_rgba[material]
    r, g, b = (255 * rgba[:3]).astype(int).tolist()
    return r, g, b


def _mesh(mj: Any, model: Any, geom: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return vertices and faces of a geom; None for one that is not shown, and for the ground."""
    import trimesh.creation as make

    types = mj.mjtGeom
    size, kind = model.geom_size[geom], types(int(model.geom_type[geom]))
    if model.geom_group[geom] not in SHOWN_GROUPS or model.geom_rgba[geom][3] == 0:
        return None
    if kind == types.mjGEOM_MESH:
        return _stored(model, model.geom_dataid[geom])
    if kind == types.mjGEOM_CAPSULE:
        mesh = make.capsule(height=2 * size[1], radius=size[0], count=(12, 16))
    elif kind == types.mjGEOM_CYLINDER:
        mesh = make.cylinder(height=2 * size[1], radius=size[0])
    elif kind == types.mjGEOM_BOX:
        mesh = make.box(extents=2 * size)
    elif kind in (types.mjGEOM_SPHERE, types.mjGEOM_ELLIPSOID):
        mesh = make.icosphere(subdivisions=2).apply_scale(size if kind == types.mjGEOM_ELLIPSOID else size[0])
    else:
        return None
    return np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)


def _stored(model: Any, mesh: int) -> tuple[np.ndarray, np.ndarray]:
    first, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    vertices_V3 = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
    return vertices_V3.copy(), model.mesh_face[face : face + model.mesh_facenum[mesh]].astype(np.uint32)


def foreseen_paths(scene: Scene, feed: Feed, frame: Any) -> np.ndarray:
    """Return the paths (F, H, L, 3) of what the newest plan was chosen from; empty once all of it is past."""
    found = feed.look_ahead()
    if found is None or found[1].over(float(frame["t_s"])):
        return np.zeros((0, 0, 0, 3))
    return scene.paths(found[1], frame["pose_P"], float(frame["t_s"]))


def colours(count: int) -> np.ndarray:
    """Return colours for so many futures, the best first, (F, 3) uint8."""
    return np.array([BEST, *[OTHERS] * (count - 1)][:count], np.uint8).reshape(-1, 3)


def segments(paths_FHL3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the paths as line segments, (N, 2, 3), and the colours of their ends, (N, 2, 3) uint8."""
    pairs = np.stack([paths_FHL3[:, :-1], paths_FHL3[:, 1:]], 3)
    coloured = np.broadcast_to(colours(len(pairs))[:, None, None, None], pairs.shape)
    return pairs.reshape(-1, 2, 3), coloured.reshape(-1, 2, 3)
