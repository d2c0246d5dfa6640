"""Intervals against closed forms and simulation, results that survive the disk, and a page that is up to date."""

import contextlib
import importlib
import itertools
import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import adaptation, faults, report
from benchmarks.common import (
    RESULTS,
    Interval,
    Options,
    Result,
    Table,
    cell,
    holm,
    mean_interval,
    paired_interval,
    parse,
    publish,
    rate_interval,
)
from benchmarks.data_page import data_page, power_law, saved
from configs.presets import PRESETS
from deploy.machine import ROOT
from envs.faults import KINDS, parse_faults
from envs.robots import robot_spec

PIXELS = {"teleport", "colour", "occlude", "gain", "sticky"}
NOT_BENCHMARKS = {"report"}
BENCHMARKS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "__main__" in path.read_text() and path.stem not in NOT_BENCHMARKS
)


def test_the_wilson_interval_is_its_closed_form():
    n, p, z = 50, 0.9, 1.959964
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = rate_interval(45, 50)
    assert found.lo == pytest.approx((middle - half) / (1 + z**2 / n), abs=1e-6)
    assert found.hi == pytest.approx((middle + half) / (1 + z**2 / n), abs=1e-6)
    assert found.mean == 0.9


def test_the_bootstrap_interval_covers_the_mean_of_normal_data_about_95_times_in_100():
    rng = np.random.default_rng(1)
    hits = [
        found.lo <= 3.0 <= found.hi
        for _ in range(200)
        if (found := mean_interval(rng.normal(3.0, 2.0, size=40), resamples=500))
    ]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_a_paired_interval_sees_through_what_both_share():
    rng = np.random.default_rng(2)
    shared = rng.normal(0.0, 100.0, size=60)
    found = paired_interval(shared + 1.0 + rng.normal(0, 0.1, 60), shared)
    assert 0.9 < found.lo < 1.0 < found.hi < 1.1


def test_holm_matches_the_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")], []])
def test_an_interval_of_too_little_is_refused(values):
    with pytest.raises(ValueError, match="at least 2 finite values"):
        mean_interval(values)


def test_cells_read_well():
    assert cell(Interval(1.23456, 1.0, 2.0, 9)) == "1.235 [1, 2]"
    assert [cell(v) for v in (None, True, 3, 12345.6, float("nan"), "x")] == ["–", "yes", "3", "12346", "–", "x"]


def test_a_row_that_does_not_fit_its_table_is_refused():
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", ("a", "b"), ((1,),))


def some_result() -> Result:
    rows = (("case | one", Interval(1.0, 0.5, 1.5, 3)), ("case two", float("inf")))
    headline = {"rate": rate_interval(9, 10), "p50_ms": np.float64(3.0)}
    return Result("sample", "A claim.", headline, (Table("Cases", ("case", "value"), rows),), (0, 1, 2), 3)


def test_a_published_result_ends_in_one_json_line_and_makes_a_page(tmp_path, capsys):
    publish(some_result(), Options(out=tmp_path / "results" / "sample.json"))
    closing = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert closing["benchmark"] == "sample"
    assert closing["rate"]["n"] == 10
    page = report.page(tmp_path / "results")
    assert "| case \\| one | 1 [0.5, 1.5] |" in page
    assert "| case two | – |" in page
    assert page == report.page(tmp_path / "results")


def test_quick_results_do_not_reach_the_page(tmp_path):
    publish(some_result(), Options(quick=True, out=tmp_path / "sample.json"))
    with pytest.raises(ValueError, match="--quick"):
        report.page(tmp_path)


def test_the_results_page_is_up_to_date_with_the_committed_results():
    assert report.PAGE.read_text() == report.page(RESULTS), "run `python -m benchmarks.report`"
    told, _ = data_page(json.loads((RESULTS / "data_efficiency.json").read_text()))
    assert report.DATA_PAGE.read_text() == told, "run `python -m benchmarks.report`"


def test_a_law_of_data_is_found_again_and_none_is_made_of_three_budgets():
    budgets = (12, 24, 48, 96, 200)
    noise = np.random.default_rng(0).normal(1.0, 0.01, (10, 5))
    losses = (0.05 + 0.9 * np.array(budgets, float) ** -0.7) * noise
    law = power_law(budgets, losses)
    for found, true in ((law.floor, 0.05), (law.factor, 0.9), (law.exponent, 0.7)):
        assert found.lo <= true <= found.hi
        assert found.hi - found.lo < true
    steep = power_law(budgets, losses - 0.05)
    assert steep.floor.lo < 0.005
    assert power_law(budgets[:3], losses[:, :3]) is None


def test_the_page_on_data_says_what_an_ensemble_saves(tmp_path):
    rows = [["walker2d", 24, None, {"mean": 1.3, "lo": 1.2, "hi": 1.7, "n": 3}, None, None, None]]
    rows += [["walker2d", 48, None, {"mean": 1.1, "lo": 0.9, "hi": 1.2, "n": 3}, None, None, None]]
    assert saved({"rows": rows}).splitlines() == [
        "- walker2d, 24 episodes: an ensemble saves episodes: one model needs 1.3 [1.2, 1.7] times as many for the same error.",
        "- walker2d, 48 episodes: an ensemble may save nothing: one model needs 1.1 [0.9, 1.2] times as many for the same error.",
    ]


def test_the_severities_are_the_nearest_rungs_each_once_from_mild_to_harsh():
    assert faults.severities([0.02, 0.08, 0.2, 0.33, 0.5, 0.9]) == [1, 3, 4]
    assert faults.severities([0.0, 0.01, 0.02]) == [0, 1, 2]
    assert faults.severities([0.3]) == [0]


@pytest.mark.parametrize("robot", faults.LADDERS)
def test_every_fault_of_the_gym_is_one_that_its_robot_can_have(robot):
    spec = robot_spec(PRESETS[robot][1].robot)
    texts = [f"{fault}@0" for ladder in faults.LADDERS[robot].values() for fault in ladder]
    assert len(parse_faults(texts, spec)) == len(texts)
    assert set(faults.LADDERS[robot]) == {kind for kind in KINDS if kind not in PIXELS}


def test_a_misspelt_option_is_refused_and_the_near_one_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(Options, "a benchmark", ["--quikc"])
    assert stopped.value.code == 2
    assert "--quick" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_quick_form(name, capsys):
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    assert "--quick" in capsys.readouterr().out


def arm_that_adapted(adapted, **more):
    found = {"adapted": adapted, "healthy": 4000.0, "delay_s": 0.2, "reports": [{"accepted": bool(adapted)}]}
    return found | more


def test_adapted_episodes_are_paired_with_the_control_episodes_of_the_same_number():
    own = arm_that_adapted([(2, 900.0), (3, 1100.0)])
    row = adaptation.paired((adaptation.MAIN, 5), own, [4000.0, 500.0, 600.0, 800.0, 9999.0])
    assert (row["adapted"], row["control"]) == (1000.0, 700.0)
    nothing = adaptation.paired((adaptation.MAIN, 6), arm_that_adapted([]), [4000.0, 500.0])
    assert (nothing["adapted"], nothing["control"]) == (None, None)


def test_a_row_says_how_many_pairs_its_gain_rests_on():
    rows = [
        adaptation.paired((adaptation.MAIN, seed), arm_that_adapted([(1, 1000.0 + 10 * seed)]), [0.0, 700.0])
        for seed in range(3)
    ]
    rows.append(adaptation.paired((adaptation.MAIN, 3), arm_that_adapted([], delay_s=None), [0.0]))
    line = adaptation.row_of(adaptation.MAIN, rows)
    assert line[:6] == (adaptation.MAIN, 4, 3, 0.2, 3, 3)
    assert line[9] == pytest.approx(310.0)
    assert line[10] < 310.0 < line[11]


def test_arms_that_are_out_of_step_have_no_gain():
    rows = [adaptation.paired((adaptation.REPAIRED, s), arm_that_adapted([(1, 1000.0)]), [0.0, 700.0]) for s in (0, 1)]
    assert adaptation.row_of(adaptation.REPAIRED, rows)[5:] == (0, 4000.0, None, None, None, None, None)


def test_the_share_regained_is_that_of_the_means_and_its_interval_holds_the_truth():
    from benchmarks.walker_ankle import nested_bootstrap

    rng = np.random.default_rng(0)
    broken, healthy = rng.normal(1000, 100, 40), rng.normal(4000, 100, 40)
    sets = [rng.normal(2500, 100, 40) + rng.normal(0, 200) for _ in range(8)]
    share, lo, hi = nested_bootstrap(sets, broken, healthy)
    assert share == pytest.approx((np.mean(sets) - broken.mean()) / (healthy.mean() - broken.mean()))
    assert lo < 0.5 < hi
    assert 0.05 < hi - lo < 0.3


def test_the_share_regained_is_exact_without_noise():
    from benchmarks.walker_ankle import nested_bootstrap

    assert nested_bootstrap([[2.0, 2.0]] * 3, [1.0, 1.0], [5.0, 5.0]) == (0.25, 0.25, 0.25)


def test_where_nothing_was_lost_no_share_of_it_is_regained():
    from benchmarks.walker import ankle_rows
    from benchmarks.walker_ankle import METHOD, Life, nested_bootstrap

    assert nested_bootstrap([[2.0, 2.0]] * 3, [4.0, 6.0], [5.0, 5.0]) is None
    lives = [Life(METHOD, "left", None, None), Life(METHOD, "right", 0.0, None), Life(METHOD, "right", 0.0, 0, 20)]
    before, after = ankle_rows(lives, [{"0": [4.0, 4.0]}, {"0": [4.0, 4.0]}, {"20": [3.0, 3.0], "play": [1.0]}])
    assert before["regained"] == 0.0
    assert (after["regained"], after["sets"], after["n"]) == (None, 1, 2)


def test_a_model_that_the_gym_rolls_back_is_not_fitted_at_once_and_not_what_was_found(monkeypatch):
    from benchmarks import faults
    from configs.presets import PRESETS

    cfg = PRESETS["walker"][1]
    better = SimpleNamespace(part="step", before=1.0, after=0.5, better_share=1.0, model=None)
    fits, returns = [], iter([3000.0] * 5 + [1000.0] * 5 + [3000.0] * 5)
    monkeypatch.setattr(faults, "as_play", lambda e: e)
    monkeypatch.setattr(faults, "load_replay", lambda folder: None)
    monkeypatch.setattr(
        faults,
        "together",
        lambda cfg, first, count, model: [SimpleNamespace(total_reward=next(returns)) for _ in range(count)],
    )
    monkeypatch.setattr(faults, "job", lambda *_: fits.append(1) or [better])
    body = SimpleNamespace(explain=lambda *_: "foot_left_joint: limited to 0.5")

    @dataclass(frozen=True)
    class Model:
        step: object
        value: object = None

    better.model = SimpleNamespace(body=body)
    model = Model(SimpleNamespace(body=None))
    assert faults.lived(cfg, model) == (model, ["rolled back"], "")
    assert len(fits) == 1


def test_every_change_of_goal_is_one():
    from benchmarks.goal_changes import goals_of

    for seed in range(9_000_000, 9_000_020):
        goals = ["run", *goals_of(seed)]
        assert all(a != b for a, b in itertools.pairwise(goals))


def test_the_rows_of_the_ankle_compare_each_arm_with_itself_healthy_and_broken():
    from benchmarks.walker import ankle_rows
    from benchmarks.walker_ankle import METHOD, Life

    lives = [Life(METHOD, "left", None, None), Life(METHOD, "left", 0.5, None), Life(METHOD, "left", 0.5, 0, 20)]
    found = [{"0": [4000.0, 4200.0]}, {"0": [1000.0, 1200.0]}, {"20": [2500.0, 2700.0], "play": [1.0]}]
    before, after = ankle_rows(lives, found)
    assert (before["budget"], before["regained"]) == (0, 0.0)
    assert (after["budget"], after["regained"], after["method"], after["n"]) == (20, 0.5, True, 2)
    assert after["normalised"] == pytest.approx(56.6, abs=0.1)


def test_the_return_within_a_horizon_ends_with_a_fall():
    import torch

    from benchmarks.walker_diagnosis import horizon_return

    def judge(states, actions):
        return states[:, 0], (states[:, 1] > 0).float()

    z = torch.tensor([[[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]], [[1.0, 1.0], [2.0, -1.0], [4.0, 1.0]]])
    earned, alive = horizon_return(z, torch.zeros(2, 3, 1), judge, 0.5, 10.0)
    assert earned.tolist() == [1 + 1 + 1, 1 - 5]
    assert alive.tolist() == [1.0, 0.0]


def test_the_simulator_is_put_where_the_state_says():
    import torch

    from benchmarks.walker_diagnosis import continued
    from envs.robots import make_env, place
    from tests.test_practice import whole_model

    torch.manual_seed(0)
    env = make_env("walker2d")
    state, _ = env.reset(seed=3)
    for _ in range(20):
        state, *_ = env.step(np.full(6, 0.1))
    other = make_env("walker2d")
    other.reset(seed=4)
    place(other, state)
    assert np.allclose(other.unwrapped._get_obs(), state, atol=1e-6)

    def judge(states, actions):
        return torch.ones(len(states)), torch.ones(len(states))

    model = whole_model()
    states = torch.as_tensor(np.stack([state, state]), dtype=torch.float32)
    with torch.inference_mode():
        found = continued(other, model, states, torch.tensor([1.0, 0.0]), judge, 3)
    assert found.tolist() == pytest.approx([1 + 0.99 + 0.99**2, 0.0])


def test_goals_of_a_run_are_legal_and_now_and_then_the_task():
    from benchmarks.goal_changes import CHANGES, EVERY_S, FIRST_S, config, goals_of
    from deploy.goals import parse_goals

    found = [goals_of(seed) for seed in range(20)]
    assert all(len(goals) == CHANGES for goals in found)
    assert any("run" in goals for goals in found)
    changes = parse_goals(config(3).goals)
    assert [start_s for start_s, _ in changes] == [FIRST_S + EVERY_S * i for i in range(CHANGES)]


def test_an_ensemble_is_averaged():
    import torch

    from agents.learned import LearnedConfig
    from benchmarks.ensemble import ensemble_planner
    from envs.robots import robot_spec
    from envs.types import Belief
    from tests.test_practice import step_model, whole_model

    spec, model = robot_spec("walker2d"), whole_model()
    one, other = step_model(), step_model()
    other.net[-1].bias.data += 0.5
    model.value.returns.std.fill_(50.0)
    belief = Belief(torch.zeros(1, 1, 17), torch.zeros(1, 0, 6))
    belief.z_BTD[..., 0] = 1.25  # upright
    cfg = LearnedConfig(horizon=4, samples=3, bf16=False)
    alone, both = (ensemble_planner(cfg, spec, model, members) for members in ([one], [one, other]))
    generators = [torch.Generator().manual_seed(0)]
    actions = both.proposal.sample(belief, 3, generators)
    z = both.dynamics.rollout(belief, actions, generators)
    assert z.shape == (1, 3, 4, 34)
    costs = [alone.objective(alone.readout(x), actions) for x in z.split(17, -1)]
    assert torch.allclose(both.objective(both.readout(z), actions), sum(costs) / 2)
    assert not torch.allclose(costs[0], costs[1])
    assert both.search(belief, None, generators).cost_B.isfinite().all()


@dataclass(frozen=True)
class Counted:
    """A unit of work."""

    number: int

    @property
    def key(self) -> str:
        return f"counted/number: {self.number}, of many"


def squared(unit: Counted) -> dict[str, float]:
    return {"found": unit.number**2}


def refused(unit: Counted) -> dict[str, float]:
    raise AssertionError(unit)


def test_a_unit_of_work_is_done_once_and_is_read_from_then_on(tmp_path, monkeypatch):
    from benchmarks import units

    monkeypatch.setattr(units, "UNITS", tmp_path)
    first = [Counted(2), Counted(3)]
    assert _done_in_threads(units, first[:1], squared) == [{"found": 4}]
    assert _done_in_threads(units, first, squared) == [{"found": 4}, {"found": 9}]
    assert _done_in_threads(units, first[::-1], refused) == [{"found": 9}, {"found": 4}]
    lines = [json.loads(line) for line in (tmp_path / "counted.jsonl").read_text().splitlines()]
    assert [line["unit"] for line in lines] == ["number_-2-of-many", "number_-3-of-many"]
    assert all(line["commit"] for line in lines)


def test_a_unit_that_a_kill_cut_off_costs_no_other_one(tmp_path, monkeypatch):
    from benchmarks import units

    monkeypatch.setattr(units, "UNITS", tmp_path)
    units.keep("counted/a", 1)
    with (tmp_path / "counted.jsonl").open("a") as journal:
        journal.write('{"unit": "b", "fou')
    assert units.kept() == {"counted/a": 1}
    units.keep("counted/c", 3)
    assert units.kept() == {"counted/a": 1, "counted/c": 3}


def _done_in_threads(units, some, work):
    """The workers must see the patched folder."""
    from multiprocessing.pool import ThreadPool
    from unittest import mock

    with mock.patch.object(units.multiprocessing, "get_context", return_value=SimpleNamespace(Pool=ThreadPool)):
        return units.done(some, work, 1, "numbers")
