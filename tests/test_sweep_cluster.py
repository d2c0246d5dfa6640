"""Sweeps on a Ray cluster of three nodes on this machine: nodes and drivers are killed, and the journal stays right."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.sweep import main
from deploy.sweeps.cluster import connected
from deploy.sweeps.driver import Driver
from deploy.sweeps.plan import new_sweep
from deploy.sweeps.spec import SweepSpec

pytestmark = pytest.mark.timeout(
    900
)  # Ray's own start takes half a minute on a busy machine, and programs are started one by one
ROOT = Path(__file__).resolve().parents[1]
NODES = 3
SPEC = {
    "verb": "evaluate",
    "preset": "linear-cem",
    "metric": "mean",
    "options": {"episodes": 2, "plan-latency": 0.1, "videos": 0, "episode-steps": 40},
    "grid": {"agent.horizon": [5, 10]},
    "seeds": 2,
    "time_out_s": 200,
}


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    sizes = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
    for _ in range(NODES - 1):
        made.add_node(wait=False, **sizes)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def command(*args):
    return [sys.executable, "-m", "deploy.cli", "sweep", *map(str, args)]


def begin(tmp_path, spec, *args):
    """Start a sweep as a process of its own; return it and the sweep's folder."""
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    out = tmp_path / "sweep"
    with (tmp_path / "said.txt").open("w") as said:
        made = command(tmp_path / "spec.yaml", "--out", out, *args)
        process = subprocess.Popen(made, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
    return process, out


def records(out):
    return [json.loads(path.read_text()) for path in sorted(out.glob("trials/*/trial.json"))]


def wait_for(what, process, out, within_s=240.0):
    until_s = time.monotonic() + within_s
    while not what():
        said = (out.parent / "said.txt").read_text()
        assert process.poll() is None, said
        assert time.monotonic() < until_s, said
        time.sleep(0.1)


def statuses(out):
    return [record["status"] for record in records(out)]


def tries_on_disk(out):
    """Tries that have begun on a node, by the node's name."""
    found = {}
    for path in out.glob("trials/*/try-*/status.json"):
        with contextlib.suppress(json.JSONDecodeError):
            found[path.parent] = json.loads(path.read_text())["node"]
    return found


def kill_a_node_at_work(cluster, out):
    """Kill the processes of a node, other than the head, that runs a trial; return its name in records."""
    for folder, name in tries_on_disk(out).items():
        at_work = not (folder / "outcome.json").exists()
        for node in [n for n in cluster.worker_nodes if at_work and name.endswith(f"/{n.node_id[:8]}")]:
            cluster.remove_node(node, allow_graceful=False)
            return name
    return None


def test_a_node_and_then_the_driver_are_killed_and_every_trial_ends_exactly_once(cluster, tmp_path):
    process, out = begin(tmp_path, SPEC, "--address", cluster.address)
    killed = []
    wait_for(lambda: (name := kill_a_node_at_work(cluster, out)) and not killed.append(name), process, out)
    wait_for(lambda: "done" in statuses(out) and "running" in statuses(out), process, out)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = {record["id"]: record for record in records(out)}
    before = {name for name, record in left.items() if record["status"] == "done"}
    kept = {name: (out / f"trials/{name}/trial.json").read_bytes() for name in before}
    assert len(left) == 4
    assert 0 < len(before) < 4

    resumed = subprocess.run(
        command("resume", out, "--address", cluster.address),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    taken_up = int(resumed.stderr.split(" of 4 trials are over")[0].split()[-1])
    assert taken_up >= len(before)  # more, where a trial was finished before its driver could write that down
    after = {record["id"]: record for record in records(out)}
    assert list(after) == list(left)
    assert {record["status"] for record in after.values()} == {"done"}
    assert {name: (out / f"trials/{name}/trial.json").read_bytes() for name in before} == kept
    for record in after.values():
        ends = [one["ended"] for one in record["tries"]]
        assert ends.count("ok") == 1
        assert ends[-1] == "ok"
        assert set(ends[:-1]) <= {"lost", "interrupted"}
        written = json.loads((Path(record["artefacts"]) / "result.json").read_text())
        assert written["mean"] == record["metric"]
        assert [one["number"] for one in record["tries"]] == list(range(1, len(ends) + 1))
    assert any(one["ended"] == "lost" for record in after.values() for one in record["tries"])
    assert any(one["ended"] == "interrupted" for record in after.values() for one in record["tries"])
    assert killed[0] not in {record["node"] for record in after.values() if record["id"] not in before}
    the_page_and_the_numbers_say_what_the_journal_says(out)
    an_evaluation_whose_episodes_run_on_the_nodes_is_the_same(cluster, out)
    a_zombie_and_a_second_resume_change_nothing(out)


def the_page_and_the_numbers_say_what_the_journal_says(out):
    results = json.loads((out / "results.json").read_text())
    assert results["counts"] == {"done": 4, "stopped": 0, "failed": 0, "running": 0, "waiting": 0}
    values = {n: [r["metric"] for r in records(out) if r["point"]["agent.horizon"] == n] for n in (5, 10)}
    assert results["best"]["mean"] == pytest.approx(max(sum(v) / 2 for v in values.values()))
    page = (out / "report.html").read_text()
    assert 'src="http' not in page
    assert all(record["id"] in page for record in records(out))


def an_evaluation_whose_episodes_run_on_the_nodes_is_the_same(cluster, out):
    """`surefoot evaluate --address` finds what the process of a trial found with the same words."""
    record = records(out)[0]
    found = out / "again.json"
    words = [
        sys.executable,
        "-m",
        "deploy.cli",
        "evaluate",
        *record["words"],
        "--out",
        str(found),
        "--address",
        cluster.address,
    ]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert made.returncode == 0, made.stderr
    trial = json.loads((Path(record["artefacts"]) / "result.json").read_text())
    assert json.loads(found.read_text())["per_episode"] == trial["per_episode"]


def a_zombie_and_a_second_resume_change_nothing(out):
    """What an earlier try of a trial still writes is its own; a sweep that is over is not begun again, and needs no Ray."""
    before = [path.read_bytes() for path in sorted(out.glob("trials/*/trial.json"))]
    late = {"ended": "ok", "reason": "", "metric": 1e9, "reports": [], "seconds": 1.0, "node": "zombie"}
    for record in records(out):
        (out / f"trials/{record['id']}/try-1").mkdir(exist_ok=True)
        (out / f"trials/{record['id']}/try-1/outcome.json").write_text(json.dumps(late))
    assert main(["resume", str(out)]) == 0
    assert [path.read_bytes() for path in sorted(out.glob("trials/*/trial.json"))] == before


DOES = {
    0: "import pathlib; pathlib.Path(folder, 'result.json').write_text('{\"mean\": 4.5}')",
    1: "sys.exit('error: no such thing')",
    2: "import time; time.sleep(60)",
    3: "import pathlib; sys.exit() if folder.endswith('try-1') else pathlib.Path(folder, 'result.json').write_text('{\"mean\": 1}')",
}


def test_tries_on_the_nodes_end_with_their_reasons_and_are_repeated_so_often(cluster, tmp_path):
    """Trials whose process does something simple instead of ours: one by seed."""
    spec = SweepSpec("evaluate", "linear-cem", "mean", options={"episodes": 1}, seeds=tuple(DOES), time_out_s=3.0)
    sweep = new_sweep(tmp_path / "sweep", spec, [], None)
    told = []

    def does(_, trial):
        return "{python}", "-S", "-c", f"import sys; folder = sys.argv[1]; {DOES[trial.seed]}", "{folder}"

    with connected(cluster.address, sweep.code):
        Driver(sweep, contextlib.nullcontext, lambda trial: told.append(trial.id), does).run()
    made = {record["seed"]: record for record in records(tmp_path / "sweep")}
    assert [made[seed]["status"] for seed in DOES] == ["done", "failed", "failed", "done"]
    assert [made[seed]["metric"] for seed in DOES] == [4.5, None, None, 1.0]
    reasons = {seed: [(one["ended"], one["reason"]) for one in record["tries"]] for seed, record in made.items()}
    assert reasons[0] == [("ok", "")]
    assert reasons[1] == [("failed", "exit code 1: error: no such thing")] * 2
    assert reasons[2] == [("time-out", "took longer than 3 s")] * 2
    assert reasons[3] == [("failed", "it wrote no result.json"), ("ok", "")]
    assert len(told) == 7


def test_ctrl_c_on_one_machine_loses_nothing_and_resume_goes_on_with_what_was_saved(tmp_path):
    spec = {**SPEC, "grid": {}, "seeds": 1, "options": {**SPEC["options"], "episodes": 20}}
    process, out = begin(tmp_path, spec, "--cpus", "1", "--storage", str(tmp_path / "elsewhere"))
    trial = tmp_path / "elsewhere"
    wait_for(lambda: len(list(trial.glob("*/try-1/result.episodes/*/*.npz"))) >= 2, process, out)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    told = (tmp_path / "said.txt").read_text()
    assert f"interrupted; 0 of 1 trials are over; surefoot sweep resume {out} goes on" in told
    saved = len(list(trial.glob("*/try-1/result.episodes/*/*.npz")))
    resumed = subprocess.run(
        command("resume", out, "--cpus", "1"), cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    (record,) = records(out)
    assert [one["ended"] for one in record["tries"]] == ["interrupted", "ok"]
    log = (trial / record["id"] / "try-2/log.txt").read_text()
    gone_on = int(log.split(" of 20 episodes were done before")[0].split()[-1])
    assert 2 <= gone_on <= 20
    assert gone_on >= saved - 1
    assert json.loads((out / "results.json").read_text())["status"] == "ok"
