"""A small model with a tokenizer, an engine over it, and a server of runs."""

import threading

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.model.llama import Llama
from llama_scale.serving.app import make_app
from llama_scale.serving.batch import ServedModel
from llama_scale.serving.config import AccessConfig, EngineConfig
from llama_scale.serving.engine import Engine
from llama_scale.serving.shelf import Shelf


def small_model(tokenizer, **changes):
    """A model whose logits are far apart, so that contexts matter."""
    shape = {"d_model": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96, "context_length": 256}
    model = Llama(ModelConfig(**shape | {"vocab_size": tokenizer.vocab_size} | changes)).init_weights(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer(tiny_data):
    return Tokenizer(tiny_data / "tokenizer.model")


@pytest.fixture(scope="session")
def served(tokenizer):
    return ServedModel("small", small_model(tokenizer), tokenizer)


@pytest.fixture
def make_engine():
    engines = []

    def make(memory=1 << 30, **settings):
        engines.append(Engine(EngineConfig(**settings), memory))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Server:
    """A server of ``runs`` on this machine, in a thread: ``url`` is its address."""

    def __init__(self, runs, access=None, engine=None, routes=(), memory=1 << 30, precision="fp32", **shelf):
        import uvicorn

        from launch.serve import listen

        self.engine = Engine(engine or EngineConfig(), memory)
        self.shelf = Shelf(runs, "cpu", precision, **{"memory": 1 << 30} | shelf)
        self.listening = listen("127.0.0.1", 0)
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = make_app(self.shelf, self.engine, access or AccessConfig(), "127.0.0.1", routes)
        settings = uvicorn.Config(app, log_level="warning", lifespan="off", backlog=2048, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(settings)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.should_exit = True
        self.thread.join()
        self.engine.close()
        self.listening.close()


def write_run(folder, model, tokenizer_file, steps=(10,), **meta):
    """Write a run whose checkpoints are all of ``model``."""
    from dataclasses import asdict

    from llama_scale.checkpoint.folder import save_weights

    known = {"model": asdict(model.config), "size": "M1", "seed": 0, "data": None, "tokenizer_fingerprint": "x"}
    for step in steps:
        about = known | {"step": step, "tokens": 100 * step} | meta
        save_weights(folder / "checkpoints" / f"step-{step:08}", model.state_dict(), about, tokenizer_file)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, served):
    """Two runs, the first with two steps."""
    root, tokenizer = tmp_path_factory.mktemp("shelf") / "runs", served.tokenizer
    write_run(root / "a", served.llama, tokenizer.path, (10, 20))
    write_run(root / "sub" / "b", small_model(tokenizer, n_layers=1), tokenizer.path)
    return root


@pytest.fixture(scope="session")
def server(runs):
    server = Server(runs)
    yield server
    server.close()
