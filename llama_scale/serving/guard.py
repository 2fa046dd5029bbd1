"""Who may ask, and what goes out with every answer: plain ASGI around the application."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect

from llama_scale.serving.config import AccessConfig
from llama_scale.serving.protocol import ProtocolError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN = ("/", "/health")  # without a token: the page's frame, which holds nothing of a model, and the sign of life
OPEN_FOLDER = "/static/"
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class SlowClientError(Exception):
    """A client reads its answer too slowly, or not at all."""


class Guard:
    """Lets through what may ask ``app``: by Host, by Origin, by token, in JSON, in the size and time allowed.

    ``host`` is the address that the server listens on. Answers that are not taken within ``config.patience`` end.
    """

    def __init__(self, app: Any, config: AccessConfig, host: str) -> None:
        self.app, self.config = app, config
        address = f"[{host}]" if ":" in host else host
        self.hosts = {*LOCAL_NAMES, address.lower(), *_names(config.allow_host)} - {"0.0.0.0", "[::]"}
        self.origins = set(_names(config.allow_origin))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        outgoing = dict(HEADERS)
        if origin in self.origins:
            outgoing |= {"access-control-allow-origin": str(origin), "vary": "Origin"}
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in outgoing.items()),
                ]
            try:
                async with asyncio.timeout(self.config.patience):  # wait_for may swallow that the work is cancelled
                    await send(message)
            except TimeoutError:
                raise SlowClientError from None

        try:
            if scope["method"] == "OPTIONS" and origin in self.origins:
                allow = {
                    "access-control-allow-methods": "GET, POST",
                    "access-control-allow-headers": "authorization, content-type",
                }
                outgoing |= allow
                await respond(answer, 204, b"")
                return None
            self._check(scope, headers)
            await self.app(scope, self._bounded(receive, headers), answer)
        except ProtocolError as error:
            if not started:
                more = {"www-authenticate": "Bearer"} if error.status == 401 else {}
                await respond(answer, error.status, json.dumps(error.body()).encode(), more)
        except (SlowClientError, ClientDisconnect, OSError):
            return None

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raise ProtocolError where a request is not let in."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        if name.lower() not in self.hosts:
            raise ProtocolError(421, f"Host {name[:80]!r} is not this server; see access.allow_host", code="host")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower():
                raise ProtocolError(403, "a page from elsewhere may not ask; see access.allow_origin", code="origin")
        path = scope["path"]
        if self.config.token is not None and path not in OPEN and not path.startswith(OPEN_FOLDER):
            kind, _, given = headers.get("authorization", "").partition(" ")
            given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
            if not hmac.compare_digest(given.encode(), self.config.token.encode()):
                raise ProtocolError(401, "this server wants its token: Authorization: Bearer TOKEN", code="token")
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ProtocolError(415, "the body must be application/json", code="content_type")
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > self.config.max_body_bytes:
                raise self._too_large()

    def _too_large(self) -> ProtocolError:
        return ProtocolError(413, f"the body is over {self.config.max_body_bytes:,} bytes", code="too_large")

    def _bounded(self, receive: Receive, headers: dict[str, str]) -> Receive:
        """Return ``receive`` with a limit on the bytes of the body and the time that each part of it takes."""
        taken, whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:  # what comes now is that the client has left
                return await receive()
            try:
                async with asyncio.timeout(self.config.patience):
                    message = await receive()
            except TimeoutError:
                raise ProtocolError(408, "the request did not arrive in time", code="timeout") from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if taken > self.config.max_body_bytes:
                    raise self._too_large()
            return message

        return bounded


async def respond(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Send a whole answer in JSON."""
    sent = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _names(text: str) -> list[str]:
    return [name.strip().lower() for name in text.split(",") if name.strip()]
