"""The robot's end of the goal service, against a real server that misbehaves in every way."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agents.goals import refusal
from deploy.goal_client import LARGEST, GoalClient, GoalFollower, Unanswered
from deploy.goal_service.examples.cases import goal_of
from deploy.wishes import Wishes
from tests.tiny_models import save_llama

GOOD = goal_of("speed:-0.5 for 3 > speed:0")


def body(goal=GOOD, **changes):
    return json.dumps({"goal": {**goal.to_dict(), **changes}, "timings": {}}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked.append((self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.answer(self)

    def log_message(self, *_):
        pass

    def reply(self, content, status=200, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.asked, made.answer, made.leave = [], lambda h: h.reply(body()), threading.Event()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.leave.set()
    made.shutdown()
    made.server_close()


def client(server, **more):
    return GoalClient(f"http://127.0.0.1:{server.server_address[1]}", **{"timeout_s": 0.4, **more})


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.leave.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while not handler.server.leave.wait(0.05):
        handler.wfile.write(b"a")
        handler.wfile.flush()


WRONG = {
    "malformed": (lambda h: h.reply(b'{"goal": {'), "not JSON"),
    "nested": (lambda h: h.reply(b"[" * 60_000), "not JSON"),
    "no goal": (lambda h: h.reply(b'{"timings": {}}'), "no goal"),
    "a list": (lambda h: h.reply(b"[]"), "no goal"),
    "wrong version": (lambda h: h.reply(body(version=2)), "version must be 1"),
    "out of range": (lambda h: h.reply(body().replace(b"-0.5", b"-50")), "-2 .. 6"),
    "not a number": (lambda h: h.reply(body().replace(b"-0.5", b"NaN")), "finite"),
    "other robot": (lambda h: h.reply(body(goal_of("home", "arm"))), "for a arm, not a walker"),
    "not found": (lambda h: h.reply(b'{"error": {"message": "no such page"}}', 404), "HTTP 404: no such page"),
    "broken": (lambda h: h.reply(b"<html>\n oh", 500), "HTTP 500: <html> oh"),
    "giant": (lambda h: h.reply(b" " * (LARGEST + 1)), f"more than {LARGEST} bytes"),
    "cut short": (lambda h: h.reply(body(), length=10_000), "IncompleteRead|not JSON|bytes read"),
    "no HTTP": (lambda h: h.wfile.write(b"hello\r\n\r\n"), "BadStatusLine"),
    "nothing": (lambda h: None, "RemoteDisconnected|Connection"),
    "hangs": (lambda h: h.server.leave.wait(5), "no answer within"),
    "drips": (drip, "no answer within"),
    "drips headers": (drip_headers, "no answer within"),
    "hangs mid-body": (lambda h: (h.reply(body()[:40], length=400), h.server.leave.wait(5)), "no answer within"),
}


def test_a_goal_comes_back_as_it_was_sent(server):
    current = goal_of("speed:1+height:1.1")
    assert client(server, token="secret").ask("back off", "walker", current) == GOOD
    ((path, headers, sent),) = server.asked
    assert path == "/v1/goals"
    assert headers["Authorization"] == "Bearer secret"
    assert json.loads(sent) == {"sentence": "back off", "robot": "walker", "current": current.to_dict()}


@pytest.mark.parametrize("how", ["cut short", "giant", "hangs", "drips", "drips headers", "hangs mid-body"])
def test_over_tls_too_whatever_a_service_answers_is_one_line_in_time(server, certificate, monkeypatch, how):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    asked = GoalClient(f"https://localhost:{server.server_address[1]}", timeout_s=1.0)
    assert asked.ask("walk", "walker") == GOOD
    server.answer, says = WRONG[how]
    with pytest.raises(Unanswered, match=says):
        asked.ask("walk", "walker")


@pytest.mark.parametrize("how", WRONG)
def test_whatever_a_service_answers_is_one_line_in_time(server, how):
    server.answer, says = WRONG[how]
    began = time.monotonic()
    with pytest.raises(Unanswered, match=says) as error:
        client(server).ask("walk", "walker")
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 1.5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that nobody has signed, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate, and is not there")
    folder = tmp_path_factory.mktemp("certificate")
    asked = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    asked += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run([*asked, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.fixture(scope="module")
def secure(certificate, tmp_path_factory):
    """The port of the goal service itself, with TLS."""
    folder = save_llama(tmp_path_factory.mktemp("models") / "tiny")
    command = [sys.executable, "-m", "deploy.goal_service.serve", "serve", "--model", str(folder), "--kind", "fp32"]
    command += ["--context", "512", "--port", "0", "--cert", str(certificate[0]), "--key", str(certificate[1])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = None
        while port is None and (line := process.stderr.readline()):
            port = re.search(r"https://[\d.]+:(\d+)", line)
        assert port is not None
        yield int(port[1])
        process.terminate()
        process.communicate(timeout=20)


def test_over_https_a_goal_comes_from_a_service_whose_certificate_is_trusted(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    client = GoalClient(f"https://localhost:{secure}", timeout_s=20.0)
    assert client.ask("walk backwards at 0.5 m/s", "walker").cannot is None


def test_a_certificate_that_is_not_trusted_is_one_line_and_not_asked_again(secure, certificate, monkeypatch):
    def refused(host):
        with pytest.raises(Unanswered) as error:
            GoalClient(f"https://{host}:{secure}", timeout_s=20.0).ask("walk", "walker")
        assert not error.value.again
        return str(error.value)

    end = "; SSL_CERT_FILE names a file of those that are"
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert refused("localhost") == "the service's certificate is not trusted: self-signed certificate" + end
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert "not valid for '127.0.0.1'" in refused("127.0.0.1")


def test_https_where_there_is_none_and_http_where_there_is_are_one_line(server, secure):
    with pytest.raises(Unanswered, match="SSL") as error:
        GoalClient(f"https://127.0.0.1:{server.server_address[1]}").ask("walk", "walker")
    assert "\n" not in str(error.value)
    with pytest.raises(Unanswered, match=r"RemoteDisconnected|BadStatusLine|reset") as error:
        GoalClient(f"http://localhost:{secure}").ask("walk", "walker")
    assert "\n" not in str(error.value)


def test_a_handshake_that_never_ends_is_cut_off():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = GoalClient(f"https://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        with pytest.raises(Unanswered, match=r"no answer within 0\.3 s"):
            asked.ask("walk", "walker")


def test_nobody_there_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unanswered, match="refused"):
            GoalClient(f"http://127.0.0.1:{taken.getsockname()[1]}").ask("walk", "walker")


@pytest.mark.parametrize("url", ["localhost:80", "ftp://x", "http://", "http://x:99999", "http://[::1", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        GoalClient(url)


def test_the_token_is_not_shown():
    assert "secret" not in repr(GoalClient("http://x", token="secret"))


def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_a_follower_hands_over_each_goal_once_and_counts_them(server):
    follower = GoalFollower(client(server), "walker2d")
    assert follower.take() is None
    follower.ask("back off")
    assert until(lambda: follower.newest is not None)
    new = follower.take()
    assert (new.goal, new.version, new.sentence) == (GOOD, 1, "back off")
    assert follower.take() is None
    follower.ask("again")
    assert until(lambda: follower.newest.version == 2)
    follower.close()


def test_while_the_service_is_wrong_the_last_goal_stays_and_each_failure_is_a_line(server):
    lines = []
    follower = GoalFollower(client(server), "walker", lines.append, tries=1, retry_s=(0.01,))
    follower.ask("back off")
    assert until(lambda: follower.take() is not None)
    for how, (answer, _) in WRONG.items():
        server.answer, before = answer, len(lines)
        follower.ask(how)
        assert until(lambda n=before: len(lines) > n), how
        assert follower.newest.goal == GOOD
        assert follower.take() is None
    assert not any("\n" in line for line in lines)
    follower.close()


def test_a_refusal_is_a_line_and_no_goal(server):
    lines = []
    server.answer = lambda h: h.reply(body(refusal("walker", "no doors here")))
    follower = GoalFollower(client(server), "walker", lines.append)
    follower.ask("open the door")
    assert until(lambda: lines == ["goal service: cannot: no doors here"])
    assert follower.newest is None
    follower.close()


def test_a_service_that_comes_back_is_asked_again_and_a_bad_request_is_not(server):
    lines = []
    server.answer = lambda h: h.reply(b"", 503)
    follower = GoalFollower(client(server), "walker", lines.append, retry_s=(0.02,))
    follower.ask("back off")
    assert until(lambda: len(lines) > 2)
    server.answer = lambda h: h.reply(body())
    assert until(lambda: follower.take() is not None)
    server.answer, before = (lambda h: h.reply(b"", 400)), len(server.asked)
    follower.ask("what")
    assert until(lambda: "HTTP 400" in lines[-1])
    time.sleep(0.1)
    assert len(server.asked) == before + 1
    follower.close()


def test_the_newest_sentence_counts(server):
    held = threading.Event()

    def slow_first(handler):
        if b'"first"' in handler.server.asked[-1][2]:
            held.wait(2)
        handler.reply(body())

    server.answer = slow_first
    follower = GoalFollower(client(server, timeout_s=3.0), "walker")
    follower.ask("first")
    assert until(lambda: len(server.asked) == 1)
    follower.ask("second")
    held.set()
    assert until(lambda: follower.newest is not None)
    assert follower.newest.sentence == "second"
    assert follower.newest.version == 1
    follower.close()


def test_what_is_not_understood_is_asked_of_the_service_while_the_last_goal_goes_on(server):
    server.answer = lambda h: h.reply(body(goal_of("speed:-0.5 for 3 > speed:0.25", "double_integrator")))
    wishes = Wishes("double_integrator", "", GoalFollower(client(server), "double_integrator"))
    assert wishes.hear("go at 1 m/s", 0.0) == "speed:1.0"
    with pytest.raises(ValueError, match="did not understand 'hie', 'thee', 'hence'; asking the goal service"):
        wishes.hear("hie thee hence", 1.0)
    assert until(lambda: wishes.due(2.0, {"speed": 1.0}) == "speed:-0.5")
    assert [note[:24] for note in wishes.notes()] == ["goal 1 for 'hie thee hen"]
    assert wishes.due(4.9, {"speed": 1.0}) is None
    assert wishes.due(5.0, {"speed": 1.0}) == "speed:0.25"
    wishes.close()


def test_the_client_loads_neither_torch_nor_numpy():
    code = "import sys, deploy.goal_client; print(sorted({'torch', 'numpy', 'fastapi'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
