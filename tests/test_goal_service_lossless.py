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
from deploy.goal_service.draft_process import Guesser
from deploy.goal_service.drafters import ModelDrafter
from deploy.goal_service.requests import Sampling
from deploy.goal_service.sampling import SeededDice, residual
from tests.goal_decoders import ASKED, PROMPTS, VOCAB, near_pair, samplings, start, three_words, write


@pytest.fixture(scope="module")
def models():
    return near_pair()


WAYS = [("ngram", {}), ("sd", {})] + [
    ("ssd", {"fallback": fallback, "uniform": uniform})
    for fallback, uniform in itertools.product(["auto", "jit", "ngram", "none"], [False, True])
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize(("mode", "how"), WAYS, ids=str)
def test_every_way_of_drafting_writes_what_would_be_written_one_by_one(models, compared, asked, mode, how):
    alone = [write(models, [p], [s])[0][0] for p, s in zip(PROMPTS, samplings(asked), strict=True)]
    for lookahead in (1, 3, 6):
        together, made = write(models, PROMPTS, samplings(asked), mode, lookahead, **how)
        assert together == alone
        compared(len(together))
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
    """The exact distribution of the first tokens, by all throws of the dice; who drafts must not hang on the real time."""
    script, found = Script(), Counter()
    for module in ("ondemand", "rounds"):
        ticks = SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda s: None)
        monkeypatch.setattr(f"deploy.goal_service.{module}.time", ticks)
    for module in ("tests.goal_decoders", "deploy.goal_service.draft_process"):
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
    return three_words()


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
    monkeypatch.setattr("tests.goal_decoders.VOCAB", 3)
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
    monkeypatch.setattr("tests.goal_decoders.VOCAB", 3)
    exact = Counter()
    for text, p in law(tiny, monkeypatch, "ar", tokens=2).items():
        exact[text] += p
    monkeypatch.undo()
    monkeypatch.setattr("tests.goal_decoders.VOCAB", 3)
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
