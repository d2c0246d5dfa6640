"""The size of files and functions, silence of the core, honest error handling, and a README whose commands exist."""

import ast
import re
import shlex
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["envs", "world_models", "planners", "agents", "deploy", "configs"]
SOURCES = [path for package in [*PACKAGES, "benchmarks"] for path in sorted((ROOT / package).glob("**/*.py"))]
TESTS = sorted((ROOT / "tests").glob("**/*.py"))
MAX_FILE, MAX_FUNCTION, MAX_MEDIAN_FUNCTION = 400, 60, 10
SPEAKERS = ("deploy/", "benchmarks/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(source: str) -> list[Function]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def is_blanket(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds
    )


def blanket_handlers(source: str) -> list[int]:
    handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)]
    return [handler.lineno for handler in handlers if is_blanket(handler)]


def is_main(node: ast.AST) -> bool:
    named = isinstance(node, Function) and node.name == "main"
    return named or (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))


def prints(node: ast.AST) -> list[int]:
    calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [func.lineno for func in calls if isinstance(func, ast.Name) and func.id == "print"]


def prints_outside_main(source: str) -> list[int]:
    """Line numbers of `print(` that stand neither in a function `main` nor under `if __name__ == "__main__"`."""
    tree = ast.parse(source)
    allowed = {line for node in ast.walk(tree) if is_main(node) for line in prints(node)}
    return [line for line in prints(tree) if line not in allowed]


def unannotated(function: Function) -> list[str]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
    return names + (["return"] if function.returns is None else [])


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_is_no_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name_of)
def test_functions_are_no_longer_than_60_lines(path):
    assert [(f.name, length(f)) for f in functions(path.read_text()) if length(f) > MAX_FUNCTION] == []


def test_the_median_function_is_short():
    lengths = [length(f) for path in SOURCES for f in functions(path.read_text())]
    assert statistics.median(lengths) <= MAX_MEDIAN_FUNCTION


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name_of)
def test_no_handler_catches_everything(path):
    assert blanket_handlers(path.read_text()) == []


@pytest.mark.parametrize("path", [p for p in SOURCES if not name_of(p).startswith(SPEAKERS)], ids=name_of)
def test_the_core_does_not_print(path):
    assert prints_outside_main(path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_parameter_is_annotated(path):
    missing = {f.name: names for f in functions(path.read_text()) if (names := unannotated(f))}
    assert missing == {}


def test_assertions_call_nothing_that_writes():
    """Under `python -O` an assert vanishes with the work inside it; assignments there are the readable sign of it."""
    bad = [
        (name_of(path), node.lineno)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and any(isinstance(n, ast.NamedExpr | ast.Await) for n in ast.walk(node.test))
    ]
    assert bad == []


def test_the_rules_catch_what_they_should():
    assert blanket_handlers("try:\n    pass\nexcept (ValueError, Exception):\n    pass") == [3]
    assert blanket_handlers("try:\n    pass\nexcept:\n    pass") == [3]
    assert prints_outside_main("def f():\n    print(1)\n\ndef main():\n    print(2)") == [2]
    assert [f.name for f in functions("async def f(): ...\nclass A:\n    def g(self): ...")] == ["f", "g"]
    assert unannotated(functions("def f(a, b: int, *, c): ...")[0]) == ["a", "c", "return"]


# --- words: what the documentation names exists

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASH_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands(markdown: str) -> list[list[str]]:
    """The words of each command in the ```bash blocks; comments and continuation lines are folded away."""
    text = "\n".join(BASH_BLOCK.findall(markdown)).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def documented(program: str, *prefix: str) -> set[str]:
    """Every word that follows `program prefix...` in the documentation."""
    head = [program, *prefix]
    found = [words for path in DOCS for words in commands(path.read_text())]
    return {words[len(head)] for words in found if words[: len(head)] == head and len(words) > len(head)}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_readme_names_the_two_commands_first():
    shown = commands((ROOT / "README.md").read_text())
    assert ["make", "run"] in shown[:3]
    assert ["make", "test"] in shown[:3]


def test_every_documented_make_target_exists():
    assert {"setup", "run", "test", "check", "bench", "clean", "lock"} <= make_targets()
    assert documented("make") - make_targets() == set()


def test_every_documented_benchmark_exists():
    for module in documented("python", "-m"):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_every_documented_surefoot_verb_exists():
    from deploy.cli import COMMANDS

    assert documented("surefoot") - set(COMMANDS) == set()


def documented_runs() -> list[list[str]]:
    heads = (["python", "deploy/run_agent.py"], ["surefoot", "run"])
    found = [words for path in DOCS for words in commands(path.read_text()) if words[:2] in heads]
    return [words[2:] for words in found]


@pytest.mark.parametrize("args", documented_runs(), ids=" ".join)
def test_every_documented_run_is_accepted_with_its_preset_options_and_faults(args):
    from configs.presets import PRESETS
    from deploy.commandline import resolve
    from deploy.live import take_company
    from deploy.robots.sim import make_robot

    make_robot(resolve(take_company(args, "--operator")[1], PRESETS, "surefoot run"))


def test_every_test_file_that_the_documentation_relies_on_exists():
    named = {name for path in DOCS for name in re.findall(r"`(tests/\w+\.py)`", path.read_text())}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert named


def test_every_local_link_in_the_documentation_leads_somewhere():
    links = [
        (path, target)
        for path in DOCS
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
        if not (path.parent / target).exists()
    ]
    assert [(name_of(path), target) for path, target in links] == []
