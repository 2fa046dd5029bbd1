"""What a hostile or careless client may send: an error in OpenAI's shape, and the server goes on."""

import json
import logging
import socket

import httpx2
import pytest

SESSION = httpx2.Client(timeout=120)
JSON = {"content-type": "application/json"}
OK = {"prompt": "x", "max_tokens": 1}
LONE = '"\\ud800"'  # a surrogate, which JSON may spell and UTF-8 cannot hold
# Routes, raw bodies, and the field that the answer names (None: the body as a whole).
BODIES = [
    ("/v1/completions", b"", None),
    ("/v1/completions", b"null", None),
    ("/v1/completions", b"[]", None),
    ("/v1/completions", b"{", None),
    ("/v1/completions", b"\xff\xfe{}", None),
    ("/v1/completions", b'{"prompt": ' + LONE.encode() + b"}", "prompt"),
    ("/v1/completions", b'{"model": ' + LONE.encode() + b"}", "model"),
    ("/v1/completions", b'{"stop": ' + LONE.encode() + b', "prompt": "x"}', "stop"),
    ("/v1/completions", b'{"temperature": NaN}', "temperature"),
    ("/v1/completions", b'{"temperature": Infinity}', "temperature"),
    ("/v1/completions", b'{"temperature": 1e999}', "temperature"),
    ("/v1/completions", b'{"temperature": true}', "temperature"),
    ("/v1/completions", b'{"max_tokens": 1' + b"0" * 5000 + b"}", None),
    ("/v1/completions", b'{"max_tokens": 1' + b"0" * 4000 + b"}", "max_tokens"),
    ("/v1/completions", b'{"seed": 1' + b"0" * 400 + b"}", "seed"),
    ("/v1/completions", b'{"seed": -1}', "seed"),
    ("/v1/completions", b'{"seed": 1.5}', "seed"),
    ("/v1/completions", b'{"seed": "7"}', "seed"),
    ("/v1/completions", b'{"n": 1000, "prompt": "x"}', "n"),
    ("/v1/completions", b'{"n": true}', "n"),
    ("/v1/completions", b'{"top_p": 0}', "top_p"),
    ("/v1/completions", b'{"top_p": 1.01}', "top_p"),
    ("/v1/completions", b'{"top_k": -5}', "top_k"),
    ("/v1/completions", b'{"logprobs": 6}', "logprobs"),
    ("/v1/completions", b'{"logprobs": -1}', "logprobs"),
    ("/v1/completions", b'{"stop": {"a": 1}}', "stop"),
    ("/v1/completions", b'{"stop": [1]}', "stop"),
    ("/v1/completions", b'{"stop": [[]]}', "stop"),
    ("/v1/completions", b'{"stop": ["' + b"x" * 2000 + b'"]}', "stop"),
    ("/v1/completions", b'{"stream": 1}', "stream"),
    ("/v1/completions", b'{"echo": "no"}', "echo"),
    ("/v1/completions", b'{"model": 5}', "model"),
    ("/v1/completions", b'{"model": ["a"]}', "model"),
    ("/v1/completions", b'{"model": "a@-1"}', "model"),
    ("/v1/completions", b'{"model": "a@\xc2\xb2"}', "model"),
    ("/v1/completions", b'{"model": "a\\u0000"}', "model"),
    ("/v1/completions", b'{"prompt": []}', "prompt"),
    ("/v1/completions", b'{"prompt": [[]]}', "prompt"),
    ("/v1/completions", b'{"prompt": [1, "x"]}', "prompt"),
    ("/v1/completions", b'{"prompt": [true]}', "prompt"),
    ("/v1/completions", b'{"prompt": [99999999999999999999]}', "prompt"),
    ("/v1/completions", b'{"prompt": {"a": 1}}', "prompt"),
    ("/v1/completions", b'{"prompt": ' + json.dumps(["x"] * 1025).encode() + b"}", "prompt"),
    ("/v1/completions", b'{"prompt": ' + json.dumps([1] * 100_000).encode() + b"}", "prompt"),
    ("/v1/completions", b'{"prompt": "' + b"x y" * 100_000 + b'"}', "prompt"),
    ("/v1/completions", b'{"prompt": "x", "suffix": 1}', "suffix"),
    ("/v1/completions", b'{"prompt": "x", "suffix": "y", "echo": true}', "echo"),
    ("/v1/completions", b'{"prompt": [1], "suffix": "y"}', "prompt"),
    ("/v1/completions", b'{"prompt": "x", "logit_bias": {"1": 5}}', "logit_bias"),
    ("/v1/completions", b'{"prompt": "x", "best_of": 2}', "best_of"),
    ("/v1/completions", b'{"prompt": "x", "response_format": {"type": "json_object"}}', "response_format"),
    ("/v1/chat/completions", b'{"messages": []}', "messages"),
    ("/v1/chat/completions", b'{"messages": "hi"}', "messages"),
    ("/v1/chat/completions", b'{"messages": [{"role": "root", "content": "x"}]}', "messages[0]"),
    ("/v1/chat/completions", b'{"messages": [{"role": ["user"], "content": "x"}]}', "messages[0]"),
    ("/v1/chat/completions", b'{"messages": [{"role": "user"}]}', "messages[0].content"),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
     "messages[0].content"),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 21}', "top_logprobs"),
    ("/v1/fim/completions", b'{"prompt": "x", "suffix": ["y"]}', "suffix"),
    ("/tokenize", b'{"prompt": 5}', "prompt"),
    ("/tokenize", b'{"prompt": "x", "add_special_tokens": 1}', "add_special_tokens"),
    ("/detokenize", b'{"tokens": "x"}', "tokens"),
    ("/detokenize", b'{"tokens": [-1]}', "tokens"),
    ("/detokenize", b'{"tokens": [1.0]}', "tokens"),
    ("/detokenize", b'{"tokens": [true]}', "tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "field"), BODIES, ids=[f"{p} {b[:40]!r}" for p, b, _ in BODIES])
def test_a_bad_body_is_told_of_in_the_protocols_shape(server, caplog, path, body, field):
    with caplog.at_level(logging.ERROR):
        answer = SESSION.post(f"{server.url}{path}", content=body, headers=JSON)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == field, error
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert "\n" not in error["message"] and len(error["message"]) < 300 and "Traceback" not in error["message"]
    assert caplog.records == []


RAW = [
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1/models/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"TRACE /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
]


@pytest.mark.parametrize("request_bytes", RAW, ids=[f"{raw[:50]!r}" for raw in RAW])
def test_malformed_http_is_refused_and_the_server_goes_on(server, caplog, request_bytes):
    with caplog.at_level(logging.ERROR), socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request_bytes)
        status = connection.recv(12)
    assert status[:10] == b"HTTP/1.1 4" or status == b"", status
    assert caplog.records == []
    assert SESSION.post(f"{server.url}/v1/completions", json=OK).status_code == 200
