"""A client of OpenAI's protocol: many requests under way, made again after faults that pass."""

import asyncio
import contextlib
import email.utils
import ipaddress
import json
import os
import queue
import random
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np

from evals.models.server_config import ServerConfig
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig
from llama_scale.text import writable

PASSING = (408, 409, 429)  # and 5xx: states that may be over at the next try
FIRST_PAUSE, MAX_PAUSE = 0.5, 60.0  # seconds before the second try, doubled for each one after it
MAX_RETRY_AFTER = 120.0  # seconds that a server is waited for at its word
CONNECT_PATIENCE = 30.0  # seconds until an address that does not answer is given up
MAX_REPLY = 64 << 20  # bytes
MAX_SERVED = 200  # characters of what a server calls its model and itself
MAX_STOPS = 4  # that the protocol takes
TOLD_PAUSE = 5.0  # seconds from which a pause is worth a line
ENDS_BEFORE = "the URL ends before /completions, as in http://host/v1"


@dataclass(frozen=True)
class Ask:
    """What is asked for: ``n`` continuations of a text, or answers to the messages {role, content} of a chat.

    ``key`` makes the seeds that are sent, with the number of the answer; what a server makes of a seed is not known.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    key: tuple[int, ...]
    n: int = 1


@dataclass(frozen=True)
class Reply:
    """One answer; token counts are None where the server does not tell them of this answer alone.

    ``served`` is what the server says answered: its model's name and its ``system_fingerprint``.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    tokens: int | None
    served: str = ""


@dataclass
class Usage:
    """What a client has used: requests that were answered, tries after faults, tokens as far as servers count them."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    tokens: int = 0


class OpenAIClient:
    """A server at ``url``, which ends before /completions, and the model ``name`` on it.

    Attributes:
        usage: What was used so far.
        fingerprints: What the server called its systems (``system_fingerprint``).
        ignores_n: Whether it was seen to give fewer answers than it was asked for; then each is asked for alone.

    Raises InputError where the URL or the key's variable cannot be used.
    """

    def __init__(self, url: str, name: str, config: ServerConfig | None = None) -> None:
        self.name, self.config = name, config or ServerConfig()
        self.url, self.local = _checked_url(url)
        self.key = _read_key(self.config.api_key_variable)
        self.usage, self.fingerprints, self.ignores_n = Usage(), set(), False

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the number and the replies of each of ``asks`` as they come; whoever stops reading stops the requests.

        At most four stop strings are sent, and texts are as they come: cut them. Raises InputError when a request is
        refused (400, 401, 404 and the like, at once) or has failed once more than ``config.retries``.
        """
        results: queue.SimpleQueue[tuple[int, list[Reply]] | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        work = asyncio.run_coroutine_threadsafe(self._ask_all(asks, sampling, results.put), loop)
        work.add_done_callback(lambda _: results.put(None))
        try:
            while (result := results.get()) is not None:
                yield result
            work.result()
        finally:
            work.cancel()
            asyncio.run_coroutine_threadsafe(_ended(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _ask_all(
        self, asks: Sequence[Ask], sampling: SamplingConfig, give: Callable[[tuple[int, list[Reply]]], None]
    ) -> None:
        left = iter(enumerate(asks))

        async def take(session: httpx2.AsyncClient) -> None:
            for number, ask in left:
                give((number, await self._replies(session, ask, sampling)))

        try:
            async with self._session() as session, asyncio.TaskGroup() as group:
                for _ in range(min(self.config.concurrency, len(asks))):
                    group.create_task(take(session))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Open a session; a server on this machine is asked directly, whatever proxy the environment names."""
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx2.Limits(max_connections=self.config.concurrency)
        timeout = httpx2.Timeout(None, connect=CONNECT_PATIENCE)  # the whole request has a limit of its own
        try:
            session = httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits, trust_env=not self.local)
        except (ValueError, ImportError, OSError) as error:
            problem = f"the proxy or certificate variables of the environment cannot be used ({error})"
            raise InputError(f"{self.url}: {problem}") from None
        async with session:
            yield session

    async def _replies(self, session: httpx2.AsyncClient, ask: Ask, sampling: SamplingConfig) -> list[Reply]:
        replies: list[Reply] = []
        while len(replies) < ask.n:
            count = 1 if self.ignores_n else ask.n - len(replies)
            found = await self._request(session, ask, _body(self.name, ask, sampling, len(replies), count), count)
            if len(found) < count and not self.ignores_n:
                self.ignores_n = True
                gave = f"gives {len(found)} completion{'s' * (len(found) != 1)} where n is {count}"
                print(f"{self.url}: {gave}; each is asked for alone", file=sys.stderr)
            replies += found[:count]
        return replies

    async def _request(self, session: httpx2.AsyncClient, ask: Ask, body: dict[str, Any], count: int) -> list[Reply]:
        """Return the answers of one request, made again as long as that may help; none if ``n`` alone is refused."""
        url = f"{self.url}/{'completions' if isinstance(ask.prompt, str) else 'chat/completions'}"
        for attempt in range(self.config.retries + 1):
            wait = 0.0
            try:
                async with asyncio.timeout(self.config.timeout):
                    status, headers, data = await _post(session, url, body)
                self.usage.requests += 1
                if status == 200:
                    return self._read(url, data, ask)
                problem = f"{status} {_words(data)}".strip()
                if count > 1 and status in (400, 422) and re.search(r"\bn\b|best_of", _words(data)):
                    return []
                if status not in PASSING and status < 500:
                    raise InputError(f"{url}: {problem}{self._remedy(status, headers)}")
                wait = _retry_after(headers.get("Retry-After"))
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                problem = f"no completion ({type(error).__name__}: {error})".replace(": )", ")")
                unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                if unreachable and not self.usage.requests:
                    raise InputError(f"{url}: {problem}; is the server running there?") from None
            except TimeoutError:
                problem = f"no completion within {self.config.timeout:g} s"
            except _CutReply as error:
                problem = f"no completion ({error})"
            if attempt == self.config.retries:
                raise InputError(f"{url}: {problem}, {attempt + 1} times; the same command goes on from here")
            self.usage.retries += 1
            backoff = min(MAX_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1)
            if (pause := max(wait, backoff)) >= TOLD_PAUSE:
                print(f"{url}: {problem}; trying again in {pause:.0f} s", file=sys.stderr)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _read(self, url: str, data: bytes, ask: Ask) -> list[Reply]:
        """Return the answers in a reply, at least one, and count what it used; raise InputError if it is none."""
        try:
            reply = json.loads(data)
        except (ValueError, RecursionError) as error:
            if data.lstrip().startswith(b"<"):
                raise InputError(f"{url}: a web page came, no completion; {ENDS_BEFORE}") from None
            raise _CutReply(f"{len(data)} bytes that are not JSON: {error}") from None
        if not isinstance(reply, dict) or ("choices" not in reply and "error" in reply):
            raise InputError(f"{url}: no completion, but {_words(data)}")
        choices = reply.get("choices")
        if not isinstance(choices, list) or not choices:
            raise InputError(f"{url}: no completion: choices is {choices!r:.80}, expected a list of objects")
        usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
        prompt_tokens, tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        self.usage.prompt_tokens += prompt_tokens or 0
        self.usage.tokens += tokens or 0
        if isinstance(system := reply.get("system_fingerprint"), str):
            self.fingerprints.add(system)
        served = " ".join(part for part in (reply.get("model"), system) if isinstance(part, str))[:MAX_SERVED]
        chat, own = not isinstance(ask.prompt, str), tokens if len(choices) == 1 else None
        return [
            Reply(*_choice(f"{url}: choices[{number}]", choice, chat), prompt_tokens, own, served)
            for number, choice in enumerate(choices)
        ]

    def _remedy(self, status: int, headers: httpx2.Headers) -> str:
        if status in (401, 403) and not self.key:
            return "; put its key in an environment variable and name that in server.api_key_variable"
        if status in (401, 403):
            return f"; it refuses the key in {self.config.api_key_variable}"
        if 300 <= status < 400:
            return f"; it is at {headers.get('Location', 'another address')}: name that"
        return f"; {ENDS_BEFORE}" if status in (404, 405) else ""


class _CutReply(Exception):
    """A reply that is no JSON: cut on its way."""


async def _ended() -> None:
    """Wait for all other tasks of the loop, which have been cancelled or are done."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


async def _post(session: httpx2.AsyncClient, url: str, body: dict[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
    data = bytearray()
    async with session.stream("POST", url, content=json.dumps(body)) as response:
        async for part in response.aiter_bytes():
            data += part
            if len(data) > MAX_REPLY:
                raise InputError(f"{url}: a reply of more than {MAX_REPLY >> 20} MiB")
    return response.status_code, response.headers, bytes(data)


def _body(name: str, ask: Ask, sampling: SamplingConfig, first: int, count: int) -> dict[str, Any]:
    """Return the fields of a request for ``count`` answers from number ``first`` on."""
    seed = int(np.random.SeedSequence((sampling.seed, *ask.key, first)).generate_state(1)[0] >> 1)  # 31 bits
    text = isinstance(ask.prompt, str)
    body = {"model": name, ("prompt" if text else "messages"): ask.prompt if text else list(map(dict, ask.prompt)),
            "n": count, "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "seed": seed}  # fmt: skip
    optional = {"top_k": sampling.top_k, "stop": list(sampling.stop[:MAX_STOPS]) or None}
    return body | {field: value for field, value in optional.items() if value is not None}


def _choice(where: str, choice: Any, chat: bool) -> tuple[str, str | None]:
    """Return the text and the finish reason of a choice; raise InputError if it has no text."""
    if not isinstance(choice, dict):
        raise InputError(f"{where} is {choice!r:.80}, expected an object")
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    part, field = (choice.get("message"), "message.content") if chat else (choice, "text")
    text = part.get(field.rpartition(".")[2]) if isinstance(part, dict) else None
    if chat and text is None and isinstance(part, dict) and reason in ("length", "content_filter"):
        text = ""  # all was spent on what is not shown
    if not isinstance(text, str):
        raise InputError(f"{where}.{field} is {text!r:.80}, expected a text")
    return writable(text), reason


def _checked_url(url: str) -> tuple[str, bool]:
    """Return the URL of a server up to /completions, and whether it is on this machine."""
    try:
        parts = httpx2.URL(url)
        usable = parts.scheme in ("http", "https") and bool(parts.host) and (parts.port or 1) < 1 << 16
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise InputError(f"{url}: not a URL; give one as http://host/v1") from None
    if not usable or parts.query or parts.fragment:
        raise InputError(f"{url}: not the URL of a server; give one as http://host/v1")
    if parts.userinfo:
        problem = "a URL with a password would be written into the results"
        raise InputError(f"{parts.host}: {problem}; put it in an environment variable, see server.api_key_variable")
    base = url.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    try:
        address = ipaddress.ip_address(parts.host)
        local = address.is_loopback or address.is_unspecified
    except ValueError:
        local = parts.host == "localhost" or parts.host.endswith(".localhost")
    return base, local


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"server.api_key_variable: the environment variable {variable} is not set, or empty")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"server.api_key_variable: {variable} holds characters that no key has")
    return key


def _retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, a number or a date; 0 if it is neither."""
    try:
        seconds = float(value or 0)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(MAX_RETRY_AFTER, seconds) if seconds > 0 else 0.0


def _words(data: bytes) -> str:
    """Return what an error's body says, in one short line."""
    text = data[:4000].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        error = json.loads(data)
        error = error.get("error", error.get("detail", error)) if isinstance(error, dict) else error
        message = error.get("message") if isinstance(error, dict) else error
        text = message if isinstance(message, str) else json.dumps(error)
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:200]


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
