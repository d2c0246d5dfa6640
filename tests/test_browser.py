"""The live page in a real browser, of a run that was started from the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import NAMES, Browser, installed
from tests.visitor import until

ROOT = Path(__file__).resolve().parents[1]
RUN = ("walker", "--view", "web", "--view-port", "0", "--plan-latency", "0.016", "--no-adapt", "--pictures", "none")
CHROMIUM = installed()
LONG_S = 90.0
DRAWN = "[...document.querySelectorAll('canvas')].some(canvas => canvas.width > 0)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed")


@pytest.fixture
def run(tmp_path):
    """A walker that walks until somebody stops it."""
    command = [sys.executable, "deploy/run_agent.py", *RUN, "--max-episodes", "9999", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_the_page_shows_the_robot_and_its_button_stops_it(run, tmp_path):
    said = re.match(r"view: (http://127\.0\.0\.1:\d+) \(token to command: (\S+)\)\n", run.stdout.readline())
    assert said is not None
    where, token = said.groups()
    with Browser(str(CHROMIUM), tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=where)
        assert until(lambda: "surprise" in browser.text, LONG_S)
        assert until(lambda: browser.see("document.getElementById('gauge') !== null"), LONG_S)
        for text in ("RUNNING", "plan age", "tick late", "return", "limited by", "EMERGENCY STOP"):
            assert text in browser.text
        assert until(lambda: browser.see(DRAWN), LONG_S)
        before = browser.text
        assert until(lambda: browser.text != before, LONG_S)  # it is alive
        assert "take over" not in browser.text
        browser.click("input.mantine-TextInput-input")
        browser.type(token)
        assert until(lambda: "take over" in browser.text and "foot_left_joint" in browser.text, LONG_S)
        browser.click("button", "EMERGENCY STOP")
        out, errors = run.communicate(timeout=LONG_S)
    assert run.returncode == 1
    assert "the robot was stopped: estop: web page" in errors
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "estop: web page"
    assert "report:" in out
