"""What is let in: by Host, Origin, token and type of the body, on every route."""

import httpx2
import pytest

from llama_scale.errors import InputError
from llama_scale.serving.app import ROUTES
from llama_scale.serving.config import AccessConfig, ServeConfig
from llama_scale.serving.guard import HEADERS
from tests.llama_scale.serving.conftest import Server

JSON = {"content-type": "application/json"}
CALLS = [(method, route.path.replace("{name:path}", "a")) for route in ROUTES for method in sorted(route.methods)]


@pytest.fixture(scope="module")
def locked(runs):
    server = Server(runs, AccessConfig(token="s3cret", allow_origin="https://app.example", allow_host="box.example"))
    yield server
    server.close()


SESSION = httpx2.Client(timeout=60)  # one: making it reads the certificates of the machine


def ask(server, method, path, headers=None):
    return SESSION.request(method, f"{server.url}{path}", headers=JSON | (headers or {}), content=b"{}")


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_route_wants_the_token_the_host_and_the_origin(locked, method, path):
    bearer = {"authorization": "Bearer s3cret"}
    is_open = path == "/health"
    for wrong in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3cret"}, {"x-api-key": "x"}):
        answer = ask(locked, method, path, wrong)
        assert answer.status_code == (200 if is_open else 401), wrong
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    for right in (bearer, {"x-api-key": "s3cret"}):
        assert ask(locked, method, path, right).status_code in (200, 400)
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", ""):
        assert ask(locked, method, path, bearer | {"host": host}).status_code == 421, host
    for host in ("localhost", f"127.0.0.1:{locked.port}", "[::1]:9", "box.example"):
        assert ask(locked, method, path, bearer | {"host": host}).status_code in (200, 400), host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "file://"):
        answer = ask(locked, method, path, bearer | {"origin": origin})
        assert answer.status_code == 403, origin
        assert "access-control-allow-origin" not in answer.headers
    for origin in (locked.url, "https://app.example"):
        assert ask(locked, method, path, bearer | {"origin": origin}).status_code in (200, 400)
    if method == "POST":
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            assert ask(locked, method, path, bearer | {"content-type": kind}).status_code == 415


def test_a_page_that_is_named_may_ask_from_elsewhere(locked):
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = ask(locked, "OPTIONS", "/v1/completions", asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert ask(locked, "OPTIONS", "/v1/completions", asked | {"origin": "https://evil.example"}).status_code == 403


def test_what_there_is_not_is_an_error_in_the_same_shape(server):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("PUT", "/health", 405)):
        error = ask(server, method, path).json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert ask(server, method, path).status_code == status
    for body in (b"", b"{", b"[]", b'"x"', b"\xff", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}'):
        answer = SESSION.post(f"{server.url}/v1/completions", content=body, headers=JSON)
        assert answer.status_code == 400, body
        assert "Traceback" not in answer.text


def test_an_address_of_elsewhere_wants_a_token():
    for host in ("0.0.0.0", "192.168.0.1", "::"):
        with pytest.raises(InputError, match=r"host: .*access\.token"):
            ServeConfig("runs", host=host)
        assert ServeConfig("runs", host=host, access=AccessConfig(token="auto")).host == host
    for settings in ({"token": ""}, {"token": "é"}, {"allow_origin": "*"}, {"patience": 0}, {"max_body_bytes": 0}):
        with pytest.raises(InputError, match="access"):
            AccessConfig(**settings)
