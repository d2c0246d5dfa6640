"""One thread per test process: xdist already uses the cores, and threads that wait for each other would double the time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture
def injected(request):
    """Count injected faults and the commands that the plant saw; fail where one of these was not legal."""

    def count(faults: int, commands: int, violations: list[str]) -> None:
        request.node.user_properties.append(("injected", [faults, commands, len(violations)]))
        assert violations == []

    return count


@pytest.fixture
def compared(request):
    """Count texts that were decoded in one way and compared with one by one."""
    return lambda texts: request.node.user_properties.append(("compared", texts))


def pytest_terminal_summary(terminalreporter):
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "when", "") == "call"]
    told = [pair for report in reports for pair in report.user_properties]
    texts = [value for name, value in told if name == "compared"]
    if texts:
        said = f"{len(texts)} combinations of mode, drafter, lookahead and sampling, {sum(texts)} texts as one by one"
        terminalreporter.write_line(f"lossless decoding: {said}")
    rows = [value for name, value in told if name == "injected"]
    if rows:
        faults, commands, violations = map(sum, zip(*rows, strict=True))
        said = f"{faults} faults tried, {commands} commands seen by the plant, {violations} violations"
        terminalreporter.write_line(f"fault injection: {said}")
