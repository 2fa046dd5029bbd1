"""The models of a folder by name, loaded when they are asked for; the least recently used leave.

A name is that of a run, for its newest checkpoint, or RUN@STEP; it is looked up among what lies in the folder and is
never a path.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_scale.checkpoint.folder import list_checkpoints, load_meta, newest, resolve, weights_sha256
from llama_scale.checkpoint.opened import load_model, load_tokenizer
from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import count_parameters
from llama_scale.data.fim import FimOrder, trained_fim
from llama_scale.data.shards import MANIFEST
from llama_scale.device import Precision, pick_decoding_precision
from llama_scale.errors import InputError, nearest
from llama_scale.files import read_json
from llama_scale.generation.weight_layout import store_by_columns
from llama_scale.serving.batch import ServedModel
from llama_scale.serving.chat import ChatTemplate, find_template

DEEPEST = 4  # folders between the shelf and a run
SUITES = ("humaneval", "mbpp")
NOT_RUNS = ("checkpoints", "evals", "data")


class UnknownModelError(InputError):
    """There is no model of a name."""


class FullError(Exception):
    """All models that are loaded are in use, and there is no memory for another."""


@dataclass(eq=False)
class Loaded:
    """A model on the shelf, with the number of requests that use it.

    Attributes:
        fingerprint: What stands for its weights and their precision.
        precision: The format of its weights, and why that one.
        template: How a chat becomes a prompt; None for a base model.
        fim: Whether it was trained to fill gaps, None where that is not known; and in which order.
    """

    served: ServedModel
    folder: Path
    fingerprint: str
    precision: Precision
    template: ChatTemplate | None
    fim: bool | None
    fim_order: FimOrder = "psm"
    users: int = 0


def find_runs(root: Path) -> dict[str, Path]:
    """Return the run folders in ``root`` by name, in order; one that is itself a run or a checkpoint has its name.

    Raises InputError where there is none.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise InputError(f"{root}: {found}; name a folder of runs, or train one: launch/train.py")
    if (root / "manifest.json").is_file() and root.parent.name == "checkpoints":
        root = root.parents[1]
    if (root / "checkpoints").is_dir():
        return {root.resolve().name: root}
    runs: dict[str, Path] = {}

    def look(folder: Path, depth: int) -> None:
        with suppress(OSError):
            for path in sorted(folder.iterdir()):
                if path.name.startswith(".") or path.name in NOT_RUNS or not path.is_dir():
                    continue
                if (path / "checkpoints").is_dir():
                    runs[path.relative_to(root).as_posix()] = path
                elif depth < DEEPEST:
                    look(path, depth + 1)

    look(root, 1)
    if not runs:
        raise InputError(f"{root}: no run in it; train one: launch/train.py")
    return runs


class Shelf:
    """The models of ``root`` on ``device``, with at most ``memory`` bytes of weights loaded."""

    def __init__(
        self, root: str | Path, device: str, precision: str | None, memory: int, template: str | Path | None = None
    ) -> None:
        self.root, self.device, self.precision, self.memory = Path(root), device, precision, memory
        self.template = ChatTemplate.read(Path(template)) if template else None
        self.only = self.root.name if (self.root / "manifest.json").is_file() else None  # a checkpoint alone
        self.loaded: OrderedDict[Path, Loaded] = OrderedDict()  # the least recently used first
        self.lock = threading.Lock()
        self.loading = threading.Lock()  # one at a time, while others go on using what there is
        find_runs(self.root)

    def list(self) -> list[dict[str, Any]]:
        """Return what is known of each model: runs by name, each followed by its steps, newest first."""
        rows = []
        for run, path in find_runs(self.root).items():
            steps = [step for step in reversed(list_checkpoints(path)) if self.only in (None, step.name)]
            described = [row for step in steps if (row := self._describe(run, path, step))]
            if described:
                rows += [described[0] | {"id": run, "step_of": None}, *described]
        return rows

    def _describe(self, run: str, path: Path, checkpoint: Path) -> dict[str, Any] | None:
        """Return what is known of a checkpoint; None where it cannot be read."""
        try:
            meta = load_meta(checkpoint)
            model = meta["model"]
            config = ModelConfig(**model)
            created = int((checkpoint / "manifest.json").stat().st_mtime)
            chats = bool(self.template or find_template(checkpoint))
        except (InputError, OSError, TypeError, KeyError, AttributeError):
            return None
        counts, scores = count_parameters(config), {}
        with suppress(InputError, AttributeError):
            result = read_json(path / "result.json")
            if result.get("checkpoint", "").endswith(checkpoint.name):
                scores |= {name: result.get(name) for name in ("val_loss", "val_bits_per_byte")}
        for suite in SUITES:
            with suppress(InputError, AttributeError):
                found = read_json(path / "evals" / checkpoint.name / f"{suite}.json")
                scores[suite] = found.get("pass_at_k", {}).get("1")
        return {
            "id": f"{run}@{meta['step']}", "object": "model", "created": created, "owned_by": "llama_scale",
            "step_of": run, "step": meta["step"], "size": meta.get("size"), "tokens_trained": meta.get("tokens"),
            "context_length": config.context_length, "vocab_size": config.vocab_size,
            "parameters": counts.total, "parameters_non_embedding": counts.non_embedding, "scores": scores,
            "fim": trained_with_fim(path, meta)[0], "chat": chats,
            "adapter": meta.get("adapter"), "base": meta.get("base"),
            **self._loaded_as(checkpoint),
        }  # fmt: skip

    def _loaded_as(self, checkpoint: Path) -> dict[str, Any]:
        """Return whether a checkpoint is loaded, in which format, and why."""
        loaded = self.loaded.get(checkpoint)
        if loaded is None:
            return {"loaded": False, "precision": None, "precision_why": None}
        return {"loaded": True, "precision": loaded.precision.name, "precision_why": loaded.precision.why}

    def find(self, name: str | None) -> tuple[str, Path]:
        """Return the full name and the folder of a model's checkpoint; None is the first run's newest.

        Raises UnknownModelError where there is none of that name.
        """
        runs = find_runs(self.root)
        run, at, step = (name or next(iter(runs))).partition("@")
        if run not in runs:
            hint = nearest(run, runs) or f"; the first is {next(iter(runs))}"
            raise UnknownModelError(f"model: there is no {run!r}{hint}")
        if self.only is not None:
            return run, resolve(self.root)
        steps = {int(path.name[5:]): path for path in list_checkpoints(runs[run]) if path.name[5:].isdecimal()}
        if not at:
            latest = steps[max(steps)] if steps else None
            if latest in self.loaded:
                return run, latest
            if (found := newest(runs[run])) is None:
                raise UnknownModelError(f"model: {run!r} has no valid checkpoint")
            return run, found
        digits = step.removeprefix("step-")
        if not digits.isdecimal() or int(digits) not in steps:
            known = ", ".join(map(str, sorted(steps)))
            raise UnknownModelError(f"model: {run!r} has no step {step!r}; it has {known}")
        return f"{run}@{int(digits)}", steps[int(digits)]

    @contextmanager
    def use(self, name: str | None) -> Iterator[Loaded]:
        """Yield a model, which stays loaded meanwhile; it is loaded first where it is not.

        Raises UnknownModelError, InputError where it is damaged or too large, and FullError.
        """
        loaded = self.acquire(name)
        try:
            yield loaded
        finally:
            self.release(loaded)

    def acquire(self, name: str | None) -> Loaded:
        """Return a model, to be released after use; it is loaded first where it is not."""
        full, folder = self.find(name)
        with self.lock:
            if (loaded := self._take(folder)) is not None:
                return loaded
        with self.loading:
            with self.lock:
                if (loaded := self._take(folder)) is not None:
                    return loaded
            self._make_room(full, folder)
            loaded = self._load(full, folder)
            with self.lock:
                loaded.users = 1
                self.loaded[folder] = loaded
            return loaded

    def release(self, loaded: Loaded) -> None:
        """Say that a request no longer uses a model."""
        with self.lock:
            loaded.users -= 1

    def _take(self, folder: Path) -> Loaded | None:
        loaded = self.loaded.get(folder)
        if loaded is not None:
            loaded.users += 1
            self.loaded.move_to_end(folder)
        return loaded

    def _make_room(self, name: str, folder: Path) -> None:
        """Let models leave until another one fits; raise InputError where it never does, FullError where not now."""
        config = ModelConfig(**load_meta(folder)["model"])
        needed = 4 * count_parameters(config).total  # it is read in float32
        if needed > self.memory:
            found = f"its weights take {needed / 1e6:,.0f} MB, the server may hold {self.memory / 1e6:,.0f} MB"
            raise InputError(f"model: {name}: {found}")
        with self.lock:
            for path, loaded in list(self.loaded.items()):
                if sum(other.served.bytes for other in self.loaded.values()) + needed <= self.memory:
                    return
                if loaded.users == 0:
                    del self.loaded[path]
            if sum(other.served.bytes for other in self.loaded.values()) + needed > self.memory:
                raise FullError(f"model: {name} does not fit beside those in use; try again later")

    def _load(self, name: str, folder: Path) -> Loaded:
        """Load a checkpoint, an adapter merged into its base; its files are checked."""
        resolve(folder)
        model = load_model(folder, self.device)
        config = model.config
        precision = pick_decoding_precision(self.precision, self.device, config.d_model, config.d_ff)
        if precision.bf16:
            model = model.to(torch.bfloat16)
        tokenizer = load_tokenizer(folder)
        served = ServedModel(name, store_by_columns(model), tokenizer)
        fingerprint = f"{weights_sha256(folder)[:16]}-{precision.name}"
        template = self.template or find_template(folder)
        fim, order = trained_with_fim(folder.parents[1], load_meta(folder))
        return Loaded(served, folder, fingerprint, precision, template, fim, order)


def trained_with_fim(run: Path, meta: dict[str, Any]) -> tuple[bool | None, FimOrder]:
    """Whether the data that a checkpoint names had gaps to fill, None if unknown, and in which order."""
    data = meta.get("data")
    if not isinstance(data, str):
        return None, "psm"
    for root in [Path(), *run.resolve().parents]:
        with suppress(InputError, AttributeError):
            manifest = read_json(root / data / MANIFEST)
            if manifest.get("fingerprint") == meta.get("data_fingerprint"):
                return trained_fim(manifest.get("settings", {}))
    return None, "psm"
