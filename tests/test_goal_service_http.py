"""The goal service as its clients see it: OpenAI's own client, raw sockets, and a fuzzer that reads its description."""

import asyncio
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import openai
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from openai import OpenAI
from schemathesis import checks
from starlette.testclient import TestClient

from agents.goals import Goal
from deploy.goal_service.desk import Desk
from deploy.goal_service.engine import EngineConfig, build_engine
from deploy.goal_service.limits import Limits
from deploy.goal_service.serve import Patient, Server, bound
from deploy.goal_service.server import make_app
from deploy.goal_service.wire import choice_seed
from tests.tiny_models import save_llama

SECRET = "a-token-for-tests-only"
ASK = [{"role": "user", "content": "walk forward"}]
FREE = Limits(rate=1e6, burst=1e6)
SCHEMA = {
    "type": "object",
    "properties": {"gait": {"enum": ["walk", "trot"]}, "fast": {"type": "boolean"}},
    "required": ["gait", "fast"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "tiny")


def engine_of(folder, **more):
    return build_engine(EngineConfig(model=str(folder), kind="fp32", context=256, threads=1, **more))


@contextmanager
def running(engine, limits=FREE, grace_s=0.5, **more):
    """The service at a port of this machine, in a thread; yields the server and its address."""
    app = make_app(engine, limits, **more)
    place, ready = bound("127.0.0.1", 0), threading.Event()
    config = uvicorn.Config(app, http=Patient, ws="none", log_config=None, timeout_graceful_shutdown=3)
    server = Server(config, app.state.desk, grace_s, ready.set)
    thread = threading.Thread(target=server.run, args=([place],))
    thread.start()
    assert ready.wait(10)
    try:
        yield server, f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def served(engine, limits=FREE, **more):
    with running(engine, limits, **more) as (_, url):
        yield url


@pytest.fixture(scope="module")
def engine(folder):
    made = engine_of(folder, rows=4)
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(engine):
    with served(engine) as url:
        yield url


@pytest.fixture(scope="module")
def client(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20) as made:
        yield made


@pytest.fixture(scope="module")
def slow(folder):
    """An engine whose tokens take 20 ms, one text at a time; one more may wait."""
    made = engine_of(folder, rows=1, queue=1, mode="ar", verify_floor_s=0.02)
    yield made
    made.close()


@pytest.fixture(scope="module")
def slow_address(slow):
    with served(slow) as url:
        yield url


def idle(engine, seconds=3.0) -> bool:
    """Whether the engine has nothing to do within that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = engine.stats()
        if not now["running"] and not now["waiting"]:
            return True
        time.sleep(0.01)
    return False


def text_of(client, **more) -> str:
    asked = {"model": "tiny", "prompt": "walk", "max_tokens": 12, "seed": 7, **more}
    return client.completions.create(**asked).choices[0].text


def model_of(client) -> str:
    return client.models.list().data[0].id


# --- OpenAI's client, unmodified


def test_the_model_is_listed_and_found_and_others_are_not(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=ASK)


def test_a_stream_has_the_text_and_the_usage_of_the_whole_answer(client):
    asked = {"model": "tiny", "messages": ASK, "seed": 3, "max_tokens": 20}
    whole = client.chat.completions.create(**asked)
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    said, counted = chunks[-1].usage, whole.usage
    assert (said.prompt_tokens, said.completion_tokens) == (counted.prompt_tokens, counted.completion_tokens)
    assert counted.completion_tokens == 20
    assert counted.total_tokens == counted.prompt_tokens + 20


def test_timings_say_what_the_engine_did(client):
    answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=9)
    timings = answer.choices[0].model_extra["timings"]
    assert timings["completion_tokens"] == answer.usage.completion_tokens == 9
    assert timings["prompt_tokens"] == answer.usage.prompt_tokens
    assert 0 <= timings["queued_s"] <= timings["first_token_s"] <= timings["total_s"]


def test_grammars_that_take_too_long_hold_nobody_up(client):
    endless = "start: T\nT: " + " & ".join(f"/.*(a|b|{i}).*/" for i in range(3000))
    asked = {"model": "tiny", "prompt": "walk", "max_tokens": 200, "temperature": 0}

    def with_grammar(source):
        return client.completions.create(**asked, extra_body={"grammar": {"kind": "lark", "source": source}})

    with ThreadPoolExecutor(3) as pool:
        bad = [pool.submit(with_grammar, endless) for _ in range(3)]
        time.sleep(0.1)
        assert text_of(client)
        assert not any(one.done() for one in bad)
        for one in bad:
            assert isinstance(one.exception(), openai.BadRequestError)
            assert "to build it takes more than 1 s of a core" in str(one.exception())
    (choice,) = with_grammar("start: s\ns: s s s s | s s s | s s | /[a-z ]/ |").choices
    assert (choice.finish_reason, choice.model_extra["stop_reason"]) == ("length", "grammar")


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(client):
    text = text_of(client, max_tokens=30)
    stop = text[10:12]
    cut = text[: text.find(stop)]
    answer = client.completions.create(model="tiny", prompt="walk", max_tokens=30, seed=7, stop=["nowhere", stop])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (cut, "stop")
    chunks = client.completions.create(model="tiny", prompt="walk", max_tokens=30, seed=7, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == cut


def test_a_seed_gives_the_same_text_and_another_seed_another(client):
    assert text_of(client) == text_of(client) != text_of(client, seed=8)
    assert text_of(client, temperature=0, seed=1) == text_of(client, temperature=0, seed=2)
    assert text_of(client, top_p=0) == text_of(client, temperature=0)
    assert text_of(client, extra_body={"top_k": 1}) == text_of(client, temperature=0)


def test_each_of_several_answers_is_as_if_its_own_seed_had_been_asked_for(client):
    asked = {"model": "tiny", "prompt": ["walk", "run"], "max_tokens": 8}
    choices = client.completions.create(**asked, seed=7, n=3).choices
    assert [choice.index for choice in choices] == list(range(6))
    for number in range(3):
        alone = client.completions.create(**asked, seed=choice_seed(7, number)).choices
        assert [choices[number].text, choices[3 + number].text] == [choice.text for choice in alone]
    assert len({choice.text for choice in choices[:3]}) == 3


def test_streams_of_several_answers_are_told_apart_by_index(client):
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 8, "seed": 7, "n": 3}
    whole = [choice.message.content for choice in client.chat.completions.create(**asked).choices]
    texts = [""] * 3
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == whole


def test_log_probabilities_are_those_of_the_tokens_best_first(client):
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 10, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**asked, temperature=0).choices[0]
    content = choice.logprobs.content
    assert len(content) == 10
    assert b"".join(bytes(one.bytes) for one in content).decode(errors="replace") == choice.message.content
    for one in content:
        best = [top.logprob for top in one.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert one.logprob == best[0] <= 0  # greedy
        assert sum(math.exp(logprob) for logprob in best) <= 1 + 1e-5
    streamed = client.chat.completions.create(**asked, temperature=0, stream=True)
    again = [one for chunk in streamed if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [one.token for one in again] == [one.token for one in content]


def test_an_echo_has_the_log_probabilities_that_score_gives(client, address):
    asked = {"model": "tiny", "prompt": "walk forward slowly", "echo": True, "logprobs": 1}
    choice = client.completions.create(**asked, max_tokens=0).choices[0]
    assert (choice.text, choice.finish_reason) == ("walk forward slowly", "length")
    of = choice.logprobs
    assert of.token_logprobs[0] is None
    assert "".join(of.tokens) == choice.text
    assert of.text_offset == [sum(map(len, of.tokens[:i])) for i in range(len(of.tokens))]
    scored = httpx.post(f"{address}/v1/score", json={"prompt": of.tokens[0], "candidates": ["".join(of.tokens[1:])]})
    (candidate,) = scored.json()["scores"]
    assert candidate["tokens"] == of.tokens[1:]
    assert candidate["token_logprobs"] == pytest.approx(of.token_logprobs[1:], abs=1e-4)
    assert candidate["logprob"] == pytest.approx(sum(candidate["token_logprobs"]))
    longer = client.completions.create(**asked, max_tokens=4, seed=1).choices[0]
    assert longer.text.startswith("walk forward slowly")
    assert len(longer.logprobs.tokens) == len(of.tokens) + 4


def test_a_prompt_may_be_text_or_tokens(client, engine):
    ids = list(engine.vocabulary.prompt("walk"))
    assert text_of(client) == text_of(client, prompt=ids) == text_of(client, prompt=[ids])


def test_json_of_a_schema_is_what_comes(client):
    form = {"type": "json_schema", "json_schema": {"name": "goal", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model="tiny", messages=ASK, response_format=form, max_tokens=100, seed=1)
    found = json.loads(answer.choices[0].message.content)
    assert found["gait"] in ("walk", "trot")
    assert isinstance(found["fast"], bool)
    assert answer.choices[0].finish_reason == "stop"


def test_a_grammar_holds_in_completions_too(client):
    grammar = {"kind": "regex", "source": "(walk|trot) [0-9]"}
    text = text_of(client, max_tokens=30, extra_body={"grammar": grammar})
    assert text[:4] in ("walk", "trot")
    assert text[4] == " "
    assert text[5:].isdecimal()
    assert len(text) == 6


@pytest.mark.parametrize("mode", ["ar", "sd", "auto"])
def test_a_mode_changes_no_text(client, mode):
    assert text_of(client, extra_body={"mode": mode}) == text_of(client)


# --- what is refused


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperture": 0.5}, "temperture"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"n": 100}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"top_logprobs": 2}, None),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}}, None),
        ({"grammar": {"kind": "regex", "source": "("}}, None),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "walk " * 2000}]}, "prompt"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(client, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": ASK, "max_tokens": 4}, extra_body=more)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert "\n" not in caught.value.body["message"]


def test_what_changes_nothing_is_taken(client):
    more = {"store": False, "metadata": {"a": "b"}, "tools": [], "logit_bias": {}, "presence_penalty": 0}
    asked = {"model": "tiny", "prompt": "walk", "max_tokens": 12, "seed": 7, "user": "me"}
    assert client.completions.create(**asked, extra_body=more).choices[0].text == text_of(client)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"walk"',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "grammar": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"prompt": ' + b"9" * 5000 + b"}",
        b'{"prompt": "' + b'\\"' * 50_000,
        '{"prompt": "x"}'.encode("utf-16"),
        b'{"prompt": "\xff"}',
        b'{"prompt": [400]}',
        b'{"prompt": [-1]}',
        b'{"prompt": ""}',
    ],
)
def test_a_body_that_is_no_request_gets_400_at_once(address, body):
    began = time.monotonic()
    reply = httpx.post(f"{address}/v1/completions", content=body, headers=JSON)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert time.monotonic() - began < 1


def test_a_body_that_a_web_page_may_send_unasked_is_not_read(address):
    reply = httpx.post(f"{address}/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"})
    assert reply.status_code == 400


@pytest.mark.parametrize("promised", [True, False])
def test_a_body_that_is_too_long_gets_413_and_is_not_read_to_its_end(address, promised):
    size, sent = 64_000_000, 0

    def parts():
        nonlocal sent
        while sent < size:
            sent += 65_536
            yield b" " * 65_536

    headers = JSON | ({"content-length": str(size)} if promised else {})
    with suppress(httpx.WriteError):  # the connection is closed before all is sent, and the answer may be lost with it
        assert httpx.post(f"{address}/v1/completions", content=parts(), headers=headers).status_code == 413
    assert sent < size / 2


def test_a_body_that_does_not_come_gets_408(engine):
    with served(engine, Limits(body_s=0.2)) as url:
        host = url.removeprefix("http://")
        reply = said_over_a_socket(
            host,
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\nContent-Type: a/json\r\n\r\n{{",
        )
        assert reply.startswith(b"HTTP/1.1 408")


def said_over_a_socket(host: str, text: str) -> bytes:
    import socket

    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=5) as link:
        link.sendall(text.encode())
        found = b""
        while part := link.recv(65_536):
            found += part
        return found


def test_unknown_paths_and_methods_are_told_in_the_same_form(address):
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["type"] == "not_found_error"
    wrong = httpx.put(f"{address}/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["message"] == "Method Not Allowed"


def test_a_failure_inside_is_told_without_a_trace(engine, monkeypatch):
    def broken(*_):
        raise RuntimeError("a secret of the code")

    monkeypatch.setattr(engine, "submit", broken)
    with TestClient(make_app(engine), base_url="http://localhost", raise_server_exceptions=False) as c:
        reply = c.post("/v1/completions", json={"prompt": "walk"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text


# --- who may ask, and how much


PATHS = ["/v1/models", "/metrics", "/openapi.json", "/v1/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_with_a_token_every_path_but_health_needs_it(engine, path):
    with TestClient(make_app(engine, FREE, SECRET), base_url="http://localhost") as c:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": SECRET},
            {"authorization": "Bearer \xff"},
        ):
            reply = c.get(path, headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert c.get(path, headers={"authorization": f"Bearer {SECRET}"}).status_code in (200, 404)
        assert c.get("/health").json() == {"status": "ok", "draft": None}


def test_the_openai_client_sends_its_key_as_the_token(engine):
    with served(engine, token=SECRET) as url:
        assert model_of(OpenAI(base_url=f"{url}/v1", api_key=SECRET)) == "tiny"
        with pytest.raises(openai.AuthenticationError):
            model_of(OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "", "[::2]"])
def test_on_loopback_another_name_is_not_served(engine, host):
    with TestClient(make_app(engine, FREE), base_url="http://localhost") as c:
        assert c.get("/health", headers={"host": host}).status_code == 403
        for mine in ("localhost", "localhost:8642", "127.0.0.1:8642", "[::1]:8642"):
            assert c.get("/health", headers={"host": mine}).status_code == 200
    with TestClient(make_app(engine, FREE, SECRET, loopback=False), base_url="http://robot.local") as c:
        assert c.get("/health").status_code == 200


def test_web_pages_of_others_get_nothing(engine):
    with TestClient(make_app(engine, FREE), base_url="http://localhost:8642") as c:
        reply = c.get("/v1/models", headers={"origin": "http://evil.example"})
        assert reply.status_code == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert c.get("/v1/models", headers={"origin": "http://localhost:8642"}).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_again(engine):
    with TestClient(make_app(engine, Limits(rate=0.5, burst=2)), base_url="http://localhost") as c:
        assert [c.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        reply = c.get("/v1/models")
        assert 1 <= int(reply.headers["retry-after"]) <= 2
        assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        assert c.get("/health").status_code == 200


def test_what_finds_no_place_gets_429_and_the_rest_is_answered(slow, slow_address):
    def ask(_):
        asked = {"prompt": "walk", "max_tokens": 15, "temperature": 0}
        return httpx.post(f"{slow_address}/v1/completions", json=asked, timeout=20)

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(ask, range(6)))
    codes = [reply.status_code for reply in replies]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 2
    assert {reply.headers.get("retry-after") for reply in replies if reply.status_code == 429} == {"1"}
    assert idle(slow)


def test_so_many_requests_may_be_under_way(slow):
    with served(slow, Limits(concurrent=1)) as url, ThreadPoolExecutor(1) as pool:
        long = {"prompt": "walk", "max_tokens": 40, "temperature": 0}
        first = pool.submit(httpx.post, f"{url}/v1/completions", json=long, timeout=20)
        time.sleep(0.3)
        assert httpx.post(f"{url}/v1/completions", json=long).json()["error"]["code"] == "too_many_requests"
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert first.result().status_code == 200


# --- time


def test_an_answer_that_is_out_of_time_ends_where_it_is(slow_address):
    asked = {"prompt": "walk", "max_tokens": 200, "temperature": 0, "deadline_s": 0.5}
    (choice,) = httpx.post(f"{slow_address}/v1/completions", json=asked).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "deadline")
    assert 0 < choice["timings"]["completion_tokens"] < 200


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_token_in_time_there_is_503(slow_address, stream):
    asked = {"prompt": "walk", "max_tokens": 9, "deadline_s": 1e-4, "stream": stream}
    reply = httpx.post(f"{slow_address}/v1/completions", json=asked)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "deadline")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waiting", [False, True])
def test_an_answer_ends_when_its_client_leaves(slow, slow_address, stream, waiting):
    asked = {"prompt": "walk", "max_tokens": 200, "temperature": 0, "stream": stream}
    before = slow.submit(slow.vocabulary.prompt("run"), sampling_of(200)) if waiting else None
    read_for_a_moment(f"{slow_address}/v1/completions", asked)
    if before is not None:
        before.cancel()
    assert idle(slow, 1.5)  # 200 tokens would take 4 s


def read_for_a_moment(url: str, asked: dict, seconds: float = 0.3) -> None:
    """Ask, and leave whether there was an answer or not."""
    until, limits = time.monotonic() + seconds, httpx.Timeout(5, read=seconds)
    with suppress(httpx.ReadTimeout), httpx.stream("POST", url, json=asked, timeout=limits) as reply:
        for _ in reply.iter_raw():
            if time.monotonic() > until:
                return
    assert time.monotonic() >= until  # it was not over by then


def sampling_of(tokens: int):
    from deploy.goal_service.requests import Sampling

    return Sampling(temperature=0, max_tokens=tokens)


def test_a_client_that_leaves_while_its_prompt_is_read_gets_no_answer(slow):
    desk, prompt = Desk(slow, FREE), slow.vocabulary.prompt("walk")

    def asking():
        time.sleep(0.2)
        return [(prompt, sampling_of(200))]

    async def leave() -> None:
        task = asyncio.create_task(desk.ask(asking, 10))
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.4)

    before = slow.stats().get("requests", 0)
    asyncio.run(leave())
    assert slow.stats()["requests"] == before + 1
    assert idle(slow, 1.5)


def test_answers_wait_in_no_thread_of_their_own(slow_address):
    before = threading.active_count()
    with ThreadPoolExecutor(2) as pool:
        asked = {"prompt": "walk", "max_tokens": 30, "temperature": 0, "stream": True}
        done = []
        for _ in range(2):
            done.append(pool.submit(httpx.post, f"{slow_address}/v1/completions", json=asked, timeout=20))
            time.sleep(0.15)
        assert threading.active_count() <= before + 2 + 2  # the clients, and whoever hands prompts in
        assert [future.result().status_code for future in done] == [200, 200]


def test_when_it_is_told_to_stop_streams_end_with_a_reason(slow):
    with running(slow, grace_s=0.2) as (server, url):
        asked = {"prompt": "walk", "max_tokens": 200, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked) as reply:
            lines = reply.iter_lines()
            next(lines)
            server.should_exit = True
            began = time.monotonic()
            rest = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert rest[-1]["error"]["code"] == "shutting_down"
    assert time.monotonic() - began < 2
    assert idle(slow)


# --- ours


def test_a_sentence_becomes_a_goal_of_the_schema(address):
    reply = httpx.post(f"{address}/v1/goals", json={"sentence": "walk at 1 m/s", "robot": "walker"}, timeout=20)
    assert reply.status_code == 200
    goal = Goal.from_dict(reply.json()["goal"])
    assert goal.robot == "walker"
    again = {"sentence": "stop", "robot": "walker", "current": None if goal.cannot else goal.to_dict()}
    assert httpx.post(f"{address}/v1/goals", json=again, timeout=20).status_code == 200
    assert reply.json()["timings"]["total_s"] >= 0


@pytest.mark.parametrize(
    "more",
    [{"robot": "wlker"}, {"sentence": ""}, {"current": {"version": 1}}, {"sentence": "x" * 2000}, {"speed": 1}],
)
def test_what_is_no_question_for_a_goal_is_refused(address, more):
    reply = httpx.post(f"{address}/v1/goals", json={"sentence": "walk", "robot": "walker", **more})
    assert reply.status_code == 400


def test_scores_are_in_the_order_of_the_candidates(address):
    asked = {"messages": ASK, "candidates": ["walk", " run", "walk"]}
    scores = httpx.post(f"{address}/v1/score", json=asked).json()["scores"]
    assert [score["index"] for score in scores] == [0, 1, 2]
    assert scores[0]["token_logprobs"] == pytest.approx(scores[2]["token_logprobs"], abs=1e-4)
    assert all(logprob <= 0 for score in scores for logprob in score["token_logprobs"])
    for wrong in ({"candidates": []}, {"candidates": [""]}, {"candidates": ["x"] * 1000}, {"prompt": "x"}):
        assert httpx.post(f"{address}/v1/score", json={**asked, **wrong}).status_code == 400


def test_metrics_count_requests_answers_and_tokens(engine):
    with TestClient(make_app(engine, FREE), base_url="http://localhost") as c:
        c.post("/v1/completions", json={"prompt": "walk", "max_tokens": 5, "temperature": 0})
        c.get("/some/where")
        found = numbers(c.get("/metrics").text)
    assert found['surefoot_requests_total{method="POST",path="/v1/completions",status="200"}'] == 1
    assert found['surefoot_requests_total{method="GET",path="other",status="404"}'] == 1
    assert found["surefoot_answer_tokens_sum"] == 5
    assert found["surefoot_time_to_first_token_seconds_count"] == 1
    assert found["surefoot_time_per_output_token_seconds_count"] == 1
    for name in ("running", "waiting", "rounds_total", "verify_seconds_total", "generation_tokens_total"):
        assert f"surefoot_{name}" in found


def numbers(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


# --- its description


def test_every_reference_in_the_description_leads_somewhere(engine):
    tree = make_app(engine).openapi()
    text = json.dumps(tree)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        at = tree
        for name in reference.removeprefix("#/").split("/"):
            at = at[name]
    assert "422" not in {code for path in tree["paths"].values() for of in path.values() for code in of["responses"]}


CHECKED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def fuzz(operation, ask) -> None:
    """Call `ask` with what the description of an operation allows, the same each time."""
    tries = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)

    @tries
    @given(case=operation.as_strategy())
    def asked(case):
        ask(case)

    asked()


def test_whatever_is_asked_the_answer_is_as_described_and_no_failure(engine):
    limits, headers = Limits(rate=1e6, burst=1e6, max_tokens=8, deadline_s=5), {"Authorization": f"Bearer {SECRET}"}
    app = make_app(engine, limits, SECRET, loopback=False)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    codes: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        tried = codes.setdefault(operation.path, set())

        def ask(case, tried=tried):
            if isinstance(case.body, dict):
                case.body.pop("deadline_s", None)  # there is 503 if it is too short
                case.body |= {"model": "tiny"} if "model" in case.body else {}
            response = case.call(headers=headers)
            tried.add(response.status_code)
            case.validate_response(response, checks=CHECKED)

        fuzz(operation, ask)
    asking = [path for path in codes if "models/" not in path and path != "/v1/goals"]
    assert {path for path in asking if 200 not in codes[path]} == set()  # it got through to the engine
