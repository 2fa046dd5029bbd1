"""A scripted server with faults: what is asked again, what is not, and what is said."""

import email.utils
import json
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from evals.models import openai_client
from evals.models.openai_client import Ask, OpenAIClient, Usage
from evals.models.request import Request
from evals.models.server import ServerCompleter
from evals.models.server_config import ServerConfig
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

SAMPLING = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=5, seed=3)


class Script:
    """What the server was asked, and what it answers: ``answer(handler, body, try number)``."""

    def __init__(self, answer):
        self.answer, self.lock = answer, threading.Lock()
        self.bodies, self.headers, self.paths, self.tries = [], [], [], Counter()
        self.under_way = self.most_under_way = 0


@contextmanager
def server(answer):
    script = Script(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.bodies.append(body)
                script.headers.append(dict(self.headers))
                script.paths.append(self.path)
                key = str(body.get("prompt", body.get("messages")))
                script.tries[key] += 1
                number = script.tries[key]
                script.under_way += 1
                script.most_under_way = max(script.most_under_way, script.under_way)
            try:
                script.answer(self, body, number)
            finally:
                with script.lock:
                    script.under_way -= 1

        def say(self, status, value, headers=(), cut=0):
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in (("Content-Length", str(len(data))), *headers):
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data[: len(data) - cut])
            if cut:
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = http.block_on_close = True
        http.block_on_close = False
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        script.url = f"http://127.0.0.1:{http.server_port}/v1"
        try:
            yield script
        finally:
            http.shutdown()


def text_of(body, number=0):
    return {"text": f"<{body['prompt']}/{number}>", "finish_reason": "stop"}


def fine(handler, body, number):
    choices = [text_of(body, i) for i in range(body["n"])]
    usage = {"prompt_tokens": 7, "completion_tokens": 3 * body["n"]}
    handler.say(200, {"choices": choices, "usage": usage, "system_fingerprint": "fp_1"})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Back-off of a hundredth: the pauses that are asked for are kept."""
    asked = []
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.001)
    sleep = openai_client.asyncio.sleep

    async def short(seconds):
        asked.append(seconds)
        await sleep(min(seconds, 0.01))

    # The client's alone: a server of another test, in a thread of this process, sleeps too.
    monkeypatch.setattr(openai_client, "asyncio", SimpleNamespace(**vars(openai_client.asyncio) | {"sleep": short}))
    return asked


def client(script, **settings):
    return OpenAIClient(script.url, "m", ServerConfig(**settings))


def test_what_is_sent_and_what_comes_back():
    sampling = SamplingConfig(temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=9, stop=tuple("abcdef"))
    with server(fine) as script:
        model = ServerCompleter(script.url + "/completions/", "m")
        rows = sorted(model.complete(Request({4: "p", 9: "q"}, sampling, 3)), key=lambda row: (row.task, row.sample))
        (one,) = model.complete(Request({1: "zaz"}, SamplingConfig(stop=("a",))))
    assert [(row.task, row.sample, row.text) for row in rows[:4]] == [
        (4, 0, "<p/0>"), (4, 1, "<p/1>"), (4, 2, "<p/2>"), (9, 0, "<q/0>"),
    ]  # fmt: skip
    assert {row.tokens for row in rows} == {None} and one.tokens == 3
    assert (one.text, one.finish_reason) == ("<z", "stop")
    body = next(dict(body) for body in script.bodies if body["prompt"] == "p")
    seed = body.pop("seed")
    assert body == {
        "model": "m", "prompt": "p", "n": 3, "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 5,
        "stop": list("abcd"),
    }  # fmt: skip
    assert 0 <= seed < 2**31 and len({b["seed"] for b in script.bodies}) == 3
    assert set(script.paths) == {"/v1/completions"}
    assert model.client.usage == Usage(3, 0, 21, 21) and model.client.fingerprints == {"fp_1"}


def test_a_chat_is_asked_with_its_messages():
    def answer(handler, body, number):
        content = body["messages"][-1]["content"].upper()
        handler.say(
            200, {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "length"}]}
        )

    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "hello"})
    with server(answer) as script:
        ((number, (reply,)),) = client(script).ask([Ask(messages, (0, 1, 2))], SAMPLING)
    assert (number, reply.text, reply.finish_reason, reply.tokens) == (0, "HELLO", "length", None)
    assert script.paths == ["/v1/chat/completions"] and script.bodies[0]["messages"] == list(messages)


def cut(handler, *_):
    handler.say(200, {"choices": [{"text": "x"}]}, cut=9)


def half_json(handler, *_):
    handler.say(200, b'{"choices": [{"te')


def close(handler, *_):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def reset(handler, *_):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


def slow(handler, *_):
    time.sleep(1.5)
    handler.close_connection = True


def drip(handler, *_):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(12):
        try:
            handler.wfile.write(b" ")
            time.sleep(0.1)
        except OSError:
            break
    handler.close_connection = True


def status(code, *headers):
    return lambda handler, *_: handler.say(code, {"error": {"message": "not now"}}, headers)


FAULTS = [
    status(408), status(409), status(429), status(429, ("Retry-After", "0")), status(500), status(502), status(503),
    status(504), status(529), cut, half_json, close, reset,
]  # fmt: skip


def test_all_asks_end_whatever_passes(no_pauses):
    """200 asks, each met with one fault after another; no more tries than are allowed."""

    def answer(handler, body, number):
        faults = int(body["prompt"]) % 4
        fault = FAULTS[(int(body["prompt"]) + number) % len(FAULTS)]
        fault(handler, body, number) if number <= faults else fine(handler, body, number)

    with server(answer) as script:
        model = client(script, retries=3)
        asks = [Ask(str(i), (i,)) for i in range(200)]
        found = dict(model.ask(asks, SAMPLING))
    assert {i: reply.text for i, (reply,) in found.items()} == {i: f"<{i}/0>" for i in range(200)}
    assert script.tries == {str(i): i % 4 + 1 for i in range(200)}
    assert model.usage.retries == len(no_pauses) == sum(i % 4 for i in range(200))


@pytest.mark.parametrize("fault", [slow, drip])
def test_a_request_that_takes_too_long_is_made_again(fault):
    def answer(handler, body, number):
        fault(handler, body, number) if number == 1 else fine(handler, body, number)

    with server(answer) as script:
        found = dict(client(script, timeout=0.4).ask([Ask("a", (0,)), Ask("b", (1,))], SAMPLING))
        assert len(found) == 2 and script.tries == {"a": 2, "b": 2}
        with pytest.raises(InputError, match=r"no completion within 0.2 s, 1 times"):
            script.tries.clear()
            list(client(script, timeout=0.2, retries=0).ask([Ask("a", (0,))], SAMPLING))


@pytest.mark.parametrize("fault", [cut, half_json, close, reset, status(503), status(429)])
def test_what_does_not_pass_is_said_after_the_last_try(fault):
    with server(fault) as script, pytest.raises(InputError) as error:
        list(client(script, retries=2).ask([Ask("a", (0,))], SAMPLING))
    assert script.tries == {"a": 3}
    assert ", 3 times; the same command goes on" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (400, "400 not now"), (401, "server.api_key_variable"), (403, "server.api_key_variable"),
        (404, "the URL ends before /completions"), (405, "the URL ends before"), (413, "413 not now"),
        (422, "422 not now"), (301, "it is at elsewhere"), (308, "it is at elsewhere"),
    ],
)  # fmt: skip
def test_what_is_refused_is_not_asked_again(code, words, no_pauses):
    with server(status(code, ("Location", "elsewhere"))) as script, pytest.raises(InputError, match=words):
        list(client(script, concurrency=1).ask([Ask(str(i), (i,), 2) for i in range(9)], SAMPLING))
    assert script.tries == {"0": 1} and not no_pauses


def test_retry_after_is_kept_as_seconds_or_as_a_date(no_pauses):
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    for value, low, high in (
        ("3", 3, 3),
        (date, 27, 30),
        ("99999", 120, 120),
        ("soon", 0, 1),
        ("-5", 0, 1),
        ("nan", 0, 1),
    ):
        no_pauses.clear()

        def answer(handler, body, number, value=value):
            status(429, ("Retry-After", value))(handler) if number == 1 else fine(handler, body, number)

        with server(answer) as script:
            list(client(script).ask([Ask("a", (0,))], SAMPLING))
        (pause,) = no_pauses
        assert low <= pause <= high, value


def test_pauses_grow_and_a_long_one_is_told(no_pauses, monkeypatch, capsys):
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.5)
    with server(status(503)) as script, pytest.raises(InputError):
        list(client(script).ask([Ask("a", (0,))], SAMPLING))
    for number, pause in enumerate(no_pauses):
        most = min(60, 0.5 * 2**number)
        assert most / 2 <= pause <= most
    assert len(no_pauses) == 8 and "503 not now; trying again in" in capsys.readouterr().err


def test_requests_are_under_way_side_by_side():
    for concurrency in (1, 8):
        all_there = threading.Barrier(concurrency)

        def answer(handler, body, number, all_there=all_there):
            all_there.wait(timeout=60)
            fine(handler, body, number)

        with server(answer) as script:
            asks = [Ask(str(i), (i,)) for i in range(24)]
            assert len(list(client(script, concurrency=concurrency).ask(asks, SAMPLING))) == 24
        assert script.most_under_way == concurrency


def test_who_stops_reading_stops_the_requests():
    with server(fine) as script:
        replies = client(script, concurrency=2).ask([Ask(str(i), (i,)) for i in range(5000)], SAMPLING)
        next(replies)
        before = threading.active_count()
        replies.close()
        asked = len(script.bodies)
        assert asked < 5000 and not [t for t in threading.enumerate() if "run_forever" in t.name]
        assert threading.active_count() <= before


def gives(count):
    return lambda handler, body, number: handler.say(200, {"choices": [text_of(body, number)] * min(count, body["n"])})


def refuses_n(handler, body, number):
    if body["n"] > 1:
        handler.say(400, {"error": {"message": "'n' : number must be at most 1"}})
    else:
        gives(1)(handler, body, number)


@pytest.mark.parametrize("answer", [gives(1), gives(2), refuses_n])
def test_a_server_that_ignores_n_is_asked_n_times(answer, capsys):
    with server(answer) as script:
        model = ServerCompleter(script.url, "m", ServerConfig(concurrency=1))
        rows = list(model.complete(Request({0: "a", 1: "b", 2: "c"}, SAMPLING, 5)))
    assert sorted((row.task, row.sample) for row in rows) == [(t, s) for t in range(3) for s in range(5)]
    err = capsys.readouterr().err
    assert err.count("each is asked for alone") == 1 and "where n is 5" in err
    assert all(body["n"] == 1 for body in script.bodies[1:])
    accepted = [body["seed"] for body in script.bodies if answer is not refuses_n or body["n"] == 1]
    assert len(set(accepted)) == len(accepted), "a server that keeps seeds would give one text n times"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"choices": None}, "choices is None, expected a list"),
        ({}, "choices is None"),
        ({"choices": []}, r"choices is \[\]"),
        ({"choices": {}}, "choices is {}"),
        ({"choices": "abc"}, "choices is 'abc'"),
        ({"choices": 5}, "choices is 5"),
        ({"choices": ["abc"]}, r"choices\[0\] is 'abc', expected an object"),
        ({"choices": [None]}, r"choices\[0\] is None"),
        ({"choices": [{}]}, r"choices\[0\].text is None, expected a text"),
        ({"choices": [{"text": None}]}, r"choices\[0\].text is None"),
        ({"choices": [{"text": 5}]}, r"choices\[0\].text is 5"),
        ({"choices": [{"text": ["a"]}]}, r"choices\[0\].text is \['a'\]"),
        ({"choices": [{"message": {"content": "x"}}]}, r"choices\[0\].text is None"),
        ({"error": {"message": "overloaded"}}, "no completion, but overloaded"),
        ({"error": "overloaded"}, "no completion, but overloaded"),
        (None, "no completion, but null"),
        ([], r"no completion, but \[\]"),
        ("abc", "no completion, but abc"),
        (b"<html>log in</html>", "a web page came"),
    ],
)
def test_a_reply_of_another_shape_is_one_line(reply, words):
    with server(lambda handler, *_: handler.say(200, reply)) as script, pytest.raises(InputError, match=words) as error:
        list(client(script).ask([Ask("a", (0,))], SAMPLING))
    assert len(script.bodies) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "usage", [None, 5, "x", [], {"completion_tokens": "7"}, {"completion_tokens": -1}, {"prompt_tokens": 1.5}]
)
def test_usage_that_is_none_is_not_counted(usage):
    reply = {"choices": [{"text": "t", "finish_reason": 7}], "usage": usage, "system_fingerprint": 5}
    with server(lambda handler, *_: handler.say(200, reply)) as script:
        model = client(script)
        ((_, (answer,)),) = model.ask([Ask("a", (0,))], SAMPLING)
    assert (answer.text, answer.finish_reason, answer.tokens, answer.prompt_tokens) == ("t", None, None, None)
    assert model.usage == Usage(1, 0, 0, 0)


def test_a_reply_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(openai_client, "MAX_REPLY", 1 << 20)
    huge = {"choices": [{"text": "x" * (2 << 20)}]}
    with (
        server(lambda handler, *_: handler.say(200, huge)) as script,
        pytest.raises(InputError, match="more than 1 MiB"),
    ):
        list(client(script).ask([Ask("a", (0,))], SAMPLING))


def test_the_key_is_read_from_the_variable_that_is_named(monkeypatch):
    def answer(handler, body, number):
        known = handler.headers.get("Authorization") == "Bearer s3cret"
        fine(handler, body, number) if known else status(401)(handler)

    monkeypatch.setenv("OPENAI_API_KEY", "not asked for")
    monkeypatch.setenv("MY_KEY", " s3cret\n")
    with server(answer) as script:
        assert len(list(client(script, api_key_variable="MY_KEY").ask([Ask("a", (0,))], SAMPLING))) == 1
        with pytest.raises(InputError, match=r"401 not now; put its key in an environment variable"):
            list(client(script).ask([Ask("a", (0,))], SAMPLING))
        assert "Authorization" not in script.headers[-1]
        monkeypatch.setenv("MY_KEY", "wrong")
        with pytest.raises(InputError, match="it refuses the key in MY_KEY") as error:
            list(client(script, api_key_variable="MY_KEY").ask([Ask("a", (0,))], SAMPLING))
        assert "wrong" not in str(error.value)
    for value in ("", "  ", "clé", "a\nb"):
        monkeypatch.setenv("MY_KEY", value)
        with pytest.raises(InputError, match=r"server.api_key_variable: .*MY_KEY"):
            client(script, api_key_variable="MY_KEY")
    with pytest.raises(InputError, match="the environment variable NO_KEY is not set"):
        client(script, api_key_variable="NO_KEY")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
def test_a_server_on_this_machine_needs_no_proxy(monkeypatch, name, proxy):
    monkeypatch.setenv(name, proxy)
    with server(fine) as script:
        for host in ("127.0.0.1", "localhost"):
            model = OpenAIClient(script.url.replace("127.0.0.1", host), "m")
            assert len(list(model.ask([Ask("a", (0,))], SAMPLING))) == 1
    with pytest.raises(InputError) as error:
        list(
            OpenAIClient("http://completions.invalid/v1", "m", ServerConfig(retries=0)).ask([Ask("a", (0,))], SAMPLING)
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "file:///etc", "http://", "http:///v1", "http://host:99999/v1", "http://[::1/v1", "://x",
     "http://h\0st/v1", "http://host/v1?key=5", "http://user:secret@host/v1"],
)  # fmt: skip
def test_a_url_that_is_none_is_named(url):
    with pytest.raises(InputError) as error:
        OpenAIClient(url, "m")
    assert "secret" not in str(error.value)


def test_nobody_there_is_said_at_once(no_pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=r"no completion \(ConnectError: .*\); is the server running there\?"):
            list(OpenAIClient(url, "m").ask([Ask("a", (0,))], SAMPLING))
    assert not no_pauses
