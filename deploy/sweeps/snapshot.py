"""The code that a sweep runs: copied once, so that an edit changes no trial, and a node needs no checkout."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from deploy.telemetry import ROOT, commit

PACKAGES = ("envs", "world_models", "planners", "agents", "deploy", "configs")
WEIGHTS = "checkpoints"
LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info")


def code_commit() -> str:
    """Return the commit, and where files differ from it also what they are: `0123456789ab+89abcdef`."""
    name = commit()
    return (
        name if name != "unknown" and not name.endswith("+") else f"{name}{'' if name.endswith('+') else '+'}{digest()}"
    )


def digest() -> str:
    """Return eight hexadecimal digits of all files of the packages."""
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted(path for path in (ROOT / package).rglob("*") if path.is_file()):
            if path.suffix != ".pyc":
                total.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()[:8]


def take(folder: Path) -> None:
    """Copy packages and weights to `folder`, which is there whole or not at all."""
    if folder.exists():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in (*PACKAGES, WEIGHTS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, part / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    part.rename(folder)
