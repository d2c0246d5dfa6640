"""The engine with a real draft process, on a tiny model: many requests at once, cancels, deadlines, and a draft process that dies."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deploy.goal_service import draft_link
from deploy.goal_service.engine import EngineConfig, build_engine
from deploy.goal_service.grammar import Matcher
from deploy.goal_service.llama import Span
from deploy.goal_service.models import load_drafter, save_drafter
from deploy.goal_service.modes import Chooser
from deploy.goal_service.requests import Busy, Finished, Grammar, Sampling
from deploy.goal_service.rounds import CHUNK
from deploy.goal_service.weights import load_weights
from tests.tiny_models import save_llama

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"gait": {"enum": ["walk", "trot"]}, "speed": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["gait", "speed"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A target, and a drafter that often agrees with it and knows part of its vocabulary."""
    base = tmp_path_factory.mktemp("models")
    target = save_llama(base / "target", scale=0.5)
    weights = load_weights(target)
    g = torch.Generator().manual_seed(1)
    near = {
        n: t + (0.004 * torch.randn(t.shape, generator=g) if t.dim() > 1 else 0) for n, t in weights.tensors.items()
    }
    ids = torch.tensor([i for i in range(weights.config.vocab) if i % 17])
    near["embedding"] = near["embedding"][ids]
    config = weights.config.__class__(**{**vars(weights.config), "vocab": len(ids)})
    save_drafter(base / "draft", config, near, ids, {"made": "for a test"})
    return target, base / "draft"


def config(folders, **more):
    how = {"kind": "fp32", "rows": 4, "context": 256, "queue": 8, "lookahead": 3, "draft": str(folders[1])} | more
    return EngineConfig(model=str(folders[0]), **how)


@pytest.fixture(scope="module")
def engine(folders):
    made = build_engine(config(folders))
    assert made.link.wait(60)
    yield made
    made.close()


def read(ticket):
    *tokens, end = list(ticket)
    assert isinstance(end, Finished)
    return [t.id for t in tokens if t.id >= 0], "".join(t.text for t in tokens), end


def ask(engine, text="walk forward", **how):
    return read(engine.submit(engine.vocabulary.encode(text), Sampling(**{"max_tokens": 40, **how})))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("grammar", [None, Grammar("json", SCHEMA), Grammar("regex", "(walk|run)( [0-9]){3,9}")])
def test_every_mode_writes_the_same(engine, temperature, grammar):
    how = {"temperature": temperature, "seed": 4, "grammar": grammar}
    alone = ask(engine, mode="ar", **how)
    for mode in ("sd", "ssd", "auto"):
        found = ask(engine, mode=mode, **how)
        assert found[:2] == alone[:2]
        assert found[2].reason == alone[2].reason
    if grammar is not None and grammar.kind == "json":
        assert set(json.loads(alone[1])) == {"gait", "speed"}
        assert alone[2].timings.forced > 5


def test_drafts_are_made_ahead_while_the_target_looks(engine):
    timings = ask(engine, mode="ssd", temperature=0.0, max_tokens=60)[2].timings
    assert timings.mode == "ssd"
    assert timings.cache_hits > 5
    assert timings.accepted > timings.rounds / 4


def test_company_changes_nothing(engine):
    prompts = ["walk forward", "run", "crouch and stop", "lean back and walk forward", "one, two"]
    alone = [ask(engine, p, seed=i, mode="ar")[0] for i, p in enumerate(prompts)]
    for mode in ("ar", "sd", "ssd", "auto"):
        tickets = [
            engine.submit(engine.vocabulary.encode(p), Sampling(seed=i, mode=mode, max_tokens=40))
            for i, p in enumerate(prompts)
        ]
        assert [read(t)[0] for t in tickets] == alone


def test_a_prompt_that_was_read_before_is_not_read_again(engine):
    text = "walk forward slowly, then crouch and stop"
    first = ask(engine, text, temperature=0.0)
    again = ask(engine, text, temperature=0.0)
    assert again[2].timings.cached_tokens == again[2].timings.prompt_tokens - 1
    assert again[0] == first[0]


def test_a_killed_draft_process_costs_nothing_but_time(folders):
    engine = build_engine(config(folders, verify_floor_s=0.02))
    try:
        assert engine.link.wait(60)
        alone = ask(engine, mode="ar", seed=3, max_tokens=120)[0]
        ticket = engine.submit(engine.vocabulary.encode("walk forward"), Sampling(seed=3, mode="ssd", max_tokens=120))
        threading.Timer(0.3, lambda: os.kill(engine.link.pid, signal.SIGKILL)).start()
        tokens, _, end = read(ticket)
        assert end.reason in ("length", "stop")
        assert tokens == alone
        deadline = time.monotonic() + 60
        while engine.stats()["draft_restarts"] < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert engine.link.up
        assert ask(engine, mode="ssd", seed=3, max_tokens=120)[0] == alone
    finally:
        engine.close()


def test_texts_that_ask_for_different_modes_keep_each_others_drafts(folders):
    engine = build_engine(config(folders, mode="ssd"))
    try:
        assert engine.link.wait(60)
        how = {"temperature": 0.0, "max_tokens": 60}
        alone = {text: ask(engine, text, mode="ssd", **how) for text in ("walk forward", "run")}
        tickets = {
            text: engine.submit(engine.vocabulary.encode(text), Sampling(mode=mode, **how))
            for text, mode in (("walk forward", "ssd"), ("run", "auto"))
        }
        for text, ticket in tickets.items():
            tokens, _, end = read(ticket)
            assert tokens == alone[text][0]
            assert end.timings.cache_hits > alone[text][2].timings.cache_hits / 2
    finally:
        engine.close()


def wait_until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_a_draft_process_that_hangs_is_not_waited_for_and_then_replaced(folders, monkeypatch):
    engine = build_engine(config(folders))
    try:
        assert engine.link.wait(60)
        alone = ask(engine, mode="ssd", seed=3)[0]
        pid = engine.link.pid
        os.kill(pid, signal.SIGSTOP)
        assert ask(engine, mode="ssd", seed=3)[0] == alone
        assert (engine.link.late, engine.link.pid, engine.link.state) == (1, pid, "late")
        os.kill(pid, signal.SIGCONT)
        assert wait_until(lambda: ask(engine, mode="ssd", seed=3)[2].timings.cache_hits)
        assert engine.link.pid == pid
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(draft_link, "DEAD_S", 0.0)
        assert ask(engine, mode="ssd", seed=3)[0] == alone
        monkeypatch.undo()
        assert wait_until(lambda: engine.link.up and engine.stats()["draft_restarts"] == 1)
        assert engine.link.pid != pid
        assert wait_until(lambda: ask(engine, mode="ssd", seed=3)[2].timings.cache_hits)
    finally:
        engine.close()


def test_a_draft_process_that_cannot_start_is_tried_less_and_less_often(folders, monkeypatch):
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    engine = build_engine(config(folders))
    try:
        assert wait_until(lambda: engine.link.failures == 1)
        assert wait_until(lambda: engine.stats()["draft_retry_seconds"] > 0)
        assert engine.drafting() == "gone, 1 in a row; the next is started in 1 s"
        assert ask(engine, mode="ssd", temperature=0.0)[2].timings.mode == "sd"
        pauses = []
        for failures in range(9):
            engine.link.failures = failures
            pauses.append(engine.link.pause_s)
        assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    finally:
        engine.close()


def test_who_cancels_or_runs_out_of_time_frees_the_row(engine):
    long = {"max_tokens": 200, "temperature": 1.0, "seed": 1}
    ticket = engine.submit(engine.vocabulary.encode("run"), Sampling(**long))
    next(iter(ticket))
    ticket.cancel()
    assert read(ticket)[2].reason == "cancelled"
    assert ask(engine, "run", deadline_s=1e-6)[2].reason == "deadline"
    assert engine.stats()["running"] == 0


def test_too_many_are_turned_away_and_what_cannot_be_decoded_is_refused(folders, engine):
    small = build_engine(config(folders, rows=1, queue=1, draft="", verify_floor_s=0.01))
    try:
        prompt = engine.vocabulary.encode("run")
        tickets = [small.submit(prompt, Sampling(max_tokens=100)) for _ in range(2)]
        time.sleep(0.1)  # the first has its row
        with pytest.raises(Busy, match="requests are waiting"):
            small.submit(prompt, Sampling())
        assert {read(t)[2].reason for t in tickets} <= {"length", "stop"}
    finally:
        small.close()
    with pytest.raises(ValueError, match="do not fit into the context of 256"):
        engine.submit([5] * 256, Sampling())
    with pytest.raises(ValueError, match="token 99999 is not in the vocabulary"):
        engine.submit([99999], Sampling())
    with pytest.raises(ValueError, match="bad json grammar"):
        engine.submit([5], Sampling(grammar=Grammar("json", '{"type": "nonsense"}')))


def test_who_need_not_wait_any_more_makes_room_at_once(folders, engine):
    small = build_engine(config(folders, rows=1, queue=2, draft="", verify_floor_s=0.01, mode="ar"))
    prompt = engine.vocabulary.encode("run")
    try:
        first = small.submit(prompt, Sampling(max_tokens=240, temperature=0.0))
        assert wait_until(lambda: small.stats()["running"] == 1)
        given_up, late = small.submit(prompt, Sampling()), small.submit(prompt, Sampling(deadline_s=0.01))
        given_up.cancel()
        assert (read(given_up)[2].reason, read(late)[2].reason) == ("cancelled", "deadline")
        cut = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            scores = [pool.submit(small.score, prompt, [prompt], more, cut) for more in (0.01, 60.0)]
            assert wait_until(lambda: isinstance(scores[0].exception(), TimeoutError))
            assert wait_until(lambda: small.stats()["waiting"] == 1)
            cut.set()
            assert isinstance(scores[1].exception(), TimeoutError)
        waiting = [small.submit(prompt, Sampling(max_tokens=1)) for _ in range(2)]
        assert small.stats()["waiting"] == 2
        assert small.stats()["running"] == 1, "the row has been taken all the time"
        assert "refused" not in small.stats()
        first.cancel()
        assert {read(ticket)[2].reason for ticket in waiting} <= {"length", "stop"}
    finally:
        small.close()


def test_texts_go_on_while_many_candidates_are_scored(folders, engine):
    small = build_engine(config(folders, rows=2, draft="", mode="ar"))
    prompt = engine.vocabulary.encode("run")
    try:
        score, said, during = small.decoder.target.forward, [], []

        def slow(*args):
            time.sleep(0.01)
            return score(*args)

        small.decoder.target.forward = slow
        ticket = small.submit(prompt, Sampling(max_tokens=200, temperature=0.0))
        next(iter(ticket))
        with ThreadPoolExecutor(1) as pool:
            scores = pool.submit(small.score, prompt, [[5, 6, 7]] * 30)
            while not scores.done():
                said.append(ticket.events.get(timeout=10))
                during.append(not scores.done())
        assert sum(during) > 10
        assert len(scores.result()) == 30
        ticket.cancel()
    finally:
        small.close()


def test_scores_are_the_models_own(engine):
    vocabulary = engine.vocabulary
    prompt, candidate = vocabulary.encode("walk "), vocabulary.encode("forward")
    (found,) = engine.score(prompt, [candidate])
    logits = engine.decoder.target
    fed = torch.tensor([*prompt, *candidate])
    cache, slots = logits.cache(1, 64), torch.arange(len(fed))
    known = logits.forward(fed, [Span(0, slots, slots)], cache).log_softmax(-1)
    expected = [float(known[len(prompt) - 1 + i, token]) for i, token in enumerate(candidate)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_mean_of_what_stands_behind_some_layers_takes_more_than_one_look(engine):
    tokens = [5 + i % 20 for i in range(CHUNK + 40)]
    target, slots = engine.decoder.target, torch.arange(len(tokens))
    inside = target.features(torch.tensor(tokens), [Span(0, slots, slots)], target.cache(1, 512), 1)
    for first in (0, 30, CHUNK + 10):
        found = engine.mean_features(tokens, first, 1)
        torch.testing.assert_close(found, inside[first:].mean(0), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"depth in 1 \.\. 2, got 0 and 3"):
        engine.mean_features(tokens, 0, 3)
    with pytest.raises(TimeoutError):
        engine.mean_features(tokens, 0, 1, deadline_s=0.0)


def test_a_stop_text_and_log_probabilities(engine):
    tokens, text, _ = ask(engine, temperature=0.0, max_tokens=20)
    stop = text[5:8]
    cut = ask(engine, temperature=0.0, max_tokens=20, stop=(stop,))
    assert cut[1] == text[: text.index(stop)]
    assert cut[2].reason == "stop"
    ticket = engine.submit(
        engine.vocabulary.encode("walk forward"), Sampling(temperature=0.0, max_tokens=20, logprobs=3)
    )
    seen = [t for t in ticket if not isinstance(t, Finished) and t.id >= 0]
    assert [t.id for t in seen] == tokens
    assert all(t.top[0] == (t.id, t.logprob) and len(t.top) == 3 for t in seen)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_of_forced_tokens_leave_drafts_ready(engine, temperature):
    how = {"temperature": temperature, "seed": 2, "grammar": Grammar("json", SCHEMA)}
    plain = ask(engine, mode="ssd", **how)
    with_logprobs = ask(engine, mode="ssd", logprobs=1, **how)
    assert with_logprobs[0] == plain[0]
    assert with_logprobs[2].timings.cache_hits > 0


def test_a_text_is_written_up_to_the_end_of_any_context(folders, tmp_path):
    target = save_llama(tmp_path / "target", scale=0.5, positions=100)
    engine = build_engine(EngineConfig(str(target), "fp32", str(folders[1]), "sd", 9, context=200, rows=1))
    try:
        for mode in ("ar", "sd"):
            read(engine.submit([5 + i % 30 for i in range(70)], Sampling(temperature=0.0, mode=mode)))
            assert not engine.healthy()
            assert engine.stats()["finished_length"] > 0
            assert "finished_error" not in engine.stats()
    finally:
        engine.close()


def test_a_grammar_that_forces_a_long_text_leaves_the_draft_process_alone(folders):
    engine = build_engine(config(folders, budget=4))
    try:
        assert engine.link.wait(60)
        for source in ("[a-z]" + "(walk run )" * 300, "[a-z][a-z]" + "(walk run )" * 300):
            ask(engine, mode="ssd", temperature=0.0, max_tokens=200, grammar=Grammar("regex", source))
        ask(engine, mode="ssd", temperature=0.0)
        assert engine.link.up
        assert engine.stats()["draft_restarts"] == 0
    finally:
        engine.close()


def test_a_round_that_fails_ends_its_texts_and_no_others(folders, monkeypatch):
    engine = build_engine(config(folders, draft=""))
    try:
        alone = ask(engine, temperature=0.0)[0]
        plain = engine.decoder.round

        def broken(rows, mode, lookahead):
            if rows[0].ticket.sampling.seed == 666:
                raise RuntimeError("no memory")
            return plain(rows, mode, lookahead)

        monkeypatch.setattr(engine.decoder, "round", broken)
        end = ask(engine, seed=666)[2]
        assert (end.reason, end.message) == ("error", "the engine failed: no memory")
        assert ask(engine, temperature=0.0)[0] == alone
        monkeypatch.setattr(engine, "_fits", lambda tokens, more: None)
        with pytest.raises(LookupError):
            engine.score([], [[5]])
        assert ask(engine, temperature=0.0)[0] == alone
    finally:
        engine.close()


def test_whoever_comes_while_the_engine_closes_is_told(folders):
    engine = build_engine(config(folders, draft=""))
    engine.close()
    asked = iter([False])
    closed = engine._closed.is_set
    engine._closed.is_set = lambda: next(asked, closed())
    ticket = engine.submit([5], Sampling())
    assert ticket.events.get(timeout=1).reason == "error"


def test_an_ambiguous_grammar_ends_its_text_and_others_go_on(folders):
    engine = build_engine(config(folders))
    try:
        assert engine.link.wait(60)
        alone = ask(engine, temperature=0.0, mode="ar")[0]
        source = "start: s\ns: s s s s | s s s | s s | /[a-z ]/ |"
        prompt = engine.vocabulary.encode("walk forward")
        bad = [
            engine.submit(prompt, Sampling(grammar=Grammar("lark", source), mode=mode, seed=i, max_tokens=200))
            for i, mode in enumerate(("ssd", "sd", "ar"))
        ]
        assert ask(engine, temperature=0.0, mode="ssd")[0] == alone
        for ticket in bad:
            tokens, text, end = read(ticket)
            assert (end.reason, bool(end.message)) == ("length", True)
            assert 0 < len(tokens) < 200
            assert set(text) <= set("abcdefghijklmnopqrstuvwxyz ")
        assert engine.stats()["draft_restarts"] == 0
    finally:
        engine.close()


def test_a_grammar_that_cannot_be_followed_is_no_stop(folders, engine, monkeypatch):
    monkeypatch.setattr(Matcher, "error", property(lambda self: "it grew too large"))
    end = ask(engine, mode="ar", temperature=0.0, grammar=Grammar("json", SCHEMA))[2]
    assert (end.reason, end.message) == ("length", "it grew too large")


def test_what_could_not_be_drafted_is_refused(folders, engine):
    with pytest.raises(ValueError, match="lookahead must be <= 64, got 65"):
        config(folders, lookahead=65)
    with pytest.raises(ValueError, match="the prompt is empty"):
        engine.score([], [[5]])


# --- which way to decode --------------------------------------------------------------------------------------------

ARMS = (("ar", 0), ("sd", 2), ("sd", 8), ("ssd", 4))


def most_used(chooser, rates, rounds, catch_up=0.0):
    """The arm that was used most in the last tenth; `catch_up`: what a change of arm costs, in rounds."""
    used, last = Counter(), None
    for i in range(rounds):
        arm = chooser.choose(1)
        chooser.note(arm, 1, rates[arm], 1.0 + catch_up * (arm != last and arm[0] != "ar"))
        used[arm] += i > 0.9 * rounds
        last = arm
    return used.most_common(1)[0][0]


def test_a_way_that_has_become_better_is_found_though_another_is_far_behind():
    chooser = Chooser(ARMS)
    assert most_used(chooser, dict(zip(ARMS, (1.0, 2.0, 0.4, 1.6), strict=True)), 2000) == ("sd", 2)
    assert most_used(chooser, dict(zip(ARMS, (1.0, 2.0, 0.4, 3.0), strict=True)), 6000) == ("ssd", 4)
    assert most_used(chooser, dict(zip(ARMS, (1.0, 2.0, 9.0, 3.0), strict=True)), 12000) == ("sd", 8)


def test_what_a_change_costs_is_not_held_against_what_is_tried():
    chooser = Chooser(ARMS)
    most_used(chooser, dict(zip(ARMS, (1.0, 1.6, 1.4, 1.5), strict=True)), 2000)
    assert most_used(chooser, dict(zip(ARMS, (1.0, 1.6, 1.4, 2.0), strict=True)), 12000, catch_up=1.5) == ("ssd", 4)


def test_one_round_that_hung_does_not_end_a_way_of_decoding():
    chooser, rates = Chooser(ARMS), dict(zip(ARMS, (1.0, 2.0, 1.8, 3.0), strict=True))
    most_used(chooser, rates, 500)
    chooser.note(("ssd", 4), 1, 0, 500.0)
    assert most_used(chooser, rates, 15000) == ("ssd", 4)


def test_looking_at_the_others_costs_little():
    chooser, rates = Chooser(ARMS), dict(zip(ARMS, (1.0, 2.0, 1.5, 3.0), strict=True))
    most_used(chooser, rates, 500)
    tokens = 0.0
    for _ in range(10000):
        arm = chooser.choose(1)
        chooser.note(arm, 1, rates[arm], 1.0)
        tokens += rates[arm]
    assert tokens / 10000 > 0.99 * 3.0


def test_a_drafter_for_another_vocabulary_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="drafts for another vocabulary than one of 20 tokens"):
        load_drafter(folders[1], 20, 1, 64)
    with pytest.raises(ValueError, match="holds no drafter"):
        load_drafter(tmp_path, 20, 1, 64)
