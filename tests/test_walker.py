"""The walker as shipped: its weights walk, its runs repeat byte for byte, and what is broken about them is told in one line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from agents.learned import CHECKOUT, LearnedConfig, build_learned, load_calibration, planner_of
from configs.presets import PRESETS
from deploy.run_agent import main
from deploy.watch import watch_together
from envs.robots import robot_spec
from world_models.checkpoint import load_model

SPEC = robot_spec("walker2d")
WALKER = PRESETS["walker"][1]
WEIGHTS = CHECKOUT / "checkpoints" / "walker-small"


def test_the_shipped_walker_walks():
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.024, max_s=2.4)
    done = watch_together(cfg, None, [0, 1, 2])
    assert sorted(w.steps for w in done)[1] == 300  # two of three, at least, are still on their feet
    assert np.median([w.episode_return for w in done]) > 700


def test_a_limited_ankle_costs_the_walker_its_balance():
    fault = ("actuator_limit:foot_left_joint:0@0",)
    cfg = replace(WALKER, adapt=False, plan_latency_s=0.024, max_s=4.0, faults=fault)
    assert np.median([w.steps for w in watch_together(cfg, None, [0, 1, 2])]) < 400


def test_the_same_run_gives_the_same_events_byte_for_byte(tmp_path):
    logs = []
    for name in ("one", "two"):
        args = ["walker", "--plan-latency", "0.024", "--adapt-latency", "1", "--max-s", "1.6", "--pictures", "none"]
        args += ["--faults", "actuator_limit:foot_left_joint:0.5@0.8", "--seed", "5", "--out", str(tmp_path / name)]
        assert main(args) == 0
        logs.append((tmp_path / name / "events.jsonl").read_bytes())
    assert logs[0] == logs[1]
    assert len(logs[0]) > 1000


def test_the_refinement_arm_and_a_goal_build_the_planner_they_name():
    cfg = LearnedConfig()
    model = load_model(cfg.folder)
    refined = replace(cfg, adapt=replace(cfg.adapt, refine=True))
    assert type(planner_of(refined, SPEC, model, "", adapted=True).method).__name__ == "Cem"
    assert type(planner_of(refined, SPEC, model, "", adapted=False).method).__name__ == "Ssr"
    z = np.zeros((1, 2, 32, 17), np.float32)
    planner = planner_of(cfg, SPEC, model, "height:1.2", adapted=False)
    assert set(planner.readout(model.dynamics.state.mean.new_tensor(z))) == {"speed", "height", "pitch", "alive"}


def test_the_calibration_allows_the_rate_of_the_preset():
    calibration, course = load_calibration(WEIGHTS)
    assert calibration.episodes >= 400
    assert calibration.threshold(LearnedConfig().surprise.false_alarm_rate) > 0
    assert course.columns == (0, 9)


@pytest.fixture
def copy(tmp_path):
    return LearnedConfig(checkpoint=shutil.copytree(WEIGHTS, tmp_path / "weights"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("surprise.json", "{"), ("surprise.json", "{}"), ("dynamics.json", "[]"), ("value.safetensors", "x")],
)
def test_a_damaged_file_is_named_in_one_line(copy, name, text):
    (copy.folder / name).write_text(text)
    with pytest.raises(ValueError, match=name) as caught:
        build_learned(copy, SPEC)
    assert "\n" not in str(caught.value)


def test_weights_of_another_robot_are_refused(copy):
    card = json.loads((copy.folder / "dynamics.json").read_text())
    (copy.folder / "dynamics.json").write_text(json.dumps(card | {"robot": "hopper"}))
    with pytest.raises(ValueError, match="hopper"):
        build_learned(copy, SPEC)
