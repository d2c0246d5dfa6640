"""The doctor names what is wrong, and fails only where something cannot work."""

import os
import re
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from configs.presets import PRESETS
from deploy import doctor, installation
from deploy.clock import SimulatedClock
from deploy.doctor import check_disk, check_gpu, check_priority, check_serial, judge_disk, lateness_s
from deploy.findings import Finding, Verdict
from deploy.installation import (
    check_checkpoints,
    check_codecs,
    check_cv2,
    check_names,
    check_plugins,
    check_video,
    check_weights,
    differing_packages,
)
from deploy.realtime.priority import loop_first, loop_like_others
from deploy.throughput import Demand, check_plans, judge

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (f"numpy=={np.__version__}\n# a comment\n\n", []),
        ("numpy==0.0.1\n", [f"numpy {np.__version__}, not 0.0.1"]),
        ("no-such-package-here==1.0\n", ["no-such-package-here absent, not 1.0"]),
        ("no-such-package-here==1.0 ; sys_platform == 'never'\n", []),
    ],
)
def test_only_pins_that_are_not_met_are_named(lock, said):
    assert differing_packages(lock) == said


def weights(folder, **tensors):
    path = folder / "walker" / "part.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    return path


def test_whole_and_finite_weights_are_fit(tmp_path):
    weights(tmp_path, w=torch.ones(3))
    assert [finding.verdict for finding in check_checkpoints(tmp_path)] == [Verdict.OK]


def test_weights_cut_short_fail(tmp_path):
    path = weights(tmp_path, w=torch.ones(300))
    path.write_bytes(path.read_bytes()[:-100])
    assert check_weights(path).verdict is Verdict.FAIL


def test_weights_that_are_not_finite_fail_and_are_named(tmp_path):
    finding = check_weights(weights(tmp_path, good=torch.ones(3), bad=torch.tensor([1.0, float("nan")])))
    assert finding.verdict is Verdict.FAIL
    assert finding.seen.startswith("bad ")


def test_no_weights_at_all_fail(tmp_path):
    assert [finding.verdict for finding in check_checkpoints(tmp_path)] == [Verdict.FAIL]


def test_a_perfect_clock_has_no_jitter():
    late_s = lateness_s(SimulatedClock(), 0.25, 5.0)
    assert late_s.shape == (20,)
    assert (late_s == 0.0).all()


@pytest.mark.parametrize(
    ("verdicts", "code", "closing"),
    [
        ([Verdict.OK], 0, "fit"),
        ([Verdict.OK, Verdict.SLOW], 0, "fit, limited by thing 1"),
        ([Verdict.SLOW, Verdict.FAIL], 1, "not fit: thing 1"),
    ],
)
def test_the_exit_code_is_the_verdict(verdicts, code, closing, monkeypatch, capsys):
    found = [Finding(f"thing {n}", "seen", verdict) for n, verdict in enumerate(verdicts)]
    monkeypatch.setattr(doctor, "examine", lambda cfg: iter(found))
    assert doctor.main([]) == code
    assert capsys.readouterr().out.splitlines()[-1] == closing


def test_a_misspelt_option_is_refused_and_the_near_one_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        doctor.main(["--sekonds", "3"])
    assert stopped.value.code == 2
    assert "--seconds" in capsys.readouterr().err


# --- the installation


def distribution(folder, name, version, *modules):
    """A distribution that says it installs some top-level modules, as pip leaves it behind."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text("\n".join(modules))


def test_our_own_packages_answer_to_their_names():
    assert check_names().verdict is Verdict.OK


def test_a_foreign_package_under_one_of_our_names_is_found_and_nothing_after_it_is_looked_at(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/__init__.py").write_text("")
    code = "import sys; from deploy.doctor import main; sys.exit(main(['--no-render']))"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "COLUMNS": "300"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"agents is {tmp_path}/agents" in done.stdout
    assert f"take {tmp_path} off PYTHONPATH" in done.stdout
    assert done.stdout.splitlines()[-1] == "not fit: our packages"


def test_a_distribution_that_claims_one_of_our_names_is_to_be_uninstalled(tmp_path, monkeypatch):
    distribution(tmp_path, "robo-agents", "1.0", "agents")
    monkeypatch.syspath_prepend(tmp_path)
    finding = check_names()
    assert (finding.verdict, finding.seen) == (Verdict.FAIL, "also in robo-agents")
    assert "`python -m pip uninstall robo-agents`" in finding.advice


def test_a_package_of_ours_that_is_absent_is_named():
    finding = check_names(["agents", "no_such_package_here"])
    assert (finding.verdict, finding.seen) == (Verdict.FAIL, "no_such_package_here is absent")


def test_a_second_distribution_of_cv2_is_to_be_uninstalled_and_ours_put_back(tmp_path, monkeypatch):
    assert check_cv2().verdict is Verdict.OK
    distribution(tmp_path, "opencv-python", "4.12.0", "cv2")
    monkeypatch.syspath_prepend(tmp_path)
    finding = check_cv2()
    assert (finding.verdict, finding.seen) == (Verdict.FAIL, "installed by opencv-python, opencv-python-headless")
    assert finding.advice.startswith("`python -m pip uninstall opencv-python`, then `python -m pip install --force")


def test_what_another_opencv_left_of_cv2_is_not_whole(tmp_path, monkeypatch):
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    finding = check_cv2()
    assert finding.verdict is Verdict.FAIL
    assert "is not whole" in finding.seen
    monkeypatch.delitem(sys.modules, "cv2")


def test_codecs_that_pyav_was_built_without_are_named():
    assert check_codecs().verdict is Verdict.OK
    finding = check_codecs({"h264": "r", "nosuchcodec": "r", "libdav1d": "w"})  # which only reads
    assert (finding.verdict, finding.seen) == (Verdict.SLOW, "no decoder nosuchcodec, encoder libdav1d")
    assert "--force-reinstall --no-deps --only-binary av av==" in finding.advice


@pytest.mark.parametrize(("program", "seen"), [("/bin/true", "has no encoder libx264"), ("/no/ffmpeg", "no ffmpeg:")])
def test_an_ffmpeg_that_cannot_write_the_video_is_found(program, seen, monkeypatch):
    assert check_video().verdict is Verdict.OK
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
    finding = check_video()
    assert finding.verdict is Verdict.SLOW
    assert seen in finding.seen


def test_plug_ins_that_lerobot_would_not_find_are_named_with_the_command_that_installs_them(monkeypatch):
    assert check_plugins().verdict is Verdict.OK
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    finding = check_plugins()
    assert (finding.verdict, finding.seen) == (Verdict.SLOW, "0 of 4")
    for name in installation.PLUGINS:
        folder = f"deploy/plugins/{name}"
        assert f" ./{folder}" in finding.advice
        assert (ROOT / folder / "pyproject.toml").exists()


# --- the machine


@contextmanager
def nobody():
    """Without the rights of root, where the tests have them."""
    root = os.geteuid() == 0
    limits = resource.getrlimit(resource.RLIMIT_RTPRIO)
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, limits[1]))
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        resource.setrlimit(resource.RLIMIT_RTPRIO, limits)


def test_without_the_right_to_real_time_the_line_that_grants_it_is_given():
    with nobody():
        finding = check_priority()
    assert finding.verdict is Verdict.SLOW
    assert finding.seen.startswith("normal: ")
    assert "- rtprio 20' to /etc/security/limits.conf" in finding.advice


def test_real_time_can_be_given_up_without_the_right_to_it():
    granted = loop_first()
    if not granted.startswith("SCHED_FIFO"):
        pytest.skip(f"the loop's priority is {granted}")
    try:
        with nobody():
            loop_like_others()
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_the_gpu_is_named_or_said_to_be_none():
    finding = check_gpu()
    assert finding.verdict is Verdict.OK
    assert (finding.seen == "none: planning on the CPU") == (not torch.cuda.is_available())


def test_a_port_that_may_not_be_opened_needs_its_group():
    with tempfile.TemporaryDirectory() as folder:
        devices = Path(folder)
        devices.chmod(0o755)
        assert check_serial(devices) == Finding("serial ports", "none")
        for name, mode in (("ttyACM0", 0o666), ("ttyUSB3", 0o000)):
            (devices / name).touch()
            (devices / name).chmod(mode)
        with nobody():
            finding = check_serial(devices)
        assert (finding.verdict, finding.seen) == (Verdict.SLOW, f"{devices}/ttyUSB3 may not be opened")
        assert finding.advice.startswith("`sudo usermod -aG ")
        (devices / "ttyUSB3").unlink()
        with nobody():
            assert check_serial(devices).seen == f"{devices}/ttyACM0"


@pytest.mark.parametrize(
    ("free_gb", "mb_s", "verdict", "advice"),
    [
        (50.0, 300.0, Verdict.OK, ""),
        (0.9, 300.0, Verdict.SLOW, "make room: recording ends where the disk is full"),
        (50.0, 19.0, Verdict.SLOW, "too slow for pictures: record onto another disk"),
    ],
)
def test_a_small_or_slow_disk_limits_recording(free_gb, mb_s, verdict, advice):
    finding = judge_disk(free_gb, mb_s)
    assert (finding.verdict, finding.advice) == (verdict, advice)


def test_a_disk_that_takes_nothing_fails_and_nothing_is_left_on_one_that_does(tmp_path):
    assert check_disk(tmp_path / "runs/later").seen.split()[1:3] == ["GB", "free,"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        finding = check_disk(tmp_path / "runs/later")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (finding.verdict, finding.seen) == (Verdict.FAIL, f"{tmp_path} cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []


# --- plans


WALKS = Demand(dt_s=0.008, plan_every=4, horizon=16, samples=48)


LATE = "holds 125 Hz, with older plans"
SOON = "plan 31 ms in bf16, 50 in fp32; every 4 steps of 8 ms = 32 ms: holds 125 Hz"


@pytest.mark.parametrize(
    ("bf16_s", "fp32_s", "verdict", "seen", "advice"),
    [
        (0.031, 0.05, Verdict.OK, SOON, ""),
        (0.062, 0.08, Verdict.SLOW, LATE, "plans 64 ms apart: --agent.samples 24, or --plan-every 8"),
        (0.062, 0.03, Verdict.SLOW, LATE, "plans 64 ms apart: --agent.no-bf16, --agent.samples 24, or"),
        (
            0.160,
            0.20,
            Verdict.SLOW,
            "not hold 125 Hz",
            "a plan ends 16 steps on, before the next is there: --agent.samp",
        ),
    ],
)
def test_the_time_of_a_plan_says_which_rate_it_holds_and_what_to_change(bf16_s, fp32_s, verdict, seen, advice):
    finding = judge("walker", {"bf16": bf16_s, "fp32": fp32_s}, "bf16", WALKS)
    assert finding.verdict is verdict
    assert finding.seen.endswith(seen)
    assert finding.advice.startswith(advice)


def test_what_is_advised_are_options_of_the_preset():
    from deploy.commandline import resolve

    advised = ["walker", "--agent.samples", "24", "--agent.no-bf16", "--plan-every", "8"]
    cfg = resolve(advised, PRESETS, "surefoot run")
    assert (cfg.agent.samples, cfg.agent.bf16, cfg.plan_every) == (24, False, 8)


def test_presets_that_plan_alike_are_timed_once_those_without_weights_not_and_those_charged_a_given_time_neither(
    tmp_path,
):
    presets = {name: cfg for name, (_, cfg) in PRESETS.items()}
    walker, unknown = presets["walker"], replace(presets["walker"].agent, checkpoint=tmp_path)
    lost = replace(walker, preset="lost", agent=unknown)
    chosen = [walker, presets["walker-broken-ankle"], lost, presets["linear-cem"], presets["smoke"]]
    found = {finding.name: finding for finding in check_plans(chosen)}
    assert list(found) == ["plan walker, walker-broken-ankle", "plan lost", "plan linear-cem"]
    assert "no checkpoint 'proposal'" in found["plan lost"].advice
    assert "every 1 step of 100 ms" in found["plan linear-cem"].seen
    walks = found["plan walker, walker-broken-ankle"].seen
    assert re.match(r"plan \d+ ms in bf16, \d+ in fp32; every 4 steps of 8 ms = 32 ms: ", walks)


def test_those_that_see_pictures_are_timed_too():
    of_model, of_camera = check_plans(PRESETS[name][1] for name in ("lewm-tworoom-small", "linear-pixels"))
    assert re.match(r"plan \d+ ms in fp32, \d+ in bf16; every 5 steps of 100 ms = 500 ms: ", of_model.seen)
    assert "every 1 step of 100 ms" in of_camera.seen
