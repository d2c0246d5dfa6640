"""What the benchmarks of latent models compute, against closed forms and tiny cases."""

import numpy as np
import pytest
import torch

from agents.calibration import calibrate
from agents.surprise import SurpriseConfig
from benchmarks import goal_cloning, latent_adaptation, latent_budget, latent_planning, latent_surprise, lewm
from benchmarks.common import rate_interval
from configs.models import LATENT_MODELS
from configs.presets import PRESETS
from deploy import watch
from envs.dataset import EpisodeData, Layout
from envs.faults import parse_faults
from envs.robots import robot_spec
from world_models import probes
from world_models.jepa import JepaConfig, VitConfig, quick


def test_the_area_under_the_curve_is_the_chance_that_a_broken_one_scores_higher():
    assert latent_surprise.auc([1.0, 2.0], [3.0, 4.0], 50).mean == 1.0
    assert latent_surprise.auc([3.0, 4.0], [1.0, 2.0], 50).mean == 0.0
    assert latent_surprise.auc([1.0, 2.0, 3.0], [2.0], 50).mean == 0.5
    found = latent_surprise.auc(list(range(100)), [x + 20 for x in range(100)], 400)
    assert found.mean == pytest.approx(0.68, abs=1e-9)
    assert found.lo < found.mean < found.hi


def test_scores_before_and_after_a_change_are_told_apart():
    rng = np.random.default_rng(0)
    cfg = SurpriseConfig(false_alarm_rate=0.1, start_updates=2, settle=5, refractory=2)
    known = calibrate([np.exp(rng.normal(0, 0.3, 40)) for _ in range(40)], cfg)
    errors = np.exp(rng.normal(0, 0.3, 30))
    errors[12] *= 100
    found = latent_surprise.scores(errors.tolist(), 12, known, cfg)
    assert found["alarm"] == 12
    assert found["after"] == found["at"] > 3 * found["before"]
    short = latent_surprise.scores(errors[:8].tolist(), 12, known, cfg)
    assert (short["after"], short["at"], short["alarm"]) == (None, None, None)
    assert found["curve"].index(max(share for share in found["curve"] if share is not None)) == latent_surprise.BEFORE
    assert short["curve"][: latent_surprise.BEFORE - 4][-1] is not None
    assert not any(short["curve"][latent_surprise.BEFORE - 4 :])
    assert latent_surprise.draw({("rooms", ""): [found, short], ("rooms", "gain"): [found]}).startswith(b"\x89PNG")


def test_a_row_of_surprise_counts_what_came_too_early_or_never():
    clean = [{"alarm": None, "change": 5, "before": 0.2, "after": 0.3, "at": 0.1}] * 4
    found = [
        {"alarm": 5, "change": 5, "before": 0.2, "after": 2.0, "at": 2.0},
        {"alarm": 9, "change": 5, "before": 0.2, "after": 1.5, "at": 0.1},
        {"alarm": None, "change": 5, "before": 0.2, "after": 0.1, "at": 0.1},
        {"alarm": 2, "change": 5, "before": 1.1, "after": 1.5, "at": 0.1},
        {"alarm": None, "change": 5, "before": 0.2, "after": None, "at": None},
    ]
    row = latent_surprise.row("world", "gain", found, clean)
    assert (row["alarms"].mean, row["within one step"].mean) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (row["false ones before"], row["over before the change"], row["n"]) == (1, 1, 5)
    assert row["median steps until it came"] == 2
    assert row["AUC"].mean == 0.75


def test_every_world_that_is_measured_has_its_model_its_preset_and_legal_faults():
    for preset, faults in latent_surprise.FAULTS.items():
        spec = robot_spec(PRESETS[preset][1].robot)
        assert len(parse_faults([f"{fault}@1" for fault in faults.values()], spec)) == len(faults)
        assert preset in LATENT_MODELS
        assert preset in lewm.WORLDS
        assert parse_faults([f"{fault}@0" for fault in latent_adaptation.FAULTS[preset]], spec)


def test_success_and_its_steps_are_those_of_the_episodes_that_came_to_their_goal():
    found = [
        {"success": True, "steps": 10, "recording": 0},
        {"success": False, "steps": 50, "recording": 1},
    ]
    row = lewm.row("world", 25, 50, "arm", found)
    assert (row["success"].mean, row["steps to the goal"], row["n"]) == (0.5, 10, 2)


def test_episodes_of_few_recordings_say_less_than_as_many_of_their_own():
    rng = np.random.default_rng(0)
    easy = rng.random(20) < 0.5
    recording = np.repeat(np.arange(20), 10)
    alike, apart = lewm.clustered(easy[recording], recording), lewm.clustered(rng.random(200) < 0.5, np.arange(200))
    assert alike.hi - alike.lo > 2 * (apart.hi - apart.lo)
    assert alike.mean == easy.mean()
    sure = lewm.clustered([True] * 200, recording)
    assert (sure.mean, sure.hi, sure.n) == (1.0, 1.0, 200)
    assert 0.8 < sure.lo < 0.9  # Wilson's for 20


def test_straight_to_its_place_is_a_policy_of_states():
    act = lewm.straight(robot_spec("tworoom"), None, np.array([10.0, 50, 40, 48]))
    assert act == pytest.approx(np.array([[1.0, -0.4]]))


def test_a_probe_reads_what_is_linear_and_says_how_much():
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randn(500, 6, generator=generator), torch.randn(200, 6, generator=generator)
    weights = torch.randn(6, 2, generator=generator)
    guess = probes.ridge(x, x @ weights + 3.0, other, penalty=1e-6)
    assert probes.explained(guess, other @ weights + 3.0) == pytest.approx([1.0, 1.0], abs=1e-5)
    mean = (other @ weights).mean(0).expand(200, 2)
    assert probes.explained(mean, other @ weights) == pytest.approx([0.0, 0.0], abs=1e-5)


def test_plans_of_the_benchmark_end_nearer_to_their_goal_than_none_and_bf16_costs_little():
    cfg = JepaConfig(
        image=28, encoder=VitConfig(width=24, layers=1), latent=16, hidden=32, layers=2, heads=2, head=8, mlp=32
    )
    model = latent_planning.model_of(cfg, 0)
    here_ND, goal_ND = latent_planning.problems(model, 2, 0)
    rest = [latent_planning.cost(model, h, g, torch.zeros(5, 10)) for h, g in zip(here_ND, goal_ND, strict=True)]
    for searched in (model, quick(model)):
        for index, still in enumerate(rest):
            ms, cost = latent_planning.ours(model, searched, here_ND[index], goal_ND[index], index)
            assert ms > 0
            assert cost < (0.7 if searched is model else 0.95) * still
    assert model.predictor.position.dtype == torch.float32
    assert quick(model).encoder is model.encoder


def test_the_searches_that_are_compared_hold_the_presets_own_and_are_kept_apart(tmp_path):
    for preset in lewm.shipped(lewm.WORLDS):
        found = latent_budget.searches(preset)
        assert found["120 x 5"] == PRESETS[preset][1].agent
        assert ("no search" in found) == (PRESETS[preset][1].agent.folder / "inverse.safetensors").exists()
        runs = [lewm.Trial(preset, name, 25, 50, 0, tmp_path, agent).config for name, agent in found.items()]
        assert len({watch.made_with(run) for run in runs}) == len(runs)
        assert all(run.plan_latency_s == 0.0 for run in runs)
    rows = [{"world": "w", "ms per plan": ms, "success": rate_interval(n, 10)} for ms, n in ((5.0, 3), (50.0, 10))]
    assert latent_budget.draw(rows).startswith(b"\x89PNG")


def test_a_data_set_is_known_by_what_was_done_in_it_and_not_by_how_it_was_written(tmp_path, monkeypatch):
    def episodes(action: float) -> EpisodeData:
        ones = np.ones((3, 1), np.float32)
        flags = np.zeros(3, bool)
        return EpisodeData(
            ones,
            ones,
            action * ones,
            ones[:, 0],
            flags,
            flags,
            np.array([0, 3]),
            Layout("x", 10, ("x",), ("m",), ("f",), ("N",)),
        )

    monkeypatch.setattr(goal_cloning.EpisodeData, "load", lambda folder: episodes(float(folder.name)))
    marks = [goal_cloning.content(tmp_path / name) for name in ("1", "1.0", "2")]
    assert marks[0] == marks[1] != marks[2]
