"""Ray, which is only who runs things: started on this machine, or joined, with our code brought to every node."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.sweeps.snapshot import take
from deploy.sweeps.spec import Resources

STORE_BYTES = 80_000_000
"""Of shared memory for Ray's objects, of which we send hardly any; less is not allowed."""
AHEAD = 4
"""Tasks beyond the room that there is, which a cluster that grows by demand sees waiting."""


def usable_cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def connected(address: str | None, code: Path, cpus: float | None = None) -> Iterator[None]:
    """Be a driver of the cluster at `address`, or of one that is started here for `cpus` processors and ends with the block.

    Raises ConnectionError, in one line, where there is no cluster.
    """
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
    }
    if address is None:
        quiet["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on any system: Ray then listens on loopback only
    for name, value in quiet.items():  # read when ray is imported
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import RayError

    here: dict[str, Any] = {}
    if address is None:
        here = {"num_cpus": cpus or usable_cpus(), "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        with _signals_kept():
            ray.init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"working_dir": str(code)},
                **here,
            )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        said = " ".join(str(error).split())
        raise ConnectionError(f"no Ray cluster at {address or 'this machine'}: {said:.200}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what signals do: Ray would end a driver at SIGTERM, before it can write anything down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def scattered[X, T](make: Callable[[X], T], work: Sequence[X], address: str) -> Iterator[T]:
    """Yield what `make` returns for each piece of work, in order, made on the nodes; what a lost node had is made again.

    Raises what `make` raises, ConnectionError where the cluster is gone.
    """

    def one(piece: X) -> T:  # Ray takes functions only, and a partial is none
        return make(piece)

    with tempfile.TemporaryDirectory(prefix="surefoot-code-") as folder:
        take(Path(folder) / "code")
        with connected(address, Path(folder) / "code"):
            import ray
            from ray.exceptions import RayError, RayTaskError

            task: Any = ray.remote(num_cpus=1, max_retries=3)(one)
            left, waiting = iter(work), deque[Any]()
            while True:
                ahead = slots(Resources()) + AHEAD - len(waiting)
                waiting.extend(task.remote(piece) for piece in itertools.islice(left, max(0, ahead)))
                if not waiting:
                    return
                try:
                    yield ray.get(waiting.popleft())
                except RayTaskError as error:
                    raise error.cause from None
                except RayError as error:
                    raise ConnectionError(f"the Ray cluster failed: {' '.join(str(error).split()):.200}") from None


def remote(function: Callable[..., Any], resources: Resources) -> Any:
    """Return the function as a task that Ray never repeats by itself; `.remote(...)` starts it where so much is free."""
    import ray

    asked: dict[str, Any] = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus, "max_retries": 0}
    if resources.memory_gb is not None:
        asked["memory"] = int(resources.memory_gb * 1e9)
    return ray.remote(**asked)(function)


def this_node() -> str:
    """Return the name of the node that a task runs on."""
    import socket

    import ray

    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"


def slots(resources: Resources) -> int:
    """Return how many trials the nodes that are there have room for."""
    import ray

    rooms = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            asked = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": (resources.memory_gb or 0) * 1e9}
            rooms += int(min(has.get(name, 0) / need for name, need in asked.items() if need > 0))
    return rooms
