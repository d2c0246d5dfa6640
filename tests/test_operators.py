"""What keys, sticks, leaders and scripts ask for, and what a session makes of it; no device, no terminal, no wall time."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.limits import LIMITS
from deploy.arms import build, open_session
from deploy.guard import NEXT, Guard, GuardConfig, Mode
from deploy.interrupt import Interrupts
from deploy.mind import NoMind
from deploy.operators.crew import Crew, OperatorConfig, take_options
from deploy.operators.helm import Helm
from deploy.operators.joints import Joints, Stick
from deploy.operators.keys import ESCAPE, HELD_S, REPEAT_S, TAP_S, Console, split
from deploy.operators.leader import Leader, LeaderConfig, options_of
from deploy.operators.leader_process import scale_for
from deploy.operators.script import Row, Script, Scripted, read_script
from deploy.orders import WORDS, Orders
from deploy.realtime.asks import SharedGoals, SharedHand
from deploy.realtime.feed import Feed, SharedSwitch
from deploy.robots.lerobot_units import parse_units
from deploy.safety import RobotLimits
from deploy.session import Session
from deploy.telemetry import Log
from envs.robots import robot_spec
from envs.types import ActionSpec
from tests.scripted import DT_S, ScriptedRobot, config

TWO = Joints.of(
    ActionSpec(np.array([-1.0, -2.0]), np.array([1.0, 4.0]), ("rad", "10 N m"), ("hip", "wheel")),
    RobotLimits(low=(-1.0, -2.0), high=(1.0, 4.0), max_rate=(0.5, 100.0), hold=(0.0, 1.0)),
    dt_s=0.1,
)


class Hand:
    """A clock that a test turns."""

    t_s = 0.0

    def __call__(self):
        return self.t_s


class Asker:
    """A device that asks for one thing."""

    def wants(self, t_s, last_A, /):
        return np.full(len(last_A), 7.0)


def helm_of(joints=TWO, planner=True, by="planner", device=None):
    orders, switch = Orders(), SharedSwitch()
    return Helm(device or Stick(joints), joints, orders, switch, planner, by), orders, switch


def words(orders):
    return [order.word for order in orders.take()]


# --- joints and sticks


def test_a_push_moves_positions_at_their_rate_and_is_a_share_of_the_effort_there_is():
    last_A = np.array([0.2, 3.0])
    assert TWO.moved(np.array([1.0, 0.5]), last_A) == pytest.approx([0.25, 2.5])
    assert TWO.moved(np.array([-0.5, -1.0]), last_A) == pytest.approx([0.175, -2.0])
    assert TWO.held(last_A) == pytest.approx([0.2, 1.0])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2), st.floats(-1, 1), st.floats(-2, 4))
def test_no_push_leaves_the_bounds_or_exceeds_a_rate(push, hip, wheel):
    moved_A = TWO.moved(np.array(push), np.array([hip, wheel]))
    assert (TWO.low_A <= moved_A).all()
    assert (moved_A <= TWO.high_A).all()
    assert abs(moved_A[0] - hip) <= 0.5 * 0.1 + 1e-12


def test_a_push_expires_and_then_the_robot_is_held():
    now, last_A = Hand(), np.array([0.2, 3.0])
    stick = Stick(TWO, now)
    assert stick.wants(0.0, last_A) == pytest.approx([0.2, 1.0])
    stick.push(np.array([5.0, 0.0]), 0.25)
    now.t_s = 0.24
    assert stick.wants(0.0, last_A) == pytest.approx([0.25, 1.0])  # a push of more than 1 is one of 1
    now.t_s = 0.25
    assert stick.wants(0.0, last_A) == pytest.approx([0.2, 1.0])


# --- keys


@pytest.mark.parametrize(
    ("data", "keys", "rest"),
    [
        (b"aQ 5", ["a", "q", " ", "5"], b""),
        (b"\x1b[C\x1b[D", ["right", "left"], b""),
        (b"\x1bOA\x1b[1;5B", ["up", "down"], b""),
        (b"\x1b[", [], b"\x1b["),
        (b"q\x1b[1;", ["q"], b"\x1b[1;"),
        (b"\x1b[15~x", ["x"], b""),
        (b"\x1b", [], b"\x1b"),
        (b"\x1b ", [" "], b""),
        (b"\x1b[ ", ["[", " "], b""),
        (b"\x1b\x1b[C", ["right"], b""),
    ],
)
def test_keys_are_told_apart(data, keys, rest):
    assert split(data) == (keys, rest)


@given(st.lists(st.sampled_from([b" ", b"\x1b[A", b"\x1bOC", b"q", b"\x1b[5~"]), max_size=8), st.integers(1, 5))
def test_keys_are_the_same_however_the_bytes_arrive(sent, size):
    whole, keys, pending = b"".join(sent), [], b""
    for start in range(0, len(whole), size):
        found, pending = split(pending + whole[start : start + size])
        keys += found
    assert keys == split(whole)[0]
    assert pending == b""
    assert keys.count(" ") == sent.count(b" ")


def console_of(now):
    stick = Stick(TWO, now)
    helm, orders, switch = helm_of(device=stick)
    return Console(helm, stick, 0.2, now), stick, helm, orders, switch


def test_a_tap_is_short_and_a_key_that_repeats_is_held_until_it_stops():
    now = Hand()
    console, stick, helm, *_ = console_of(now)
    last_A, moving = np.zeros(2), [0.2 * 0.5 * 0.1, 1.0]
    console.press("right")
    assert helm.by == "device"
    now.t_s = TAP_S - 0.01
    assert stick.wants(0.0, last_A) == pytest.approx(moving)
    now.t_s = TAP_S
    assert stick.wants(0.0, last_A) == pytest.approx([0.0, 1.0])
    now.t_s = REPEAT_S - 0.01
    console.press("right")
    now.t_s += HELD_S - 0.01
    assert stick.wants(0.0, last_A) == pytest.approx(moving)
    now.t_s += 0.01
    assert stick.wants(0.0, last_A) == pytest.approx([0.0, 1.0])
    now.t_s += REPEAT_S
    console.press("right")  # too late to be a repetition
    now.t_s += TAP_S
    assert stick.wants(0.0, last_A) == pytest.approx([0.0, 1.0])


def test_keys_choose_the_joint_and_the_speed():
    now = Hand()
    console, stick, *_ = console_of(now)
    assert console.chosen == "joint 1 hip, speed 0.2"
    for keys, chosen in (
        ("2", "joint 2 wheel, speed 0.2"),
        ("3", "joint 2 wheel, speed 0.2"),
        ("+", "joint 2 wheel, speed 0.35"),
        ("+++++", "joint 2 wheel, speed 1"),
        ("-", "joint 2 wheel, speed 0.6"),
    ):
        for key in keys:
            console.press(key)
        assert console.chosen == chosen
    console.press("down")
    assert console.chosen.startswith("joint 1")
    console.press("up")
    console.press("left")
    assert stick.wants(0.0, np.zeros(2)) == pytest.approx([0.0, 1.0 - 0.6 * 3.0])


def test_keys_give_orders():
    console, _, helm, orders, switch = console_of(Hand())
    console.press(" ")
    assert switch.thrown == "keyboard"
    for key, said in (("r", ["reset"]), ("a", ["arm", "start"]), ("q", ["quit"]), ("x", []), ("h", [])):
        console.press(key)
        assert words(orders) == said
    assert helm.by == "hold"
    console.press("p")
    assert helm.by == "planner"
    console.press("t")
    assert helm.by == "device"


def test_a_goal_is_typed_and_meanwhile_two_spaces_stop_the_robot():
    console, _, helm, orders, switch = console_of(Hand())
    console.press("g")
    assert console.line is None  # there is no planner
    console.goals = SharedGoals()
    for key in split("gGo 5° q\x7fup\r".encode())[0]:
        console.press(key)
    assert console.goals.take() == "go 5° up"
    for keys in (["g", "h", ESCAPE], ["g", "\r"], ["g", "left", "a", "\x7f", "\x7f", "\n"]):
        for key in keys:
            console.press(key)
        assert console.line is None
        assert console.goals.take() is None
    assert words(orders) == []
    assert not switch.thrown
    for keys in ("g ", "ggo  "):
        switch.release()
        for key in keys:
            console.press(key)
        assert switch.thrown == "keyboard"
        assert console.line is None
    assert console.goals.take() is None
    assert helm.by == "hold"


def test_what_is_ordered_is_known():
    assert {*WORDS} == {word for _, word in NEXT} | {"quit"}
    with pytest.raises(ValueError, match="no order 'jump'; choose from"):
        Orders().give("jump")


# --- the helm


def test_whoever_steers_asks_for_something_at_every_step():
    helm, *_ = helm_of(device=Asker())
    last_A = np.array([0.2, 3.0])
    assert helm.wants(0.0, last_A) is None
    helm.take()
    assert helm.wants(0.0, last_A) == pytest.approx([7.0, 7.0])
    helm.hold()
    assert helm.wants(0.0, last_A) == pytest.approx([0.2, 1.0])
    helm.hand_back()
    assert helm.wants(0.0, last_A) is None


def test_without_a_planner_there_is_nobody_to_hand_back_to():
    helm, *_ = helm_of(planner=False, by="device", device=Asker())
    helm.hand_back()
    assert helm.wants(0.0, np.array([0.2, 3.0])) == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize("deed", ["stop", "reset", "arm"])
def test_who_stops_resets_or_arms_the_robot_steers_nobody(deed):
    helm, orders, switch = helm_of(by="device", device=Asker())
    getattr(helm, deed)("keyboard")
    assert helm.by == "hold"
    assert words(orders) == {"stop": [], "reset": ["reset"], "arm": ["arm", "start"]}[deed]
    assert switch.thrown == ("keyboard" if deed == "stop" else "")


def test_the_first_to_arm_a_robot_that_waits_lets_the_planner_go_and_no_later_one():
    helm, orders, _ = helm_of()
    helm.waiting = True
    helm.arm("keyboard")
    assert (helm.by, words(orders)) == ("planner", ["arm", "start"])
    helm.arm("keyboard")
    assert helm.by == "hold"


@pytest.mark.parametrize("deed", ["hold", "take", "stop", "lose"])
def test_a_robot_that_was_not_left_to_the_planner_before_it_was_armed_holds(deed):
    helm, *_ = helm_of()
    helm.waiting = True
    getattr(helm, deed)(*[["keyboard"], []][deed in ("hold", "take")])
    helm.arm("keyboard")
    assert helm.by == "hold"


def test_a_device_that_is_gone_is_an_order_to_hold():
    helm, orders, _ = helm_of(by="device", device=Asker())
    helm.lose("the cable is out")
    assert [(order.word, order.reason) for order in orders.take()] == [("hold", "the cable is out")]


# --- the guard


def test_a_reset_releases_the_switch_and_watchdogs_count_from_the_start_on():
    switch = SharedSwitch()
    guard = Guard(GuardConfig(no_plan_s=0.5), switch)
    switch.throw("keyboard")
    guard.heed(0.0)
    assert guard.mode is Mode.ESTOP
    assert not guard.command("arm", 9.0)
    assert switch.thrown
    assert guard.command("reset", 9.0)
    assert not switch.thrown
    assert guard.command("arm", 9.0)
    assert guard.command("start", 10.0)
    assert guard._planned_s == 10.0


# --- sessions


def session(folder, operator, orders=None, switch=None, robot=None, **changes):
    cfg = config(**changes)
    log = Log(folder, Interrupts().shield)
    guard = None
    if switch is not None:
        guard = Guard(cfg.guard, switch)
        guard.command("arm", 0.0)
        guard.command("start", 0.0)
    made = Session(
        cfg, robot or ScriptedRobot(length=100), lambda _: NoMind(), log, None,
        guard=guard, operator=operator, orders=orders,
    )  # fmt: skip
    made.run(lambda episode: episode < 2)
    log.close()
    return made


def test_without_a_planner_somebody_who_steers_keeps_the_watchdog_quiet(tmp_path):
    made = session(tmp_path, Scripted(lambda t_s: np.array([t_s])))
    (episode,) = made.history.episodes
    assert made.guard.mode is Mode.RUNNING
    assert episode.ended == "limit"
    assert (episode.planned_T == 2).all()
    assert episode.requested_TA[:, 0] == pytest.approx(DT_S * np.arange(30))
    assert not np.isfinite(episode.age_T).any()


def test_without_anybody_the_robot_is_held_and_then_stays_so(tmp_path):
    asks = Scripted(lambda t_s: np.array([1.0]) if t_s < 0.95 else None)
    made = session(tmp_path, asks, guard=GuardConfig(no_plan_s=0.55))
    (episode,) = made.history.episodes
    assert episode.ended == "held"
    assert "no plan to follow" in made.guard.reason
    assert episode.planned_T.tolist() == [2] * 10 + [0] * 6
    assert (episode.sent_TA[10:] == 0).all()


class Actor:
    """Does one thing at each step that is named, then asks for 1."""

    def __init__(self, deeds):
        self.deeds = deeds

    def wants(self, t_s, last_A, /):
        for deed in self.deeds.get(round(t_s / DT_S), ()):
            deed()
        return np.ones(1)


def test_a_stopped_robot_goes_on_in_the_same_episode_once_a_person_has_reset_and_armed_it(tmp_path):
    orders, switch = Orders(), SharedSwitch()
    deeds = {
        5: [lambda: switch.throw("keyboard")],
        8: [lambda: orders.give("arm")],  # not before the reset
        10: [lambda: orders.give("reset", "keyboard")],
        15: [lambda: orders.give("arm", "keyboard"), lambda: orders.give("start", "keyboard")],
        20: [lambda: orders.give("quit")],
    }
    made = session(tmp_path, Actor(deeds), orders, switch)
    (episode,) = made.history.episodes
    assert episode.ended == "quit"
    assert episode.steps == 21
    assert episode.sent_TA[:, 0].tolist() == [1] * 5 + [0] * 11 + [1] * 5
    assert episode.planned_T.tolist() == [2] * 5 + [0] * 11 + [2] * 5
    changes = [(change.mode, change.reason) for change in made.history.modes][2:]
    assert changes == [
        ("estop", "keyboard"),
        ("disarmed", "keyboard"),
        ("armed", "keyboard"),
        ("running", "keyboard"),
    ]


def test_no_episode_begins_before_a_held_robot_is_armed(tmp_path, monkeypatch):
    orders, waits = Orders(), []

    def wait(_):
        waits.append(len(robot.sent))
        if len(waits) == 3:
            orders.give("arm")
            orders.give("start")

    monkeypatch.setattr("deploy.session.time.sleep", wait)
    robot = ScriptedRobot(length=10)
    made = session(tmp_path, Actor({5: [lambda: orders.give("hold", "by hand")]}), orders, robot=robot)
    first, second = made.history.episodes
    assert waits == [10, 10, 10]  # nothing is sent meanwhile
    assert (first.ended, second.ended) == ("terminated", "terminated")
    assert (second.sent_TA == 1).all()


def test_who_stops_the_robot_and_quits_at_once_leaves_it_stopped(tmp_path):
    orders, switch = Orders(), SharedSwitch()

    def both_between_two_steps(steps):
        if steps == 6:
            switch.throw("keyboard")
            orders.give("quit")
        return 0.0

    robot = ScriptedRobot(length=100, spoil=both_between_two_steps)
    made = session(tmp_path, Actor({}), orders, switch, robot)
    assert (made.guard.mode, made.guard.reason) == (Mode.ESTOP, "keyboard")
    assert made.history.modes[-1].mode == "estop"
    assert (made.history.episodes[0].ended, made.history.episodes[0].steps) == ("quit", 6)


def test_nobody_can_arm_an_unattended_robot_so_that_its_session_ends(tmp_path):
    orders = Orders(attended=False)
    made = session(tmp_path, Actor({5: [lambda: orders.give("hold", "silence")]}), orders)
    assert made.history.episodes[0].ended == "held"
    assert made.guard.reason == "silence"


def test_who_moves_the_robot_by_hand_from_a_page_goes_before_the_keys_and_either_stops_it(tmp_path):
    cfg = config(max_s=0.5)
    parts = build(cfg, planner=False)
    orders, switch = Orders(attended=False), SharedSwitch()
    crew = Crew(Scripted(lambda t_s: np.array([1.0])), orders, switch)
    hand = SharedHand(1, Hand())
    feed = replace(Feed.of(2, 2, 1, ("slew", "bounds")), hand=hand)
    made = open_session(cfg, parts, tmp_path, Interrupts(), feed=feed, crew=crew)
    hand.ask(np.array([3.0]))
    made.run(lambda episode: episode < 1)
    assert made.history.episodes[0].sent_TA[:, 0].tolist() == [3] * 5
    (tmp_path / "again").mkdir()
    again = open_session(cfg, parts, tmp_path / "again", Interrupts(), feed=feed, crew=crew)
    hand.let_go()
    feed.switch.throw("web page")
    again.run(lambda episode: episode < 1)
    assert (again.guard.mode, again.guard.reason) == (Mode.ESTOP, "web page")
    assert again.history.episodes[0].sent_TA[:, 0].tolist() == [0]


# --- scripts


@pytest.fixture
def force():
    spec = robot_spec("double_integrator")
    return Joints.of(spec.action, LIMITS["double_integrator"], spec.dt_s)


def test_a_row_of_a_script_counts_until_the_next(tmp_path, force):
    path = tmp_path / "moves.csv"
    path.write_text("t_s, force, order\n0.2, 2,\n0.4,,\n\n0.6,-1,hold\n0.8,,stop\n")
    orders, switch = Orders(), SharedSwitch()
    script = Script(read_script(path, force), force, orders, switch, then_quit=True)
    asked = [script.wants(0.1 * step, np.zeros(1)) for step in range(8)]
    assert [None if a is None else a.tolist() for a in asked] == [None, None, [2], [2], None, None, [-1], [-1]]
    assert words(orders) == ["hold"]
    assert not switch.thrown
    assert script.wants(0.8, np.zeros(1)) is None
    assert switch.thrown == "script"
    assert words(orders) == ["quit"]
    script.wants(0.9, np.zeros(1))
    assert words(orders) == []


def test_a_joint_that_a_script_does_not_name_is_held():
    script = Script([Row(0.0, np.array([0.5, math.nan]))], TWO, Orders(), SharedSwitch())
    assert script.wants(0.0, np.array([0.2, 3.0])) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a line of columns out of t_s, force, order"),
        ("t_s,torque\n0,1\n", "needs a line of columns"),
        ("force\n1\n", "needs a line of columns"),
        ("t_s,force\n0,one\n", "row 1: could not convert string to float: 'one'"),
        ("t_s,force\n0,1\nnan,1\n", "row 2: numbers must be finite"),
        ("t_s,force\n0,inf\n", "row 1: numbers must be finite"),
        ("t_s,force,order\n0,1,arm\n", "no order 'arm'; choose from hold, stop, quit"),
        ("t_s,force\n1,1\n0,1\n", "t_s goes back"),
    ],
)
def test_what_is_no_script_is_refused_in_one_line(tmp_path, force, text, said):
    path = tmp_path / "moves.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_script(path, force)
    assert "\n" not in str(caught.value)


# --- leaders


def leader_of(now, stale_s=0.25, approach=0.5):
    orders = Orders()
    return Leader(LeaderConfig(("--teleop.type=so101_leader",), {}, stale_s), TWO, orders, approach, now), orders


def says(leader, t_s, *angles):
    leader.newest.write(np.array([t_s, *angles]).tobytes())


def test_a_leader_is_approached_slowly_and_then_followed():
    now, last_A, went = Hand(), np.array([0.0, 1.0]), []
    leader, orders = leader_of(now)
    for step in range(6):
        now.t_s = 0.1 * step
        says(leader, now.t_s, 0.08 if step < 5 else 0.5, 2.0)
        last_A = leader.wants(now.t_s, last_A)
        went.append(last_A.tolist())
    assert [q for q, _ in went] == pytest.approx([0.025, 0.05, 0.075, 0.08, 0.08, 0.5])  # 0.5 rad/s, half of it
    assert {tau for _, tau in went} == {2.0}
    assert words(orders) == []


def test_a_leader_that_somebody_else_steered_for_is_approached_again():
    now = Hand()
    leader, _ = leader_of(now)
    says(leader, 0.0, 0.0, 1.0)
    assert leader.wants(0.0, np.array([0.0, 1.0]))[0] == 0.0
    says(leader, 0.0, 0.9, 1.0)
    assert leader.wants(0.1, np.array([0.0, 1.0]))[0] == 0.9
    assert leader.wants(0.5, np.array([0.0, 1.0]))[0] == pytest.approx(0.025)


def test_a_leader_that_is_silent_means_hold_until_a_person_arms():
    now = Hand()
    leader, orders = leader_of(now)
    says(leader, 0.0, 0.01, 1.0)
    now.t_s = 0.25
    assert leader.wants(0.0, np.array([0.0, 3.0])) == pytest.approx([0.01, 1.0])
    assert words(orders) == []
    now.t_s = 0.3
    assert leader.wants(0.1, np.array([0.0, 3.0])) == pytest.approx([0.0, 1.0])
    assert [(o.word, o.reason) for o in orders.take()] == [("hold", "so101_leader has said nothing for 0.30 s")]


def device(*features, **modes):
    from lerobot.motors import Motor, MotorNormMode
    from lerobot.motors.feetech import FeetechMotorsBus

    motors = {name: Motor(n, "sts3215", MotorNormMode(mode)) for n, (name, mode) in enumerate(modes.items(), 1)}
    names = features or tuple(f"{name}.pos" for name in modes)
    bus = FeetechMotorsBus("/dev/null", motors) if modes else None
    return SimpleNamespace(name="a_leader", action_features=dict.fromkeys(names, float), bus=bus)


def test_degrees_and_shares_of_a_range_become_radians_by_the_joints_names():
    bounds = (-1.0, 0.0, -2.0), (1.0, 0.5, 4.0)
    there = device(c="range_m100_100", b="range_0_100", a="degrees")
    scale = scale_for(there, ("a", "b", "c"), bounds, {})
    assert scale.names == ("a.pos", "b.pos", "c.pos")
    assert scale.radians({"a.pos": 45.0, "b.pos": 50.0, "c.pos": -50.0}) == pytest.approx([math.pi / 4, 0.25, -0.5])


def test_where_motors_do_not_say_the_unit_has_to_be_given():
    bounds, names = ((-1.0, -1.0), (1.0, 1.0)), ("a", "b")
    there = device("a.pos", "b.pos", "enabled")
    with pytest.raises(ValueError, match=r"the unit of 'a.pos' is None: give one of degrees"):
        scale_for(there, names, bounds, {})
    scale = scale_for(there, names, bounds, parse_units("radians,b=degrees"))
    assert scale.radians({"a.pos": 0.5, "b.pos": 180.0}) == pytest.approx([0.5, math.pi])


def test_a_device_without_the_robots_joints_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"a_leader has no b.pos for this robot; it has a.pos, delta_x"):
        scale_for(device("a.pos", "delta_x"), ("a", "b"), ((-1, -1), (1, 1)), {})


def test_lerobots_options_are_those_that_were_given():
    assert options_of("so101_leader", ["--teleop.port=/dev/x"]) == (
        "--teleop.type=so101_leader",
        "--teleop.port=/dev/x",
    )
    assert options_of("lerobot", ["--teleop.type=koch_leader"]) == ("--teleop.type=koch_leader",)


# --- the command line


def test_an_operators_options_are_taken_out_of_the_others():
    line = "walker --with so101_leader --teleop.port=/dev/x --seed 3 --operator-stale 0.5 --operator-units degrees"
    made, rest = take_options(line.split(), "--with")
    assert rest == ["walker", "--seed", "3"]
    assert made == OperatorConfig("so101_leader", None, 0.2, 0.5, "degrees", ("--teleop.port=/dev/x",))
    assert take_options(["walker", "--seed", "3"], "--operator") == (None, ["walker", "--seed", "3"])
    assert take_options(["walker", "--teleop.type=koch_leader"], "--with")[0].device == "lerobot"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("walker --operator-speed 0.5", "--speed needs --with DEVICE"),
        ("walker --with", "expected one argument"),
        ("walker --with keyboard --operator-speed 2", r"must be in \(0, 1\], got 2.0"),
        ("walker --with keyboard --operator-speed fast", "invalid float value: 'fast'"),
        ("walker --with keyboard --operator-stale 0", "--operator-stale must be > 0, got 0.0"),
        ("walker --with script", "--with script and --script FILE come together"),
        (
            "walker --with keyboard --teleop.port=x",
            "--teleop.port=x is for one of lerobot's teleoperators, not for keyboard",
        ),
        ("walker --with so101_leader --teleop.port x", "--teleop.port needs its value in the same word"),
        ("walker --with keyboard --script x.csv", "--with script and --script FILE come together"),
    ],
)
def test_bad_options_are_refused_in_one_line(line, said):
    with pytest.raises(ValueError, match=said) as caught:
        take_options(line.split(), "--with")
    assert "\n" not in str(caught.value)


def test_a_unit_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no unit 'degree'; choose from degrees"):
        parse_units("degree")
