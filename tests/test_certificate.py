"""Bounds against closed forms and redraws, codes that decode to the very model, and certificates that say nothing of noise."""

import json
import math

import numpy as np
import pytest
import torch

from world_models.bounds import (
    any_length,
    azuma_bound,
    clopper_pearson,
    episode_bound,
    kl,
    kl_bound,
    kl_inverse,
    martingale_bound,
    mean_bound,
    price,
)
from world_models.certificate import (
    PLANS,
    Question,
    best,
    bound_of,
    certified,
    compress,
    decoded,
    fingerprint,
    held_out,
    learned,
    linear_of,
    said_of_steps,
    steps_of,
    wrong_steps,
)
from world_models.coding import HEADER, Bits, Code, Form, decode, encode, read_code, write_code
from world_models.normaliser import Normaliser
from world_models.step import StepConfig, StepModel
from world_models.subspace import CompressConfig, Plan, Subspace, untrained

CFG = CompressConfig(steps=150, quantised=100, batch=128)
SMALL = (Plan(0, 3, 0, StepConfig(8, 1)), Plan(40, 4, 0, StepConfig(8, 1)), Plan(10**9, 5, 0, StepConfig(8, 1)))


def model(width: int = 8) -> StepModel:
    torch.manual_seed(0)
    one = Normaliser(torch.zeros(2), torch.ones(2))
    made = StepModel(
        StepConfig(width, 1), one, Normaliser(torch.zeros(1), torch.ones(1)), Normaliser(torch.zeros(2), torch.ones(2))
    )
    return made.eval().requires_grad_(False)


def episodes(count: int, seed: int = 0, length: int = 20) -> list[tuple[np.ndarray, np.ndarray]]:
    """A damped spring that is pushed at random, in states of unit change."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        state, states, actions = rng.normal(size=2), [], rng.normal(size=(length, 1))
        for (push,) in actions:
            states.append(state)
            state = state + np.array([state[1], -state[0] - 0.5 * state[1] + push]) + 0.02 * rng.normal(size=2)
            state = np.clip(state, -3, 3)
        made.append((np.array([*states, state], np.float32), actions.astype(np.float32)))
    return made


# --- bounds


@pytest.mark.parametrize(
    ("wrong", "n", "limit"), [(2, 50, 0.121), (5, 100, 0.102), (10, 200, 0.083), (50, 1000, 0.063)]
)
def test_the_exact_limit_of_a_rate_is_the_known_one(wrong, n, limit):
    assert clopper_pearson(wrong, n, 0.05) == pytest.approx(limit, abs=5e-4)


def test_with_nothing_wrong_the_bounds_are_their_closed_forms():
    assert clopper_pearson(0, 30, 0.05) == pytest.approx(1 - 0.05 ** (1 / 30))
    assert kl_inverse(0.0, 0.3) == pytest.approx(1 - math.exp(-0.3))
    assert kl_bound(np.zeros(30), -math.log(0.05)) == pytest.approx(1 - 0.05 ** (1 / 30))
    assert clopper_pearson(30, 30, 0.05) == kl_inverse(1.0, 0.1) == 1.0


@pytest.mark.parametrize("observed", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("nats", [1e-4, 0.02, 0.5])
def test_the_inverse_of_kl_is_its_inverse(observed, nats):
    found = kl_inverse(observed, nats)
    assert found > observed
    assert kl(observed, found) == pytest.approx(nats, rel=1e-6)
    assert found <= observed + math.sqrt(nats / 2)  # Pinsker


def test_azuma_with_the_price_of_a_code_is_hoeffding_with_kl():
    bits, n, delta = 2454, 20_000, 0.05
    length = bits + 2 * math.log2(bits + 1) + math.log2(math.pi**2 / 6)
    gap = math.sqrt((length * math.log(2) + math.log(1 / delta)) / (2 * n))
    assert azuma_bound(0.1, n, price(bits, delta)) == pytest.approx(0.1 + gap)


def test_the_prior_of_all_codes_sums_to_at_most_one():
    lengths = range(200_000)
    assert sum(math.exp(-price(c, 0.5) + math.log(2)) * 2.0**c for c in range(500)) < 1
    assert sum(6 / (math.pi * (c + 1)) ** 2 for c in lengths) == pytest.approx(1, abs=1e-5)
    assert sum(math.exp(-any_length(n)) for n in range(1, 10_000)) == pytest.approx(1, abs=2e-4)


def test_each_term_moves_each_bound_the_right_way():
    values = np.random.default_rng(0).beta(1, 9, 300)
    for bound in (kl_bound, mean_bound, episode_bound):
        now = bound(values, price(20, 0.05))
        assert values.mean() < now < 1
        assert bound(values, price(21, 0.05)) > now  # bits
        assert bound(values, price(20, 0.04)) > now  # confidence
        assert bound(np.tile(values, 2), price(20, 0.05)) < now  # episodes
        assert bound(np.minimum(1, values + 0.01), price(20, 0.05)) > now  # what was observed
    for bound in (azuma_bound, martingale_bound):
        now = bound(0.1, 5000, price(100, 0.05))
        assert 0.1 < now < 1
        assert bound(0.1, 5000, price(101, 0.05)) > now
        assert bound(0.1, 5000, price(100, 0.04)) > now
        assert bound(0.1, 10_000, price(100, 0.05)) < now
        assert bound(0.11, 5000, price(100, 0.05)) > now


def test_small_losses_are_bounded_far_below_azuma_and_large_ones_hardly_above():
    nats, n = price(2000, 0.05), 500_000
    assert martingale_bound(0.01, n, nats) < 0.5 * azuma_bound(0.01, n, nats)
    assert martingale_bound(0.5, n, nats) < azuma_bound(0.5, n, nats) + 1e-3
    assert martingale_bound(0.01, n, nats) > kl_inverse(0.01, nats / n)  # which is for independent values


def test_nothing_observed_and_nothing_believed():
    assert martingale_bound(1.0, 10, 3.0) == mean_bound(np.ones(5), 3.0) == kl_bound(np.ones(5), 3.0) == 1.0
    for wrong in (np.array([0.1, 1.1]), np.array([]), np.array([np.nan])):
        with pytest.raises(ValueError, match=r"losses must be in \[0, 1\]"):
            mean_bound(wrong, 3.0)


@pytest.mark.parametrize("bound", [kl_bound, mean_bound, episode_bound])
@pytest.mark.parametrize("spread", ["coins", "narrow"])
def test_of_many_redraws_no_more_than_allowed_have_a_mean_above_the_bound(bound, spread):
    rng, delta, mean = np.random.default_rng(1), 0.1, 0.08
    drawn = rng.binomial(1, mean, (500, 60)) if spread == "coins" else rng.beta(8, 92, (500, 60))
    missed = [bound(values.astype(float), -math.log(delta)) < mean for values in drawn]
    assert np.mean(missed) <= delta


def test_the_exact_limit_misses_as_often_as_allowed_and_no_oftener():
    rng, delta = np.random.default_rng(2), 0.1
    missed = [clopper_pearson(int(k), 200, delta) < 0.3 for k in rng.binomial(200, 0.3, 3000)]
    assert 0.06 < np.mean(missed) <= delta + 0.017  # three standard errors


@pytest.mark.parametrize("bound", [azuma_bound, martingale_bound])
def test_steps_that_depend_on_the_past_are_bounded_as_often_as_promised(bound):
    """x_t is wrong with a chance that the past decides, and the process ends where it likes: any_length pays for that."""
    rng, delta, missed = np.random.default_rng(3), 0.1, 0
    for _ in range(400):
        last, chances, found = 0, [], []
        while len(found) < 400 and not (len(found) > 40 and np.mean(found) < 0.05):
            chances.append(0.05 + 0.4 * last)
            last = int(rng.random() < chances[-1])
            found.append(last)
        n = len(found)
        missed += bound(float(np.mean(found)), n, any_length(n) - math.log(delta)) < np.mean(chances)
    assert missed / 400 <= delta


def test_the_best_of_many_codes_is_bounded_as_often_as_promised(monkeypatch):
    """220 redraws of 60 episodes; each time the code with the smallest bound is chosen, on these episodes."""
    monkeypatch.setitem(PLANS, "C1", SMALL)  # pyright: ignore
    given, of = model(), Question("C1", "small", tolerance=1.0, delta=0.1)
    spaces = [Subspace(given, plan) for plan in SMALL]
    forms, rng = [space.form for space in spaces], np.random.default_rng(4)
    codes = [
        Code(1, rng.normal(size=4).astype(np.float16), rng.choice(4, 40, p=[0.04, 0.04, 0.04, 0.88]).astype(np.int32))
        for _ in range(12)
    ]
    pool = steps_of(given, episodes(3000))
    shares = [pool.shares(wrong_steps(spaces[1].model(c.numbers_D), pool, of.tolerance)) for c in codes]
    bits = [encode(c, forms).length for c in codes]
    missed = 0
    for _ in range(220):
        seen = rng.choice(3000, 60)
        bounds = [episode_bound(s[seen], price(b, of.delta)) for s, b in zip(shares, bits, strict=True)]
        best = int(np.argmin(bounds))
        missed += shares[best].mean() > bounds[best]
    assert missed / 220 <= of.delta


# --- codes


@pytest.mark.parametrize("symbols", ["drawn", "same", "last"])
@pytest.mark.parametrize(("size", "levels"), [(1, 2), (7, 3), (500, 9)])
def test_a_code_comes_back_and_is_no_longer_than_its_entropy_asks(size, levels, symbols):
    rng, forms = np.random.default_rng(5), [Form(0, 2), Form(size, levels), Form(9, 4)]
    symbols_D = {"drawn": rng.integers(0, levels, size), "same": np.zeros(size, int), "last": np.full(size, levels - 1)}
    code = Code(1, rng.normal(size=levels).astype(np.float16), symbols_D[symbols].astype(np.int32))
    bits = encode(code, forms)
    back = decode(bits, forms)
    assert back.plan == 1
    assert (back.symbols_D == code.symbols_D).all()
    assert (back.codebook_L == code.codebook_L).all()
    share = np.bincount(code.symbols_D) / size
    entropy = size * -sum(p * math.log2(p) for p in share if p)
    assert bits.length <= 2 + 16 * levels + (levels - 1) * forms[1].count_bits + entropy + 34


def test_a_plan_without_numbers_costs_its_choice_alone():
    forms = [Form(0, 3), Form(4, 3), Form(4, 5)]
    bits = encode(Code(0, np.zeros(0, np.float16), np.zeros(0, np.int32)), forms)
    assert bits == Bits(0, 2)
    assert not len(decode(bits, forms).numbers_D)


def test_what_is_no_code_is_refused_in_one_line_whatever_it_is():
    forms, rng = [Form(0, 3), Form(30, 3), Form(4, 5)], np.random.default_rng(6)
    refused = 0
    for length in rng.integers(0, 200, 400):
        bits = Bits(int.from_bytes(rng.bytes(25), "big") >> 200 - int(length), int(length))
        try:
            assert np.isfinite(decode(bits, forms).numbers_D).all()
        except ValueError:
            refused += 1
    assert refused > 200


def test_a_file_holds_the_bits_that_are_paid_for_and_a_broken_one_is_told_in_one_line(tmp_path):
    forms, rng = [Form(50, 3)], np.random.default_rng(7)
    bits = encode(Code(0, np.ones(3, np.float16), rng.integers(0, 3, 50).astype(np.int32)), forms)
    path = tmp_path / "a.cert"
    write_code(path, bits)
    whole = path.read_bytes()
    assert read_code(path) == bits
    assert len(whole) == HEADER.size + math.ceil(bits.length / 8)
    flipped = bytes([*whole[:-3], whole[-3] ^ 8, *whole[-2:]])
    for broken in (b"", whole[:5], whole[:-1], whole + b"\0", flipped, b"PK\3\4" + whole[4:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"corrupt or cut short|not a coded model") as told:
            read_code(path)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_code(tmp_path / "none.cert")


# --- what the numbers stand for


def test_maps_and_students_follow_from_their_plan_alone():
    for plan in (SMALL[1], Plan(10, 3, 2), Plan(10**9, 3, 1)):
        one, two = Subspace(model(), plan), Subspace(model(), plan)
        numbers = torch.linspace(-1, 1, one.form.size)
        for a, b in zip(one.changed(numbers).values(), two.changed(numbers).values(), strict=True):
            assert torch.equal(a, b)
    torch.manual_seed(99)
    assert torch.equal(
        untrained(model(), SMALL[1].student).net[0].weight, Subspace(model(), SMALL[1]).base.net[0].weight
    )


@pytest.mark.parametrize("plan", [SMALL[1], SMALL[2], Plan(10, 3, 2), Plan(10**9, 3, 1)])
def test_numbers_of_zero_change_nothing_and_others_nothing_of_how_sure_it_is(plan):
    space = Subspace(model(), plan)
    before, size = space.base.net.state_dict(), space.form.size
    zero, some = (space.changed(x) for x in (torch.zeros(size), torch.ones(size)))
    assert all(torch.equal(zero[name], before[name]) for name in before)
    assert torch.equal(some["2.weight"][2:], before["2.weight"][2:])
    assert not torch.equal(some["2.weight"][:2], before["2.weight"][:2])


def test_a_low_rank_plan_changes_matrices_by_that_rank():
    space = Subspace(model(16), Plan(10**9, 3, 2))
    change = space.changed(torch.randn(space.form.size))["0.weight"] - space.weights["0.weight"]
    assert torch.linalg.matrix_rank(change, tol=1e-4) == 2


# --- certificates


def test_steps_are_what_the_model_is_asked_and_the_first_has_no_past():
    given, (one, two) = model(), episodes(2)
    steps = steps_of(given, [one, two])
    states, actions = (torch.from_numpy(x) for x in one)
    now = given.predict(states[3:4], actions[3:4], states[2:3], actions[2:3], torch.ones(1, 1))[0]
    first = given.predict(states[:1], actions[:1], torch.randn(1, 2), torch.randn(1, 1), torch.zeros(1, 1))[0]
    mean_NO = given.net(steps.inputs_NI).chunk(2, -1)[0]
    assert torch.allclose(mean_NO[3], now[0])
    assert torch.allclose(mean_NO[0], first[0])
    assert torch.allclose(steps.change_NO[3], states[4] - states[3])
    wrong_N = np.zeros(40, bool)
    wrong_N[:5] = True
    assert steps.shares(wrong_N).tolist() == [0.25, 0.0]


def test_what_is_not_finite_is_wrong():
    given = model()
    given.net[2].bias.data[0] = torch.nan
    assert wrong_steps(given, steps_of(given, episodes(2)), 1e9).all()


def test_held_out_episodes_bound_the_true_share_and_both_bounds_are_of_half_of_delta():
    given, of = model(), Question("C0", "small", tolerance=2.0)
    steps = steps_of(given, episodes(100))
    made = held_out(of, given, steps, linear_of(steps))
    share_E = steps.shares(wrong_steps(given, steps, 2.0))
    assert made.observed == share_E.mean() < made.bound
    assert made.bound == episode_bound(share_E, math.log(2 / 0.05))
    assert made.terms["bad_episodes_bound"] == clopper_pearson(int((share_E > 0.1).sum()), 100, 0.025)
    assert made.trivial["linear"] < made.trivial["no_change"]  # the spring is linear
    truth = steps_of(given, episodes(2000, seed=9))
    assert truth.shares(wrong_steps(given, truth, 2.0)).mean() < made.bound
    assert f"{made.bound:.2%}" in made.sentence


@pytest.mark.parametrize("variant", ["C1", "C2"])
def test_a_coded_student_decodes_to_the_same_predictions_and_pays_for_the_bits_in_its_file(
    variant, monkeypatch, tmp_path
):
    monkeypatch.setitem(PLANS, variant, SMALL)  # pyright: ignore
    given, of = model(), Question(variant, "small", tolerance=0.5)
    steps = steps_of(given, episodes(1500))
    made = best(of, steps, compress(of, given, steps, CFG))
    cert = learned(of, made, steps)
    write_code(tmp_path / "a.cert", made.bits)
    back = decoded(given, variant, tmp_path / "a.cert")
    assert all(torch.equal(a, b) for a, b in zip(back.net.parameters(), made.model.net.parameters(), strict=True))
    assert torch.equal(back.net(steps.inputs_NI[:999]), made.model.net(steps.inputs_NI[:999]))
    assert (wrong_steps(back, steps, 0.5) == made.wrong_N).all()
    assert read_code(tmp_path / "a.cert").length == cert.bits == made.bits.length
    assert cert.bound == bound_of(of, steps, made.wrong_N, cert.bits)
    assert cert.n == (30_000 if variant == "C2" else 1500)
    if variant == "C2":
        assert cert.bits > 100
        assert not cert.vacuous
        fresh = steps_of(given, episodes(500, seed=9))
        assert wrong_steps(back, fresh, 0.5).mean() < cert.bound < cert.trivial["no_change"]


def test_shuffled_targets_certify_nothing(monkeypatch):
    monkeypatch.setitem(PLANS, "C2", SMALL)  # pyright: ignore
    given, of = model(), Question("C2", "small", tolerance=0.5)
    steps = steps_of(given, episodes(800))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(steps.change_NO)))
    mixed = type(steps)(steps.inputs_NI, steps.change_NO[order], steps.still_O, steps.starts)
    cert = learned(of, best(of, mixed, compress(of, given, mixed, CFG)), mixed)
    assert cert.bound >= cert.trivial["no_change"]
    assert cert.vacuous
    assert "says nothing" in cert.sentence


def test_a_correction_is_paid_for_where_the_given_model_is_wrong_and_not_where_it_is_right():
    of = Question("C3", "small", tolerance=0.5)
    right = untrained(model(), StepConfig(64, 1))
    student = Subspace(model(), Plan(10**9, 9, 0, StepConfig(64, 1)))
    steps = steps_of(right, episodes(1500))
    from world_models.subspace import learn

    codebook_L, symbols_D = learn(student, (steps.inputs_NI, steps.change_NO), 0.5, CompressConfig(600, 400, 256))
    right = student.model(codebook_L.astype(np.float32)[symbols_D])
    pushed = untrained(right, StepConfig(64, 1))
    pushed.net.load_state_dict(right.net.state_dict())
    pushed.net[2].weight.data[:2] *= 0.5
    cfg = CompressConfig(2000, 1500, 256)
    given = {"right": right, "pushed": pushed}
    found = {name: best(of, steps, compress(of, base, steps, cfg)) for name, base in given.items()}
    bounds = {name: bound_of(of, steps, made.wrong_N, made.bits.length) for name, made in found.items()}
    alone = bound_of(of, steps, wrong_steps(pushed, steps, 0.5), 2)
    assert found["pushed"].bits.length > 2
    assert bounds["pushed"] < alone
    assert bounds["right"] <= bound_of(of, steps, wrong_steps(right, steps, 0.5), 2)


def test_c3_counts_what_it_is_asked_to(monkeypatch):
    monkeypatch.setitem(PLANS, "C3", SMALL[:1])  # pyright: ignore
    given, units = model(), ("episodes", "transitions")
    steps = steps_of(given, episodes(30))
    asked = [Question("C3", "small", tolerance=1.0, unit=unit) for unit in units]
    made = [learned(of, compress(of, given, steps, CFG)[0], steps) for of in asked]
    assert [(c.unit, c.n) for c in made] == [("episodes", 30), ("transitions", 600)]
    assert made[0].assumptions != made[1].assumptions


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"tolerance": math.nan}, {"delta": 1.0}, {"delta": 0.0}])
def test_a_question_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Question("C0", "small", **wrong)


def test_of_a_fitted_model_something_is_said_only_where_it_says_something():
    given = model()
    steps = steps_of(given, episodes(300))
    exact = untrained(given, StepConfig(8, 1))
    assert said_of_steps(exact, []) == ""
    assert said_of_steps(exact, episodes(50)) == ""  # it knows nothing
    student = Subspace(given, SMALL[2])
    from world_models.subspace import learn

    codebook_L, symbols_D = learn(student, (steps.inputs_NI, steps.change_NO), 0.5, CFG)
    told = said_of_steps(student.model(codebook_L.astype(np.float32)[symbols_D]), episodes(100, seed=5))
    assert "2000 held-out steps" in told


def test_a_certificate_beside_weights_is_told_while_the_weights_are_those(tmp_path):
    weights, path = tmp_path / "step.safetensors", tmp_path / "certificate.json"
    weights.write_bytes(b"weights")
    assert certified(tmp_path) == ""
    path.write_text(json.dumps({"sentence": "It is seldom off.", "about": {"weights": fingerprint(tmp_path)}}))
    assert certified(tmp_path) == "It is seldom off."
    weights.write_bytes(b"other weights")
    assert certified(tmp_path) == ""
    for broken in ("{", "[]", '{"sentence": 1}'):
        path.write_text(broken)
        assert "is not a certificate" in certified(tmp_path)
