"""The routes of OpenAI's protocol over a shelf of models and the engine that decodes them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from llama_scale.errors import InputError
from llama_scale.serving.batch import Piece, Prompt, Ticket, TokenScore
from llama_scale.serving.config import AccessConfig
from llama_scale.serving.engine import BusyError, Engine
from llama_scale.serving.guard import Guard, Receive, Scope, Send, SlowClientError
from llama_scale.serving.infill import Filling, read_infill
from llama_scale.serving.protocol import (
    Answer,
    Ask,
    Fields,
    Kind,
    Place,
    ProtocolError,
    TokenTexts,
    as_protocol_error,
    make_prompts,
    read_request,
    refuse,
    usage_of,
)
from llama_scale.serving.shelf import FullError, Loaded, Shelf, UnknownModelError

LOG = logging.getLogger("llama_scale.serving")
LATER = 5  # seconds after which a model may have become free
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Service:
    """What the routes work with; ``app.state.service`` for those that are mounted beside them."""

    shelf: Shelf
    engine: Engine


async def read_body(request: Request) -> Any:
    """Return the JSON of a request; raise ProtocolError where it is none."""
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ProtocolError(400, "the body is not JSON") from None


async def acquire(service: Service, name: str | None) -> Loaded:
    """Return a model, to be released; loading it takes a thread, so that others are served meanwhile."""
    loading = asyncio.ensure_future(asyncio.to_thread(service.shelf.acquire, name))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:  # the thread goes on, and nobody is left to use what it gives

        def give_back(done: asyncio.Future[Loaded]) -> None:
            if not done.cancelled() and done.exception() is None:
                service.shelf.release(done.result())

        loading.add_done_callback(give_back)
        raise


@asynccontextmanager
async def model_of(service: Service, name: str | None) -> AsyncIterator[Loaded]:
    """Hold a model."""
    loaded = await acquire(service, name)
    try:
        yield loaded
    finally:
        service.shelf.release(loaded)


class Run:
    """The prompts of one request under way in the engine, as an asynchronous iterator of (prompt, event)."""

    def __init__(self, service: Service, loaded: Loaded, prompts: Sequence[Prompt]) -> None:
        loop, self.events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any]]()

        def tell(number: int, event: Any) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(self.events.put_nowait, (number, event))

        self.tickets: list[Ticket] = service.engine.submit(loaded.served, prompts, tell)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        running = len(self.tickets)
        while running:
            number, event = await self.events.get()
            if event is None:
                running -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield number, event

    def cancel(self) -> None:
        """Let all of it leave the engine."""
        for ticket in self.tickets:
            ticket.cancel()

    @property
    def usage(self) -> dict[str, int]:
        """The tokens read and drawn."""
        return usage_of(sum(t.prompt_tokens for t in self.tickets), sum(t.tokens for t in self.tickets))


async def left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(work: Awaitable[Any], receive: Receive) -> Any:
    """Return what ``work`` gives, or None where the client leaves before; then it is cancelled."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


class EventStream(Response):
    """Server-sent events of ``parts``, which end as soon as the client leaves; then ``close`` is called, come what may.

    A generator that was never begun runs no ``finally``, and a client may leave before the first part.
    """

    def __init__(self, parts: AsyncIterator[dict[str, Any]], close: Callable[[], None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self.parts, self.close = parts, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Send the events."""

        async def pump() -> None:
            async for part in self.parts:
                data = json.dumps(part)  # ASCII: U+2028 ends no line
                await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await unless_left(pump(), receive)
        finally:
            self.close()


async def prepare(service: Service, loaded: Loaded, ask: Ask) -> tuple[list[Prompt], list[int]]:
    """Return what the engine is to do for a request; raise ProtocolError where the model cannot."""
    served = loaded.served
    config = served.llama.config
    if ask.suffix is not None and loaded.fim is False:
        problem = "this model was not trained to fill gaps (fim_rate 0); send the prompt without a suffix"
        raise ProtocolError(400, f"suffix: {problem}", "suffix", "no_fim")
    if ask.kind == "chat":
        if loaded.template is None:
            problem = "a base model without a chat template: use /v1/completions, or start the server with template"
            raise ProtocolError(400, f"model: {served.name} is {problem}", "model", "no_chat_template")
        ids = loaded.template.ids(ask.messages, served.tokenizer.encode)
        ask = replace(ask, prompts=(tuple(ids),))
    return await asyncio.to_thread(make_prompts, ask, served.tokenizer, config, loaded.fim_order)


async def complete(request: Request, kind: Kind) -> Response:
    """Answer a completion, a chat or a gap, whole or in parts."""
    service: Service = request.app.state.service
    ask = read_request(await read_body(request), kind)
    loaded: Loaded | None = await acquire(service, ask.model)
    try:
        prompts, hidden = await prepare(service, loaded, ask)
        run = Run(service, loaded, prompts)
        answer = Answer(ask, loaded.served.name, loaded.fingerprint, TokenTexts(loaded.served.tokenizer))
        if ask.stream:
            streaming = EventStream(
                stream_parts(run, ask, answer, prompts, hidden), partial(close, service, loaded, run)
            )
            loaded = None
            return streaming
        try:
            body = await unless_left(gather(run, ask, answer, prompts, hidden), request.receive)
        finally:
            run.cancel()
        return JSONResponse(body) if body is not None else Response(status_code=499)
    finally:
        if loaded is not None:
            service.shelf.release(loaded)


def close(service: Service, loaded: Loaded, run: Run) -> None:
    """Let what is left of a request leave the engine, and its model go."""
    run.cancel()
    service.shelf.release(loaded)


def echoed(
    ask: Ask, answer: Answer, prompt: Prompt, hidden: int, scores: Sequence[TokenScore]
) -> tuple[str, tuple[TokenScore, ...]]:
    """Return the text of a prompt and the scores of its tokens, without those that the client did not name."""
    tokenizer = answer.texts.tokenizer
    return tokenizer.decode(prompt.ids[hidden:]), tuple(scores[hidden:])


async def gather(
    run: Run, ask: Ask, answer: Answer, prompts: Sequence[Prompt], hidden: Sequence[int]
) -> dict[str, Any]:
    """Return the whole answer."""
    texts = [["" for _ in range(ask.n)] for _ in prompts]
    scores: list[list[list[TokenScore]]] = [[[] for _ in range(ask.n)] for _ in prompts]
    reasons: list[list[str | None]] = [["length" if prompt.score_only else None] * ask.n for prompt in prompts]
    heads: list[tuple[str, tuple[TokenScore, ...]]] = [
        echoed(ask, answer, prompt, extra, ()) if ask.echo else ("", ())
        for prompt, extra in zip(prompts, hidden, strict=True)
    ]
    async for number, event in run:
        if isinstance(event, Piece):
            texts[number][event.sample] += event.text
            scores[number][event.sample] += event.tokens
            reasons[number][event.sample] = event.finish_reason
        else:
            heads[number] = echoed(ask, answer, prompts[number], hidden[number], event)
    samples = [
        (heads[p][0] + texts[p][s], reasons[p][s], [*heads[p][1], *scores[p][s]])
        for p in range(len(prompts))
        for s in range(ask.n)
    ]
    return answer.whole(samples, run.usage)


async def stream_parts(
    run: Run, ask: Ask, answer: Answer, prompts: Sequence[Prompt], hidden: Sequence[int]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the parts of an answer as they come."""
    places = [Place() for _ in range(ask.n * len(prompts))]
    try:
        for part in answer.opening(len(places)):
            yield part
        if ask.echo and ask.logprobs is None:
            for number, prompt in enumerate(prompts):
                head = Piece(0, *echoed(ask, answer, prompt, hidden[number], ()))
                for sample in range(ask.n):
                    yield answer.part(number * ask.n + sample, head, Place())
        async for number, event in run:
            scored = not isinstance(event, Piece)
            head = Piece(0, *echoed(ask, answer, prompts[number], hidden[number], event)) if scored else event
            for sample in range(ask.n) if scored else (event.sample,):
                index = number * ask.n + sample
                yield answer.part(index, head, places[index])
        if ask.usage:
            yield answer.usage_part(run.usage)
    except Exception as error:
        if not isinstance(error, ProtocolError | InputError):
            LOG.exception("a stream failed")
        yield as_protocol_error(error).body()


async def infill(request: Request) -> Response:
    """Answer a gap as llama.cpp's server does."""
    service: Service = request.app.state.service
    asked = read_infill(await read_body(request))
    async with model_of(service, asked.model) as loaded:
        served = loaded.served
        order = loaded.fim_order if loaded.fim and asked.after.strip() else None
        context_length = served.llama.config.context_length
        prompt, cut = await asyncio.to_thread(asked.prompt, served.tokenizer, order, context_length)
        filling, drawn = Filling(asked), 0
        if asked.tokens:
            run = Run(service, loaded, [prompt])
            try:
                if await unless_left(filling.take(aiter(run)), request.receive) is None:
                    return Response(status_code=499)
            finally:
                run.cancel()
            drawn = run.tickets[0].tokens
        return JSONResponse(filling.answer(served.name, len(prompt.ids), drawn, cut, order is not None))


async def models(request: Request) -> Response:
    """List the models."""
    rows = await asyncio.to_thread(request.app.state.service.shelf.list)
    return JSONResponse({"object": "list", "data": rows})


async def model(request: Request) -> Response:
    """Say what is known of one model."""
    name = request.path_params["name"]
    rows = await asyncio.to_thread(request.app.state.service.shelf.list)
    for row in rows:
        if row["id"] == name:
            return JSONResponse(row)
    raise ProtocolError(404, f"model: there is no {name[:80]!r}", "model", "model_not_found")


async def tokenize(request: Request) -> Response:
    """Turn a text into ids, without what a prompt begins with unless ``add_special_tokens``."""
    service: Service = request.app.state.service
    fields = Fields(await read_body(request))
    prompt = fields.text("prompt", "")
    async with model_of(service, fields.text("model")) as loaded:
        served = loaded.served
        ids = await asyncio.to_thread(served.tokenizer.encode, prompt)
        if fields.flag("add_special_tokens"):
            ids = [*served.tokenizer.start, *ids]
        texts = TokenTexts(served.tokenizer)
        strings = {"token_strs": [texts(i) for i in ids]} if fields.flag("return_token_strs") else {}
        return JSONResponse(
            {"count": len(ids), "max_model_len": served.llama.config.context_length, "tokens": ids} | strings
        )


async def detokenize(request: Request) -> Response:
    """Turn ids into their text."""
    service: Service = request.app.state.service
    fields = Fields(await read_body(request))
    tokens = fields.get("tokens", [])
    async with model_of(service, fields.text("model")) as loaded:
        tokenizer = loaded.served.tokenizer
        if not isinstance(tokens, list) or not all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in tokens):
            raise refuse("tokens", f"a list of ids from 0 to {tokenizer.vocab_size - 1}", tokens)
        return JSONResponse({"prompt": tokenizer.decode(tokens)})


async def tokenizer_info(request: Request) -> Response:
    """Say what a client that brings no tokenizer has to know of a model's."""
    service: Service = request.app.state.service
    async with model_of(service, request.query_params.get("model")) as loaded:
        served, tokenizer = loaded.served, loaded.served.tokenizer
        bos = tokenizer.bos
        return JSONResponse(
            {
                "tokenizer_class": type(tokenizer).__name__, "vocab_size": tokenizer.vocab_size,
                "eos_token": tokenizer.name(tokenizer.eos), "eos_token_id": tokenizer.eos,
                "bos_token": None if bos is None else tokenizer.name(bos), "bos_token_id": bos,
                "pad_token": None, "add_bos_token": bool(tokenizer.start),
                "model_max_length": served.llama.config.context_length,
                "chat_template": loaded.template.source if loaded.template else None, "model": served.name,
            }
        )  # fmt: skip


async def health(request: Request) -> Response:
    """Say that the server is alive, and its decoding thread."""
    alive = request.app.state.service.engine.thread.is_alive()
    return JSONResponse({"status": "ok" if alive else "the decoding thread has ended"}, 200 if alive else 503)


async def metrics(request: Request) -> Response:
    """Return counts and loads in the text form of Prometheus."""
    service: Service = request.app.state.service
    lines = [f"llama_scale_{name} {value:g}" for name, value in service.engine.stats().items()]
    loaded = list(service.shelf.loaded.values())
    lines.append(f"llama_scale_models_loaded {len(loaded)}")
    lines.append(f"llama_scale_models_loaded_bf16 {sum(each.precision.bf16 for each in loaded)}")
    return PlainTextResponse("\n".join(lines) + "\n")


def _completing(kind: Kind) -> Handler:
    async def handler(request: Request) -> Response:
        return await complete(request, kind)

    return handler


async def _error(request: Request, error: Exception) -> Response:
    """Answer an error in OpenAI's shape."""
    headers = {}
    if isinstance(error, SlowClientError | ClientDisconnect):
        return Response(status_code=499)
    if isinstance(error, BusyError):
        headers, error = {"retry-after": str(error.retry_after)}, ProtocolError(429, str(error), code="busy")
    elif isinstance(error, FullError):
        headers, error = {"retry-after": str(LATER)}, ProtocolError(429, str(error), "model", "busy")
    elif isinstance(error, UnknownModelError):
        error = ProtocolError(404, str(error), "model", "model_not_found")
    elif isinstance(error, HTTPException):
        error = ProtocolError(error.status_code, f"{request.method} {request.url.path[:80]}: {error.detail}")
    elif not isinstance(error, ProtocolError | InputError):
        LOG.error("a request failed", exc_info=error)
    told = as_protocol_error(error)
    return JSONResponse(told.body(), told.status, headers)


ROUTES: tuple[BaseRoute, ...] = (
    Route("/v1/models", models, methods=["GET"]),
    Route("/models", models, methods=["GET"]),
    Route("/v1/models/{name:path}", model, methods=["GET"]),
    Route("/v1/completions", _completing("completions"), methods=["POST"]),
    Route("/v1/chat/completions", _completing("chat"), methods=["POST"]),
    Route("/v1/fim/completions", _completing("fim"), methods=["POST"]),
    Route("/infill", infill, methods=["POST"]),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/tokenizer_info", tokenizer_info, methods=["GET"]),
    Route("/health", health, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
)


def make_app(
    shelf: Shelf, engine: Engine, access: AccessConfig, host: str = "127.0.0.1", routes: Sequence[BaseRoute] = ()
) -> Guard:
    """Return the application, guarded; ``routes`` are served beside those of the protocol."""
    errors = (ProtocolError, InputError, BusyError, FullError, HTTPException, Exception)
    app = Starlette(routes=[*ROUTES, *routes], exception_handlers=dict.fromkeys(errors, _error))
    app.state.service = Service(shelf, engine)
    return Guard(app, access, host)
