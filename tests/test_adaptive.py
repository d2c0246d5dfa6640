"""The life of an adaptive agent: alarm, play, fit, gate, trial, rollback, and the return of the old body."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.adaptation import Candidate, FitConfig
from agents.adaptive import AdaptiveAgent
from agents.imagination import ImagineConfig
from agents.jobs import AdaptConfig
from agents.learned import judge_of
from agents.memory import ORIGINAL, RecallConfig
from agents.surprise import Calibration, SurpriseConfig
from agents.types import AdaptationReport, ModelSwap, SurpriseReading
from envs.robots import robot_spec
from envs.types import Observation
from planners.search import SearchPlanner
from planners.ssr import Ssr
from world_models.checkpoint import GoalModel, WorldModel, blank
from world_models.denoiser import DenoiserConfig
from world_models.diffusion import DiffusionConfig
from world_models.dynamics import DiffusionDynamics
from world_models.policy import Policy, PolicyConfig
from world_models.proposal import DiffusionProposal
from world_models.step import StepConfig, StepModel
from world_models.value import ValueConfig, ValueEnsemble

SPEC = robot_spec("walker2d")
HORIZON = 8
NET = DenoiserConfig(width=32, layers=1, heads=2, qkv=32, mlp=64)
FIT = FitConfig(steps=2, batch=8)


def model():
    torch.manual_seed(0)
    causal = DenoiserConfig(width=32, layers=1, heads=2, qkv=32, mlp=64, causal=True)
    parts = (blank((17,)), blank((6,)))
    return WorldModel(
        DiffusionProposal(NET, DiffusionConfig(2), HORIZON, *parts).eval(),
        DiffusionDynamics(causal, DiffusionConfig(2), *parts, blank((HORIZON, 17))).eval(),
        StepModel(StepConfig(8, 1), *parts, blank((17,))).eval(),
        ValueEnsemble(ValueConfig(members=2, width=8), blank((17,)), blank((1,))).eval(),
        Policy(PolicyConfig(8, 1), *parts).eval(),
        {},
    )


def planner_for(made, objective):
    if objective == "nonsense":
        raise ValueError("no objective 'nonsense'")
    return SearchPlanner(
        method=Ssr(),
        dynamics=made.dynamics,
        readout=lambda z: {"height": z[..., 0]},
        objective=lambda readings, actions: readings["height"].sum(-1),
        action=SPEC.action,
        dt_s=SPEC.dt_s,
        horizon=HORIZON,
        samples=4,
        proposal=made.proposal,
    )


def agent(**adapt):
    calibration = Calibration(0.0, 1.0, 0.0, (), 1.0, 1.0, (0.5,) * 200, 200, 200)
    replay = (torch.zeros(4, HORIZON + 1, 17), torch.zeros(4, HORIZON, 6))
    imagined = ImagineConfig(iterations=2, starts=8, horizon=4)
    cfg = AdaptConfig(play_episodes=4, trial_episodes=3, dynamics=FIT, step=FIT, policy=FIT, value=imagined, **adapt)
    surprise = SurpriseConfig(settle=2, refractory=0)
    return AdaptiveAgent(model(), planner_for, judge_of(SPEC), calibration, replay, surprise, False, cfg)


def live(it, shift, steps=20, reward=1.0, terminated=True, whole=True, first=lambda: None):
    """One episode in which the torso drifts by `shift` a step, which the untrained model does not expect."""
    it.begin_episode(0, 0)
    first()
    events, state = [], np.zeros(17)
    for t in range(steps):
        after = state + shift
        seen = (Observation(t * 0.008, state), Observation((t + 1) * 0.008, after))
        events += it.observe(seen[0], np.zeros(6), seen[1], reward)
        state = after
    return events + list(it.end_episode(terminated, whole))


def alarms(events):
    return [e for e in events if isinstance(e, SurpriseReading) and e.alarm]


def candidate(part, it, before=1.0, after=0.5, share=1.0):
    return Candidate(part, copy.deepcopy(getattr(it.original, part)), before, after, share, 100, 9)


def adapted():
    it = agent()
    live(it, 100.0)
    for _ in range(4):
        live(it, 100.0)
    assert it.take_job() is not None
    it.receive([candidate("dynamics", it), candidate("step", it)], 1.0)
    return it


def test_a_robot_that_does_as_predicted_raises_no_alarm_and_starts_no_job():
    it = agent()
    assert not alarms(live(it, 0.0))
    assert it.take_job() is None


def test_an_alarm_starts_play_and_enough_play_starts_one_job():
    it = agent()
    assert alarms(live(it, 100.0))
    assert it.take_job() is None
    for _ in range(4):
        live(it, 100.0)
    assert it.take_job() is not None
    assert it.take_job() is None


def test_an_alarm_that_is_being_seen_to_is_not_raised_again():
    it = agent()
    assert len(alarms(live(it, 100.0))) == 1
    assert not alarms([e for _ in range(3) for e in live(it, 100.0)])
    control = agent(enabled=False)
    assert len(alarms([e for _ in range(3) for e in live(control, 100.0)])) > 1


def test_the_job_returns_a_candidate_for_each_part_and_touches_nothing():
    it = agent(parts=("dynamics", "step", "policy", "value"))
    before = copy.deepcopy(it.model.dynamics.state_dict())
    for _ in range(5):
        live(it, 100.0)
    found = it.take_job()()
    assert [c.part for c in found] == ["step", "dynamics", "policy", "value"]
    assert all(torch.equal(before[k], v) for k, v in it.model.dynamics.state_dict().items())


def test_the_control_arm_alarms_but_never_adapts():
    it = agent(enabled=False)
    assert alarms(live(it, 100.0))
    for _ in range(6):
        live(it, 100.0)
    assert it.take_job() is None


def test_only_better_parts_are_swapped_in_and_the_gate_says_why():
    it = agent()
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    old = it.model
    events = it.receive([candidate("dynamics", it), candidate("policy", it, after=1.2)], 1.0)
    reports = [e for e in events if isinstance(e, AdaptationReport)]
    assert [(r.part, r.accepted) for r in reports] == [("dynamics", True), ("policy", False)]
    assert "refused" in reports[1].reason
    assert [e.reason for e in events if isinstance(e, ModelSwap)] == ["accepted"]
    assert it.model.dynamics is not old.dynamics
    assert it.model.policy is old.policy


@pytest.mark.parametrize(
    ("healthy", "parts"),
    [(25.0, ("step",)), (30.0, ("step", "value")), (None, ("step", "value")), (-25.0, ("step", "value"))],
)
def test_a_robot_that_still_earns_most_of_what_it_did_keeps_its_own_value(healthy, parts):
    it = replace(agent(), healthy=healthy)
    for _ in range(5):
        live(it, 100.0)  # 20 each
    assert it.take_job().cfg.parts == parts


def test_a_value_that_was_learned_is_learned_on_however_well_the_robot_does():
    it = replace(agent(), healthy=30.0)
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    it.receive([candidate("step", it), candidate("value", it)], 1.0)
    for _ in range(4):
        live(it, 100.0, reward=1.5)
    assert it.take_job().cfg.parts == ("step", "value")


@pytest.mark.parametrize(("after", "taken"), [(9.0, True), (float("nan"), False)])
def test_a_value_is_tried_whatever_earlier_play_says_unless_it_is_no_number(after, taken):
    it = agent()
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    old = it.model
    events = it.receive([candidate("step", it), candidate("value", it, after=after, share=0.0)], 1.0)
    assert (it.model.value is not old.value) == taken
    (report,) = [e for e in events if isinstance(e, AdaptationReport) and e.part == "value"]
    assert ("on trial" in report.reason) == taken
    assert it.trial.sound is old


@pytest.mark.parametrize(
    "bad", [{"after": 1.0}, {"after": float("nan")}, {"after": 0.5, "share": 0.4}, {"after": 0.997}]
)
def test_a_candidate_that_is_not_clearly_better_is_refused(bad):
    it = agent()
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    events = it.receive([candidate("dynamics", it, **bad)], 1.0)
    assert not [e for e in events if isinstance(e, ModelSwap)]
    assert it.model is it.original


def test_after_refusals_the_agent_watches_again_and_a_later_alarm_starts_anew():
    it = agent(rounds=1)
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    it.receive([candidate("dynamics", it, after=2.0)], 1.0)
    assert it.stage == "watch"
    assert alarms(live(it, 100.0))
    assert it.stage == "collect"


def test_a_model_that_predicts_better_but_does_worse_is_rolled_back():
    it = adapted()
    it.trial.before, it.trial.episodes = [100.0, 101.0, 99.0], 3
    it.cfg, it.memory.cfg = AdaptConfig(play_episodes=100), RecallConfig(level=1e9)
    it.surprise_cfg = SurpriseConfig(gross=1e9, settle=10_000)
    events = [e for n in (1.0, 1.1, 0.9) for e in live(it, 0.0, reward=n)]
    (swap,) = [e for e in events if isinstance(e, ModelSwap)]
    assert swap.reason.startswith("rolled back")
    assert it.model is it.original


def test_a_model_that_does_better_is_kept():
    it = adapted()
    it.trial.before, it.trial.episodes = [1.0, 1.1, 0.9], 3
    it.cfg, it.memory.cfg = AdaptConfig(play_episodes=100), RecallConfig(level=1e9)
    it.surprise_cfg = SurpriseConfig(gross=1e9, settle=10_000)
    for n in (5.0, 6.0, 5.5):
        live(it, 0.0, reward=n)
    assert it.model is not it.original


def test_where_the_one_step_model_gains_nothing_the_body_is_the_old_one_and_all_is_refused():
    it = agent()
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    events = it.receive([candidate("dynamics", it), candidate("step", it, after=1.1), candidate("value", it)], 1.0)
    assert it.model is it.original
    assert [e.accepted for e in events] == [False, False, False]
    assert ["the body is the old one" in e.reason for e in events] == [True, False, True]
    assert not [e for e in events if isinstance(e, ModelSwap)]


def test_later_rounds_judge_each_part_alone():
    it = adapted()
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    it.receive([candidate("dynamics", it), candidate("step", it, after=1.1)], 2.0)
    assert it.model.dynamics is not it.original.dynamics


def test_the_next_fit_waits_until_the_model_in_use_has_been_judged():
    it = adapted()
    it.trial.episodes, it.memory.cfg = 8, RecallConfig(level=1e9)
    it.surprise_cfg = SurpriseConfig(gross=1e9, settle=10_000)
    for _ in range(7):
        live(it, 100.0)
        assert it.take_job() is None
    live(it, 100.0)
    assert it.take_job() is not None


def test_a_repaired_body_is_known_by_what_it_does():
    it = adapted()
    it.cfg = replace(it.cfg, trial_episodes=1000)  # its return is not judged here
    bias = it.model.step.net[-1].bias
    assert it.model.step is not it.original.step
    bias.data[:17] += 1.0  # the adapted model expects a drift that the repaired robot does not show
    events = [e for _ in range(20) for e in live(it, 0.0)]
    (swap,) = [e for e in events if isinstance(e, ModelSwap)]
    assert swap.reason == "the old body is back"
    assert it.model is it.original


def test_after_a_second_break_the_adapted_model_is_recalled_and_nothing_is_learned_again():
    it = adapted()
    it.cfg = replace(it.cfg, trial_episodes=1000)
    mended = it.model
    mended.step.net[-1].bias.data[:17] += 1.0  # it expects a drift of 1 a step
    events = [e for _ in range(4) for e in live(it, 0.0)]
    assert it.model is it.original
    it.surprise_cfg = SurpriseConfig(gross=1e9, settle=10_000)
    events = [e for _ in range(4) for e in live(it, 1.0)]
    (swap,) = [e for e in events if isinstance(e, ModelSwap)]
    assert (swap.model, swap.reason) == ("body-1", "a known body is back")
    assert it.model is mended
    assert it.stage == "trial", "it was left before it was judged"
    assert it.round == it.cfg.rounds


def quiet(it):
    """From now on nothing is recalled and nothing alarms."""
    it.memory.cfg, it.surprise_cfg = RecallConfig(level=1e9), SurpriseConfig(gross=1e9, settle=10_000)


def test_a_model_that_was_left_before_it_was_judged_is_on_trial_again_when_it_is_recalled():
    it = adapted()
    quiet(it)
    it.trial.before = [100.0, 101.0, 99.0]
    tried = it.model
    it.recall(ORIGINAL)
    assert it.stage == "watch"
    it.recall("body-1")
    assert (it.stage, it.model) == ("trial", tried)
    events = [e for n in (1.0, 1.1, 0.9) for e in live(it, 0.0, reward=n)]
    assert [e.reason for e in events if isinstance(e, ModelSwap)] == ["rolled back: return 20 after 100"]
    assert it.model is it.original
    assert list(it.memory.models) == [ORIGINAL]
    assert it.stage == "watch"


def test_a_body_that_is_only_near_a_known_one_is_recalled_and_then_surprises():
    it = adapted()
    it.state = replace(it.state, window=None, shift=1.0, stretch=1.5)
    it.recall(ORIGINAL)
    assert (it.state.shift, it.state.stretch, it.state.provisional) == (0.0, 1.0, False)
    it.recall("body-1")
    assert (it.state.shift, it.state.stretch, it.state.provisional) == (1.0, 1.5, False)
    assert alarms(live(it, 1000.0))
    assert (it.stage, it.body) == ("collect", "body-2")


def test_a_model_whose_scale_was_never_settled_is_estimated_anew():
    it = adapted()
    assert it.state.provisional
    it.recall(ORIGINAL)
    it.recall("body-1")
    assert it.state.provisional


def test_what_is_known_of_a_model_is_not_taken_for_its_successors():
    it = adapted()
    it.state = replace(it.state, window=None, shift=1.0, stretch=1.5)
    it.leave()
    it.stage = "fit"
    it.receive([candidate("dynamics", it)], 2.0)
    assert it.using == "body-1"
    assert it.state.provisional


def test_what_was_earned_with_the_last_body_says_nothing_about_what_is_learned_for_the_next():
    it = adapted()
    quiet(it)
    it.trial.before, it.trial.since = [10.0] * 5, [4000.0] * 5
    it.on_alarm()
    for _ in range(5):
        live(it, 0.0, reward=900 / 20)
    assert it.take_job() is not None
    it.receive([candidate("step", it)], 2.0)
    for _ in range(5):
        live(it, 0.0, reward=1800 / 20)
    assert it.trial.before == [900.0] * 5
    assert it.using == it.body == "body-2"


def test_episodes_that_were_cut_short_or_steered_by_others_are_not_held_against_a_model():
    it = adapted()
    quiet(it)
    it.trial.before = [20.0, 20.1, 19.9]
    for _ in range(5):
        live(it, 0.0, steps=6, whole=False)
    assert it.trial.since == []
    assert it.stage == "trial"


def test_the_first_whole_episode_of_a_new_model_counts():
    it = adapted()
    quiet(it)
    live(it, 0.0, first=lambda: it.use(it.model, "body-1.1", "it came with the first step"))
    assert it.trial.since == [20.0]


def test_a_goal_that_is_no_other_and_one_that_is_left_again_keep_the_trial():
    it = adapted()
    quiet(it)
    it.trial.before, it.trial.since = [100.0, 101.0, 99.0], [1.0]
    state = it.state
    assert it.pursue("run", 0.0)[0].objective == "run"
    assert it.state is state
    it.pursue("speed:1", 0.0)
    live(it, 0.0)
    it.pursue("", 0.0)
    assert (len(it.trial.before), it.trial.since) == (3, [1.0])
    events = [e for n in (1.0, 1.1) for e in live(it, 0.0, reward=n)]
    assert [e.reason for e in events if isinstance(e, ModelSwap)] == ["rolled back: return 14 after 100"]


def test_a_goal_that_changes_at_the_last_step_of_an_episode_ends_nothing():
    it = goal_agent()
    it.stage = "collect"
    live(it, 0.1)
    it.begin_episode(0, 0)
    it.observe(Observation(0.0, np.zeros(17)), np.zeros(6), Observation(0.008, np.zeros(17)), 1.0)
    it.pursue("run", 0.1)
    assert it.end_episode(True, True) == ()


def test_a_fit_that_failed_changes_nothing_and_learning_goes_on():
    it = agent()
    for _ in range(5):
        live(it, 100.0)
    it.take_job()
    assert it.receive([], 1.0) == []
    assert it.model is it.original
    assert it.stage == "collect"


def test_the_control_arm_recalls_nothing():
    it = agent(enabled=False)
    other = replace(it.original, step=copy.deepcopy(it.original.step))
    other.step.net[-1].bias.data[:17] += 1.0
    it.memory.keep("body-1", other)
    assert not [e for _ in range(4) for e in live(it, 1.0) if isinstance(e, ModelSwap)]


def test_a_swap_makes_the_threshold_provisional_and_going_back_does_not():
    it = adapted()
    assert it.state.provisional
    it.use(it.original, "original", "test")
    assert not it.state.provisional


def test_plans_are_deterministic_and_of_the_legal_range():
    plans = []
    for _ in range(2):
        it = agent()
        it.begin_episode(3, 7)
        plans.append(it.plan(Observation(0.0, np.zeros(17)), np.zeros((3, 6))))
    assert np.array_equal(plans[0].actions_HA, plans[1].actions_HA)
    assert plans[0].t0_s == pytest.approx(3 * SPEC.dt_s)
    assert (np.abs(plans[0].actions_HA) <= 1).all()


def goal_agent():
    """An agent with a goal model, in pursuit of a goal."""
    it = agent()
    goals = GoalModel(copy.deepcopy(it.model.step), it.model.policy, it.model.value)
    goals.step.net[0].weight.data += 0.1
    it.model = it.original = replace(it.model, goals=goals)
    it.memory.models = {ORIGINAL: it.original}
    it.pursue("speed:1", 0.0)
    return it


def test_a_goal_is_foreseen_by_the_goals_own_model_and_that_one_is_fitted():
    it = goal_agent()
    assert torch.equal(it.step.net[0].weight, it.model.goals.step.net[0].weight)
    assert it.mpc.ahead is it.step
    it.stage = "collect"
    for _ in range(4):
        live(it, 0.1)
    job = it.take_job()
    made = job()
    assert [c.part for c in made] == ["step"]
    made[0].model.body.numbers = made[0].model.body.numbers * 0.5
    it.receive([replace(made[0], before=1.0, after=0.5, better_share=1.0)], 1.0)
    assert torch.equal(it.model.goals.step.net[0].weight, made[0].model.net[0].weight)
    assert torch.equal(it.model.step.net[0].weight, it.original.step.net[0].weight)
    for step in (it.model.step, it.step):
        assert torch.equal(step.body.numbers, made[0].model.body.numbers)
    it.pursue("run", 2.0)
    assert it.step is it.model.step


def test_what_was_played_for_a_goal_teaches_nothing_about_the_task():
    it = goal_agent()
    it.stage = "collect"
    for _ in range(3):
        live(it, 0.1)
    assert len(it.play) == 3
    it.pursue("speed:2", 1.0)
    assert len(it.play) == 3
    it.round = 2
    it.pursue("run", 2.0)
    assert (it.play, it.fresh, it.round) == ([], 0, 0)


def test_a_known_body_is_recalled_in_pursuit_of_a_goal():
    it = goal_agent()
    other = replace(it.original, step=copy.deepcopy(it.original.step), goals=copy.deepcopy(it.original.goals))
    for model, drift in ((it.original, -3.0), (other, 1.0)):
        model.goals.step.net[-1].weight.data.zero_()
        model.goals.step.net[-1].bias.data = torch.tensor([drift] * 17 + [0.0] * 17)
    it.pursue("speed:2", 0.0)
    it.memory.keep("body-1", other)
    it.surprise_cfg = SurpriseConfig(gross=1e9, settle=10_000)
    (swap,) = [e for _ in range(4) for e in live(it, 1.0) if isinstance(e, ModelSwap)]
    assert swap.model == "body-1"
    assert it.model is other
