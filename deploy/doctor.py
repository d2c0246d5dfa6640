"""Is this machine fit to run surefoot? One line per finding; the verdict is the exit code."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from deploy.clock import Clock, MonotonicClock
from deploy.findings import Finding, Verdict
from deploy.installation import (
    check_checkpoints,
    check_codecs,
    check_cv2,
    check_names,
    check_packages,
    check_plugins,
    check_python,
    check_video,
)
from deploy.loop import Pace
from deploy.machine import ROOT, cpu_info, durations_s, gemm_gflops
from deploy.realtime.priority import FIFO, loop_first

LEAST_GB, LEAST_MB_S = 1.0, 20.0
RENDERERS = ("egl", "osmesa", "glfw")
RENDER_PROBE = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>'); d = mujoco.MjData(m); "
    "r = mujoco.Renderer(m, 16, 16); r.update_scene(d); r.render(); r.close()"
)


@dataclass(frozen=True)
class DoctorConfig:
    """What to look at, and how long."""

    checkpoints: Path = ROOT / "checkpoints"
    """Folder of trained weights."""
    rate_hz: float = 125.0
    """Rate of the schedule whose jitter is measured [Hz]."""
    seconds: float = 2.0
    """How long the jitter is measured [s]."""
    render: bool = True
    """Probe the rendering back ends, each in a process of its own."""
    plans: bool = True
    """Time a plan of each preset that has weights."""
    runs: Path = Path("runs")
    """Folder that runs are written to: its disk is measured."""


def check_cpu() -> Finding:
    """Return the processor and whether it multiplies bfloat16 natively."""
    name, flags = cpu_info()
    seen = f"{name}, {os.cpu_count()} cores"
    if "avx512_bf16" in flags:
        return Finding("processor", f"{seen}, avx512_bf16")
    return Finding("processor", seen, Verdict.SLOW, "no avx512_bf16: plans take 2 to 4 times as long")


def check_gemm() -> Finding:
    """Return matrix throughput and whether bfloat16 pays."""
    single, half = gemm_gflops("float32"), gemm_gflops("bfloat16")
    seen = f"{single:.0f} GFLOP/s fp32, {half:.0f} bf16"
    if half < 1.2 * single:
        return Finding("matrix product", seen, Verdict.SLOW, "bf16 does not pay here: plan in float32")
    return Finding("matrix product", seen)


def check_simulator() -> Finding:
    """Return how many physics steps of the walker one core does in a second."""
    import mujoco

    from envs.robots import make_env

    env = make_env("walker2d")
    env.reset(seed=0)
    inner = env.unwrapped
    model, data = inner.model, inner.data  # pyright: ignore[reportAttributeAccessIssue]
    per_s = 200 / float(np.median(durations_s(lambda: mujoco.mj_step(model, data, 200), 10)))  # pyright: ignore
    env.close()
    seen = f"{per_s / 1000:.0f}k walker2d steps per core-second"
    if per_s < 15_000:
        return Finding("simulator", seen, Verdict.SLOW, "the walker demo will take longer than it should")
    return Finding("simulator", seen)


def renders(backend: str) -> bool:
    """Return whether MuJoCo draws through `backend`, tried in a process of its own: a bad driver may abort it."""
    command = [sys.executable, "-c", RENDER_PROBE]
    env = {**os.environ, "MUJOCO_GL": backend}
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def check_rendering() -> Finding:
    """Return the first back end that draws."""
    working = next((backend for backend in RENDERERS if renders(backend)), None)
    if working is None:
        advice = "no video; for headless drawing install the system's EGL or OSMesa library"
        return Finding("rendering", f"none of {', '.join(RENDERERS)}", Verdict.SLOW, advice)
    return Finding("rendering", f"MUJOCO_GL={working}")


def lateness_s(clock: Clock, period_s: float, seconds: float) -> np.ndarray:
    """Return how late each step of an absolute schedule began [s]."""
    pace = Pace(clock, period_s)
    return np.array([pace.wait(step) for step in range(max(2, round(seconds / period_s)))])


def check_jitter(cfg: DoctorConfig) -> Finding:
    """Return how late ticks begin at the control rate."""
    late_ms = 1e3 * lateness_s(MonotonicClock(), 1 / cfg.rate_hz, cfg.seconds)
    p50, p99 = np.quantile(late_ms, (0.5, 0.99))
    seen = f"late by {p50:.2f} ms (p50), {p99:.2f} ms (p99) at {cfg.rate_hz:g} Hz"
    if p99 > 500 / cfg.rate_hz:
        return Finding("tick jitter", seen, Verdict.SLOW, "over half a period: do not drive a real robot from here")
    return Finding("tick jitter", seen)


def check_priority() -> Finding:
    """Return whether the control loop may go before everything that is not real time."""
    said: list[str] = []
    trial = threading.Thread(target=lambda: said.append(loop_first()))  # which takes its priority with it
    trial.start()
    trial.join()
    if said[0].startswith("SCHED_FIFO"):
        return Finding("real time", said[0])
    line = f"'{getpass.getuser()} - rtprio {FIFO}'"
    advice = f"ticks are late under load: add {line} to /etc/security/limits.conf and log in again, until `ulimit -r` says {FIFO}"
    return Finding("real time", said[0], Verdict.SLOW, f"{advice} (a container: --ulimit rtprio={FIFO})")


def check_gpu() -> Finding:
    """Return which GPU there is; plans are made on the CPU."""
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "none: planning on the CPU")
    memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Finding("GPU", f"{torch.cuda.get_device_name(0)}, {memory_gib:.0f} GiB, not used: planning on the CPU")


def write_mb_s(folder: Path, megabytes: int = 32) -> float:
    """Return the MB/s at which a temporary file reaches the disk. Raises OSError where it cannot be written."""
    block = os.urandom(1_000_000)
    with tempfile.TemporaryFile(dir=folder) as file:
        began_s = time.perf_counter()
        for _ in range(megabytes):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return megabytes / (time.perf_counter() - began_s)


def judge_disk(free_gb: float, mb_s: float) -> Finding:
    """Return what so much free space [GB] and such a rate [MB/s] mean for recording."""
    seen, advice = f"{free_gb:.1f} GB free, writes {mb_s:.0f} MB/s", []
    if free_gb < LEAST_GB:
        advice.append("make room: recording ends where the disk is full")
    if mb_s < LEAST_MB_S:
        advice.append("too slow for pictures: record onto another disk")
    return Finding("disk", seen, Verdict.SLOW if advice else Verdict.OK, "; ".join(advice))


def check_disk(runs: Path) -> Finding:
    """Return whether runs can be written where they go, for how long and how fast."""
    folder = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.is_dir())
    try:
        return judge_disk(shutil.disk_usage(folder).free / 1e9, write_mb_s(folder))
    except OSError as error:
        advice = "make room, or run from a folder that may be written"
        return Finding("disk", f"{folder} cannot be written: {error.strerror}", Verdict.FAIL, advice)


def check_serial(devices: Path = Path("/dev")) -> Finding:
    """Return which serial ports there are, where an arm or a leader is plugged in, and whether they may be opened."""
    ports = sorted(port for pattern in ("ttyACM*", "ttyUSB*") for port in devices.glob(pattern))
    effective = os.access in os.supports_effective_ids
    closed = [port for port in ports if not os.access(port, os.R_OK | os.W_OK, effective_ids=effective)]
    if not closed:
        return Finding("serial ports", ", ".join(map(str, ports)) or "none")
    names = ", ".join(map(str, closed))
    join = f"`sudo usermod -aG {group_of(closed[0])} {getpass.getuser()}`, then log in again"
    return Finding("serial ports", f"{names} may not be opened", Verdict.SLOW, join)


def group_of(port: Path) -> str:
    """Return the group that may open a serial port: its own, or what Debian calls it."""
    try:
        group = port.group()
    except (OSError, KeyError):
        return "dialout"
    return "dialout" if group == "root" else group


def examine(cfg: DoctorConfig) -> Iterator[Finding]:
    """Yield the findings, cheapest first. Where our names belong to others, what they stand for is not looked at."""
    yield check_python()
    names = check_names()
    yield names
    if names.verdict is not Verdict.OK:
        return
    from configs.presets import PRESETS
    from deploy.throughput import check_plans

    cheap: list[Callable[[], Finding]] = [check_packages, check_cv2, check_codecs, check_video, check_plugins]
    cheap += [check_cpu, check_gpu, check_priority, check_serial, check_gemm, check_simulator]
    for check in cheap:
        yield check()
    yield check_disk(cfg.runs)
    if cfg.render:
        yield check_rendering()
    yield check_jitter(cfg)
    yield from check_checkpoints(cfg.checkpoints)
    if cfg.plans:
        yield from check_plans(preset for _, preset in PRESETS.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; return 0 where nothing fails, else 1."""
    cfg = tyro.cli(DoctorConfig, args=argv, description=__doc__, prog="surefoot doctor")
    console = Console()
    # nothing is cut off: paths are to be copied
    columns = [Column(name, overflow="fold") for name in ("what", "seen", "verdict", "advice")]
    table = Table(*columns, title="surefoot doctor", title_justify="left")
    colours = {Verdict.OK: "green", Verdict.SLOW: "yellow", Verdict.FAIL: "red"}
    findings = []
    with console.status("looking"):
        for finding in examine(cfg):
            findings.append(finding)
            word = f"[{colours[finding.verdict]}]{finding.verdict.value}[/]"
            table.add_row(escape(finding.name), escape(finding.seen), word, escape(finding.advice))
    console.print(table)
    failed, limited = (
        ", ".join(finding.name for finding in findings if finding.verdict is verdict)
        for verdict in (Verdict.FAIL, Verdict.SLOW)
    )
    console.print(f"not fit: {failed}" if failed else f"fit, limited by {limited}" if limited else "fit")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
