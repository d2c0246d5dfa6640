"""Sweeps without Ray: specs, points, the journal, one try as a process, halving, what is said of it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from deploy.kept_episodes import EpisodeResult, KeptEpisodes
from deploy.sweep import main
from deploy.sweeps import guardian, verbs
from deploy.sweeps.driver import Driver
from deploy.sweeps.halving import falls_behind
from deploy.sweeps.journal import MOST_LOST, Journal, Outcome, Trial, alone, identity, plain
from deploy.sweeps.plan import new_sweep, open_sweep, trials_of
from deploy.sweeps.results import found
from deploy.sweeps.space import drawn_point, points, words
from deploy.sweeps.spec import Asha, Draw, Resources, SweepSpec, spec_of, tree_of
from deploy.sweeps.store import Store
from deploy.sweeps.trial import MARK, Order, carry_out

SPEC = SweepSpec("evaluate", "linear-cem", "mean", options={"episodes": 1, "plan-latency": 0.1, "videos": 0})
TREE = {"verb": "evaluate", "preset": "linear-cem", "metric": "mean"}


# --- specs


def test_a_spec_comes_back_from_its_tree():
    spec = dataclasses.replace(
        SPEC,
        grid={"agent.samples": (16, 64), "faults": ((), ("push:torso:5@1", "friction:all:0.3@2"))},
        random={"agent.init-std": Draw("log-uniform", (0.1, 2.0))},
        draws=3,
        seeds=(0, 4),
        resources=Resources(2, 0.5, 4),
        asha=Asha(2, 4),
    )
    assert spec_of(json.loads(json.dumps(tree_of(spec))), "here") == spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrik": "mean"}, "no setting 'metrik'; near misses: metric"),
        ({"verb": "evalute"}, "no verb 'evalute'; choose from run, evaluate, train, collect"),
        ({"direction": "up"}, "direction must be max or min, got 'up'"),
        ({"seeds": "many"}, "seeds must be how many, or a list of whole numbers, got 'many'"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"grid": {"seed": []}}, "'seed' has no values"),
        ({"grid": {"a": 3}}, "grid: a must be a list of values, got 3"),
        ({"grid": {"a": [1]}, "options": {"a": 2}}, "'a' is given twice"),
        ({"random": {"a": {"unifrom": [0, 1]}}, "draws": 1}, "no distribution 'unifrom'; near misses: uniform"),
        ({"random": {"a": {"log-uniform": [0, 1]}}, "draws": 1}, "log-uniform needs 0 < low < high, got [0, 1]"),
        ({"random": {"a": {"uniform": [0, 1]}}}, "random and draws > 0 go together"),
        ({"resources": {"cpus": 1}}, "no setting 'cpus'; near misses: ['num_cpus'"),
        ({"resources": {"num_cpus": 0}}, "num_cpus > 0"),
        ({"time_out_s": "soon"}, "time_out_s"),
        ({"retries": -1}, "retries must be >= 0, got -1"),
        ({"asha": {"factor": 1}}, "factor >= 2"),
    ],
)
def test_a_bad_spec_is_refused_in_one_line_that_says_what_would_be_right(change, said):
    with pytest.raises(ValueError, match=r"^here") as refused:
        spec_of(TREE | change, "here")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "maen"}, "evaluate has no metric 'maen'; near misses: mean"),
        ({"options": {"out": "x"}}, "option 'out' is given by the sweep itself (its folder)"),
        ({"grid": {"seed": [1, 2]}}, "option 'seed' is given by the sweep itself (seeds)"),
        ({"grid": {"agent.sampels": [1]}}, "no option '--agent.sampels'; near misses: --agent.samples"),
        ({"grid": {"agent.samples": ["many"]}}, "invalid literal for int()"),
        ({"preset": "linear-cm"}, "no preset 'linear-cm'; choose from"),
        ({"asha": {}, "metric": "success.mean"}, "asha needs results on the way"),
        ({"verb": "run", "asha": {}, "metric": "wall_s"}, "asha needs results on the way"),
        ({"verb": "train", "preset": "walker-small", "metric": "step"}, "a metric of train is PART.metrics.NAME"),
        (
            {
                "verb": "train",
                "preset": "walker-small",
                "metric": "step.metrics.error",
                "grid": {"step.train.step": [1]},
            },
            "no option '--step.train.step'; near misses: --step.train.steps",
        ),
    ],
)
def test_what_the_command_would_refuse_is_refused_before_anything_runs(change, said, tmp_path, capsys):
    tree = TREE | {"options": {"episodes": 1}} | change
    if tree["verb"] != "evaluate":
        del tree["options"]
    (tmp_path / "spec.yaml").write_text(json.dumps(tree))
    assert main([str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out/sweep.json").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["linaer"], "no sweep 'linaer': name a YAML file, or one of linear"),
        (["linear", "--retires", "3"], "no option '--retires'; near misses: --retries"),
        (["linear", "--agent.horizn", "3"], "no option '--agent.horizn'; near misses: --agent.horizon"),
        (["linear", "--agent.samples", "3"], "--agent.samples is searched by linear"),
        (["resume", "nowhere"], "nowhere holds no sweep"),
    ],
)
def test_a_bad_command_line_gets_one_line(args, said, capsys):
    assert main(args) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_every_named_sweep_is_one_that_its_command_accepts():
    from configs.sweeps import SWEEPS

    for _, spec in SWEEPS.values():
        few = dataclasses.replace(spec, seeds=spec.seeds[:1], draws=min(spec.draws, 2))
        assert trials_of(few, [], "commit")


# --- points and ids


def test_every_point_of_the_grid_meets_every_draw():
    spec = dataclasses.replace(SPEC, grid={"a": (1, 2), "b": ("x",)}, random={"c": Draw("integer", (0, 9))}, draws=3)
    found_points = points(spec)
    assert len(found_points) == 6
    assert [p["c"] for p in found_points[:3]] == [p["c"] for p in found_points[3:]]
    assert {p["a"] for p in found_points} == {1, 2}


def test_draws_stay_within_their_bounds_and_keep_their_values_when_more_is_asked_for():
    few = dataclasses.replace(
        SPEC, random={"a": Draw("log-uniform", (1e-4, 1e-1)), "n": Draw("log-integer", (1, 64))}, draws=200
    )
    more = dataclasses.replace(few, random={"z": Draw("choice", (True, "x")), **few.random}, draws=400)
    drawn = points(few)
    assert all(1e-4 <= p["a"] <= 1e-1 and 1 <= p["n"] <= 64 and type(p["n"]) is int for p in drawn)
    assert sum(p["a"] < 10**-2.5 for p in drawn) == pytest.approx(100, abs=30)  # half of them, on a log scale
    assert [{k: p[k] for k in ("a", "n")} for p in points(more)[:200]] == drawn
    assert drawn_point(few, 3) != drawn_point(dataclasses.replace(few, search_seed=1), 3)


def test_options_are_said_as_on_the_command_line():
    point = {"a.b": 1e-4, "a.warm": False, "adapt": True, "faults": ("x@1", "y@2"), "sigma": None}
    assert words(point) == ["--a.b", "0.0001", "--a.no-warm", "--adapt", "--faults", "x@1", "y@2", "--sigma", "None"]


def test_an_id_depends_on_what_a_trial_is_and_on_nothing_else():
    grid = dataclasses.replace(SPEC, grid={"agent.horizon": (5, 10)}, seeds=(0, 1))
    ids = [trial.id for trial in trials_of(grid, [], "abc")]
    assert len(set(ids)) == 4
    code = "from tests.test_sweep import *\n"
    code += "grid = dataclasses.replace(SPEC, grid={'agent.horizon': (5, 10)}, seeds=(0, 1))\n"
    code += "print(json.dumps([trial.id for trial in trials_of(grid, [], 'abc')]))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == ids
    other_words = dataclasses.replace(
        SPEC, grid={"agent.horizon": (10, 5)}, options=dict(reversed(SPEC.options.items())), seeds=(1, 0)
    )
    assert {trial.id for trial in trials_of(other_words, [], "abc")} == set(ids)
    assert {trial.id for trial in trials_of(grid, [], "abd")}.isdisjoint(ids)


def test_points_that_come_to_the_same_are_one_trial():
    spec = dataclasses.replace(SPEC, grid={"agent.samples": (64, 64, 32)})
    assert len(trials_of(spec, [], "abc")) == 2
    default = dataclasses.replace(
        SPEC, options={**SPEC.options, "no-control-arm": True}
    )  # which an evaluation has anyway
    assert [t.id for t in trials_of(default, [], "abc")] == [t.id for t in trials_of(SPEC, [], "abc")]


# --- the journal


def trial_in(journal, name="0123456789ab"):
    journal.add(Trial(name, 0, {}, 0, [], {}, "abc"))
    return journal.trials[name]


def test_a_late_try_changes_nothing(tmp_path):
    journal = Journal(tmp_path, retries=1)
    trial = trial_in(journal)
    first = journal.start(trial)
    assert journal.end(trial, first, Outcome("lost", "node died"), "")
    second = journal.start(trial)
    assert (first, second) == (1, 2)
    assert not journal.end(trial, first, Outcome("ok", metric=1.0), "")  # the zombie, while its successor runs
    assert journal.end(trial, second, Outcome("ok", metric=2.0), "there")
    before = journal.path(trial.id).read_bytes()
    assert not journal.end(trial, first, Outcome("ok", metric=3.0), "")
    assert not journal.end(trial, second, Outcome("failed"), "")
    assert journal.path(trial.id).read_bytes() == before
    with pytest.raises(ValueError, match="is done, not waiting"):
        journal.start(trial)
    again = Journal(tmp_path, retries=1)
    again.load()
    assert again.trials[trial.id] == trial
    assert (trial.status, trial.metric, trial.artefacts) == ("done", 2.0, "there")


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        (["failed"], "waiting"),
        (["failed", "time-out"], "failed"),
        (["lost", "interrupted", "lost", "failed"], "waiting"),
        (["lost"] * MOST_LOST, "failed"),
        (["interrupted"] * 20, "waiting"),
        (["memory", "ok"], "done"),
        (["stopped"], "stopped"),
    ],
)
def test_a_trial_is_tried_again_for_its_own_failures_so_often_and_for_lost_nodes_longer(tmp_path, ends, status):
    journal = Journal(tmp_path, retries=1)
    trial = trial_in(journal)
    for ended in ends:
        journal.end(trial, journal.start(trial), Outcome(ended, "why", 1.0 if ended == "ok" else None), "")
    assert trial.status == status
    assert [one.ended for one in trial.tries] == ends


def test_what_was_finished_while_no_driver_lived_is_taken_up_and_only_from_the_try_that_was_running(tmp_path):
    sweep = new_sweep(tmp_path, dataclasses.replace(SPEC, seeds=(0, 1, 2)), [], None)
    told = []
    finished, cut_off, over = sweep.journal.trials.values()
    for trial in (finished, cut_off, over):
        sweep.journal.end(trial, sweep.journal.start(trial), Outcome("lost", "node died"), "")
        sweep.store.write(f"{trial.id}/try-1/outcome.json", dataclasses.asdict(Outcome("ok", metric=-1.0)))
        sweep.journal.start(trial)
    sweep.journal.end(over, 2, Outcome("ok", metric=3.0), "")
    sweep.store.write(f"{finished.id}/try-2/outcome.json", dataclasses.asdict(Outcome("ok", metric=2.0, node="a")))
    left = open_sweep(tmp_path)
    Driver(left, nullcontext, told.append).close()
    after = left.journal.trials
    assert (after[finished.id].status, after[finished.id].metric, after[finished.id].node) == ("done", 2.0, "a")
    assert after[cut_off.id].status == "waiting"
    assert [one.ended for one in after[cut_off.id].tries] == ["lost", "interrupted"]
    assert after[over.id] == over
    assert [trial.id for trial in told] == [finished.id, cut_off.id]
    with pytest.raises(ValueError, match="holds a sweep: surefoot sweep resume"):
        new_sweep(tmp_path, SPEC, [], None)


def test_a_folder_is_swept_by_one_process(tmp_path, capsys):
    new_sweep(tmp_path / "sweep", SPEC, [], None)
    with alone(tmp_path / "sweep"):
        assert main(["resume", str(tmp_path / "sweep")]) == 2
    assert "sweep is being swept by another process" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "sweep"), "--cpus", "2", "--address", "auto"]) == 2
    assert "give one of them" in capsys.readouterr().err
    with alone(tmp_path), pytest.raises(ValueError, match="being swept by another process"), alone(tmp_path):
        pass


# --- one try


def order(tmp_path, code, spec=SPEC, store=None, number=1, **more):
    store = store or str(tmp_path / "store")
    Store(store).write(MARK, {})
    command = ("{python}", "-S", "-c", code, "{folder}")
    return Order(spec, command, store, f"trial/try-{number}", **more)


WRITE = "import sys, json, pathlib; f = pathlib.Path(sys.argv[1]); (f / 'result.json').write_text('%s')"


def test_a_try_ends_with_its_metric_and_its_files(tmp_path):
    done = carry_out(order(tmp_path, WRITE % '{"mean": 2.5}'), "node-a")
    assert (done.ended, done.metric, done.node) == ("ok", 2.5, "node-a")
    assert json.loads((tmp_path / "store/trial/try-1/outcome.json").read_text())["metric"] == 2.5
    assert (tmp_path / "store/trial/try-1/result.json").exists()


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("import sys; sys.exit('error: no such thing')", "failed", "exit code 1: error: no such thing"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "killed (SIGKILL; by the system, for want of memory?)"),
        ("pass", "failed", "it wrote no result.json"),
        (WRITE % '{"maen": 1.0}', "failed", "metric 'mean': no 'mean'; near misses: maen"),
        (WRITE % '{"mean": null}', "failed", "metric 'mean' must be a number, got None"),
        (WRITE % '{"mean": NaN}', "failed", "metric 'mean' is nan"),
        (WRITE % "{", "failed", "result.json is not JSON"),
        ("import time; time.sleep(60)", "time-out", "took longer than 1 s"),
        ("x = bytearray(300_000_000); import time; time.sleep(60)", "memory", "GB of 0.2 GB"),
    ],
)
def test_a_try_that_gives_no_result_says_why(tmp_path, code, ended, said):
    limits = {"memory": {"resources": Resources(memory_gb=0.2)}, "time-out": {"time_out_s": 1.0}}
    done = carry_out(order(tmp_path, code, dataclasses.replace(SPEC, **limits.get(ended, {}))))
    assert done.ended == ended
    assert said in done.reason
    assert done.metric is None


CHILDREN = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
(pathlib.Path(sys.argv[1]) / "pids").write_text(str(child.pid))
time.sleep(60)
"""


def gone(pid, within_s=20.0):
    until_s = time.monotonic() + within_s
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


def test_after_a_time_out_nothing_of_a_trial_is_left(tmp_path):
    carry_out(order(tmp_path, CHILDREN, dataclasses.replace(SPEC, time_out_s=2.0)))
    assert gone(int((tmp_path / "store/trial/try-1/pids").read_text()))


def test_a_trial_does_not_outlive_a_worker_that_is_killed(tmp_path):
    pids = tmp_path / "pids"
    holder = f"""
import subprocess, sys, time
command = [sys.executable, "-S", "-c", {CHILDREN!r}, {str(tmp_path)!r}]
subprocess.Popen([sys.executable, "-ISs", {guardian.__file__!r}, *command], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(60)
"""
    worker = subprocess.Popen([sys.executable, "-c", holder])
    until_s = time.monotonic() + 60
    while not (pids.exists() and pids.read_text()) and time.monotonic() < until_s:
        time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert gone(int(pids.read_text()))


GO_ON = """
import sys, pathlib
folder = pathlib.Path(sys.argv[1])
(folder / "result.json").write_text('{"mean": %d}' % (folder / "saved").exists())
(folder / "saved").write_text("half of it")
"""


@pytest.mark.parametrize("url", [False, True])
def test_a_try_goes_on_from_the_files_of_the_one_before_also_without_a_common_disk(tmp_path, url):
    store = f"memory://{tmp_path.name}" if url else str(tmp_path / "shared")
    assert carry_out(order(tmp_path, GO_ON, store=store)).metric == 0.0
    assert carry_out(order(tmp_path, GO_ON, store=store, number=2, after="trial/try-1")).metric == 1.0
    assert carry_out(order(tmp_path, GO_ON, store=store, number=3)).metric == 0.0
    there = Store(store)
    assert there.read("trial/try-2/outcome.json")["metric"] == 1.0
    assert there.has("trial/try-2/saved")
    assert there.has("trial/try-2/log.txt")
    assert there.read("trial/try-4/outcome.json") is None


def test_a_node_that_does_not_see_the_store_says_so(tmp_path):
    asked = Order(SPEC, ("true",), str(tmp_path / "elsewhere"), "trial/try-1")
    with pytest.raises(ValueError, match=r"does not see .*: give --storage a folder or a URL that all nodes reach"):
        carry_out(asked, "node-b")


def test_a_storage_that_fsspec_does_not_know_is_refused():
    with pytest.raises(ValueError, match="storage nosuch://bucket: Protocol not known: nosuch"):
        Store("nosuch://bucket")


# --- stopping early


def test_the_best_third_of_those_at_a_rung_go_on_and_more_is_better_or_worse_as_asked():
    told = [[[1, float(v)], [3, float(v)]] for v in range(9)]
    kept = [v for v in range(9) if not falls_behind(told[v], [t for t in told if t is not told[v]], Asha(1, 3), "max")]
    assert kept == [6, 7, 8]
    kept = [v for v in range(9) if not falls_behind(told[v], [t for t in told if t is not told[v]], Asha(1, 3), "min")]
    assert kept == [0, 1, 2]


def test_nobody_is_stopped_before_the_first_rung_or_before_there_is_a_field_to_compare_with():
    others = [[[9, 5.0]], [[9, 6.0]], [[9, 7.0]]]
    assert not falls_behind([[8, 0.0]], others, Asha(9, 3), "max")
    assert not falls_behind([[9, 0.0]], others[:1], Asha(9, 3), "max")
    assert falls_behind([[9, 0.0]], others[:2], Asha(9, 3), "max")
    assert not falls_behind([[9, 0.0]], [[[8, 5.0]], [[8, 6.0]]], Asha(9, 3), "max")  # who are not there yet


def test_halving_keeps_the_best_of_curves_that_do_not_cross_whatever_the_order():
    for first in range(9):
        order_of = [(first + k) % 9 for k in range(9)]
        told = {}
        for quality in order_of:
            told[quality] = []
            for step in (1, 2, 3, 6, 9):
                told[quality].append([step, quality + step / 100])
                others = [t for q, t in told.items() if q != quality]
                if falls_behind(told[quality], others, Asha(1, 3), "max"):
                    break
        assert max((t[-1][0], q) for q, t in told.items()) == (9, 8)


REPORTING = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]) / "work/preset/step-0"
folder.mkdir(parents=True)
for step in range(1000, 9000, 1000):
    part = folder / "part"
    part.write_text(json.dumps({"curve": [[s, 0.5, 1.0 / s] for s in range(1000, step + 1, 1000)]}))
    part.rename(folder / "state.json")
    time.sleep(0.2)
time.sleep(60)
"""


def test_a_trial_that_is_told_to_stop_reports_what_it_has_and_stops(tmp_path):
    spec = dataclasses.replace(
        SPEC, verb="train", preset="preset", metric="step.metrics.error", asha=Asha(1000, 3), time_out_s=50.0
    )
    asked = order(tmp_path, REPORTING, spec)
    Store(asked.store).write("trial/try-1/stop", {})
    done = carry_out(asked)
    assert done.ended == "stopped"
    assert done.reports == [] or done.reports[0] == [1000.0, 1e-3]


def test_what_training_and_evaluation_have_written_so_far_is_read(tmp_path):
    state = tmp_path / "work/walker-small/step-01234567"
    state.mkdir(parents=True)
    (state / "state.json").write_text(
        json.dumps({"curve": [[1000, 0.5, 0.25], [2000, 0.4, float("nan")], [3000, 0.3, 0.125]]})
    )
    spec = SweepSpec("train", "walker-small", "step.metrics.error", asha=Asha())
    assert verbs.VERBS["train"].told_by(spec, tmp_path) == [(1000, 0.25), (3000, 0.125)]


def test_the_episodes_of_an_evaluation_under_way_are_read_up_to_the_first_that_is_missing(tmp_path):
    result = EpisodeResult(0, 1, 0.0, 3, "truncated", None, 0, (), np.zeros((4, 2)))
    kept = KeptEpisodes(tmp_path / "result.episodes/linear-cem", 7)
    for number, value in ((0, 4.0), (1, 2.0), (3, 9.0)):
        kept.write(dataclasses.replace(result, episode=number, episode_return=value))
    assert verbs.VERBS["evaluate"].told_by(SPEC, tmp_path) == [(1, 4.0), (2, 3.0)]


# --- what is said


def done(number, point, seed, metric):
    status = "failed" if metric is None else "done"
    return Trial(f"{number:012x}", number, point, seed, [], {}, "abc", status, metric)


def test_points_are_ranked_by_the_mean_of_their_seeds_and_those_that_lack_some_come_last():
    made = [done(0, {"a": 1}, 0, 1.0), done(1, {"a": 1}, 1, 3.0), done(2, {"a": 2}, 0, 2.5), done(3, {"a": 2}, 1, 2.5)]
    made += [done(4, {"a": 3}, 0, 9.0), done(5, {"a": 3}, 1, None), done(6, {"a": 4}, 0, None)]
    rows = found(SPEC, made)
    assert [(row.point["a"], row.mean, row.missing) for row in rows] == [(2, 2.5, 0), (1, 2.0, 0), (3, 9.0, 1)]
    assert rows[1].lo == pytest.approx(2 - 12.706, abs=1e-2)  # t of one degree of freedom
    best = found(dataclasses.replace(SPEC, direction="min"), made)[0]
    assert best.point == {"a": 1}


def test_the_id_is_a_hash_of_config_and_commit():
    assert identity({"a": 1, "b": 2.0}, "c") == identity({"b": 2.0, "a": 1}, "c")
    assert identity({"a": 1}, "c") != identity({"a": 1}, "d")
    others = [{"a": value} for value in (None, 0, False, "0", float("inf"), float("nan"), 0.1, 0.1 + 1e-12, [0], {})]
    assert len({identity(plain(config), "c") for config in others}) == len(others)
