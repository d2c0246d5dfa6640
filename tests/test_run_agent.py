"""The commands themselves: what they leave behind, and what they say to bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from configs.presets import PRESETS
from deploy.cli import main as surefoot
from deploy.commandline import resolve
from deploy.config import from_yaml, option_names, to_yaml
from deploy.records import read_episodes
from deploy.run_agent import main

ROOT = Path(__file__).resolve().parents[1]
BASES = {name: cfg for name, (_, cfg) in PRESETS.items()}
SHORT = ["--max-episodes", "3"]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "full"
    assert main(["smoke", *SHORT, "--seed", "3", "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_everything_behind(full):
    names = {"config.yaml", "events.jsonl", "timings.jsonl", "summary.json", "report.html", "video.mp4", "poses.npz"}
    assert names <= {path.name for path in full.iterdir()}
    summary = json.loads((full / "summary.json").read_text())
    assert summary["status"] == "ok"
    assert (summary["preset"], summary["seed"], summary["fault_s"]) == ("smoke", 3, 4.0)
    assert list(summary["phases"]) == ["healthy", "broken", "adapted"]
    assert [summary["phases"][p]["episodes"] for p in summary["phases"]] == [1, 1, 0]
    assert summary["plan_age_ms"]["p50"] == 100.0
    assert summary["false_alarms"] == 0
    assert not list(full.glob(".*"))


def test_the_control_arm_is_the_same_robot_from_the_same_seeds(full):
    """The point mass is never adapted, so that both arms must agree to the last byte."""
    assert (full / "control" / "events.jsonl").read_bytes() == (full / "events.jsonl").read_bytes()


def test_the_same_preset_seed_and_latencies_give_the_same_events_byte_for_byte(full, tmp_path):
    again = tmp_path / "again"
    args = ["smoke", *SHORT, "--seed", "3", "--no-control-arm", "--pictures", "none", "--out", str(again)]
    assert main(args) == 0
    assert (again / "events.jsonl").read_bytes() == (full / "events.jsonl").read_bytes()
    assert not (again / "video.mp4").exists()


def test_the_saved_config_runs_again(full, tmp_path):
    out = tmp_path / "out"
    args = ["--config", str(full / "config.yaml"), "--no-control-arm", "--pictures", "none", "--out", str(out)]
    assert main(args) == 0
    assert (out / "events.jsonl").read_bytes() == (full / "events.jsonl").read_bytes()


def test_the_log_holds_the_three_actions_apart(full):
    with (full / "events.jsonl").open() as lines:
        last = read_episodes(lines)[-1]
    assert (last.sent_TA == last.requested_TA).all()
    assert last.applied_TA[1:, 0] == pytest.approx(0.5 * last.sent_TA[1:, 0], rel=1e-6)


def test_a_last_line_that_was_cut_short_is_left_out(full):
    with (full / "events.jsonl").open() as lines:
        texts = list(lines)
    assert len(read_episodes([*texts, texts[-1][:100]])) == len(read_episodes(texts)) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_being_written_and_read(name):
    text = to_yaml(BASES[name])
    assert from_yaml(text, BASES, "file") == BASES[name]
    assert yaml.safe_load(text)["preset"] == name


@pytest.mark.parametrize("name", PRESETS)
def test_every_option_that_is_offered_as_a_near_miss_exists(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([name, "--help"]) == 0
    listed = set(re.findall(r"--[a-z][a-z0-9.-]*", capsys.readouterr().out))
    assert {o for o in option_names(BASES[name]) if o not in ("--preset", "--robot")} <= listed


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["smok"], "no preset 'smok'; choose from"),
        (["smoke", "--sead", "3"], "no option '--sead'; near misses: --seed"),
        (["smoke", "--agent.planner.elits", "3"], "--agent.planner.elites"),
        (["smoke", "--seed", "x"], "--seed"),
        (["smoke", "--seed", "-1"], "seed must be >= 0, got -1"),
        (["smoke", "--plan-every", "0"], "plan_every must be >= 1, got 0"),
        (["smoke", "--plan-latency", "nan"], "plan_latency_s must be >= 0"),
        (["smoke", "--agent.planner.elites", "1"], "elites must be >= 2, got 1"),
        (["smoke", "--faults", "gremlin:all:1@0"], "gremlin"),
        (["smoke", "--faults", "actuator_gain:ankle:0.5@0"], "ankle"),
        (["smoke", "--faults", "nonsense"], "nonsense"),
        (["smoke", "--objective", "height:1.2"], "height"),
        (["smoke", "--objective", "joy:1"], "joy"),
        (["smoke", "--version", "v9"], "v9"),
        (["smoke", "--view", "web", "--view-port", "70000"], "view_port must be between 0 and 65534, got 70000"),
        (["smoke", "--view", "rerun", "--view-port", "0"], "view_port must be between 1 and 65534, got 0"),
        (["smoke", "--view-out", "a.rrd"], "view_out is a file .rrd for --view rerun, got a.rrd for --view none"),
        (["smoke", "--view", "web", "--view-host", "192.0.2.1"], "port 8080 of 192.0.2.1 cannot be had"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--config"], "--config needs a file"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("preset: smok", "needs preset"),
        ("- 1", "needs preset"),
        ("{preset: smoke, sead: 1}", "no setting 'sead'; near misses: ['seed'"),
        ("{preset: smoke, seed: many}", "seed must be int, got 'many'"),
        ("{preset: smoke, plan_every: 0}", "plan_every must be >= 1"),
        ("{preset: smoke, agent: 3}", "agent has settings of its own"),
        ("{preset: smoke, plan_latency_s: soon}", "plan_latency_s"),
    ],
)
def test_a_bad_config_file_gets_one_line(text, said):
    with pytest.raises(ValueError, match=r"my\.yaml") as error:
        from_yaml(text, BASES, "my.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_a_run_is_not_written_into(full, capsys):
    before = (full / "summary.json").read_bytes()
    assert main(["smoke", "--out", str(full)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (full / "summary.json").read_bytes() == before


def test_faults_on_the_command_line_replace_the_presets():
    cfg = resolve(["smoke", "--faults", "actuator_gain:all:0.1@2", "mass:all:2@3", "--seed", "4"], PRESETS, "x")
    assert cfg.faults == ("actuator_gain:all:0.1@2", "mass:all:2@3")
    assert cfg.seed == 4
    assert resolve(["smoke", "--faults"], PRESETS, "x").faults == ()


@pytest.mark.parametrize("args", [["--help"], ["smoke", "--help"]])
def test_help_lists_presets_and_options(args, capsys):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert ("--plan-latency" if "smoke" in args else "linear-cem") in out


def test_an_unknown_command_gets_near_misses(capsys):
    assert surefoot(["evalute"]) == 2
    assert capsys.readouterr().err == "error: no command 'evalute'; near misses: evaluate\n"
    assert surefoot(["--help"]) == 0


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "deploy" / "run_agent.py"), "smoke", "--out", str(folder), *args],
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_leaves_valid_files_and_exits_130(tmp_path):
    folder = tmp_path / "cut"
    run = start(folder, "--max-episodes", "100000", "--max-s", "1e6")
    log = folder / "events.jsonl"
    wait_for(lambda: run.poll() is not None or (log.exists() and '"kind": "episode"' in log.read_text()))
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: both arms get it
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Traceback" not in out + err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    records = lines_of(log)
    done = [e for e in records if e["kind"] == "episode"]
    assert {e["ended"] for e in done[:-1]} <= {"truncated"}
    assert done[-1]["ended"] in ("interrupted", "truncated")  # the latter if it came between two episodes
    assert len(summary["episodes"]) == len(done)
    lines_of(folder / "timings.jsonl")


def test_ctrl_c_before_anything_was_done_gets_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.commandline.resolve", interrupted)
    assert main(["smoke"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "one.json"
    args = ["evaluate", "smoke", "--episodes", "3", "--seed", "5", "--faults", "actuator_gain:all:0.2@0"]
    assert surefoot([*args, "--out", str(out)]) == 0
    return args, json.loads(out.read_text())


def test_evaluation_has_all_that_was_asked_for(evaluated):
    _, result = evaluated
    assert (result["metric"], result["n"], result["seed"], result["status"]) == ("return", 3, 5, "ok")
    assert result["lo"] < result["mean"] < result["hi"]
    assert result["mean"] == pytest.approx(sum(e["return"] for e in result["per_episode"]) / 3, rel=1e-6)
    assert result["plan_ms"]["p50"] > 0
    assert result["commit"]


def test_two_workers_give_the_result_of_one(evaluated, tmp_path):
    args, one = evaluated
    out = tmp_path / "two.json"
    assert surefoot([*args, "--workers", "2", "--out", str(out)]) == 0
    two = json.loads(out.read_text())
    assert {k: v for k, v in two.items() if k != "plan_ms"} == {k: v for k, v in one.items() if k != "plan_ms"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--episodes"),
        (["--episodes", "0", "--out", "x.json"], "must be >= 1"),
        (["--episodes", "1", "--out", "/nowhere/x.json"], "there is no folder"),
        (["--episodes", "1", "--out", "x.json", "--sead", "1"], "no option '--sead'"),
        (["--episodes", "many", "--out", "x.json"], "many"),
    ],
)
def test_bad_evaluation_arguments_get_one_line(args, said, capsys):
    assert surefoot(["evaluate", "smoke", *args]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
