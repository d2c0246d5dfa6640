"""Trained locomotion policies as plain arrays: perceptrons, a ladder of snapshots in some of them.

File format, npz (without pickles) or safetensors (the words `act` and `out` are then JSON in its metadata): layers `W0,b0 .. Wn,bn`
(y = W x + b), hidden activation `act`, output kind `out`; optionally observation scaling, a Gaussian head and a time
feature. Files with `iters` hold one training run: every array has a leading axis over its snapshots.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from envs.episodes import write_atomically
from envs.shapes import check

Activation = Callable[[np.ndarray], np.ndarray]

ACTIVATIONS: dict[str, Activation] = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0.0)}
SQUASHES: dict[str, Activation] = {
    "tanh": np.tanh,
    "clip": lambda x: np.clip(x, -1.0, 1.0),
    "raw": lambda x: np.clip(x, -1.0, 1.0),
}
OBS_CLIP = 10.0  # where the file has none
EPISODE_STEPS = 1000  # the time feature falls from 1 to 0 over so many
LOG_STD_RANGE = (
    -20.0,
    2.0,
)  # of state-dependent heads, as soft actor-critic trains them; `log_std_low` replaces the first
WORDS = ("act", "out")  # what is not a number


@dataclass(frozen=True, slots=True)
class Gaussian:
    """The spread of sampled actions before squashing: constant (`weight` None) or a head on the last hidden layer."""

    weight: np.ndarray | None  # (A, hidden)
    bias_A: np.ndarray  # log standard deviation, or the bias of its head
    low: float = LOG_STD_RANGE[0]  # a head gives no smaller logarithm

    def std(self, hidden_BH: np.ndarray) -> np.ndarray:
        """Return the standard deviation, (A,) or (B, A)."""
        if self.weight is None:
            return np.exp(self.bias_A)
        return np.exp(np.clip(hidden_BH @ self.weight.T + self.bias_A, self.low, LOG_STD_RANGE[1]))


@dataclass(frozen=True, slots=True)
class Policy:
    """A perceptron from observations to actions in [-1, 1]."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: Activation
    squash: Activation
    mean_I: np.ndarray | float  # input scaling: clip((x - mean) / scale, -clip, clip)
    scale_I: np.ndarray | float
    clip: float
    gaussian: Gaussian | None
    time_feature: bool

    @property
    def observation_size(self) -> int:
        """Length of the observation it expects."""
        return self.weights[0].shape[1] - self.time_feature

    @property
    def action_size(self) -> int:
        """Length of the action it returns."""
        return self.weights[-1].shape[0]

    def act(self, obs_BO: np.ndarray, rng: np.random.Generator | None = None, step: int = 0) -> np.ndarray:
        """Return actions (B, A) in [-1, 1], dtype of the weights; the mean action where `rng` is None.

        `step` counts control steps of the episode and matters only to policies with a time feature.
        Raises ValueError for a wrong shape, or where a policy without a Gaussian head is asked to sample.
        """
        sizes = check("obs_BO", obs_BO, "B O", O=self.observation_size)
        if self.time_feature:
            obs_BO = np.concatenate([obs_BO, np.full((sizes["B"], 1), 1.0 - step / EPISODE_STEPS)], axis=1)
        hidden_BH = np.clip((obs_BO - self.mean_I) / self.scale_I, -self.clip, self.clip)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden_BH = self.activation(hidden_BH @ weight.T + bias)
        mean_BA = hidden_BH @ self.weights[-1].T + self.biases[-1]
        if rng is None:
            return self.squash(mean_BA)
        if self.gaussian is None:
            raise ValueError("this policy has no log_std: it cannot be sampled, only run deterministically")
        return self.squash(mean_BA + self.gaussian.std(hidden_BH) * rng.standard_normal(mean_BA.shape))


def load_policy(path: str | Path, snapshot: int | None = None, dtype: type = np.float64) -> Policy:
    """Return the policy in the file; `snapshot` is the training iteration, for files that hold a ladder of them.

    Raises FileNotFoundError for a missing file and ValueError for a corrupt one or an unknown snapshot.
    """
    file = _read(Path(path))
    arrays = _at_snapshot(file, snapshot, Path(path))
    try:
        return _build(arrays, dtype)
    except KeyError as missing:
        raise ValueError(f"{path} is not a policy file: no entry {missing}") from None


def snapshots(path: str | Path) -> tuple[int, ...]:
    """Return the training iterations that the file holds, empty for a single policy. Raises as `load_policy` does."""
    file = _read(Path(path))
    return tuple(int(i) for i in file["iters"]) if "iters" in file else ()


def write_policies(path: Path, ladder: Mapping[int, Mapping[str, np.ndarray]], act: str, out: str) -> None:
    """Write a safetensors file of snapshots, by training iteration; it is never seen half written."""
    names = next(iter(ladder.values()))
    arrays = {name: np.stack([snapshot[name] for snapshot in ladder.values()]) for name in names}
    write_atomically(
        path, save({"iters": np.array(list(ladder)), **arrays}, {"words": json.dumps({"act": act, "out": out})})
    )


def read_policies(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """Return the arrays of each snapshot of a ladder, by training iteration. Raises as `load_policy` does."""
    file = _read(path)
    words = set(WORDS) | {"iters"}
    return {i: {n: x for n, x in _at_snapshot(file, i, path).items() if n not in words} for i in snapshots(path)}


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"no policy file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is not a readable npz policy file: {' '.join(str(error).split())}") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "numpy") as file:
            said = json.loads((file.metadata() or {}).get("words", "{}"))
            words = {name: np.asarray(said[name]) for name in WORDS if name in said}
            return {name: file.get_tensor(name) for name in file.keys()} | words  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a readable policy file: {' '.join(str(error).split())}") from None


def _at_snapshot(file: Mapping[str, np.ndarray], snapshot: int | None, path: Path) -> dict[str, np.ndarray]:
    """One policy's arrays: rows of a ladder, or the file itself."""
    if "iters" not in file:
        if snapshot is not None:
            raise ValueError(f"{path.name} holds a single policy: snapshot must be None, got {snapshot}")
        return dict(file)
    iters = [int(i) for i in file["iters"]]
    if snapshot not in iters:
        raise ValueError(f"no snapshot {snapshot} in {path.name}; choose from {iters}")
    row = iters.index(snapshot)
    stacked = {n for n, x in file.items() if x.ndim and x.shape[0] == len(iters)}
    return {n: x[row] if n in stacked else x for n, x in file.items()}


def _build(arrays: Mapping[str, np.ndarray], dtype: type) -> Policy:
    depth = sum(name[0] == "W" and name[1:].isdigit() for name in arrays)
    if depth == 0:
        raise KeyError("W0")
    return Policy(
        weights=tuple(arrays[f"W{i}"].astype(dtype) for i in range(depth)),
        biases=tuple(arrays[f"b{i}"].astype(dtype) for i in range(depth)),
        activation=_choose(ACTIVATIONS, str(arrays["act"]), "act"),
        squash=_choose(SQUASHES, str(arrays["out"]), "out"),
        mean_I=arrays["obs_mean"].astype(dtype) if "obs_mean" in arrays else 0.0,
        scale_I=arrays["obs_scale"].astype(dtype) if "obs_mean" in arrays else 1.0,
        clip=_clip(arrays),
        gaussian=_gaussian(arrays, dtype),
        time_feature=bool(arrays.get("time_feature", False)),
    )


def _clip(arrays: Mapping[str, np.ndarray]) -> float:
    return float(arrays.get("obs_clip", OBS_CLIP)) if "obs_mean" in arrays else np.inf


def _gaussian(arrays: Mapping[str, np.ndarray], dtype: type) -> Gaussian | None:
    if "log_std" in arrays:
        return Gaussian(None, arrays["log_std"].astype(dtype))
    if "W_logstd" in arrays:
        low = float(arrays.get("log_std_low", LOG_STD_RANGE[0]))
        return Gaussian(arrays["W_logstd"].astype(dtype), arrays["b_logstd"].astype(dtype), low)
    return None


def _choose(table: Mapping[str, Activation], name: str, field: str) -> Activation:
    if name not in table:
        raise ValueError(f"{field} must be one of {sorted(table)}, got {name!r}")
    return table[name]
