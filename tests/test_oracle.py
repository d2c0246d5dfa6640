"""The simulator as a model: what it predicts is what then happens."""

from typing import Any

import numpy as np
import pytest
import torch

from envs.faults import FaultWrapper, parse_faults
from envs.oracle import SimulatorDynamics
from envs.robots import ROBOTS, make_env
from envs.types import Belief
from planners.base import Dynamics

ANY = Belief(torch.zeros(1, 1, 1), torch.zeros(1, 0, 1))
BROKEN = (
    "mass:torso:1.5@0.05 joint_lock:{j}:-@0.1 friction:all:0.5@0.1 actuator_limit:{j}:0.3@0 "
    "action_delay:all:2@0 actuator_gain:all:0.8@0 obs_noise:all:0.1@0"
)


def simulator(env) -> Any:
    """Gymnasium's MuJoCo environment inside the wrappers."""
    return env.unwrapped


def running(name, faults="", steps=15):
    """A robot in the middle of an episode."""
    spec = ROBOTS[name]
    env = FaultWrapper(make_env(name), parse_faults(faults.format(j=spec.action.names[-1]).split(), spec))
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.step(rng.uniform(-1, 1, spec.action.size))
    return env


def commands(name, *shape, seed=2):
    """Random commands, some of them beyond the action space."""
    return np.random.default_rng(seed).uniform(-1.3, 1.3, (*shape, ROBOTS[name].action.size))


@pytest.mark.parametrize("nthread", [1, 2])
@pytest.mark.parametrize("faults", ["", BROKEN], ids=["healthy", "broken"])
@pytest.mark.parametrize("name", ["walker2d", "hopper", "halfcheetah"])
def test_replaying_the_actions_reproduces_the_prediction_bit_for_bit(name, faults, nthread):
    env = running(name, faults)
    actions_SHA = commands(name, 5, 12)
    z_SHO = SimulatorDynamics(env, nthread).rollout(ANY, torch.tensor(actions_SHA)[None], [])[0].numpy()
    assert z_SHO.shape == (5, 12, ROBOTS[name].state_size)
    for predicted_O, action_A in zip(z_SHO[3], actions_SHA[3], strict=True):
        env.step(action_A)
        assert np.array_equal(simulator(env)._get_obs(), predicted_O)


def test_prediction_without_a_fault_wrapper_clips_commands_as_the_motors_do():
    env = make_env("walker2d")
    env.reset(seed=0)
    actions_HA = commands("walker2d", 6)
    z_SHO = SimulatorDynamics(env).rollout(ANY, torch.tensor(actions_HA)[None, None], [])[0, 0].numpy()
    seen = [env.step(a)[0] for a in actions_HA]
    assert np.array_equal(seen, z_SHO)


def test_rolling_out_leaves_the_running_robot_alone():
    ours, theirs = running("walker2d", BROKEN), running("walker2d", BROKEN)
    dynamics = SimulatorDynamics(ours)
    for action_A in commands("walker2d", 5):
        dynamics.rollout(ANY, torch.tensor(commands("walker2d", 1, 3, 4)), [])
        assert np.array_equal(ours.step(action_A)[0], theirs.step(action_A)[0])


def test_a_candidate_is_predicted_the_same_alone_and_among_others():
    dynamics = SimulatorDynamics(running("hopper"))
    actions = torch.tensor(commands("hopper", 1, 6, 8))
    together = dynamics.rollout(ANY, actions, [])
    alone = dynamics.rollout(ANY, actions[:, 4:5], [])
    assert torch.equal(together[:, 4:5], alone)


def test_prediction_is_nan_from_where_the_simulation_diverges_and_only_there():
    env = make_env("walker2d")
    env.reset(seed=0)
    dynamics = SimulatorDynamics(env)
    actions = torch.zeros(1, 3, 6, 6)
    actions[0, 1, 2] = float("nan")
    z = dynamics.rollout(ANY, actions, [])[0]
    assert z[[0, 2]].isfinite().all()
    assert z[1, :2].isfinite().all()
    assert z[1, 2:].isnan().all()
    simulator(env).data.qvel[4] = 1e12
    assert dynamics.rollout(ANY, torch.zeros(1, 2, 6, 6), []).isnan().all()
    env.reset(seed=0)
    assert torch.equal(dynamics.rollout(ANY, torch.zeros(1, 1, 6, 6), [])[0, 0], z[0])


def test_it_offers_what_a_planner_asks_of_a_model():
    dynamics: Dynamics = SimulatorDynamics(running("walker2d"))
    out = dynamics.rollout(ANY, torch.zeros(1, 2, 3, 6, dtype=torch.float32), [torch.Generator()])
    assert (tuple(out.shape), out.dtype) == ((1, 2, 3, 17), torch.float32)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="double_integrator has no MuJoCo model"):
        SimulatorDynamics(make_env("double_integrator"))
    with pytest.raises(ValueError, match="nthread must be at least 1, got 0"):
        SimulatorDynamics(make_env("walker2d"), nthread=0)
    with pytest.raises(ValueError, match="actions: expected"):
        SimulatorDynamics(make_env("walker2d")).rollout(ANY, torch.zeros(2, 2, 3, 6), [])
