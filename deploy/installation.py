"""Is what is installed what surefoot needs, and is it what answers? Each finding names the mend."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from deploy.findings import Finding, Verdict
from deploy.machine import ROOT

OURS = "surefoot"
NAMES = ("agents", "configs", "deploy", "envs", "planners", "world_models")
"""Our top-level packages."""
CV2 = "opencv-python-headless"
"""The distribution of cv2 that lerobot asks for."""
CODECS: Mapping[str, str] = {"libsvtav1": "w", "libdav1d": "r", "h264": "r"}
"""What PyAV has to write (w) and read (r): the pictures of data sets."""
PLUGINS = tuple(f"lerobot_{kind}_surefoot" for kind in ("env", "policy", "robot", "teleoperator"))


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
        have = version(pin.name)
        if have is None or have not in pin.specifier:
            found.append(f"{pin.name} {have or 'absent'}, not {str(pin.specifier).removeprefix('==')}")
    return found


def version(distribution: str) -> str | None:
    """Return which version is installed, None where none is."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_packages() -> Finding:
    """Return whether what is installed is what requirements.lock says."""
    lock = ROOT / "requirements.lock"
    if not lock.exists():
        return Finding("packages", "no requirements.lock", Verdict.SLOW, "run from a checkout to compare")
    wrong = differing_packages(lock.read_text())
    if wrong:
        return Finding("packages", "; ".join(wrong[:3]), Verdict.FAIL, f"{len(wrong)} differ: run `make setup`")
    return Finding("packages", "as in requirements.lock")


def providers(*names: str) -> list[str]:
    """Return the distributions that say they install one of these top-level modules."""
    claims = metadata.packages_distributions()
    return sorted({owner for name in names for owner in claims.get(name, [])})


def answering(name: str) -> Path | None:
    """Return the folder that `import name` would take, None where there is none."""
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
    return Path(places[0]) if places else None


def check_names(names: Iterable[str] = NAMES) -> Finding:
    """Return whether our own packages answer to their names, and whether another distribution claims one."""
    found = {name: answering(name) for name in names}
    foreign = {name: at for name, at in found.items() if at is None or at.resolve() != (ROOT / name).resolve()}
    rivals = [rival for rival in providers(*found) if rival != OURS]
    uninstall = f"`python -m pip uninstall {' '.join(rivals)}`"
    if foreign:
        seen = "; ".join(f"{name} is {at or 'absent'}" for name, at in foreign.items())
        away = {str(at.parent) for at in foreign.values() if at is not None}
        mend = uninstall if rivals else f"take {', '.join(sorted(away))} off PYTHONPATH" if away else "run `make setup`"
        return Finding("our packages", seen, Verdict.FAIL, f"ours are in {ROOT}: {mend}")
    if rivals:
        return Finding("our packages", f"also in {', '.join(rivals)}", Verdict.FAIL, f"may come first: {uninstall}")
    return Finding("our packages", f"answer from {ROOT}")


def check_cv2() -> Finding:
    """Return whether exactly one distribution provides a cv2 that is whole."""
    owners = providers("cv2")
    others = [owner for owner in owners if owner != CV2]
    exact = f"{CV2}=={have}" if (have := version(CV2)) else CV2
    mend = f"`python -m pip install --force-reinstall --no-deps {exact}`"
    if others:
        first = f"`python -m pip uninstall {' '.join(others)}`, then "
        return Finding("cv2", f"installed by {', '.join(owners)}", Verdict.FAIL, first + mend)
    try:
        import cv2
    except ImportError as error:
        return Finding("cv2", f"cannot be imported: {error}", Verdict.FAIL, mend)
    if not hasattr(cv2, "VideoCapture"):
        return Finding("cv2", "is not whole, as after the removal of another OpenCV", Verdict.FAIL, mend)
    return Finding("cv2", f"{exact.replace('==', ' ')} alone")


def check_codecs(needs: Mapping[str, str] = CODECS) -> Finding:
    """Return whether PyAV writes and reads the pictures of data sets; `needs`: codec -> "w" or "r"."""
    mend = f"`python -m pip install --force-reinstall --no-deps --only-binary av av=={version('av') or '15.1.0'}`"
    try:
        import av.codec
    except ImportError as error:
        return Finding("codecs", f"PyAV cannot be imported: {error}", Verdict.FAIL, mend)
    missing = []
    for name, mode in needs.items():
        try:
            av.codec.Codec(name, "w" if mode == "w" else "r")
        except ValueError:
            missing.append(f"{'encoder' if mode == 'w' else 'decoder'} {name}")
    if missing:
        advice = f"data sets with pictures need it; PyAV was built without: {mend}"
        return Finding("codecs", f"no {', '.join(missing)}", Verdict.SLOW, advice)
    return Finding("codecs", ", ".join(needs))


def check_video() -> Finding:
    """Return whether there is an ffmpeg that writes the video of a run."""
    import imageio_ffmpeg

    mend = "no video.mp4: `python -m pip install --force-reinstall --no-deps imageio-ffmpeg`, unset IMAGEIO_FFMPEG_EXE"
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        encoders = [program, "-hide_banner", "-encoders"]
        done = subprocess.run(encoders, capture_output=True, text=True, timeout=30, check=False)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("video", f"no ffmpeg: {' '.join(str(error).split())}", Verdict.SLOW, mend)
    if "libx264" not in done.stdout:
        return Finding("video", f"{program} has no encoder libx264", Verdict.SLOW, mend)
    return Finding("video", f"libx264, {Path(program).name}")


def check_plugins() -> Finding:
    """Return which of our plug-ins lerobot's programs will find."""
    missing = [name for name in PLUGINS if version(name) is None]
    if missing:
        mend = "`python -m pip install --no-deps " + " ".join(f"./deploy/plugins/{name}" for name in missing) + "`"
        advice = f"lerobot's programs will not know {', '.join(missing)}: `make setup`, or {mend}"
        return Finding("lerobot plug-ins", f"{len(PLUGINS) - len(missing)} of {len(PLUGINS)}", Verdict.SLOW, advice)
    return Finding("lerobot plug-ins", ", ".join(name.split("_")[1] for name in PLUGINS))


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
