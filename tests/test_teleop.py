"""`surefoot teleop` and shared control as a person meets them: the real command on a real pseudo-terminal."""

import json
import re
import signal
import subprocess

import numpy as np
import pytest

from configs.presets import PRESETS
from deploy.cli import main
from deploy.operators.joints import Joints
from deploy.records import read_episodes
from deploy.teleop import alone, steered
from envs.robots import robot_spec
from tests.terminals import ROOT, SUREFOOT, Seat

MASS = ("--robot", "double_integrator", "--episode-steps", "100000")
LEFT, RIGHT = "\x1b[D", "\x1b[C"


def results(folder):
    with (folder / "events.jsonl").open() as lines:
        return json.loads((folder / "summary.json").read_text()), read_episodes(lines)


def modes(summary):
    return [(mode["mode"], mode["reason"]) for mode in summary["modes"]]


def test_keys_move_a_robot_that_nothing_plans_for_space_stops_it_and_q_gives_the_terminal_back(tmp_path):
    with Seat("teleop", *MASS, "--with", "keyboard", "--out", str(tmp_path / "run")) as seat:
        seat.sees("SPACE: STOP .* q: quit")
        seat.sees(r"running \(start")
        assert not seat.echoes
        seat.holds_down(RIGHT, r"speed +\+[2-9]")  # it began with 1 m/s
        seat.type(" ")
        end = seat.sees(r"estop \(keyboard")
        seat.type("a")  # not before the reset
        seat.type("r")
        end = seat.sees(r"disarmed \(keyboard", end)
        seat.type("a")
        end = seat.sees(r"running \(keyboard", end)
        seat.holds_down(LEFT, r"speed +(\+0|-)")
        seat.type(" ")
        seat.sees(r"estop \(keyboard", end)
        seat.type("q")
        assert seat.ends() == 1
        assert seat.settings == seat.before
    summary, (episode,) = results(tmp_path / "run")
    assert summary["status"] == "estop: keyboard"
    assert modes(summary)[2:] == [(mode, "keyboard") for mode in ("estop", "disarmed", "armed", "running", "estop")]
    assert summary["operator_steps"] == (episode.planned_T == 2).sum()
    sent = episode.sent_TA[:, 0]
    assert {*sent[episode.planned_T == 2].round(6)} == {0.0, 2.0, -2.0}  # 0.2 of 10 N, either way
    stopped, going = (round(summary["modes"][n]["t_s"] / 0.1) for n in (2, 5))
    assert stopped < going
    assert (sent[stopped:going] == 0).all()
    assert episode.states_TO[0, 1] < 1 < 2 <= episode.states_TO[:, 1].max()


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_the_terminal_is_given_back_however_it_ends(tmp_path, how):
    with Seat("teleop", *MASS, "--out", str(tmp_path / "run")) as seat:
        seat.sees(r"running \(start")
        assert not seat.echoes
        seat.type("\x03") if how == "Ctrl-C" else seat.signal(signal.SIGTERM)
        assert seat.ends() == 130
        assert seat.settings == seat.before
        seat.sees("interrupted; what was done is in")
    assert results(tmp_path / "run")[0]["status"] == "interrupted"


def test_the_terminal_is_given_back_after_an_error(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with Seat("teleop", *MASS, "--out", str(tmp_path / "run")) as seat:
        assert seat.ends() == 2
        assert seat.settings == seat.before
        seat.sees("error: --out .* cannot be made")


def test_a_terminal_that_hangs_up_means_hold_and_the_end(tmp_path):
    with Seat("teleop", *MASS, "--out", str(tmp_path / "run")) as seat:
        seat.sees(r"running \(start")
        seat.hang_up()
        assert seat.ends() == 1
    summary, (episode,) = results(tmp_path / "run")
    assert summary["status"] == "hold: the terminal hung up"
    assert episode.ended == "quit"


def test_ctrl_z_holds_the_robot_and_lends_the_terminal_to_the_shell_until_fg(tmp_path):
    with Seat("-i", program=("/bin/sh",)) as shell:
        shell.type(f"{' '.join(SUREFOOT)} teleop {' '.join(MASS)} --out {tmp_path / 'run'}\n")
        shell.sees(r"running \(start")
        assert not shell.echoes
        shell.type("\x1a")
        end = shell.sees("Stopped")
        assert shell.echoes
        shell.type("fg\n")
        end = shell.sees(r"hold \(suspended from the keyboard", end)
        assert not shell.echoes
        shell.type("a")
        shell.sees(r"running \(keyboard", end)
        shell.type("q")
        shell.sees("report: ")
        shell.until(lambda: shell.echoes)
        shell.type("exit\n")
        shell.ends()
    summary, _ = results(tmp_path / "run")
    assert summary["status"] == "ok"
    assert ("hold", "suspended from the keyboard") in modes(summary)


def test_the_operator_overrides_the_planner_which_then_resumes(tmp_path):
    args = ("linear-cem", "--episode-steps", "100000", "--operator", "keyboard", "--pictures", "none")
    with Seat("run", *args, "--out", str(tmp_path / "run")) as seat:
        seat.sees(r"plan +\d+\.\d ms +age \d+ ms")
        seat.sees("steers +the planner")
        seat.holds_down(RIGHT, "steers +you")
        end = len(seat.text)
        seat.type("h")
        end = seat.sees("steers +nobody: held", end)
        seat.type("p")
        end = seat.sees("steers +the planner", end)
        seat.sees(r"age [1-9]\d* ms", end)
        seat.type("q")
        assert seat.ends() == 0
        assert seat.settings == seat.before
    summary, (episode,) = results(tmp_path / "run")
    assert summary["status"] == "ok"
    assert summary["operator_steps"] == (episode.planned_T == 2).sum() > 0
    steered = np.flatnonzero(episode.planned_T == 2)
    assert (episode.planned_T[: steered[0]] == 1).any()
    assert (episode.planned_T[steered[-1] :] == 1).any()
    assert "2.0" in {f"{x:.1f}" for x in episode.sent_TA[steered, 0]}


def test_a_goal_is_typed_while_the_planner_steers(tmp_path):
    args = ("walker", "--no-adapt", "--no-control-arm", "--operator", "keyboard", "--pictures", "none")
    with Seat("run", *args, "--out", str(tmp_path / "run")) as seat:
        seat.sees("g: goal")
        seat.type("gwalk at 1 ")
        seat.sees("> walk at 1 _")
        seat.type("m/s\r")
        end = seat.sees("pursuing .* since")
        seat.type("gbring me the moon\r")
        end = seat.sees("refused: ", end)
        seat.type("gto")
        seat.sees("ESC: back", end)
        seat.type("\x1b")
        seat.sees("q: quit", len(seat.text))
        seat.type("q")
        assert seat.ends() == 0
    notes = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").open()]
    assert [n["text"].split()[0] for n in notes if n["kind"] == "note"] == ["pursuing", "refused:"]


def test_a_script_steers_without_a_terminal_and_leaves_the_same_log_twice(tmp_path):
    script = tmp_path / "moves.csv"
    script.write_text("t_s,force\n0,0\n0.5,2\n1.0,-2\n1.5,0\n")
    logs = []
    for name in ("one", "two"):
        args = ["teleop", "--robot", "double_integrator", "--with", "script", "--script", str(script)]
        assert main([*args, "--out", str(tmp_path / name)]) == 0
        logs.append((tmp_path / name / "events.jsonl").read_bytes())
    assert logs[0] == logs[1]
    summary, (episode,) = results(tmp_path / "one")
    assert episode.ended == "quit"
    assert episode.sent_TA[:, 0].tolist() == [0] * 5 + [2] * 5 + [-2] * 5 + [0]
    assert summary["operator_steps"] == 16


def test_a_script_overrides_a_planner_where_it_asks_for_something(tmp_path):
    script = tmp_path / "moves.csv"
    script.write_text("t_s,force\n0.5,2\n1.0,\n")
    args = ["run", "linear-cem", "--plan-latency", "0.1", "--max-episodes", "1", "--episode-steps", "20"]
    more = ["--operator", "script", "--script", str(script), "--pictures", "none", "--out", str(tmp_path / "run")]
    assert main([*args, *more]) == 0
    _, (episode,) = results(tmp_path / "run")
    assert episode.planned_T.tolist() == [1] * 5 + [2] * 5 + [1] * 10
    assert (episode.sent_TA[5:10] == 2).all()


def test_without_a_terminal_the_keyboard_is_refused_in_one_line():
    done = subprocess.run(
        [*SUREFOOT, "teleop", *MASS], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "standard input is none" in done.stderr
    assert done.stdout == ""


def test_a_preset_is_steered_without_an_end_and_without_what_only_a_planner_needs():
    before = PRESETS["walker-broken-ankle"][1]
    cfg = steered(before)
    assert (cfg.preset, cfg.adapt, cfg.control_arm, cfg.max_s) == ("walker-broken-ankle", False, False, float("inf"))
    assert cfg.faults == before.faults


@pytest.mark.parametrize("name", ["hopper", "so101", "dm_control:cheetah-run"])
def test_any_robot_can_be_steered_by_itself(name):
    cfg = alone(name)
    spec = robot_spec(name)
    joints = Joints.of(spec.action, cfg.limits, spec.dt_s)
    assert cfg.robot == spec.name
    assert joints.position_A.all() == (name == "so101")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["wolker"], "no preset 'wolker'; choose from walker-broken-ankle,"),
        (["--robot", "wolker"], "no robot named 'wolker'; choose from ["),
        (["--robot"], "no robot named ''; choose from"),
        (["walker", "--with", "script", "--script", "/nowhere.csv"], "--script /nowhere.csv cannot be read"),
        (["walker", "--with", "web"], "the page that somebody steers from needs --view web"),
        (["walker", "--sed", "3"], "no option '--sed'; near misses: --seed"),
    ],
)
def test_bad_input_gets_one_line(args, said, capsys):
    assert main(["teleop", *args]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_help_lists_devices_keys_and_presets(capsys):
    assert main(["teleop", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(re.search(word, told) for word in ("walker-broken-ankle", "--with DEVICE", "SPACE: STOP", "--robot"))
