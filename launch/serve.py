"""Serve models by OpenAI's protocol, with a page: python launch/serve.py runs/ --port 8000."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import errno
import secrets
import socket
from contextlib import suppress
from dataclasses import replace

from llama_scale.cli import parse, run_cli
from llama_scale.errors import UserError
from llama_scale.serving.config import ServeConfig

GRACE = 5  # seconds that answers under way have when the server is stopped
BACKLOG = 2048


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    config = parse(ServeConfig, "Serve models by OpenAI's protocol.", argv, "runs", example="runs/ --port 8000")

    import uvicorn

    from evals.assistant.app import assistant_routes
    from llama_scale.device import device_memory, pick_device, set_threads
    from llama_scale.serving.app import make_app
    from llama_scale.serving.engine import Engine
    from llama_scale.serving.shelf import Shelf

    set_threads(config.threads)
    device = pick_device(config.device)
    access = config.access
    if access.token == "auto":
        access = replace(access, token=secrets.token_urlsafe(24))
    free = device_memory(device)
    models = int(config.models_gb * 1e9) if config.models_gb else free // 2
    cache = int(config.engine.memory_gb * 1e9) if config.engine.memory_gb else free // 4
    shelf = Shelf(config.runs, device, config.precision, models, config.template)
    if not (count := len(shelf.list())):
        raise UserError(f"{config.runs}: no checkpoint in it that can be read; train one: launch/train.py")
    listening = listen(config.host, config.port)
    address = f"{f'[{config.host}]' if ':' in config.host else config.host}:{listening.getsockname()[1]}"
    engine = Engine(config.engine, cache)
    with assistant_routes() as routes:
        app = make_app(shelf, engine, access, config.host, routes)
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none",
            timeout_graceful_shutdown=GRACE, lifespan="off", backlog=BACKLOG,
        )  # fmt: skip
        token = f"/#token={access.token}" if access.token else ""
        print(f"http://{address}{token} serves {count} models; the API is http://{address}/v1", flush=True)
        try:
            with suppress(KeyboardInterrupt):  # as it is stopped: what was under way had its grace
                uvicorn.Server(settings).run(sockets=[listening])
        finally:
            engine.close()
            listening.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise UserError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except socket.gaierror as error:
        listening.close()
        raise UserError(f"host: {host} is no address of this machine ({error.strerror})") from None
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"host: {host} is no address of this machine") from None
        raise UserError(f"port: {host}:{port} cannot be listened on ({error.strerror}); try --port 0") from None
    return listening


if __name__ == "__main__":
    run_cli(main)
