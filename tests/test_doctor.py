"""The doctor names what is wrong, and fails only where something cannot work."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deploy import doctor
from deploy.clock import SimulatedClock
from deploy.doctor import Finding, Verdict, check_checkpoints, check_weights, differing_packages, lateness_s


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
