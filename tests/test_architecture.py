"""Which way imports point, what an import may do, and what may be known where: fails the build, is not advice."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["envs", "world_models", "planners", "agents", "deploy", "configs"]
ENTRY_POINTS = "deploy/"  # the shell picks presets; nothing below it may
HEAVY = {"mujoco", "matplotlib", "lerobot", "wandb", "cv2"}
CORE = ["envs.types", "planners.base", "planners.cem", "agents.surprise", "deploy.loop"]


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).glob("**/*.py"))]


def imported_modules(source: str) -> set[str]:
    """Every module named by an import, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def packages_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path.read_text())}


def forbidden_imports(package: str, imported: set[str]) -> set[str]:
    right = set(ORDER[ORDER.index(package) + 1 :])
    if package == "deploy":
        right -= {"configs"}
    if package == "planners":
        right |= {"world_models"}
    return imported & (right | {"tests", "benchmarks"})


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_left(package):
    bad = {
        path.relative_to(ROOT).as_posix(): wrong
        for path in sources(package)
        if (wrong := forbidden_imports(package, packages_imported(path)))
    }
    assert bad == {}


def test_the_import_rule_catches_what_it_should():
    assert forbidden_imports("planners", {"world_models", "envs"}) == {"world_models"}
    assert forbidden_imports("agents", {"deploy", "configs", "planners"}) == {"deploy", "configs"}
    assert forbidden_imports("deploy", {"configs", "tests"}) == {"tests"}
    assert imported_modules("def f():\n    from deploy.loop import x\n    import configs.presets") == {
        "deploy.loop",
        "configs.presets",
    }


def reads_configs(path: Path) -> bool:
    return "configs" in packages_imported(path)


def test_only_entry_points_of_deploy_import_configs():
    """An entry point is a file with a `main`, or a plug-in, which another's `main` calls: what it calls gets the values, never
    the presets."""
    defines_main, plugins = "\ndef main(", ROOT / "deploy/plugins"
    inner = [p for p in sources("deploy") if defines_main not in p.read_text() and not p.is_relative_to(plugins)]
    bad = [p.name for p in inner if reads_configs(p)]
    assert bad == []


def test_imports_are_absolute():
    relative = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources(*ORDER, "benchmarks", "tests")
        for name in imported_modules(path.read_text())
        if name.startswith(".")
    ]
    assert relative == []


def test_no_import_path_is_written_in_a_string():
    dynamic = [
        path.relative_to(ROOT).as_posix()
        for path in sources(*ORDER)
        if imported_modules(path.read_text()) & {"importlib", "pkgutil"} or "__import__" in path.read_text()
    ]
    assert [
        path for path in dynamic if path != "deploy/installation.py"
    ] == []  # it asks what is there, imports nothing


@pytest.mark.parametrize("package", ["agents", "world_models", "planners"])
def test_what_a_fault_did_to_the_action_is_unknown_to(package):
    """Otherwise surprise would leak: the robot may only know what it sent."""
    leaks = [path.relative_to(ROOT).as_posix() for path in sources(package) if "action_applied" in path.read_text()]
    assert leaks == []


def run_python(code: str) -> None:
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_importing_the_core_changes_neither_environment_nor_random_state():
    run_python(f"""
import os, random, sys
import numpy, torch
def state():
    numbers = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
    return dict(os.environ), torch.get_num_threads(), numbers
before = state()
for name in {ORDER + CORE!r}:
    __import__(name)
assert state() == before
""")


def test_importing_loads_no_simulator_and_no_plots():
    run_python(f"""
import sys
for name in {[*CORE, "deploy.cli", "agents.build", "configs.presets"]!r}:
    __import__(name)
    loaded = {HEAVY!r} & set(sys.modules)
    assert not loaded, f"import {{name}} loads {{sorted(loaded)}}"
""")
