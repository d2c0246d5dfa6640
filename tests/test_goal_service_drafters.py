"""Who drafts: what is prepared for what may come, how much of it, and what is never drafted."""

from collections import Counter

import numpy as np
import pytest

from deploy.goal_service import drafters
from deploy.goal_service.draft_process import DraftConfig, Guesser
from deploy.goal_service.drafters import Draftee, ModelDrafter, Proposal
from deploy.goal_service.ondemand import OnDemand
from deploy.goal_service.requests import Sampling
from tests.goal_decoders import ASKED, EOS, NOBODY, VOCAB, near_pair


@pytest.fixture(scope="module")
def models():
    return near_pair()


def asked_of(models, prompt, uid=0, rule="coupled", factor=1.0, budget=12, **asked):
    """A drafter, and a text that it drafts for."""
    drafter = ModelDrafter(models[1], VOCAB, 2, 1024, None, rule, factor, budget)
    sampling = Sampling(**{"temperature": 0.0, **asked})
    return drafter, Draftee(uid, list(prompt), len(prompt), sampling, frozenset({EOS}))


def test_a_drafter_reads_what_it_has_read_for_another_text_only_once(models, monkeypatch):
    drafter, first = asked_of(models, range(1, 30))
    drafter.begin(first)
    drafts = drafter.propose([first], 3)
    drafter.end(0)
    again = Draftee(1, [*first.tokens], 29, first.sampling, first.eos)
    fed = []
    see = drafter._see
    monkeypatch.setattr(drafter, "_see", lambda tokens, spans: fed.append(len(tokens)) or see(tokens, spans))
    drafter.begin(again)
    assert drafter.propose([again], 3) == drafts
    assert fed == [1, 1, 1]


def drafted(models, step_s, says):
    """Who drafted the second half of a text, and how often the model was asked; `says(drafter, text)`: what comes next."""
    asked = {"temperature": 1.0, "seed": 3, "max_tokens": 900}
    drafter, who = asked_of(models, [1, 2, 3, 4, 5, 6, 7, 8] * 2, **asked)
    who.eos = NOBODY
    drafter.begin(who)
    sure, found, calls = OnDemand(drafter), [], []
    propose = drafter.propose
    drafter.propose = lambda some, lookahead: calls.append(1) or propose(some, lookahead)
    for _ in range(150):
        sure.look_s, sure.step_s = 1.0, step_s
        found.append(sure.propose([who], 3)[0].source)
        drafter.propose, counting = propose, drafter.propose
        who.take(says(drafter, who))
        drafter.propose = counting
    return Counter(found[75:]), len(calls)


def test_whoever_guesses_better_drafts(models):
    def as_the_model(drafter, who):
        return drafter.propose([who], 3)[0].tokens

    def in_circles(drafter, who):
        at = len(who.tokens) % 8
        return [(at + i) % 8 + 1 for i in range(3)]

    by, _ = drafted(models, 0.01, as_the_model)
    assert by["model"] >= 73
    by, calls = drafted(models, 0.01, in_circles)
    assert by["ngram"] >= 70
    assert calls < 15
    by, calls = drafted(models, 10.0, as_the_model)
    assert by["model"] <= 3, "however good it is, it takes too long"


def guesser_of(models, **how):
    cfg = DraftConfig("", "", 2, 256, **{"budget": 12, **how})
    return Guesser(cfg, ModelDrafter(models[1], VOCAB, 2, 1024), None, frozenset({EOS}))


@pytest.mark.parametrize("uniform", [False, True])
def test_the_whole_budget_goes_to_outcomes_that_can_be(models, uniform):
    guesser = guesser_of(models, uniform=uniform)
    short = guesser._fan(Proposal((1,), (False,), (None,)))
    assert len(short) == 2
    assert sum(short) == 12
    with_forced = guesser._fan(Proposal((1, *range(2, 22)), (False,) + (True,) * 20, (None,) * 21))
    assert with_forced[0] + with_forced[21] == 12
    assert sum(guesser._fan(Proposal())) == 12


def test_acceptance_is_counted_per_token(models):
    guesser, g = guesser_of(models), np.random.default_rng(0)
    found = []
    for _ in range(4000):
        guesser.drafts[0] = Proposal((1, 1, 1, 1), (False,) * 4, (None,) * 4)
        taken = int((g.random(4) < 0.5).cumprod().sum())
        guesser._learn(0, taken)
        found.append(guesser.seen.on_miss)
    assert np.mean(found[200:]) == pytest.approx(0.5, abs=0.03)


def test_no_draft_is_longer_than_what_may_be_said(models):
    guesser = guesser_of(models, fallback="jit")
    guesser.begin(0, [1, 2, 1, 2, 1, 2, 1, 2], 8, {"max_tokens": 3, "temperature": 0.0, "grammar": None})
    assert len(guesser.answer([(0, [], 0)], 8)[0].tokens) == 2


def test_texts_in_rounds_of_their_own_keep_what_is_ready_for_them(models):
    together, apart = guesser_of(models, fallback="jit"), guesser_of(models, fallback="jit")
    hits = {True: 0, False: 0}
    for guesser, at_once in ((together, True), (apart, False)):
        for uid in (0, 1):
            guesser.begin(uid, [uid + 1, 2, 3, 4], 4, {"max_tokens": 60, "temperature": 0.0, "grammar": None})
        rows = {uid: (uid, [], 0) for uid in (0, 1)}
        for _ in range(8):
            for uids in ((0, 1),) if at_once else ((0,), (1,)):
                for uid, draft in zip(uids, guesser.answer([rows[uid] for uid in uids], 2), strict=True):
                    hits[at_once] += draft.hit
                    rows[uid] = (uid, [*draft.tokens, guesser_says(models, guesser.who[uid], draft)], len(draft.tokens))
                guesser.prepare(2)
    assert hits[False] == hits[True] > 8


def guesser_says(models, who, draft):
    """What the small model itself says after a text and its draft."""
    drafter = ModelDrafter(models[1], VOCAB, 1, 1024)
    plain = Draftee(9, [*who.tokens, *draft.tokens], who.start, who.sampling, frozenset())
    drafter.begin(plain)
    return drafter.propose([plain], 1)[0].tokens[0]


def test_a_draft_that_nobody_saw_is_no_hit_and_teaches_nothing(models):
    guesser = guesser_of(models)
    guesser.drafts = {0: Proposal((4,), (False,), (None,))}
    guesser.ready = {(0, 0, 9): Proposal((3,), (False,), (None,), "model", True, (9,))}
    before = guesser.seen.on_miss
    guesser._learn(0, -1)
    assert guesser.seen.on_miss == before
    assert guesser._hit(0, [9], -1) is None


def test_a_draft_is_ready_whether_or_not_what_is_forced_before_it_was_decided(models):
    guesser = guesser_of(models)
    guesser.drafts = {0: Proposal((4,), (False,), (None,))}
    guesser.ready = {(0, 0, 9): Proposal((3,), (False,), (None,), "model", True, (9, 8, 7))}
    found = guesser._hit(0, [9], 0)
    assert (found.tokens, found.forced, found.scores) == ((8, 7, 3), (True, True, False), (None,) * 3)
    assert guesser._hit(0, [9, 8, 7], 0) == guesser.ready[0, 0, 9]
    assert guesser._hit(0, [9, 1], 0) is None
    assert guesser._hit(0, [9, 8, 7, 3], 0) is None


@pytest.mark.parametrize("asked", [*ASKED, {"temperature": 1.0, "top_k": 1}], ids=str)
@pytest.mark.parametrize("rule", ["coupled", "ratio"])
def test_as_many_outcomes_are_prepared_as_were_asked_for(models, asked, rule):
    drafter, who = asked_of(models, [1, 2, 3, 4], rule=rule, **asked)
    who.eos = NOBODY
    drafter.begin(who)
    ready = drafter.prepare([who], drafter.propose([who], 2), [(5, 3, 4)], 2)
    assert Counter(k for _, k, _ in ready) == {0: 5, 1: 3, 2: 4}


@pytest.mark.parametrize("lookahead", [2, 5])
def test_saguaro_sampling_lowers_as_many_tokens_as_are_kept_for_a_place(models, monkeypatch, lookahead):
    lowered = []
    saguaro = drafters.saguaro
    monkeypatch.setattr(drafters, "saguaro", lambda s, fan, f: lowered.append(fan) or saguaro(s, fan, f))
    drafter, who = asked_of(models, [1, 2, 3], rule="ratio", factor=0.5, budget=24, temperature=1.0)
    drafter.begin(who)
    drafter.propose([who], lookahead)
    assert set(lowered) == {24 // (lookahead + 1)}


def test_a_branch_too_long_for_the_cache_does_not_hold_up_the_others(models):
    drafter, who = asked_of(models, [1, 2, 3])
    drafter.begin(who)
    drafter.propose([who], 1)
    branches = [
        drafters._Branch(who, 3, None, [7] * 2000, [True] * 2000, [None] * 2000),
        drafters._Branch(who, 3, None),
    ]
    branches[1].take(5, False, None)
    drafter._grow(branches, 3)
    assert [len(branch.tokens) for branch in branches] == [2000, 4]
