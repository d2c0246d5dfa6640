"""`surefoot goals serve`: what it refuses, in one line, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from deploy.cli import main as surefoot
from deploy.goal_service.limits import Bucket, Limits, check_json, is_loopback
from deploy.goal_service.problems import ProblemError
from deploy.goal_service.serve import TOKEN_VARIABLE, ServeConfig, bound, main, token_of
from tests.tiny_models import save_llama

ROOT = Path(__file__).resolve().parents[1]


def test_without_a_token_no_address_but_loopback_is_served(capsys, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.2", "robot.local"):
        assert main(["serve", "--host", host]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: --host {host} can be reached from elsewhere")
        assert said.count("\n") == 1
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
        assert token_of(ServeConfig(host=host), {}) is None


def test_a_token_comes_from_the_environment_or_a_file_and_is_not_easily_guessed(tmp_path):
    long, file = "x" * 40, tmp_path / "token"
    file.write_text(f"{long}2\n")
    assert token_of(ServeConfig(host="::"), {TOKEN_VARIABLE: long}) == long
    assert token_of(ServeConfig(host="::", token_file=file), {TOKEN_VARIABLE: long}) == f"{long}2"
    for bad in ("", "short", "with a space in it ", "ä" * 40, "x" * 20 + "\0"):
        with pytest.raises(ValueError, match="a token has 16 or more"):
            token_of(ServeConfig(), {TOKEN_VARIABLE: bad})
    with pytest.raises(ValueError, match="cannot be read"):
        token_of(ServeConfig(token_file=tmp_path / "none"), {})


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["serve", "--prt", "1"], "Unrecognized options: --prt"),
        (["serve", "--port", "70000"], "port must be between 0 and 65535, got 70000"),
        (["serve", "--cert", "x.pem"], "https needs both --cert and --key"),
        (["serve", "--limits.rate", "0"], "rate must be > 0 and finite, got 0"),
        (["serve", "--token", "secret"], "Unrecognized options: --token"),
        (["serve", "--port", "0", "--model", "/nowhere"], "no model at /nowhere"),
        (["srve"], "no command 'goals srve'"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(capsys, args, said):
    assert surefoot(["goals", *args]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.startswith("error: ")
    assert found.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with bound("127.0.0.1", 0) as place:
        place.listen()
        port = place.getsockname()[1]
        assert main(["serve", "--port", str(port), "--model", "/nowhere"]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot serve at 127.0.0.1:{port}")


def test_a_client_may_ask_as_often_as_the_rate_says():
    now = 0.0
    bucket = Bucket(rate=2.0, burst=3.0, clock=lambda: now)
    assert [bucket.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take("b") == 0
    now = 0.5
    assert [bucket.take("a"), bucket.take("a")] == [0, 0.5]
    now = 100.0
    assert [bucket.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    served = 0
    for tick in range(1, 1001):
        now = 100.0 + tick / 100
        served += bucket.take("a") == 0
    assert served == 20


def test_many_clients_take_no_more_memory():
    bucket = Bucket(rate=1.0, burst=1.0, clock=lambda: 0.0)
    for number in range(10_000):
        bucket.take(str(number))
    assert len(bucket._left) == 4096


def test_depth_is_counted_outside_of_texts():
    check_json(b'{"a": "[[[[[[[[ \\" [[[[", "b": [[]]}', depth=3)
    with pytest.raises(ProblemError, match="nested more than 2 deep"):
        check_json(b'{"a": "[[[[[[[[ \\" [[[[", "b": [[]]}', depth=2)
    began = time.monotonic()
    with pytest.raises(ProblemError):
        check_json(b'"' + b'\\"' * 130_000, depth=3)
    assert time.monotonic() - began < 0.5


def test_limits_must_be_sizes():
    with pytest.raises(ValueError, match="body_bytes must be > 0 and finite, got 0"):
        Limits(body_bytes=0)


def test_a_signal_ends_the_process_and_what_it_was_doing(tmp_path):
    folder = save_llama(tmp_path / "tiny")
    command = [sys.executable, "-m", "deploy.goal_service.serve", "serve", "--model", str(folder)]
    command += ["--kind", "fp32", "--context", "512", "--port", "0", "--grace-s", "0.3", "--verify-floor-s", "0.02"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = None
            while url is None and (line := process.stderr.readline()):
                url = re.search(r"http://[\d.:]+", line)
            assert url is not None
            asked = {"prompt": "walk", "max_tokens": 400, "temperature": 0, "stream": True, "mode": "ar"}
            with httpx.stream("POST", f"{url.group()}/v1/completions", json=asked, timeout=20) as reply:
                lines = reply.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                rest = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
            assert rest[-1]["error"]["code"] == "shutting_down"
            assert process.wait(10) == 0
            assert time.monotonic() - began < 5
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
