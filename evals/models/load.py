"""What is scored: a checkpoint, every checkpoint of a run, a transformers folder, a server."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import llama_scale
from evals.config import EvalConfig
from evals.models.checkpoint import open_checkpoint
from evals.models.hf import TransformersCompleter
from evals.models.parallel import ParallelCompleter
from evals.models.request import Completer
from evals.results import eval_folder
from llama_scale.checkpoint.folder import list_checkpoints, load_meta, resolve, verify, weights_sha256
from llama_scale.checkpoint.opened import base_of, is_foreign
from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import flops_per_token
from llama_scale.data.shards import MANIFEST, read_manifest
from llama_scale.device import pick_decoding_precision, pick_device, set_threads
from llama_scale.errors import InputError
from llama_scale.files import read_json, sha256
from llama_scale.text import relative_path

MOST_BYTES = 1 << 40  # of a file in a transformers folder
WIDTHS, USUAL_WIDTH = ("hidden_size", "n_embd", "d_model"), 1024  # of a transformers model
POLL = 20.0  # seconds between looks for a new checkpoint


@dataclass(frozen=True)
class Subject:
    """A model to score, not loaded yet.

    ``folder`` is for its results; ``identity`` is what they depend on beside the settings of a suite. ``load(device)``
    opens the model and is picklable; so many ``processes`` do it. ``data`` is the folder of tokens that it was trained
    on, if that is known. An ``external`` model is not of this project: a server or a transformers folder. ``doubt`` is
    what about the identity cannot be known.
    """

    name: str
    folder: Path
    identity: dict[str, Any]
    load: Callable[[str], Completer]
    device: str
    processes: int = 1
    data: str | None = None
    external: bool = False
    doubt: str = ""

    def in_processes(self, model: Completer) -> Completer:
        """Return ``model``, or several processes that load it where more are asked for."""
        return model if self.processes == 1 else ParallelCompleter(model, self.load, self.processes, self.device)


def checkpoint_subject(config: EvalConfig, path: str | Path) -> Subject:
    """Return a checkpoint, or the newest of a run; raise InputError if it is missing or damaged."""
    path, device = resolve(path), pick_device(config.device)
    meta, precision = load_meta(path), decoding_precision(path, config.precision, device, config.threads)
    foreign = is_foreign(meta)
    identity = {
        "checkpoint": path.name,
        "weights_sha256": weights_sha256(path),
        "step": meta["step"],
        "tokens_trained": meta["tokens"],
        "flops_trained": None if foreign else meta["tokens"] * flops_per_token(ModelConfig(**meta["model"])),
        "tokenizer_fingerprint": meta["tokenizer_fingerprint"],
        "precision": precision,
        "llama_scale": llama_scale.__version__,
    }
    if "base" in meta:  # one of fine-tuning
        identity |= {"base": meta["base"], "method": meta["method"], "adapter": meta.get("adapter")}
    if foreign:
        adapter = path if "adapter" in meta else None
        folder = base_of(path, meta).folder if adapter else path
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        load = partial(TransformersCompleter, folder, dtype=dtype, adapter=adapter)
    else:
        settings = {"bf16": precision == "bf16", "threads": config.threads, "cuda_graphs": config.cuda_graphs}
        load = partial(open_checkpoint, path, **settings)
    processes = _processes(config, device)
    folder = Path(config.out) if config.out else eval_folder(path)
    return Subject(str(path), folder, identity, load, device, processes, data=trained_on(path, meta))


def trained_on(checkpoint: Path, meta: dict[str, Any]) -> str | None:
    """Return the folder of tokens that a checkpoint names, None if it names none.

    A relative one is looked for in the folders above the run, then in the current one, by the fingerprint that training
    wrote down; what has another fingerprint is other data and taken only where nothing else is there, with a line.
    """
    data, fingerprint = meta.get("data"), meta.get("data_fingerprint")
    if not data:
        return None
    roots = [Path(), *checkpoint.resolve().parents[1:], Path.cwd()]
    places = [Path(data)] if Path(data).is_absolute() else [root / data for root in roots]
    there = [place for place in places if (place / MANIFEST).is_file()]
    for place in there if fingerprint else ():
        with suppress(InputError):
            if read_manifest(place)["fingerprint"] == fingerprint:
                return str(relative_path(place))
    if there and fingerprint:
        print(f"{there[0]}: is other data than {checkpoint} was trained on; made anew since?", file=sys.stderr)
    return str(relative_path(there[0])) if there else data


def is_external(model: str) -> bool:
    """Whether a model is a server or a transformers folder rather than a run of this project."""
    path = Path(model)
    known = (path / "manifest.json").exists() or (path / "checkpoints").exists()
    return "://" in model or (not known and (path / "config.json").is_file())


def external_subject(config: EvalConfig) -> Subject:
    """Return the server or the transformers folder ``config.checkpoint``."""
    if config.out is None:
        raise InputError("out: name a folder for the results of a model from elsewhere")
    name, out, device = config.checkpoint, Path(config.out), pick_device(config.device)
    choice = None if "://" in name and config.precision == "auto" else config.precision  # a server's is not known
    precision = decoding_precision(Path(name), choice, device, config.threads)
    identity = {"model": name, "model_name": config.name, "precision": precision}
    identity["llama_scale"] = llama_scale.__version__
    if "://" in name:
        from evals.models.server import ServerCompleter  # httpx2, which a command that asks no server need not have

        server = ServerCompleter(name, config.name, config.server)
        doubt = "whether the server still has the same model cannot be known; delete the results to score it again"
        return Subject(name, out, identity, lambda device: server, device, external=True, doubt=doubt)
    identity["files_sha256"] = folder_sha256(Path(name), out)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    load = partial(TransformersCompleter, Path(name), dtype=dtype)
    return Subject(name, out, identity, load, device, _processes(config, device), external=True)


def folder_sha256(folder: Path, out: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder by its path there; not of hidden ones nor of those in ``out``.

    Raises InputError on one that cannot be read: whatever lies there may change what is loaded.
    """
    hashes, results = {}, out.resolve()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and path.is_file() and not path.resolve().is_relative_to(results):
            try:
                if path.stat().st_size > MOST_BYTES:
                    raise InputError(f"{path}: larger than {MOST_BYTES >> 40} TiB; this is no file of a model")
                hashes[inside.as_posix()] = sha256(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return hashes


def decoding_precision(model: Path, choice: str | None, device: str, threads: int | None) -> str:
    """Return bf16 or fp32 for a checkpoint of ours or a transformers folder; say what was measured, where it was."""
    width, inner = 1, 1
    if choice == "auto" and device == "cpu":
        set_threads(threads)
        width, inner = _shape(model)
    found = pick_decoding_precision(choice, device, width, inner)
    if choice == "auto":
        print(f"precision: {found.name} ({found.why})", file=sys.stderr)
    return found.name


def _shape(model: Path) -> tuple[int, int]:
    """Return the width and the inner width of a checkpoint's or a transformers folder's blocks."""
    if not is_external(str(model)):
        meta = load_meta(model)
        if not is_foreign(meta):
            config = ModelConfig(**meta["model"])
            return config.d_model, config.d_ff
        model = base_of(model, meta).folder if "adapter" in meta else model
    found = read_json(model / "config.json")
    known = found if isinstance(found, dict) else {}
    width = next((known[name] for name in WIDTHS if isinstance(known.get(name), int)), USUAL_WIDTH)
    return width, known.get("intermediate_size") or 4 * width


def _processes(config: EvalConfig, device: str) -> int:
    auto = torch.cuda.device_count() if device == "cuda" else 1
    return auto if config.processes == "auto" else config.processes


def score_each_checkpoint(run: Path, watch: bool, score: Callable[[Path], None]) -> None:
    """Call ``score`` with every checkpoint of a run, oldest first.

    With ``watch``, also with those that appear until the run has its result. One that training deletes meanwhile is
    passed over, a damaged one too, with a line on stderr. Raises InputError when all are done if any was damaged or
    there was none, and at once on what is wrong with more than a checkpoint.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; name a run that training has begun")
    if watch and not (run / "result.json").exists() and not list_checkpoints(run):
        print(f"waiting for a checkpoint in {run / 'checkpoints'}", file=sys.stderr)
    seen, damaged, done = set(), [], False
    while not done:
        # Looked for first: a checkpoint that comes before the result is scored then.
        done = (run / "result.json").exists() or not watch
        for folder in list_checkpoints(run):
            if folder in seen:
                continue
            seen.add(folder)
            try:
                score(folder)
            except InputError:
                try:
                    verify(folder)
                except InputError as damage:
                    damaged += [folder.name] if folder.exists() else []
                    kind = "damaged" if folder.exists() else "deleted"
                    print(f"skipping a {kind} checkpoint: {damage}", file=sys.stderr)
                else:
                    raise
        if not done:
            time.sleep(POLL)
    if not seen:
        raise InputError(f"{run}: no checkpoints/ to score; all and watch want a run folder")
    if damaged:
        raise InputError(f"{run}: damaged and not scored: {', '.join(damaged)}; delete them or train them again")
