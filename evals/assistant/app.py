"""Routes beside those of the protocol: the page and its files, programs run in the sandbox, repair."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from evals.assistant.judging import Judging, run_route
from evals.assistant.repairing import repair_route
from llama_scale.serving.app import Service
from llama_scale.serving.protocol import ProtocolError

PAGE = Path(__file__).parent / "static"
# Files of the page, by their names alone: no path of a request is ever one on disk.
KINDS = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


async def page(request: Request) -> Response:
    """Return the page."""
    return _file("index.html")


async def static(request: Request) -> Response:
    """Return a file of the page."""
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    known = {path.name: path for path in PAGE.iterdir() if path.suffix in KINDS}
    if name not in known:
        raise ProtocolError(404, f"there is no file {name[:80]!r}")
    return FileResponse(known[name], media_type=KINDS[known[name].suffix], headers={"cache-control": "no-cache"})


async def checkpoint(request: Request) -> Response:
    """Say which folder a model is, as launch/sample.py takes it, and in which precision it is loaded."""
    service: Service = request.app.state.service
    _, folder = await asyncio.to_thread(service.shelf.find, request.query_params.get("model"))
    loaded = service.shelf.loaded.get(folder)
    return JSONResponse({"checkpoint": str(folder), "precision": loaded.precision.name if loaded else None})


@contextmanager
def assistant_routes() -> Iterator[list[BaseRoute]]:
    """Yield the routes; the sandbox opens when it is first needed, and closes with the context."""
    with Judging() as judging:
        yield [
            Route("/", page, methods=["GET"]),
            Route("/static/{name}", static, methods=["GET"]),
            Route("/checkpoint", checkpoint, methods=["GET"]),
            run_route(judging),
            repair_route(judging),
        ]
