"""The walker as shipped: its weights walk, its runs repeat byte for byte, and what is broken about them is told in one line."""

import json
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from agents.learned import CHECKOUT, LearnedConfig, build_learned, load_calibration, planner_of
from agents.monitor import episode_errors
from configs.presets import PRESETS
from deploy import watch
from deploy.run_agent import main
from deploy.watch import watch_and_keep, watch_together
from envs.robots import robot_spec
from planners.ssr import Ssr
from world_models.checkpoint import load_model

SPEC = robot_spec("walker2d")
WALKER = PRESETS["walker"][1]
WEIGHTS = CHECKOUT / "checkpoints" / "walker-small"


def test_the_shipped_walker_walks():
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.024, max_s=2.4)
    done = watch_together(cfg, [0, 1, 2])
    assert sorted(e.length for e in done)[1] == 300  # two of three, at least, are still on their feet
    assert np.median([e.total_reward for e in done]) > 700


def test_a_limited_ankle_costs_the_walker_its_balance():
    fault = ("actuator_limit:foot_left_joint:0@0",)
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.024, max_s=4.0, faults=fault)
    assert np.median([e.length for e in watch_together(cfg, [0, 1, 2])]) < 400


def test_the_same_run_gives_the_same_events_byte_for_byte(tmp_path):
    logs = []
    for name in ("one", "two"):
        args = ["walker", "--plan-latency", "0.024", "--adapt-latency", "1", "--max-s", "1.6", "--pictures", "none"]
        args += ["--faults", "actuator_limit:foot_left_joint:0.5@0.8", "--seed", "5", "--out", str(tmp_path / name)]
        assert main(args) == 0
        logs.append((tmp_path / name / "events.jsonl").read_bytes())
    assert logs[0] == logs[1]
    assert len(logs[0]) > 1000


def test_predictor_and_goal_build_the_planner_they_name():
    cfg = LearnedConfig()
    model = load_model(cfg.folder)
    assert type(planner_of(cfg, SPEC, model, "").dynamics).__name__ == "StepModel"
    blocks = replace(cfg, predictor="dynamics", horizon=32, method=Ssr())
    assert type(planner_of(blocks, SPEC, model, "").dynamics).__name__ == "DiffusionDynamics"
    z = np.zeros((1, 2, cfg.horizon, 17), np.float32)
    z_BSHD = model.step.state.mean.new_tensor(z)
    within = planner_of(cfg, SPEC, replace(model, goals=None), "height:1.2")
    assert set(within.readout(z_BSHD)) == {"speed", "height", "pitch", "alive"}
    beyond = planner_of(cfg, SPEC, model, "height:1.2")
    assert set(beyond.readout(z_BSHD)) == {"speed", "height", "pitch", "alive", "reward", "value"}


def test_the_walker_stands_when_it_is_told_to():
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.032, max_s=4.0, objective="speed:0")
    (episode,) = watch_together(cfg, [3])
    assert episode.length == 500
    assert abs(episode.state_TO[-125:, SPEC.columns["speed"]].mean()) < 0.1


def test_a_planner_that_the_weights_cannot_make_is_refused():
    cfg = LearnedConfig()
    model = load_model(cfg.folder)
    with pytest.raises(ValueError, match="horizon must be <= 32"):
        planner_of(replace(cfg, horizon=64), SPEC, model, "")
    with pytest.raises(ValueError, match="no part 'dynamics'"):
        planner_of(replace(cfg, predictor="dynamics"), SPEC, replace(model, dynamics=None), "")


def test_the_calibration_allows_the_rate_of_the_preset():
    calibration = load_calibration(WEIGHTS)
    assert calibration.episodes >= 400
    assert calibration.threshold(LearnedConfig().surprise.false_alarm_rate) > 0


@pytest.fixture
def copy(tmp_path):
    return LearnedConfig(checkpoint=shutil.copytree(WEIGHTS, tmp_path / "weights"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("surprise.json", "{"), ("surprise.json", "{}"), ("proposal.json", "[]"), ("value.safetensors", "x")],
)
def test_a_damaged_file_is_named_in_one_line(copy, name, text):
    (copy.folder / name).write_text(text)
    with pytest.raises(ValueError, match=name) as caught:
        build_learned(copy, SPEC)
    assert "\n" not in str(caught.value)


def test_weights_of_another_robot_are_refused(copy):
    card = json.loads((copy.folder / "proposal.json").read_text())
    (copy.folder / "proposal.json").write_text(json.dumps(card | {"robot": "hopper"}))
    with pytest.raises(ValueError, match="hopper"):
        build_learned(copy, SPEC)


def test_the_one_step_model_is_surprised_by_another_ankle_and_not_by_a_healthy_one():
    step = load_model(WEIGHTS).step
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.024, max_s=1.6)
    well = watch_together(cfg, [0, 1, 2])
    broken = watch_together(replace(cfg, faults=("actuator_limit:foot_left_joint:0.5@0",)), [0, 1, 2])
    mean = [
        np.mean(np.concatenate([episode_errors(step, e.state_TO, e.action_TA) for e in some]))
        for some in (well, broken)
    ]
    assert mean[1] > 2 * mean[0]


def test_an_episode_that_was_watched_is_recorded_whole_and_read_back_the_second_time(tmp_path, monkeypatch):
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.024, max_s=0.4)
    first = list(watch_and_keep(cfg, 7, 2, 1, tmp_path))
    assert [e.length for e in first] == [50, 50]
    assert first[0].truncated
    assert first[0].state_TO.shape == (51, 17)
    assert not np.array_equal(first[0].state_TO, first[1].state_TO)
    live = Mock(side_effect=watch.live)
    monkeypatch.setattr(watch, "live", live)
    again = list(watch_and_keep(cfg, 7, 2, 1, tmp_path))
    assert all(np.array_equal(a.state_TO, b.state_TO) for a, b in zip(first, again, strict=True))
    (other,) = watch_and_keep(cfg, 8, 1, 1, tmp_path)
    assert np.array_equal(other.state_TO, first[1].state_TO)  # episode 8, wherever the collection began
    live.assert_not_called()
    list(watch_and_keep(cfg, 8, 2, 1, tmp_path))
    live.assert_called_once()  # episode 9 alone was missing
