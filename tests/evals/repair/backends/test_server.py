"""A scripted server with faults, asked for chats: all asks end, and a refusal is not asked again."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evals.models import openai_client
from evals.models.server_config import ServerConfig
from evals.repair.backends.load import open_backend
from evals.repair.backends.protocol import Ask, BackendConfig, Message
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

SAMPLING = SamplingConfig(max_new_tokens=5, stop=("E", "F", "G", "H", "!"))
FAULTS = (429, 500, 503, 408, "cut", "close")


@contextmanager
def server(faults):
    """A server that meets ask i with ``faults(i)`` of them, one a try, and then answers."""
    tries, bodies, lock = Counter(), [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
            with lock:
                bodies.append((self.path, body))
                tries[text] += 1
                number = tries[text]
            planned = faults(int(text))
            fault = planned[number - 1] if number <= len(planned) else 200
            if fault == "close":
                self.close_connection = True
                return
            message = {"message": {"role": "assistant", "content": f"<{text}>!rest"}, "finish_reason": "length"}
            choice = message if "messages" in body else {"text": f"<{text}>!rest", "finish_reason": "length"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3}
            about = {"model": "m-0711", "system_fingerprint": f"fp_{int(text) % 2}"}
            data = json.dumps({"choices": [choice], "usage": usage} | about).encode()
            self.send_response(fault if isinstance(fault, int) else 200)
            self.send_header("Content-Length", str(len(data)))
            if fault == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(data[:-9] if fault == "cut" else data)
            self.close_connection = fault == "cut"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads, http.block_on_close = True, False
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/v1", tries, bodies
        finally:
            http.shutdown()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.001)


def opened(url, **settings):
    return open_backend(BackendConfig(model=url, name="m", server=ServerConfig(retries=3), **settings), None)


def chat(i):
    return Ask((Message("system", "S"), Message("user", str(i))), (i, 0, 0, 0))


def test_200_asks_with_faults_all_end():
    def faults(i):
        return [FAULTS[(i + n) % len(FAULTS)] for n in range(i % 4)]

    with server(faults) as (url, tries, bodies):
        found = dict(opened(url).ask([chat(i) for i in range(200)], SAMPLING))
    assert {i: reply.text for i, (reply,) in found.items()} == {i: f"<{i}>" for i in range(200)}
    assert tries == {str(i): i % 4 + 1 for i in range(200)}
    assert {(r.prompt_tokens, r.tokens, r.finish_reason) for (r,) in found.values()} == {(7, 3, "stop")}
    assert {i % 2: reply.served for i, (reply,) in found.items()} == {0: "m-0711 fp_0", 1: "m-0711 fp_1"}
    path, body = bodies[0]
    assert path == "/v1/chat/completions" and body["model"] == "m" and body["stop"] == list("EFGH")
    assert body["messages"][0] == {"role": "system", "content": "S"}


@pytest.mark.parametrize("code", [400, 401, 404])
def test_a_refusal_is_not_asked_again(code):
    with server(lambda i: [code] * 9) as (url, tries, _), pytest.raises(InputError, match=str(code)):
        list(opened(url).ask([chat(0)], SAMPLING))
    assert tries == {"0": 1}


def test_a_text_is_continued_where_that_is_the_form():
    with server(lambda i: []) as (url, _, bodies):
        backend = opened(url, form="completion")
        ((_, (reply,)),) = backend.ask([Ask((Message("user", "5"),), (0,))], SAMPLING)
        assert backend.identity != opened(url).identity and backend.chat is False
    assert reply.text == "<5>" and bodies[0][0] == "/v1/completions" and bodies[0][1]["prompt"] == "5"


def test_replies_are_kept_and_answer_without_the_server(tmp_path):
    path = tmp_path / "replies.jsonl"
    with server(lambda i: []) as (url, tries, _):
        config = BackendConfig(model=url, name="m")
        first = dict(open_backend(config, path).ask([chat(i) for i in range(5)], SAMPLING))
    again = dict(open_backend(config, path).ask([chat(i) for i in range(5)], SAMPLING))
    replay = dict(open_backend(BackendConfig(model=str(path)), None).ask([chat(i) for i in range(5)], SAMPLING))
    assert sum(tries.values()) == 5 and again == replay
    assert [r.text for (r,) in again.values()] == [first[i][0].text for i in again]
