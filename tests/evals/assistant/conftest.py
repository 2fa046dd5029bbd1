"""A server with the assistant's routes, where this machine has the sandbox for it."""

import pytest

from evals.assistant.app import assistant_routes
from evals.sandbox.pool import Sandbox
from llama_scale.errors import InputError
from tests.llama_scale.serving.conftest import Server, runs, served, tokenizer  # noqa: F401, fixtures


@pytest.fixture(scope="session")
def isolated():
    try:
        with Sandbox(1) as sandbox:
            level = sandbox.level
    except InputError as error:
        pytest.skip(str(error))
    if level != "isolated":
        pytest.skip(f"the sandbox of this machine is {level}")


@pytest.fixture(scope="session")
def assistant(runs, isolated):  # noqa: F811
    with assistant_routes() as routes:
        server = Server(runs, routes=routes)
        yield server
        server.close()
