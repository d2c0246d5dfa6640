"""Is this machine fit to run surefoot? One line per finding; the verdict is the exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

import numpy as np
import tyro
from packaging.requirements import InvalidRequirement, Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.clock import Clock, MonotonicClock
from deploy.loop import Pace
from deploy.machine import ROOT, cpu_info, durations_s, gemm_gflops

RENDERERS = ("egl", "osmesa", "glfw")
RENDER_PROBE = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>'); d = mujoco.MjData(m); "
    "r = mujoco.Renderer(m, 16, 16); r.update_scene(d); r.render(); r.close()"
)


class Verdict(Enum):
    """What a finding means."""

    OK = "ok"
    SLOW = "limited"  # everything works, some of it slowly or without pictures
    FAIL = "fails"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was seen, what it means, and what to do about it."""

    name: str
    seen: str
    verdict: Verdict = Verdict.OK
    advice: str = ""


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


def check_python() -> Finding:
    """Return whether the interpreter is the one the lock was made for."""
    wanted = (ROOT / ".python-version").read_text().strip() if (ROOT / ".python-version").exists() else "3.12"
    seen = ".".join(map(str, sys.version_info[:3]))
    good = seen == wanted or seen.startswith(f"{wanted}.")
    if not good:
        return Finding("python", seen, Verdict.FAIL, f"needs {wanted}: run `make setup`")
    return Finding("python", seen)


def differing_packages(lock: str) -> list[str]:
    """Return `name have, not wanted` for each pin of the lock that is absent or of another version."""
    found = []
    for line in lock.splitlines():
        try:
            pin = Requirement(line)
        except InvalidRequirement:
            continue  # a comment or an empty line
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            have = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            have = None
        if have is None or have not in pin.specifier:
            found.append(f"{pin.name} {have or 'absent'}, not {str(pin.specifier).removeprefix('==')}")
    return found


def check_packages() -> Finding:
    """Return whether what is installed is what requirements.lock says."""
    lock = ROOT / "requirements.lock"
    if not lock.exists():
        return Finding("packages", "no requirements.lock", Verdict.SLOW, "run from a checkout to compare")
    wrong = differing_packages(lock.read_text())
    if wrong:
        return Finding("packages", "; ".join(wrong[:3]), Verdict.FAIL, f"{len(wrong)} differ: run `make setup`")
    return Finding("packages", "as in requirements.lock")


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


def check_weights(path: Path) -> Finding:
    """Return whether one file of weights is whole, finite and fits its card."""
    import torch

    from world_models.checkpoint import PARTS, load_part, read_tensors

    name = f"weights {path.parent.name}/{path.stem}"
    try:
        if path.stem in PARTS:
            load_part(path.parent, path.stem)
        tensors = read_tensors(path)
    except (ValueError, KeyError, TypeError) as error:
        return Finding(name, str(error), Verdict.FAIL, "restore it with `git checkout`, or train it again")
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        return Finding(name, f"{broken[0]} is not finite", Verdict.FAIL, "restore it, or train it again")
    return Finding(name, f"{len(tensors)} tensors, {path.stat().st_size / 1e6:.1f} MB")


def check_checkpoints(folder: Path) -> Iterator[Finding]:
    """Yield one finding per file of weights; none at all is a failure, for the walker presets need them."""
    files = sorted(folder.glob("*/*.safetensors"))
    if not files:
        yield Finding("weights", f"none in {folder}", Verdict.FAIL, "run from a checkout, or `surefoot train`")
    yield from map(check_weights, files)


def examine(cfg: DoctorConfig) -> Iterator[Finding]:
    """Yield the findings, cheapest first."""
    cheap: list[Callable[[], Finding]] = [check_python, check_packages, check_cpu, check_gemm, check_simulator]
    for check in cheap:
        yield check()
    if cfg.render:
        yield check_rendering()
    yield check_jitter(cfg)
    yield from check_checkpoints(cfg.checkpoints)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; return 0 where nothing fails, else 1."""
    cfg = tyro.cli(DoctorConfig, args=argv, description=__doc__, prog="surefoot doctor")
    console = Console()
    table = Table("what", "seen", "verdict", "advice", title="surefoot doctor", title_justify="left")
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
