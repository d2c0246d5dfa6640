"""The wheel contains every package and module of the application, nothing else, and all of it imports."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["envs", "world_models", "planners", "agents", "deploy", "configs"]
PLUGINS = ROOT / "deploy/plugins"  # distributions of their own


def modules() -> list[str]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).glob("**/*.py"))]
    paths = [path.relative_to(ROOT) for path in found if not path.is_relative_to(PLUGINS)]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def run(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the tracked kinds of file, so that an old build folder cannot fill the gaps."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ["pyproject.toml", "requirements.in", "README.md", "LICENSE", *PACKAGES, "tests"]:
        (source / name).symlink_to(ROOT / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    run(*uv, "--no-deps", "--target", str(target), str(wheel), cwd=target)
    return target


def test_every_module_is_in_the_wheel_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    inside = {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in names if name.endswith(".py")
    }
    assert inside == set(modules())
    assert {name.split("/")[0] for name in names} <= set(PACKAGES)


def test_the_wheel_carries_its_licence_and_may_not_be_uploaded(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("/METADATA"))
    assert "Classifier: Private :: Do Not Upload" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_every_module_imports_from_the_installed_wheel(installed):
    """-P and the empty working folder keep the checkout out; the target stands before its editable install."""
    code = f"""
import importlib, sys
for name in {modules()!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(installed)!r}), module.__file__
print("all", len({modules()!r}))
"""
    printed = run(sys.executable, "-P", "-c", code, cwd=installed, PYTHONPATH=str(installed))
    assert printed == f"all {len(modules())}\n"


def test_the_smoke_preset_runs_from_the_installed_wheel(installed, tmp_path):
    from configs.presets import PRESETS

    assert "smoke" in PRESETS
    command = [sys.executable, "-P", "-m", "deploy.run_agent", "smoke"]
    run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert next((tmp_path / "runs").glob("*-smoke/summary.json")).exists()
