"""What other processes may see and ask: by hand for a moment, goals one at a time, and what plans were chosen from."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.presets import PRESETS
from deploy.arms import build, open_session
from deploy.interrupt import Interrupts
from deploy.realtime.asks import LASTS_S, LONGEST, SharedGoals, SharedHand
from deploy.realtime.feed import SOURCES, Feed
from deploy.view.process import feed_of
from planners.types import ActionPlan

LINEAR = replace(PRESETS["linear-cem"][1], plan_latency_s=0.1, episode_steps=40, max_episodes=1)
NOW = np.zeros(1)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_a_hand_is_followed_until_it_has_not_asked_for_so_long(asked):
    now = [0.0]
    hand = SharedHand(1, lambda: now[0])
    assert hand.wants(0.0, NOW) is None
    for pause_s, action in asked:
        hand.ask(np.array([action]))
        said_s = now[0]
        now[0] += pause_s
        wanted = hand.wants(0.0, NOW)
        if now[0] < said_s + LASTS_S:
            assert wanted is not None
            assert wanted.tolist() == [action]
        else:
            assert wanted is None


def test_a_hand_that_lets_go_is_not_followed_any_more():
    hand = SharedHand(2)
    hand.ask(np.array([1.0, 2.0]))
    hand.let_go()
    assert hand.wants(0.0, NOW) is None


def test_a_hand_that_asks_for_another_robots_action_is_refused():
    with pytest.raises(ValueError, match=r"action_A: expected \(A\)"):
        SharedHand(2).ask(np.zeros(3))


def test_a_request_that_was_torn_is_not_followed():
    hand = SharedHand(1)
    hand.ask(np.array([5.0]))
    memory = np.frombuffer(hand._asked._memory, np.uint8)
    memory[np.flatnonzero(memory)[-1]] ^= 1
    assert hand.wants(0.0, NOW) is None


def test_what_another_process_asks_arrives():
    hand, goals = SharedHand(1, float), SharedGoals()  # by a clock that stands still
    context = multiprocessing.get_context("spawn")
    for ask, what in ((hand.ask, np.array([3.0])), (goals.ask, "speed:1")):
        process = context.Process(target=ask, args=(what,))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert hand.wants(0.0, NOW) == [3.0]
    assert goals.take() == "speed:1"
    assert goals.take() is None


def test_the_newest_goal_is_taken_once_and_what_became_of_it_is_said():
    goals = SharedGoals()
    assert goals.take() is None
    assert goals.answer == ""
    goals.ask("speed:1")
    goals.ask("é" * 1000)
    taken = goals.take()
    assert taken is not None
    assert taken.startswith("é" * (LONGEST // 2))
    assert goals.take() is None
    goals.say("refused")
    assert goals.answer == "refused"


def plan(futures) -> ActionPlan:
    return ActionPlan(np.zeros((4, 1)), 0.1, 2.0, futures_FHD=futures)


def test_what_a_plan_was_chosen_from_is_seen_as_it_was_said():
    feed = Feed.of(2, 3, 1, ())
    states = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    assert feed.look_ahead() is None
    feed.foresee(plan(states))
    found = feed.look_ahead()
    assert found is not None
    number, ahead = found
    assert np.array_equal(ahead.states_FHO, states)
    assert (ahead.t0_s, ahead.dt_s) == (2.0, 0.1)
    assert [ahead.over(t_s) for t_s in (1.0, 2.0, 2.39, 2.41)] == [False, False, False, True]
    assert feed.look_ahead(number) is None


@pytest.mark.parametrize("futures", [None, np.zeros((2, 4, 5)), np.zeros((8, 600, 3))], ids=["none", "latent", "long"])
def test_futures_that_are_no_states_or_too_many_are_not_shown(futures):
    feed = Feed.of(2, 3, 1, ())
    feed.foresee(plan(futures))
    assert feed.look_ahead() is None


def run(folder, at_step, cfg=LINEAR):
    """Run one episode; `at_step(feed, step)` is called before each step."""
    parts = build(cfg)
    feed = feed_of(cfg, parts.robot)
    made = open_session(cfg, parts, folder, Interrupts(), feed=feed)
    look, seen = made._mind.look, []

    def looked(step, *rest):
        if (found := feed.look()) is not None:
            seen.append(found[1].copy())
        at_step(feed, step)
        look(step, *rest)

    made._mind.look = looked
    made.run(lambda episode: episode < 1)
    made.log.close()
    return made, feed, seen


def test_a_plan_foresees_what_its_model_says_of_its_candidates(tmp_path):
    _, feed, _ = run(tmp_path, lambda *_: None)
    found = feed.look_ahead()
    assert found is not None
    states_FHO = found[1].states_FHO.astype(np.float64)
    assert states_FHO.shape == (8, 20, 2)
    # a point mass: the mean of two speeds leads from one position to the next
    moved = np.diff(states_FHO[..., 0], axis=1)
    assert moved == pytest.approx(0.1 * (states_FHO[:, :-1, 1] + states_FHO[:, 1:, 1]) / 2, abs=1e-5)


def test_a_person_takes_over_by_hand_and_the_plan_resumes(tmp_path):
    def by_hand(feed, step):
        feed.hand.ask(np.array([40.0])) if 10 <= step < 20 else feed.hand.let_go()

    made, _, seen = run(tmp_path, by_hand)
    (episode,) = made.history.episodes
    assert (episode.requested_TA[10:20] == 40.0).all()
    assert (episode.sent_TA[10:20] == 10.0).all()  # what the motors are asked for keeps to their bounds
    assert (np.flatnonzero(episode.planned_T == 2) == np.arange(10, 20)).all()
    sources = [SOURCES[int(frame["source"])] for frame in seen]
    assert sources == ["plan"] * 10 + ["operator"] * 10 + ["plan"] * 19


def test_an_emergency_stop_goes_before_a_hand(tmp_path):
    def by_hand(feed, step):
        feed.hand.ask(np.array([5.0]))
        if step == 10:
            feed.switch.throw("web page")

    made, _, _ = run(tmp_path, by_hand)
    assert made.history.episodes[0].ended == "stopped"
    assert made.guard.reason == "web page"
    assert made.history.episodes[0].sent_TA[:, 0].tolist() == [5.0] * 10 + [0.0]


def test_a_goal_may_be_asked_for_in_words(tmp_path):
    def ask(feed, step):
        if step == 10:
            feed.goals.ask("half a metre per second for one second, then stop")
        if step == 25:
            assert feed.goals.answer == "pursuing speed:0.0 since 2.0 s"
            feed.goals.ask("open the door")

    made, feed, _ = run(tmp_path, ask)
    assert [(change.t_s, change.objective) for change in made.history.goals] == [(1.0, "speed:0.5"), (2.0, "speed:0.0")]
    assert feed.goals.answer.startswith("refused: did not understand 'open', 'door'; `surefoot goals serve`")


@pytest.mark.parametrize(
    ("objective", "answer"),
    [
        ("speed:0.5", "pursuing speed:0.5 since 1.0 s"),
        ("", "pursuing the task since 1.0 s"),
        ("joy:1", "refused: no objective 'joy:1'"),
    ],
)
def test_a_goal_that_is_asked_for_is_pursued_or_refused_with_a_reason(tmp_path, objective, answer):
    def ask(feed, step):
        if step == 10:
            feed.goals.ask(objective)

    made, feed, _ = run(tmp_path, ask)
    assert feed.goals.answer.startswith(answer)
    assert [change.objective for change in made.history.goals] == ([] if "refused" in answer else [objective])
    assert made.history.episodes[0].steps == 40


def test_in_real_time_a_goal_reaches_the_planners_process_and_its_futures_the_feed(tmp_path):
    def ask(feed, step):
        if step == 5:
            feed.goals.ask("speed:0.5")

    cfg = replace(LINEAR, time="realtime", plan_latency_s=None, episode_steps=30)
    made, feed, _ = run(tmp_path, ask, cfg)
    assert feed.goals.answer.startswith("pursuing speed:0.5 since ")
    assert [change.objective for change in made.history.goals] == ["speed:0.5"]
    number, ahead = feed.look_ahead()
    assert number >= 2
    assert ahead.states_FHO.shape == (8, 20, 2)
