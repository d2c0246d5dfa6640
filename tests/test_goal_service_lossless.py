"""Speculation changes nothing: the same tokens as one by one, or, under the ratio rule, the same distribution."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from deploy.goal_service import drafters, rows
from deploy.goal_service.draft_link import DraftLink
from deploy.goal_service.draft_process import DraftConfig, Guesser, Measured
from deploy.goal_service.drafters import Draftee, ModelDrafter, Proposal
from deploy.goal_service.llama import Llama, LlamaConfig
from deploy.goal_service.requests import Sampling, Ticket
from deploy.goal_service.rounds import Decoder
from deploy.goal_service.rows import Row
from deploy.goal_service.sampling import SeededDice, residual

VOCAB, EOS = 32, 31
NOBODY = frozenset[int]()
WORDS = SimpleNamespace(bytes_of=lambda token: bytes([65 + token]))


def random_model(seed, like=None):
    """A tiny random model that looks at its context; `like`: mostly another's weights, so that the two often agree."""
    cfg = LlamaConfig(VOCAB, 32, 2, 2, 1, 16, 64, 4096, tied=False)
    g = torch.Generator().manual_seed(seed)
    scale = {"q": 3.0, "k": 3.0, "o": 3.0, "output": 2.5}
    made = {}
    for name, shape in cfg.shapes().items():
        drawn = torch.randn(shape, generator=g) / shape[-1] ** 0.5 * scale.get(name.rsplit(".", 1)[-1], 1.0)
        made[name] = torch.ones(shape) if len(shape) == 1 else drawn
    if like is not None:
        made = {n: 0.98 * like[n] + 0.08 * t if t.dim() > 1 else t for n, t in made.items()}
    return cfg, made


@pytest.fixture(scope="module")
def models():
    cfg, target = random_model(0)
    _, draft = random_model(1, like=target)
    return Llama(cfg, target, "fp32"), Llama(cfg, draft, "fp32")


class Near(DraftLink):
    """The draft process's own code, without the process."""

    def __init__(self, cfg, model):
        self.cfg, self.seen, self.restarts, self.hits, self.misses = cfg, Measured(), 0, 0, 0
        self.taken_on_hit = self.taken_on_miss = 0
        self._known, self._accepted = {}, {}
        self.guesser = Guesser(cfg, model, None, frozenset({EOS}))

    up = True

    def _exchange(self, message):
        drafts = self.guesser.hear(message)
        self.guesser.prepare(message["lookahead"])
        return drafts


def start(
    models, prompts, sampling, rule="coupled", mode="ar", fallback="auto", uniform=False, factor=1.0, eos=EOS, budget=12
):
    """A decoder and a row for each prompt."""
    target, draft = models
    count = len(prompts)
    small = ModelDrafter(draft, VOCAB, count, 1024, None, rule, factor)
    cfg = DraftConfig("", "", count, 256, budget, rule, factor, fallback, uniform=uniform)
    ahead = Near(cfg, ModelDrafter(draft, VOCAB, count, 1024, None, rule, factor)) if mode == "ssd" else None
    decoder = Decoder(target, target.cache(count, 256), None if mode == "ngram" else small, ahead)
    made = []
    for i, (prompt, asked) in enumerate(zip(prompts, sampling, strict=True)):
        who = Draftee(i, list(prompt), len(prompt), asked, frozenset({eos}), None, SeededDice(asked.seed))
        made.append(Row(i, Ticket(tuple(prompt), asked), who, WORDS, rule, 256, 0.0, 0.0))
        small.begin(who)
    return decoder, made


def write(models, prompts, sampling, mode="ar", lookahead=3, **how):
    """What comes after each prompt, all decoded together."""
    decoder, made = start(models, prompts, sampling, mode=mode, **how)
    for _ in range(500):
        live = [row for row in made if not row.ended]
        if not live:
            break
        decoder.round(live, "sd" if mode == "ngram" else mode, lookahead)
    return [row.tokens[row.draftee.start :] for row in made], made


PROMPTS = [[1, 2, 3, 1, 2], [5, 6, 7, 8, 9, 10, 5, 6], [3], [4, 4, 4, 4]]
ASKED = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.3, "top_k": 5},
]


def samplings(asked, count=4, tokens=40):
    return [Sampling(seed=7 + i, max_tokens=tokens - 3 * i, **asked) for i in range(count)]


WAYS = [("ngram", {}), ("sd", {})] + [
    ("ssd", {"fallback": fallback, "uniform": uniform})
    for fallback, uniform in itertools.product(["auto", "jit", "ngram", "none"], [False, True])
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize(("mode", "how"), WAYS, ids=str)
def test_every_way_of_drafting_writes_what_would_be_written_one_by_one(models, asked, mode, how):
    alone = [write(models, [p], [s])[0][0] for p, s in zip(PROMPTS, samplings(asked), strict=True)]
    for lookahead in (1, 3, 6):
        together, made = write(models, PROMPTS, samplings(asked), mode, lookahead, **how)
        assert together == alone
        if mode == "ssd":
            assert sum(row.counts.hits for row in made) > 0
        assert sum(row.counts.accepted for row in made) > 0


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_draft_that_was_ready_is_the_one_that_would_have_been_made(models, asked):
    assert drafts_that_differ(models, asked) == 0


def drafts_that_differ(models, asked):
    """How many prepared drafts are not what the small model drafts when it is asked."""
    wrong, tried = 0, 0
    for prompt, s in zip(PROMPTS, samplings(asked), strict=True):
        decoder, (row,) = start(models, [prompt], [s], mode="ssd", fallback="jit")
        plain = ModelDrafter(models[1], VOCAB, 1, 1024)
        plain.begin(row.draftee)
        propose = decoder.ahead.propose

        def compared(some, lookahead, propose=propose, plain=plain, row=row):
            nonlocal wrong, tried
            (draft,) = propose(some, lookahead)
            tried += draft.hit
            wrong += draft.hit and draft.tokens != plain.propose([row.draftee], lookahead)[0].tokens
            return [draft]

        decoder.ahead.propose = compared
        while not row.ended:
            decoder.round([row], "ssd", 3)
    assert tried > 10
    return wrong


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


# --- the distribution -----------------------------------------------------------------------------------------------


@dataclass
class Script:
    """Dice that are thrown in every way, one way after another, with the probability of each."""

    path: list[int] = field(default_factory=list)
    options: list[list[float]] = field(default_factory=list)

    def draw(self, scores_V, position, purpose):
        at = len(self.options)
        self.options.append(scores_V.double().softmax(0).tolist())
        if at == len(self.path):
            self.path.append(next(i for i, p in enumerate(self.options[at]) if p > 0))
        return self.path[at]

    def rewind(self):
        """Go to the next way; False after the last."""
        while self.path:
            last, options = self.path.pop(), self.options[len(self.path)]
            following = next((i for i in range(last + 1, len(options)) if options[i] > 0), None)
            if following is not None:
                self.path.append(following)
                self.options = []
                return True
        return False

    @property
    def probability(self):
        return math.prod(o[i] for o, i in zip(self.options, self.path, strict=True))


def law(models, monkeypatch, mode, lookahead=1, tokens=2, **how):
    """The exact distribution of the first tokens, by all throws of the dice."""
    script, found = Script(), Counter()
    for module in ("tests.test_goal_service_lossless", "deploy.goal_service.draft_process"):
        monkeypatch.setattr(f"{module}.SeededDice", lambda seed: script)
    while True:
        (text,), _ = write(
            models, [[1, 2]], [Sampling(max_tokens=tokens)], mode, lookahead, rule="ratio", eos=-1, **how
        )
        found[tuple(text)] += script.probability
        if not script.rewind():
            return found


@pytest.fixture(scope="module")
def tiny():
    """Three words, so that every way can be tried."""
    cfg = LlamaConfig(3, 16, 1, 2, 1, 8, 16, 64)
    g = torch.Generator().manual_seed(3)

    def made():
        return Llama(
            cfg,
            {n: torch.randn(s, generator=g) if len(s) > 1 else torch.ones(s) for n, s in cfg.shapes().items()},
            "fp32",
        )

    return made(), made()


RATIO = [
    ("sd", {}),
    ("ngram", {}),
    ("sd", {"factor": 0.3}),
    ("ssd", {"fallback": "jit"}),
    ("ssd", {"fallback": "none"}),
    ("ssd", {"fallback": "ngram"}),
    ("ssd", {"fallback": "jit", "factor": 0.3}),
]


def distance(models, monkeypatch, mode, tokens=2, **how):
    """Total variation between what a way of drafting writes and what the target writes alone."""
    monkeypatch.setattr("tests.test_goal_service_lossless.VOCAB", 3)
    exact = law(models, monkeypatch, "ar", tokens=tokens)
    found = law(models, monkeypatch, mode, tokens=tokens, **how)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)
    return sum(abs(exact[k] - found[k]) for k in exact | found) / 2


@pytest.mark.parametrize(("mode", "how"), RATIO, ids=str)
def test_under_the_ratio_rule_every_text_keeps_its_probability(tiny, monkeypatch, mode, how):
    assert distance(tiny, monkeypatch, mode, tokens=3, budget=2, **how) < 2e-6


def frequencies(models, mode, texts=400, **how):
    """How often each first pair of words came, with real dice."""
    found = Counter()
    for first in range(0, texts, 50):
        seeds = [Sampling(seed=first + i, max_tokens=3) for i in range(50)]
        for text in write(models, [[1, 2]] * 50, seeds, mode, 2, eos=-1, **how)[0]:
            found[tuple(text[:2])] += 1
    return found


@pytest.mark.parametrize(
    ("mode", "how"),
    [("ar", {}), ("ssd", {}), ("sd", {"rule": "ratio"}), ("ssd", {"rule": "ratio", "budget": 6, "factor": 0.5})],
    ids=str,
)
def test_with_real_dice_texts_come_as_often_as_they_should(tiny, monkeypatch, mode, how):
    monkeypatch.setattr("tests.test_goal_service_lossless.VOCAB", 3)
    exact = Counter()
    for text, p in law(tiny, monkeypatch, "ar", tokens=2).items():
        exact[text] += p
    monkeypatch.undo()
    monkeypatch.setattr("tests.test_goal_service_lossless.VOCAB", 3)
    found = frequencies(tiny, mode, **how)
    likely = [text for text in exact if exact[text] * 400 >= 5]
    rest = 1 - sum(exact[text] for text in likely)
    seen, expected = [found[text] for text in likely], [400 * exact[text] for text in likely]
    if rest > 1e-6:
        seen, expected = [*seen, 400 - sum(seen)], [*expected, 400 * rest]
    assert stats.chisquare(seen, np.array(expected) / sum(expected) * sum(seen)).pvalue > 1e-3


def test_dice_throw_what_they_should_whatever_was_thrown_before():
    scores_V = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf])
    drawn = [SeededDice(seed).draw(scores_V, 3, 0) for seed in range(4000)]
    seen = np.bincount(drawn, minlength=5)
    assert seen[4] == 0
    assert stats.chisquare(seen[:4], scores_V[:4].double().softmax(0).numpy() * 4000).pvalue > 1e-3
    dice = SeededDice(5)
    again = [dice.draw(scores_V, position, 0) for position in (9, 3, 200, 3)]
    assert again[1] == again[3] == SeededDice(5).draw(scores_V, 3, 0)


def test_a_rejection_that_only_rounding_explains_draws_from_the_target():
    target_V = torch.tensor([-torch.inf, 0.3, 1.7, -0.2])
    left_V = residual(target_V, target_V + 8.3)
    assert SeededDice(1).draw(residual(target_V, target_V), 0, 0) > 0
    assert left_V[0] == -torch.inf
    assert left_V.isfinite().any()


def test_the_coldest_temperatures_are_greedy(models):
    greedy = write(models, PROMPTS, samplings({"temperature": 0.0}))[0]
    assert write(models, PROMPTS, samplings({"temperature": 1e-300}))[0] == greedy
    assert write(models, PROMPTS, samplings({"temperature": 1e-40}))[0] == greedy


# --- the suite finds what is planted --------------------------------------------------------------------------------


def differs(models, mode="ssd", asked=None, **how):
    """How many texts are not what would be written one by one."""
    some = samplings(asked or {"temperature": 1.0})
    alone = [write(models, [p], [s])[0][0] for p, s in zip(PROMPTS, some, strict=True)]
    return sum(a != b for a, b in zip(write(models, PROMPTS, some, mode, 4, **how)[0], alone, strict=True))


def test_one_token_too_many_is_found(models, monkeypatch):
    choose = rows.Row._choose

    def lenient(self, logits_V, drafted, drafted_scores):
        found = choose(self, logits_V, drafted, drafted_scores)
        return drafted if drafted is not None and self.draftee.said % 5 == 0 else found

    assert not differs(models)
    monkeypatch.setattr(rows.Row, "_choose", lenient)
    assert differs(models)


def test_a_stale_draft_is_found(models, monkeypatch):
    def any_of_its_own(self, uid, new, accepted):
        return next((d for key, d in self.ready.items() if key[0] == uid), None)

    monkeypatch.setattr(Guesser, "_hit", any_of_its_own)
    assert drafts_that_differ(models, {"temperature": 0.7}) > 0


def test_a_branch_that_sees_another_is_found(models, monkeypatch):
    span = drafters._Tree.span

    def unmasked(self):
        found = span(self)
        found.visible[:, :] = True
        return found

    monkeypatch.setattr(drafters._Tree, "span", unmasked)
    assert drafts_that_differ(models, {"temperature": 0.7}) > 0


def test_a_draft_that_says_it_was_drawn_otherwise_is_found(tiny, monkeypatch):
    monkeypatch.setattr(drafters, "saguaro", lambda scores_V, fan_out, factor: scores_V + torch.tensor([1.0, 0.0, 0.0]))
    take = drafters._Branch.take
    plain = torch.tensor([1.0, 0.0, 0.0])
    monkeypatch.setattr(
        drafters._Branch, "take", lambda self, t, forced, s: take(self, t, forced, None if s is None else s - plain)
    )
    assert distance(tiny, monkeypatch, "sd", tokens=3, budget=2) > 1e-3


def test_a_bonus_token_of_the_drafts_is_found(models, monkeypatch):
    choose = rows.Row._choose

    def from_the_draft(self, logits_V, drafted, drafted_scores):
        if drafted is None and self.draftee.said > 3:
            logits_V = 0.9 * logits_V + logits_V.roll(1)
        return choose(self, logits_V, drafted, drafted_scores)

    monkeypatch.setattr(rows.Row, "_choose", from_the_draft)
    assert differs(models)


def test_keys_and_values_of_another_text_are_found(models):
    decoder, (row,) = start(models, [PROMPTS[1]], samplings({"temperature": 0.0}, 1))
    row.computed = 6  # nobody wrote them
    while not row.ended:
        decoder.round([row], "sd", 3)
    assert row.tokens[8:] != write(models, [PROMPTS[1]], samplings({"temperature": 0.0}, 1))[0][0]
