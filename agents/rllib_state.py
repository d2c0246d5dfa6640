"""What RLlib has learned, as plain arrays: its state in a safetensors file of ours, and the policy in the format of envs/policies.py.

RLlib's own checkpoints are pickles, and restoring them restores a part without saying so; this keeps networks, optimisers and the
running statistics of observations, and nothing else: episodes that were under way begin anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from envs.episodes import write_atomically

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

POLICY = "default_policy"
FILTER = "MeanStdFilter"
_ACTORS = {"ppo": "encoder.actor_encoder.", "sac": "pi_encoder."}
SAC_LOG_STD_LOW = -5.0
"""RLlib's squashed Gaussian takes no smaller logarithm of the deviation."""


def pack(algorithm: Algorithm) -> dict[str, Any]:
    """Return networks, optimisers, statistics of observations and SAC's temperature: nested dicts and lists of arrays and numbers."""
    state = algorithm.get_state()
    learner = state["learner_group"]["learner"]
    learners: Any = algorithm.learner_group
    kept = {name: learner[name] for name in ("rl_module", "optimizer", "weights_seq_no")}
    return {
        "env_to_module_connector": state["env_runner"]["env_to_module_connector"],
        "learner": kept,
        "log_alpha": next(iter(learners.foreach_learner(_log_alpha))).get(),
    }


def unpack(algorithm: Algorithm, state: Mapping[str, Any]) -> None:
    """Give a fresh algorithm of the same kind what `pack` returned."""
    runner = {"env_to_module_connector": state["env_to_module_connector"]}
    algorithm.set_state({"env_runner": runner, "learner_group": {"learner": state["learner"]}})
    learners: Any = algorithm.learner_group
    if state["log_alpha"] is not None:
        learners.foreach_learner(partial(_set_log_alpha, value=state["log_alpha"]))


def _log_alpha(learner: Any) -> np.ndarray | None:
    alphas = getattr(learner, "curr_log_alpha", None)
    return None if alphas is None else alphas[POLICY].detach().cpu().numpy().copy()


def _set_log_alpha(learner: Any, value: np.ndarray) -> None:
    alpha = learner.curr_log_alpha[POLICY]
    alpha.data.copy_(alpha.data.new_tensor(value))


def policy_arrays(state: Mapping[str, Any], algorithm: str, clip: float) -> tuple[dict[str, np.ndarray], str, str]:
    """Return the actor of a packed state as arrays of a policy file, its hidden activation and its output kind."""
    net = state["learner"]["rl_module"][POLICY]
    layers = [*_layers(net, _ACTORS[algorithm]), *_layers(net, "pi.")]
    last, bias = layers.pop()
    arrays = {f"{kind}{i}": x for i, layer in enumerate(layers) for kind, x in zip("Wb", layer, strict=True)}
    at = len(layers)
    if algorithm == "ppo":
        arrays |= {f"W{at}": last, f"b{at}": bias, "log_std": net["pi.log_std"], **_scaling(state, clip)}
        return _copied(arrays), "tanh", "clip"
    size = len(bias) // 2
    arrays |= {f"W{at}": last[:size], f"b{at}": bias[:size], "W_logstd": last[size:], "b_logstd": bias[size:]}
    return _copied(arrays | {"log_std_low": np.array(SAC_LOG_STD_LOW)}), "relu", "tanh"


def _layers(net: Mapping[str, np.ndarray], prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (weight, bias) of the linear layers under a prefix, first to last."""
    start = f"{prefix}net.mlp."
    numbers = sorted({int(name.removeprefix(start).split(".")[0]) for name in net if name.startswith(start)})
    return [(net[f"{start}{n}.weight"], net[f"{start}{n}.bias"]) for n in numbers]


def _scaling(state: Mapping[str, Any], clip: float) -> dict[str, np.ndarray]:
    """Return what RLlib's filter does to observations; before it has seen two, nothing but the clipping."""
    from ray.rllib.utils.filter import RunningStat
    from ray.rllib.utils.numpy import SMALL_NUMBER

    (seen,) = state["env_to_module_connector"][FILTER].values()
    stat = RunningStat.from_state(seen["running_stats"][0])
    scale = stat.std + SMALL_NUMBER if stat.n > 1 else np.ones_like(stat.mean)
    return {"obs_mean": stat.mean, "obs_scale": scale, "obs_clip": np.array(clip)}


def _copied(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(x, dtype=np.float32, order="C") for name, x in arrays.items()}


def write_state(path: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a packed state, and JSON values about it, as a safetensors file that is never seen half written."""
    arrays: dict[str, np.ndarray] = {}
    said = json.dumps({"tree": _flat(state, arrays), "about": about})
    write_atomically(path, save(arrays, {"state": said}))


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `write_state` wrote. Raises ValueError, in one line, where the file is cut short or no such file."""
    try:
        with safe_open(path, "numpy") as file:
            said = json.loads(file.metadata()["state"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return _deep(said["tree"], arrays), said["about"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable checkpoint: {' '.join(str(error).split())}") from None


def _flat(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return JSON for a nested value, whose arrays go to `arrays`. Keys of dicts may be numbers, so a dict becomes pairs."""
    if isinstance(value, Mapping):
        return {"pairs": [[key, _flat(item, arrays)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flat(item, arrays) for item in value]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
        return {"array": name}
    return value


def _deep(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what `_flat` was given, tuples as lists."""
    if not isinstance(value, dict):
        return value
    if "pairs" in value:
        return {key: _deep(item, arrays) for key, item in value["pairs"]}
    if "list" in value:
        return [_deep(item, arrays) for item in value["list"]]
    return arrays[value["array"]]
