"""Faults against the simulator: each breaks what it names, when it says, and is repaired without a trace."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest

from envs.faults import FaultWrapper, parse_faults
from envs.robots import ROBOTS, make_env

WALKER = ROBOTS["walker2d"]
ON_EVERY_ROBOT = [
    "actuator_limit:{joint}:0.3", "actuator_limit:all:0.3", "actuator_gain:{joint}:-1", "actuator_gain:all:0.5",
    "joint_lock:{joint}:-", "joint_damping:{joint}:10", "mass:torso:1.5", "mass:all:0.6", "friction:all:0.2",
    "friction:floor:0.2", "friction:{foot}:0.2", "action_delay:all:2", "obs_noise:all:0.1", "obs_noise:3:0.1",
    "obs_freeze:pitch:-", "obs_freeze:all:-", "obs_drop:all:0.5", "obs_drop:speed:0.5", "push:torso:150",
]  # fmt: skip
IN_MODEL = ("joint_lock", "joint_damping", "mass", "friction")
LAST = {"walker2d": "foot_geom", "hopper": "foot_geom", "halfcheetah": "ffoot"}


def broken(faults, name="walker2d"):
    return FaultWrapper(make_env(name), parse_faults(faults.split(), ROBOTS[name]))


def simulator(env) -> Any:
    """Gymnasium's MuJoCo environment inside the wrappers."""
    return env.unwrapped


def model_bytes(env):
    """The whole model as MuJoCo would write it to disk."""
    mujoco: Any = pytest.importorskip("mujoco")
    model = simulator(env).model
    out = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, out)
    return out.tobytes()


def trajectory(env, steps=60, seed=3):
    """States, (steps + 1, O), under fixed random commands from a reset, going on past falls."""
    return np.array([state for state, _ in run(env, steps, seed)])


def run(env, steps, seed=3, inspect=lambda k: None):
    """Each state with what `inspect` sees at that time."""
    rng = np.random.default_rng(7)
    out = [(env.reset(seed=seed)[0], inspect(0))]
    for k in range(steps):
        state, *_, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        assert not info["diverged"]
        out.append((state, inspect(k + 1)))
    return out


@functools.cache
def healthy_run(name):
    env = broken("", name)
    return trajectory(env), model_bytes(env)


@pytest.mark.parametrize("text", ON_EVERY_ROBOT)
@pytest.mark.parametrize("name", LAST)
def test_each_kind_changes_the_trajectory_from_its_start_and_leaves_no_trace_in_the_model(name, text):
    spec = ROBOTS[name]
    start, end = 12, 40  # control steps
    text = text.format(joint=spec.action.names[-1], foot=LAST[name])
    env = broken(f"{text}@{start * spec.dt_s!r}-{end * spec.dt_s!r}", name)
    healthy, pristine = healthy_run(name)
    at = (0, start - 1, start, end - 1, end, 60)
    states, same = zip(*run(env, 60, inspect=lambda k: k not in at or model_bytes(env) == pristine), strict=True)
    states = np.array(states)
    assert np.array_equal(states[:start], healthy[:start])
    # A command or a body that changes at `start` shows one step later; a sensor shows at once.
    assert np.array_equal(states[start], healthy[start]) or text.startswith("obs_")
    assert not np.array_equal(states[start:], healthy[start:])
    breaks_body = text.startswith(IN_MODEL)
    assert [same[k] for k in at] == [not (breaks_body and start <= k < end) for k in at]
    if text.startswith("obs_"):
        assert np.array_equal(states[end:], healthy[end:])


@pytest.mark.parametrize("name", ROBOTS)
def test_without_faults_the_wrapper_changes_nothing(name):
    plain, wrapped = make_env(name), broken("", name)
    rng = np.random.default_rng(0)
    assert np.array_equal(plain.reset(seed=0)[0], wrapped.reset(seed=0)[0])
    for _ in range(30):
        low, high = plain.action_space.low, plain.action_space.high
        action = rng.uniform(np.maximum(low, -1), np.minimum(high, 1)).astype(np.float32)
        ours, theirs = wrapped.step(action), plain.step(action)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:4] == theirs[1:4]
        assert np.array_equal(ours[4]["action_applied"], action)
        assert ours[4]["action_applied"].dtype == np.float32


def applied(faults, commands):
    """What reaches the actuators of a walker that is reset before the first of these commands."""
    env = broken(faults)
    env.reset(seed=0)
    return np.array([env.step(c)[4]["action_applied"] for c in commands])


COMMANDS = np.random.default_rng(1).uniform(-1.5, 1.5, (20, 6))
CLIPPED = COMMANDS.clip(-1, 1)
FOOT = WALKER.action.names.index("foot_left_joint")
OTHERS = [i for i in range(6) if i != FOOT]


def test_commands_are_clipped_to_the_action_space_before_and_after_the_fault():
    assert np.array_equal(applied("actuator_gain:all:0.5@0", COMMANDS), 0.5 * CLIPPED)
    assert np.array_equal(applied("actuator_gain:all:3@0", COMMANDS), (3 * CLIPPED).clip(-1, 1))


def test_limit_clips_the_command_of_its_joint_only():
    out = applied("actuator_limit:foot_left_joint:0.5@0", COMMANDS)
    assert np.array_equal(out[:, FOOT], CLIPPED[:, FOOT].clip(-0.5, 0.5))
    assert np.array_equal(out[:, OTHERS], CLIPPED[:, OTHERS])


def test_delay_holds_commands_back_by_control_steps_and_starts_with_zeros():
    out = applied("action_delay:all:3@0", COMMANDS)
    assert np.array_equal(out[:3], np.zeros((3, 6)))
    assert np.array_equal(out[3:], CLIPPED[:-3])


def test_a_delay_that_begins_in_mid_episode_repeats_commands_and_one_that_ends_skips_them():
    out = applied("action_delay:all:2@0.04-0.08", COMMANDS)
    assert np.array_equal(out, CLIPPED[[0, 1, 2, 3, 4, 3, 4, 5, 6, 7, *range(10, 20)]])


def test_delays_add_while_they_overlap():
    out = applied("action_delay:all:1@0 action_delay:all:2@0.08", COMMANDS)
    assert np.array_equal(out[1:], CLIPPED[[*range(9), *range(7, 17)]])


def test_no_delayed_command_survives_a_reset():
    env = broken("action_delay:all:2@0")
    for _ in range(2):
        env.reset(seed=0)
        seen = [env.step(c)[4]["action_applied"] for c in COMMANDS[:5]]
        assert np.array_equal(seen, [*np.zeros((2, 6)), *CLIPPED[:3]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_faults_of_commands_compose_whatever_their_order(order):
    texts = [
        "actuator_limit:foot_left_joint:0.5@0", "actuator_limit:all:0.3@0", "actuator_gain:foot_left_joint:0.5@0",
        "actuator_gain:all:0.8@0", "action_delay:all:1@0",
    ]  # fmt: skip
    out = applied(" ".join(texts[i] for i in order), COMMANDS[:4])
    past = np.vstack([np.zeros(6), CLIPPED[:3]])
    gain = np.full(6, 0.8)
    gain[FOOT] = 0.4
    assert out == pytest.approx((past * gain).clip(-0.3, 0.3), abs=1e-12)


def test_the_look_ahead_for_planners_is_what_is_then_applied():
    env = broken("action_delay:all:2@0 actuator_gain:leg_joint:0.5@0")
    env.reset(seed=0)
    for c in COMMANDS[:5]:
        env.step(c)
    ahead = env.applied(COMMANDS[None, 5:])[0]
    assert np.array_equal(ahead, [env.step(c)[4]["action_applied"] for c in COMMANDS[5:]])


def test_a_locked_joint_holds_its_angle_against_any_command():
    for name, joint in [("walker2d", "leg_joint"), ("walker2d", "foot_left_joint"), ("halfcheetah", "ffoot")]:
        dt_s = ROBOTS[name].dt_s
        env = broken(f"joint_lock:{joint}:-@{20 * dt_s!r}", name)
        states = trajectory(env, 200)
        angle = states[:, ROBOTS[name].state_names.index(joint)]
        assert angle[:20].std() > 0.03
        error = np.abs(angle[22:] - angle[20])
        assert error.max() < 0.02
        assert np.median(error) < 5e-4


def test_the_motor_of_a_locked_joint_moves_nothing():
    states = []
    for command in (-1.0, 1.0):
        env = broken("joint_lock:foot_left_joint:-@0")
        env.reset(seed=0)
        states.append([env.step(np.where(np.arange(6) == FOOT, command, c))[0] for c in COMMANDS])
    assert np.array_equal(*states)


def test_a_locked_joint_is_locked_anew_where_a_reset_puts_it():
    env = broken("joint_lock:leg_joint:-@0.1")
    trajectory(env, 40)
    other = broken("joint_lock:leg_joint:-@0")
    assert np.array_equal(trajectory(env, 30), trajectory(other, 30))


def test_mass_and_damping_scale_what_they_name_and_compose():
    env = broken("mass:torso:1.5@0 mass:all:2@0 joint_damping:foot_joint:4@0 joint_damping:foot_joint:5@0")
    ours, theirs = simulator(env).model, simulator(make_env("walker2d")).model
    factor = np.where(np.arange(ours.nbody) == 1, 3.0, 2.0)
    assert ours.body_mass == pytest.approx(theirs.body_mass * factor)
    assert ours.body_inertia == pytest.approx(theirs.body_inertia * factor[:, None])
    assert ours.body_subtreemass[0] == pytest.approx((theirs.body_mass * factor).sum())
    dof = ours.joint("foot_joint").dofadr[0]
    ratio = np.ones(ours.nv)
    ratio[dof] = 20.0
    assert ours.dof_damping == pytest.approx(theirs.dof_damping * ratio)


def contact_friction(env):
    """Friction of each contact of a robot that lies on the floor, by the name of its own geom."""
    mujoco: Any = pytest.importorskip("mujoco")
    core = simulator(env)
    core.data.qpos[1:3] = 0.04, 1.5
    mujoco.mj_forward(core.model, core.data)
    floor = core.model.geom("floor").id
    seen = {}
    for c in core.data.contact:
        (own,) = set(c.geom) - {floor}
        seen[core.model.geom(own).name] = c.friction.copy()
    return seen


@pytest.mark.parametrize(
    ("faults", "factors"),
    [
        ("friction:all:0.3@0", {"all": 0.3}),
        ("friction:floor:0.3@0", {"all": 0.3}),
        ("friction:all:2@0", {"all": 2.0}),
        ("friction:all:1@0", {"all": 1.0}),
        ("friction:foot_geom:0.1@0", {"foot_geom": 0.1}),
        ("friction:foot_geom:0.1@0 friction:all:0.5@0 friction:floor:0.5@0", {"foot_geom": 0.025, "all": 0.25}),
    ],
)
@pytest.mark.parametrize("name", ["walker2d", "hopper"])
def test_friction_scales_the_friction_of_the_contacts(name, faults, factors):
    healthy, slippery = contact_friction(broken("", name)), contact_friction(broken(faults, name))
    assert "foot_geom" in healthy
    assert len(healthy) > 1
    for geom, friction in healthy.items():
        factor = factors.get(geom, factors.get("all", 1.0))
        assert slippery[geom] == pytest.approx(np.maximum(factor * friction, 1e-5), rel=1e-12)  # mjMINMU


@pytest.mark.parametrize("name", LAST)
def test_only_contacts_with_the_floor_have_friction(name):
    """The premise of friction by geom: any two robot geoms do not collide, or do so without friction."""
    model = simulator(make_env(name)).model
    own = np.flatnonzero(model.geom_bodyid)
    assert len(own) == model.ngeom - 1
    collide = (model.geom_contype[own][:, None] & model.geom_conaffinity[own]) > 0
    assert (~collide | (np.maximum.outer(model.geom_condim[own], model.geom_condim[own]) == 1)).all()


@pytest.mark.parametrize(("window", "seconds"), [("@0.1", 0.1), ("@0.05-0.09", 0.034)])
def test_a_push_gives_the_impulse_of_its_force_over_its_time(window, seconds):
    mujoco: Any = pytest.importorskip("mujoco")

    def momentum(faults):
        env = broken(faults)
        env.reset(seed=0)
        core = simulator(env)
        core.set_state(core.init_qpos + np.eye(9)[1] * 30, core.init_qvel)  # in free fall
        for _ in range(40):
            env.step(np.zeros(6))
        mujoco.mj_subtreeVel(core.model, core.data)
        return core.model.body_subtreemass[1] * core.data.subtree_linvel[1, 0]

    # From the first control step at or after the start (0.056 in the second case) until the end.
    assert momentum("push:torso:200" + window) - momentum("") == pytest.approx(200 * seconds, rel=1e-3)


def readings_of(faults, steps=400):
    """What the sensors of a robot report, beside the truth."""
    env = broken(faults)
    seen, true = [env.reset(seed=2)[0]], [simulator(env)._get_obs()]
    for _ in range(steps):
        seen.append(env.step(np.zeros(6))[0])
        true.append(simulator(env)._get_obs())
    return np.array(seen), np.array(true)


@pytest.mark.parametrize("target", ["8", "speed", "all"])
def test_noise_has_the_deviation_asked_for_in_normalised_units_on_its_sensors(target):
    seen, true = readings_of(f"obs_noise:{target}:0.2@0")
    unit = (seen - true) / np.array(WALKER.state_scale)
    columns = np.arange(17) if target == "all" else np.array([8])
    assert unit[:, columns].std(0) == pytest.approx(0.2, rel=0.15)
    assert np.abs(unit[:, columns].mean(0)).max() < 0.04
    assert not np.delete(unit, columns, axis=1).any()


def test_two_noises_on_one_sensor_are_independent():
    seen, true = readings_of("obs_noise:8:0.3@0 obs_noise:speed:0.4@0")
    assert ((seen - true)[:, 8] / WALKER.state_scale[8]).std() == pytest.approx(0.5, rel=0.15)


def test_a_frozen_sensor_repeats_the_last_reading_before_the_fault():
    seen, true = readings_of("obs_freeze:pitch:-@0.08-0.4", 100)
    assert (seen[10:50, 1] == true[9, 1]).all()
    seen[10:50, 1] = true[10:50, 1]
    assert np.array_equal(seen, true)


def test_a_dropped_message_is_replaced_by_the_one_before_as_often_as_asked():
    seen, true = readings_of("obs_drop:all:0.3@0")
    lost = (seen[1:] == seen[:-1]).all(1)
    assert 0.22 < lost.mean() < 0.38
    assert np.array_equal(seen[1:][~lost], true[1:][~lost])
    assert np.array_equal(readings_of("obs_drop:all:1@0", 20)[0], np.tile(true[0], (21, 1)))


def test_the_robot_is_rewarded_for_what_it_does_whatever_its_sensors_say():
    blind, seeing = broken("obs_freeze:all:-@0 obs_noise:all:5@0"), broken("")
    blind.reset(seed=0)
    seeing.reset(seed=0)
    assert [blind.step(c)[1:4] for c in COMMANDS] == [seeing.step(c)[1:4] for c in COMMANDS]


def test_random_faults_repeat_with_the_seed_and_do_not_disturb_each_other():
    faults = "obs_noise:speed:0.2@0 obs_drop:pitch:0.5@0"
    env = broken(faults)
    first = trajectory(env)
    assert np.array_equal(first, trajectory(env))
    assert not np.array_equal(first - trajectory(broken("")), trajectory(env, seed=4) - trajectory(broken(""), seed=4))
    longer = trajectory(broken(faults + " obs_noise:height:1@0"))
    assert np.array_equal(longer[:, 1:], first[:, 1:])


def test_the_clock_and_the_faults_run_on_across_episodes():
    env = broken("actuator_limit:all:0.1@0.08-0.24 mass:torso:2@0.16")
    limit, mass = env.faults
    seen = []
    for _ in range(4):
        env.reset(seed=0)
        for _ in range(10):
            seen.append(env.active)
            assert env.t_s == pytest.approx(0.008 * (len(seen) - 1))
            env.step(np.zeros(6))
    assert seen == [()] * 10 + [(limit,)] * 10 + [(limit, mass)] * 10 + [(mass,)] * 10


def test_a_fault_of_the_body_is_there_from_the_first_step_after_a_reset():
    env = broken("mass:torso:2@0.08")
    trajectory(env, 20)
    assert np.array_equal(trajectory(env, 20), trajectory(broken("mass:torso:2@0"), 20))


def test_overlapping_faults_of_the_body_are_repaired_one_by_one():
    env = broken("mass:torso:2@0-0.08 mass:torso:3@0.04-0.12 friction:all:0.5@0.08-0.16")
    weight = []
    env.reset(seed=0)
    pristine = model_bytes(make_env("walker2d"))
    for _ in range(20):
        weight.append(simulator(env).model.body("torso").mass[0])
        env.step(np.zeros(6))
    torso = simulator(make_env("walker2d")).model.body("torso").mass[0]
    assert weight == pytest.approx(torso * np.repeat([2.0, 6.0, 3.0, 1.0], 5))
    assert model_bytes(env) == pristine


def test_a_robot_without_a_mujoco_model_has_the_faults_that_need_none():
    env = broken("actuator_limit:force:0.5@0 obs_freeze:position:-@0.2", "double_integrator")
    first, _ = env.reset(seed=0)
    out = [env.step(np.ones(1)) for _ in range(5)]
    assert [o[4]["action_applied"].item() for o in out] == [0.5] * 5
    assert out[0][0][0] != first[0]
    assert [o[0][0] for o in out[1:]] == [out[0][0][0]] * 4
