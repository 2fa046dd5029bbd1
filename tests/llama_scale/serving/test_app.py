"""Over the wire: the official client, the protocol's fields, cancelling, bounds."""

import gc
import json
import random
import socket
import threading
import time

import httpx2
import psutil
import pytest

from llama_scale.generation.generate import generate, stream
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.serving.batch import Batch
from llama_scale.serving.config import AccessConfig, EngineConfig
from tests.llama_scale.serving.conftest import Server, small_model, write_run

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def client(server):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


SESSION = httpx2.Client(timeout=120)  # one: making it reads the certificates of the machine


def post(server, path, body):
    return SESSION.post(f"{server.url}{path}", json=body)


def settle(server):
    """Wait until the engine has nothing to do."""
    limit = time.monotonic() + 30
    while (server.engine.waiting or server.engine.batches) and time.monotonic() < limit:
        time.sleep(0.005)
    assert not server.engine.batches


def test_text_is_that_of_sample(client, served):
    sampling = SamplingConfig(temperature=0.8, top_p=0.9, max_new_tokens=24, seed=7)
    answer = client.completions.create(
        model="a", prompt="def f(x):\n", temperature=0.8, top_p=0.9, max_tokens=24, seed=7
    )
    choice = answer.choices[0]
    assert choice.text == "".join(stream(served.llama, served.tokenizer, "def f(x):\n", sampling))
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    ids = served.tokenizer.encode("def f(x):\n")
    assert answer.usage.prompt_tokens == len(ids) + 1
    assert answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "a" and answer.object == "text_completion" and answer.seed == 7


def test_a_list_of_prompts_and_n_are_those_of_generate(client, served):
    texts, sampling = ["x = ", "class A:"], SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=9, seed=5)
    rows = list(generate(served.llama, served.tokenizer, texts, sampling, n_samples=3))
    expected = {(row.task, row.sample): row for row in rows}
    settings = {"max_tokens": 9, "seed": 5, "n": 3}
    as_text = client.completions.create(model="a", prompt=texts, **settings)
    as_ids = client.completions.create(model="a", prompt=[served.tokenizer.encode(text) for text in texts], **settings)
    for answer in (as_text, as_ids):
        assert [choice.index for choice in answer.choices] == list(range(6))
        for choice in answer.choices:
            row = expected[divmod(choice.index, 3)]
            assert (choice.text, choice.finish_reason) == (row.text, row.finish_reason)
        assert answer.usage.completion_tokens == sum(len(row.tokens) for row in rows)


def test_a_stream_is_the_whole_answer_in_parts(client):
    settings = {"model": "a", "prompt": "def f", "max_tokens": 20, "seed": 3, "n": 2, "stop": [")", "self"]}
    whole = client.completions.create(**settings)
    texts, reasons, usage = ["", ""], [None, None], None
    for part in client.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
        assert usage is None
        for choice in part.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        usage = None if part.choices else part.usage
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert not any(stop in text for text in texts for stop in settings["stop"])


def test_logprobs_and_echo(client, served):
    settings = {"model": "a", "prompt": "é = 1", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    plain = client.completions.create(**settings).choices[0]
    echoed = client.completions.create(**settings, echo=True).choices[0]
    assert echoed.text == "é = 1" + plain.text
    count = len(served.tokenizer.encode("é = 1"))
    assert echoed.logprobs.tokens[count:] == plain.logprobs.tokens
    assert echoed.logprobs.token_logprobs[count:] == pytest.approx(plain.logprobs.token_logprobs, abs=1e-4)
    for parts in (plain.logprobs, echoed.logprobs):
        sizes = {len(row) for row in (parts.tokens, parts.token_logprobs, parts.top_logprobs, parts.text_offset)}
        assert len(sizes) == 1
        for token, logprob, top in zip(parts.tokens, parts.token_logprobs, parts.top_logprobs, strict=True):
            assert top[token] == logprob and 2 <= len(top) <= 3
    text = echoed.text
    for token, offset in zip(echoed.logprobs.tokens, echoed.logprobs.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert text[offset:].lstrip("\ufffd").startswith(token)
    assert any(token == "bytes:\\xc3" for token in echoed.logprobs.tokens) or "é" in echoed.logprobs.tokens
    only = client.completions.create(**{**settings, "max_tokens": 0}, echo=True)
    assert only.choices[0].text == "é = 1" and only.usage.completion_tokens == 0
    assert len(only.choices[0].logprobs.tokens) == count
    streamed = list(client.completions.create(**settings, echo=True, stream=True))
    assert "".join(part.choices[0].text for part in streamed) == echoed.text
    tokens = [token for part in streamed if part.choices[0].logprobs for token in part.choices[0].logprobs.tokens]
    offsets = [o for part in streamed if part.choices[0].logprobs for o in part.choices[0].logprobs.text_offset]
    assert (tokens, offsets) == (echoed.logprobs.tokens, echoed.logprobs.text_offset)


def test_models_are_listed_and_found(client):
    rows = client.models.list().data
    assert [row.id for row in rows] == ["a", "a@20", "a@10", "sub/b", "sub/b@10"]
    assert rows[0].step == 20 and rows[0].context_length == 256 and rows[0].tokens_trained == 2000
    assert client.models.retrieve("sub/b@10").parameters > 0
    old = client.completions.create(model="a@10", prompt="x", max_tokens=1)
    assert old.model == "a@10"


@pytest.mark.parametrize(
    ("settings", "listed"),
    [("{", ["b", "b@10"]), ("[]", ["b", "b@10"]), ('{"chat_template": [3]}', ["a", "a@10", "b", "b@10"])],
)
def test_a_model_that_cannot_be_read_hides_no_other(tmp_path, tokenizer, settings, listed):
    for name in "ab":
        write_run(tmp_path / name, small_model(tokenizer), tokenizer.path)
    (tmp_path / "a" / "checkpoints" / "step-00000010" / "tokenizer_config.json").write_text(settings)
    server = Server(tmp_path)
    try:
        rows = httpx2.get(f"{server.url}/v1/models").json()["data"]
        assert [row["id"] for row in rows] == listed and not any(row["chat"] for row in rows)  # no template in [3]
        assert post(server, "/v1/completions", {"model": "b", "prompt": "x", "max_tokens": 1}).status_code == 200
    finally:
        server.close()


def test_errors_are_typed(client):
    openai = pytest.importorskip("openai")
    cases = [
        (openai.NotFoundError, "model_not_found", "model", {"model": "c"}),
        (openai.NotFoundError, "model_not_found", "model", {"model": "a@11"}),
        (openai.NotFoundError, "model_not_found", "model", {"model": "../a"}),
        (openai.NotFoundError, "model_not_found", "model", {"model": "/etc/passwd"}),
        (openai.BadRequestError, "context_length_exceeded", "prompt", {"prompt": "x " * 300}),
        (openai.BadRequestError, None, "temperature", {"temperature": -1}),
        (openai.BadRequestError, None, "temperature", {"temperature": "hot"}),
        (openai.BadRequestError, None, "top_p", {"top_p": 0}),
        (openai.BadRequestError, None, "n", {"n": 10**9}),
        (openai.BadRequestError, None, "n", {"n": 0}),
        (openai.BadRequestError, None, "seed", {"seed": -1}),
        (openai.BadRequestError, None, "max_tokens", {"max_tokens": 1.5}),
        (openai.BadRequestError, None, "logprobs", {"logprobs": 6}),
        (openai.BadRequestError, None, "stop", {"stop": [""]}),
        (openai.BadRequestError, None, "stop", {"stop": ["x"] * 100_000}),
        (openai.BadRequestError, None, "prompt", {"prompt": [1, 10**6]}),
        (openai.BadRequestError, None, "prompt", {"prompt": [-1]}),
        (openai.BadRequestError, None, "prompt", {"prompt": [["x"]]}),
        (openai.BadRequestError, None, "best_of", {"best_of": 3}),
        (openai.BadRequestError, None, "stream", {"extra_body": {"stream": "yes"}}),
    ]
    for kind, code, param, change in cases:
        with pytest.raises(kind) as error:
            client.completions.create(**{"model": "a", "prompt": "x", "max_tokens": 1} | change)
        assert (error.value.code, error.value.param) == (code, param), change
        assert "\n" not in error.value.message


def test_a_chat_wants_a_template(client, served, runs, tmp_path):
    openai = pytest.importorskip("openai")
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="a", messages=messages)
    assert error.value.code == "no_chat_template" and "/v1/completions" in error.value.message
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    server = Server(runs, template=tmp_path / "t.jinja")
    try:
        chat = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).chat.completions
        settings = {"model": "a", "messages": messages, "max_completion_tokens": 12, "seed": 4, "n": 2}
        whole = chat.create(**settings, logprobs=True, top_logprobs=2)
        prompt, sampling = "<system>be\n<user>hi\n<assistant>", SamplingConfig(1.0, 1.0, None, 12, 4)
        rows = list(generate(served.llama, served.tokenizer, [prompt], sampling, n_samples=2))
        assert [c.message.content for c in whole.choices] == [row.text for row in rows]
        assert all(len(entry.top_logprobs) == 2 for c in whole.choices for entry in c.logprobs.content)
        texts, last = ["", ""], None
        for part in chat.create(**settings, stream=True, stream_options={"include_usage": True}):
            for choice in part.choices:
                texts[choice.index] += choice.delta.content or ""
            last = part
        assert texts == [row.text for row in rows]
        assert last.choices == [] and last.usage == whole.usage
    finally:
        server.close()


def test_recorded_requests_of_clients_are_answered(server):
    """As lm-eval, Continue, open-webui and EvalPlus send them."""
    loglikelihood = {"model": "a", "prompt": [[65, 66, 67]], "temperature": 0, "max_tokens": 1, "logprobs": 1,
                     "seed": 1234, "echo": True}  # fmt: skip
    greedy = {"prompt": [[65, 66]], "model": "a", "max_tokens": 8, "temperature": 0, "stop": ["\n\n"], "seed": 1234}
    autocomplete = {"model": "sub/b", "prompt": "def f(", "suffix": "):\n", "max_tokens": 9, "temperature": 0.01,
                    "top_p": None, "frequency_penalty": None, "presence_penalty": None, "stream": False,
                    "stop": ["a", "b", "c", "d", "e"], "user": "x"}  # fmt: skip
    assert post(server, "/v1/completions", loglikelihood).status_code == 200
    assert post(server, "/v1/completions", greedy).status_code == 200
    assert httpx2.get(f"{server.url}/models").json()["object"] == "list"
    answer = post(server, "/v1/fim/completions", autocomplete)
    assert answer.status_code == 200 and isinstance(answer.json()["choices"][0]["message"]["content"], str)
    whole = post(server, "/v1/fim/completions", autocomplete | {"seed": 5}).json()["choices"][0]["message"]["content"]
    streamed = post(server, "/v1/fim/completions", autocomplete | {"seed": 5, "stream": True}).text
    parts = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == whole != ""
    assert streamed.endswith("data: [DONE]\n\n")
    unknown = {"model": "a", "prompt": "x", "max_tokens": 2, "chat_id": "1", "metadata": {"a": 1}, "n": 1}
    assert post(server, "/v1/completions", unknown).status_code == 200


def test_tokenizer_routes(server, served):
    text = "def f(x):\n\treturn 'é'"
    found = post(server, "/tokenize", {"prompt": text, "add_special_tokens": False}).json()
    assert found["tokens"] == served.tokenizer.encode(text) and found["count"] == len(found["tokens"])
    marked = post(server, "/tokenize", {"prompt": text, "add_special_tokens": True}).json()["tokens"]
    assert marked == [served.tokenizer.eos, *found["tokens"]]
    assert post(server, "/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}
    info = httpx2.get(f"{server.url}/tokenizer_info").json()
    assert info["eos_token"] == "</s>" and info["eos_token_id"] == served.tokenizer.eos
    assert post(server, "/detokenize", {"tokens": [10**9]}).status_code == 400


def test_a_gap_is_filled_in_the_order_of_training(server, served):
    from llama_scale.data.fim import with_fim_marks
    from llama_scale.serving.protocol import fim_context

    tokenizer = served.tokenizer
    prefix, suffix = tokenizer.encode("def f(x):"), tokenizer.encode(" x + 1\n")
    expected = (tokenizer.eos, *with_fim_marks("psm", prefix, [], suffix, tokenizer.fim))
    assert fim_context(tokenizer, "def f(x):", " x + 1\n") == expected
    body = {"prompt": "def f(x):", "suffix": " x + 1\n", "max_tokens": 5, "seed": 3}
    filled = post(server, "/v1/completions", body)
    assert filled.status_code == 200
    ids = post(server, "/v1/completions", {"prompt": list(expected), "max_tokens": 5, "seed": 3}).json()
    assert filled.json()["choices"][0]["text"] == ids["choices"][0]["text"]
    assert filled.json()["usage"]["prompt_tokens"] == len(expected)


@pytest.mark.parametrize("streamed", [True, False])
def test_rows_leave_when_the_client_does(server, streamed, monkeypatch):
    """At most two more steps are made: here the engine waits after the first until the client was seen to leave."""
    turn, begun, gone = Batch.turn, threading.Event(), threading.Event()

    def held(batch):
        tickets = batch.tickets
        turn(batch)
        begun.set()
        limit = time.monotonic() + 60
        while not (gone.is_set() and all(ticket.cancelled for ticket in tickets)) and time.monotonic() < limit:
            time.sleep(0.001)

    monkeypatch.setattr(Batch, "turn", held)
    for number in range(50):
        begun.clear()
        gone.clear()
        body = json.dumps({"prompt": "x", "max_tokens": 250, "n": 4, "seed": number, "stream": streamed}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        cancelled, steps = server.engine.cancelled, server.engine.steps
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            assert begun.wait(60)
        gone.set()
        settle(server)
        assert server.engine.cancelled == cancelled + 1 and server.engine.steps - steps <= 3


@pytest.mark.slow
def test_two_thousand_clients_that_left_leave_no_memory(tmp_path, tokenizer):
    """Resident memory after them is that of before within 2 %, once the engine had answers and clients that left."""
    write_run(tmp_path / "runs" / "a", small_model(tokenizer, context_length=512, d_model=96), tokenizer.path)
    server = Server(tmp_path / "runs", engine=EngineConfig(max_waiting=20, max_rows=16))
    rng, process = random.Random(0), psutil.Process()

    def leave(number):
        prompt = "x = [i for i in range(10)]\n" * rng.randint(1, 6)
        asked = {"prompt": prompt, "max_tokens": 200, "n": rng.choice([1, 1, 4]), "seed": number}
        body = json.dumps(asked | {"stream": number % 2 == 0}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(rng.random() * 0.04)

    def resident():
        settle(server)
        gc.collect()
        return process.memory_info().rss

    try:
        for number in range(12):
            post(server, "/v1/completions", {"prompt": "x = [i for\n" * 6, "max_tokens": 100, "n": 4, "seed": number})
        for number in range(100):
            leave(number)
        before = resident()
        for number in range(2000):
            leave(1000 + number)
        assert resident() <= 1.02 * before
        assert server.engine.used == 0 and server.engine.cancelled > 1000
        assert post(server, "/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200
    finally:
        server.close()


def test_many_at_once_are_answered_or_told_to_come_back(runs):
    server = Server(runs, engine=EngineConfig(max_waiting=20, max_rows=8))
    states, lock = [], threading.Lock()
    session = httpx2.Client(timeout=120, limits=httpx2.Limits(max_connections=200))

    def one(number):
        answer = session.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 20, "seed": number})
        with lock:
            states.append((answer.status_code, int(answer.headers.get("retry-after", 0))))

    try:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(120)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(states) == 120
        assert {state for state, _ in states} <= {200, 429}
        assert sum(state == 200 for state, _ in states) >= 20
        assert all(1 <= after <= 60 for state, after in states if state == 429)
        assert server.engine.used == 0
    finally:
        server.close()


def test_hostile_requests_leave_the_others_alone(runs):
    server = Server(runs, AccessConfig(patience=1.0, max_body_bytes=1 << 16))
    try:
        slow = httpx2.stream("POST", f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 200,
                             "stream": True, "n": 8}, timeout=60)  # fmt: skip
        with slow as answer, socket.create_connection(("127.0.0.1", server.port)) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                         b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            assert post(server, "/v1/completions", {"prompt": "x" * (1 << 17)}).status_code == 413
            large = {"content-type": "application/json", "content-length": str(1 << 30)}
            big = httpx2.Request("POST", f"{server.url}/v1/completions", headers=large)
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                head = "\r\n".join(f"{name}: {value}" for name, value in big.headers.items())
                connection.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}\r\n\r\n".encode())
                assert connection.recv(64).startswith(b"HTTP/1.1 413")

            def endless():
                for _ in range(100):
                    yield b"[" * 4096

            chunked = httpx2.post(f"{server.url}/v1/completions", content=endless(),
                                  headers={"content-type": "application/json"}, timeout=60)  # fmt: skip
            assert chunked.status_code == 413
            deep = httpx2.post(f"{server.url}/v1/completions", content=b"[" * 60_000,
                               headers={"content-type": "application/json"}, timeout=60)  # fmt: skip
            assert deep.status_code == 400
            half.settimeout(10)
            assert half.recv(64).startswith(b"HTTP/1.1 408")
            assert "[DONE]" in answer.read().decode()
        assert post(server, "/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200
    finally:
        server.close()


def test_models_leave_the_shelf_when_room_is_needed(tmp_path, tokenizer):
    for name in "abc":
        write_run(tmp_path / name, small_model(tokenizer), tokenizer.path)
    size = sum(p.numel() * 4 for p in small_model(tokenizer).parameters())
    server = Server(tmp_path, memory=1 << 30, **{})
    server.shelf.memory = int(2.5 * size)
    try:
        for name in "abcab":
            assert post(server, "/v1/completions", {"model": name, "prompt": "x", "max_tokens": 1}).status_code == 200
            assert len(server.shelf.loaded) <= 2
        assert [loaded.served.name for loaded in server.shelf.loaded.values()] == ["a", "b"]
        held = [server.shelf.acquire(name) for name in "ab"]
        busy = post(server, "/v1/completions", {"model": "c", "prompt": "x", "max_tokens": 1})
        assert busy.status_code == 429 and busy.headers["retry-after"] == "5"
        for loaded in held:
            server.shelf.release(loaded)
        assert post(server, "/v1/completions", {"model": "c", "prompt": "x", "max_tokens": 1}).status_code == 200
        server.shelf.memory = size // 2
        too_large = post(server, "/v1/completions", {"model": "a", "prompt": "x", "max_tokens": 1})
        assert too_large.status_code == 400 and "may hold" in too_large.json()["error"]["message"]
    finally:
        server.close()


def test_health_and_metrics(server):
    assert httpx2.get(f"{server.url}/health").json() == {"status": "ok"}
    text = httpx2.get(f"{server.url}/metrics").text
    values = dict(line.split() for line in text.splitlines())
    assert float(values["llama_scale_tokens"]) >= 0 and float(values["llama_scale_cache_bytes"]) >= 0
