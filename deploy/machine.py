"""What this machine is and what it can do: recorded beside every timing, judged by `surefoot doctor`."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import dtype

ROOT = Path(__file__).resolve().parents[1]
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def cpu_info() -> tuple[str, frozenset[str]]:
    """Return the processor's name and its instruction flags; the flags are empty where /proc does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine(), frozenset()
    rows = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in rows.items()}
    return fields.get("model name", platform.machine()), frozenset(fields.get("flags", "").split())


def describe_machine() -> dict[str, object]:
    """Return what a reader of a measured time has to know, as JSON values."""
    import torch

    name, flags = cpu_info()
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "features": [feature for feature in CPU_FEATURES if feature in flags],
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch use n threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def durations_s(work: Callable[[], object], repeats: int, warmup: int = 3) -> np.ndarray:
    """Return how long each of `repeats` calls took [s], after `warmup` calls that are not counted."""
    for _ in range(warmup):
        work()
    taken_N = np.empty(repeats)
    for index in range(repeats):
        start = time.perf_counter()
        work()
        taken_N[index] = time.perf_counter() - start
    return taken_N


def gemm_gflops(kind: Literal["float32", "bfloat16"], size: int = 1024, repeats: int = 10) -> float:
    """Return the GFLOP/s of a square matrix product, median over the repeats: a yardstick across machines."""
    import torch

    dtypes: dict[str, dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(dtypes[kind]) for _ in range(2))
    return float(2e-9 * size**3 / np.median(durations_s(lambda: left @ right, repeats)))


def mlp_rollout_ms(candidates: int = 256, steps: int = 16, width: int = 256, repeats: int = 20) -> float:
    """Return the median milliseconds of rolling out a plain fp32 MLP (17 states, 6 actions, 2 hidden layers)."""
    import torch

    state, action = 17, 6
    generator = torch.Generator().manual_seed(0)
    sizes = [state + action, width, width, state]
    weights = [torch.randn(i, o, generator=generator) / i**0.5 for i, o in itertools.pairwise(sizes)]
    actions_HSA = torch.randn(steps, candidates, action, generator=generator)

    def rollout() -> torch.Tensor:
        z_SD = torch.zeros(candidates, state)
        for actions_SA in actions_HSA:
            hidden = torch.cat([z_SD, actions_SA], dim=1)
            for weight in weights[:-1]:
                hidden = torch.relu(hidden @ weight)
            z_SD = z_SD + 0.1 * torch.tanh(hidden @ weights[-1])
        return z_SD

    with torch.inference_mode():
        return float(1e3 * np.median(durations_s(rollout, repeats)))
