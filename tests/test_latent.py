"""An agent that plans in latents, from pictures to a picture."""

from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import Generator, nn

from agents.latent import LatentAgent, LatentConfig, build_latent
from agents.latent_search import Distance, LatentDynamics, toward
from agents.types import GoalChange
from configs.presets import PRESETS
from deploy.robots.sim import make_robot
from envs.robots import ROBOTS, make_env
from envs.types import Belief, Observation
from planners.cem import Cem
from planners.mppi import Mppi
from planners.types import PlanStatus
from world_models.checkpoint import describe, save_part
from world_models.jepa import ConvConfig, Jepa, JepaConfig
from world_models.normaliser import Normaliser

SPEC = ROBOTS["tworoom"]
BLOCK = 5
TINY = JepaConfig(
    image=32, encoder=ConvConfig((8, 16), 24), latent=8, hidden=32, layers=2, heads=2, head=4, mlp=16, block=BLOCK
)
QUICK = LatentConfig(method=Cem(elites=6, iterations=3, trust=float("inf")), samples=32, horizon=3, context=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = Jepa(TINY, Normaliser(torch.zeros(2), torch.ones(2)))
    for layer in model.predictor.layers:
        nn.init.normal_(layer.modulate.weight, std=0.3)
    out = tmp_path_factory.mktemp("checkpoint")
    save_part(out, "jepa", model, {"robot": "tworoom", **describe(jepa=TINY)})
    return out


@pytest.fixture
def agent(folder):
    made = build_latent(replace(QUICK, checkpoint=folder), SPEC)
    made.begin_episode(0, 0)
    return made


@pytest.fixture
def world():
    env = make_env("tworoom", render_mode="rgb_array")
    yield env
    env.close()


def seen(env, state_O, t_s=0.0):
    return Observation(t_s, state_O, env.render(), t_s)


def none():
    return np.zeros((0, 2))


def test_a_plan_has_a_row_for_each_control_step_from_the_committed_ones_on(agent, world):
    state_O, _ = world.reset(seed=0)
    for steps in (0, 1, 4, 7):
        plan = agent.plan(seen(world, state_O, 2.0), np.full((steps, 2), 0.5))
        assert plan.actions_HA.shape == (3 * BLOCK - steps, 2)
        assert plan.dt_s == SPEC.dt_s
        assert plan.t0_s == pytest.approx(2.0 + 0.1 * steps)
        assert np.abs(plan.actions_HA).max() <= 1
    with pytest.raises(ValueError, match="plan of 15 control steps cannot begin after 15"):
        agent.plan(seen(world, state_O), np.zeros((15, 2)))


def test_every_candidate_begins_with_what_is_committed(agent):
    g = Generator().manual_seed(0)
    due_KA = torch.rand(1, 7 * 2, generator=g)
    belief = Belief(torch.randn(1, 1, 8, generator=g), torch.zeros(1, 0, 10))
    actions = torch.randn(1, 4, 3, 10, generator=g)
    told = LatentDynamics(agent.model, due_KA).rollout(belief, actions, [g])
    rows = actions.flatten(2).clone()
    rows[..., :14] = due_KA[:, None]
    assert torch.allclose(told, LatentDynamics(agent.model, due_KA[:, :0]).rollout(belief, rows.view(1, 4, 3, 10), [g]))


def test_it_reads_of_the_state_only_which_goal_is_wanted(folder, world):
    def planned(state_O, picture_of):
        made = build_latent(replace(QUICK, checkpoint=folder), SPEC)
        made.begin_episode(0, 1)
        image = world.unwrapped.picture(picture_of)
        plan = made.plan(Observation(0.0, state_O, image, 0.0), none())
        return plan.cost, *plan.actions_HA.flatten()

    one_O, other_O = (world.reset(seed=s)[0] for s in (1, 2))
    lied_O = np.concatenate([other_O[:2], one_O[2:]])
    assert np.array_equal(planned(one_O, one_O), planned(lied_O, one_O))
    assert not np.array_equal(planned(one_O, one_O), planned(one_O, other_O))
    assert not np.array_equal(planned(one_O, one_O), planned(np.concatenate([one_O[:2], other_O[2:]]), one_O))


def test_the_same_episode_and_seed_give_the_same_plans(folder, world):
    runs = []
    for _ in range(2):
        made = build_latent(replace(QUICK, checkpoint=folder), SPEC)
        state_O, _ = world.reset(seed=3)
        made.begin_episode(4, 5)
        now, rows = seen(world, state_O), []
        for step in range(12):
            if step % 5 == 0:
                rows.append(made.plan(now, none()).actions_HA)
            state_O, *_ = world.step(rows[-1][step % 5])
            then = seen(world, state_O, 0.1 * (step + 1))
            made.observe(now, rows[-1][step % 5], then, 0.0)
            now = then
        runs.append(rows)
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_it_remembers_latents_a_block_apart_and_the_actions_between(agent, world):
    state_O, _ = world.reset(seed=6)
    now, pictures, sent = seen(world, state_O), [world.render()], []
    for step in range(13):
        action_A = np.array([0.1 * step - 0.5, -0.3], np.float32)
        state_O, *_ = world.step(action_A)
        then = seen(world, state_O, 0.1 * (step + 1))
        agent.observe(now, action_A, then, 0.0)
        now = then
        pictures.append(world.render())
        sent.append(action_A)
        known = min((step + 1) // BLOCK, 2)
        belief = agent.belief()
        assert belief.z_BTD.shape == (1, known + 1, 8)
        steps = range(step + 1 - BLOCK * known, step + 2, BLOCK)
        assert torch.allclose(belief.z_BTD[0], torch.stack([agent.encode(pictures[i]) for i in steps]), atol=1e-5)
        assert belief.actions_BTA.flatten().numpy() == pytest.approx(np.array(sent[steps[0] :]).flatten())
    agent.begin_episode(1, 0)
    agent.plan(now, none())
    assert agent.belief().z_BTD.shape == (1, 1, 8)


@pytest.mark.parametrize("method", [QUICK.method, Mppi(trust=float("inf"))], ids=["cem", "mppi"])
def test_a_plan_is_the_same_alone_and_among_sixteen(folder, method):
    made = build_latent(replace(QUICK, checkpoint=folder, method=method), SPEC)
    g = Generator().manual_seed(1)
    z_BTD, goal_BD = torch.randn(16, 1, 8, generator=g), torch.randn(16, 8, generator=g)

    def search(rows):
        n = len(rows)
        belief = Belief(z_BTD[rows], torch.zeros(n, 0, 10))
        planner = replace(
            made.planner, readout=toward(goal_BD[rows]), dynamics=LatentDynamics(made.model, torch.zeros(n, 0))
        )
        return planner.search(belief, None, [Generator().manual_seed(i) for i in rows])

    together = search(list(range(16)))
    for row in (0, 7, 15):
        alone = search([row])
        assert torch.allclose(
            alone.actions_BHA[0], together.actions_BHA[row], atol=2e-3
        )  # rounding, through three fits
        assert alone.cost_B[0].item() == pytest.approx(together.cost_B[row].item(), rel=1e-4)


def test_a_plan_that_failed_is_no_guess_for_the_next(agent, world):
    state_O, _ = world.reset(seed=2)
    good = agent.plan(seen(world, state_O), none())
    agent.begin_episode(0, 0)
    broken = LatentAgent(agent.model, agent.planner, SPEC, agent.draw)
    broken.begin_episode(0, 0)
    broken._goal_D = torch.full((8,), torch.nan)
    assert broken.plan(seen(world, state_O), none()).status is PlanStatus.FAILED
    broken.generator.manual_seed(0)
    broken._goal_D = None
    assert np.array_equal(broken.plan(seen(world, state_O), none()).actions_HA, good.actions_HA)


class Exact(nn.Module):
    """What a perfect model of a room would know: the latent is the disc's place, and blocks of actions add up."""

    cfg = replace(TINY, latent=2)

    def encode(self, frames_NHWC):
        red_NHW = frames_NHWC[..., 0].float() - frames_NHWC[..., 1].float()
        grid = (torch.arange(32) + 0.5) * 7.0
        total_N = red_NHW.sum((1, 2))
        return torch.stack([(red_NHW.sum(1) @ grid) / total_N, (red_NHW.sum(2) @ grid) / total_N], 1)

    def rollout(self, z_NTD, past_NPA, actions_NHA):
        by_NH2 = 5.0 * actions_NHA.view(*actions_NHA.shape[:2], BLOCK, 2).sum(2)
        return z_NTD[:, -1:] + by_NH2.cumsum(1)


def test_with_an_exact_model_it_goes_to_where_the_picture_shows(agent, world):
    made = LatentAgent(Exact(), agent.planner, SPEC, world.unwrapped.picture)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        places = rng.uniform([10, 10], [90, 210], (2, 2))
        state_O, _ = world.reset(seed=seed, options={"start": places[0], "goal": places[1]})
        made.begin_episode(0, seed)
        now, done, row = seen(world, state_O), False, None
        for step in range(50):
            if step % 5 == 0:
                row = made.plan(now, none()).actions_HA
            state_O, _, done, _, info = world.step(row[step % 5])
            then = seen(world, state_O, 0.1 * (step + 1))
            made.observe(now, row[step % 5], then, 0.0)
            now = then
            if done:
                break
        assert info["is_success"], f"seed {seed}: {info}"


# --- goals from files, and what is refused


def test_a_picture_in_a_file_is_a_goal_as_good_as_any(agent, world, tmp_path):
    state_O, _ = world.reset(seed=9)
    goal = world.unwrapped.picture(np.concatenate([state_O[2:], state_O[2:]]))
    iio.imwrite(tmp_path / "goal.png", goal)
    by_state = agent.plan(seen(world, state_O), none()).actions_HA
    (said,) = agent.pursue(f"image:{tmp_path / 'goal.png'}", 1.5)
    assert isinstance(said, GoalChange)
    agent.begin_episode(0, 0)
    lied_O = np.concatenate([state_O[:2], state_O[:2]])
    assert np.array_equal(agent.plan(seen(world, lied_O), none()).actions_HA, by_state)


@pytest.mark.parametrize(
    ("objective", "said"),
    [("speed:1", "pursues pictures, image:PATH, got 'speed:1'"), ("image:nowhere.png", r"nowhere\.png is no picture")],
)
def test_a_goal_that_is_no_picture_gets_one_line(agent, objective, said):
    with pytest.raises(ValueError, match=said) as error:
        agent.pursue(objective, 0.0)
    assert "\n" not in str(error.value)


def test_a_grey_picture_is_no_goal(agent, tmp_path):
    iio.imwrite(tmp_path / "grey.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"must be a colour picture of 8 bits, got \(8, 8\)"):
        agent.pursue(f"image:{tmp_path / 'grey.png'}", 0.0)


def test_an_observation_without_a_picture_is_refused(agent):
    with pytest.raises(ValueError, match=r"plans from pictures, and the observation at 0\.500 s has none"):
        agent.plan(Observation(0.5, np.zeros(4)), none())


def test_weights_of_another_robot_are_refused(folder):
    with pytest.raises(ValueError, match="is for 2 actuators, and walker2d has 6"):
        build_latent(replace(QUICK, checkpoint=folder), ROBOTS["walker2d"])


def test_weights_that_are_missing_or_torn_get_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint 'jepa'"):
        build_latent(replace(QUICK, checkpoint=tmp_path), SPEC)
    (tmp_path / "jepa.json").write_bytes((folder / "jepa.json").read_bytes())
    (tmp_path / "jepa.safetensors").write_bytes((folder / "jepa.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"jepa\.safetensors cannot be read") as error:
        build_latent(replace(QUICK, checkpoint=tmp_path), SPEC)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", [n for n, (_, cfg) in PRESETS.items() if isinstance(cfg.agent, LatentConfig)])
def test_every_world_that_is_planned_in_from_pictures_has_a_camera_before_its_first_reset(preset):
    robot, _ = make_robot(PRESETS[preset][1])
    (side, other), *rest = robot.camera.values()
    assert side == other >= 64
    assert not rest


def test_who_pays_for_delay_comes_soon_and_who_does_not_may_come_late():
    readings = {"goal_distance": torch.tensor([[[0.1, 0.1, 0.1], [2.0, 2.0, 0.0], [0.6, 0.9, 0.9]]])}
    actions_BSHA = torch.zeros(1, 3, 3, 2)
    assert Distance()(readings, actions_BSHA).argmin() == 1
    assert Distance(delay=0.5)(readings, actions_BSHA).tolist() == [pytest.approx([0.1, 1.0, 0.6])]
