"""Checkpoints that are whole or absent, checked on load, and never unpickled.

A checkpoint is a folder step-00001000 with model.safetensors, optimizer.safetensors, trainer.json, the tokenizer and
manifest.json, which names the sha256 of each file, carries one of its own and is written last; the folder gets its name
by a rename once everything in it is on disk. Processes that share the weights write shard-*.safetensors instead of the
first two, one each, with the same names of tensors (sharded.py); whoever reads need not know. Of a model with adapters
they alone are there: adapter_model.safetensors instead of model.safetensors.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.errors import InputError
from llama_scale.files import FULL, MOST_BYTES, check_regular, copy_file, read_json, sha256, write_json
from llama_scale.model.llama import Llama

FORMAT = "llama_scale.checkpoint.v1"
ADAPTER = "adapter_model.safetensors"  # as peft names it
LIGHTNING_PREFIX = "model."
ROOM = threading.Lock()  # held while a checkpoint is chosen and deleted


def save(folder: Path, state: dict[str, Any], meta: dict[str, Any], *files: Path) -> None:
    """Write Lightning's ``state`` dictionary as a checkpoint folder, atomically.

    ``meta`` goes into the manifest, copies of ``files``, such as the tokenizer, beside the weights. An error leaves
    what stood there before.
    """
    weights, moments, rest = _split(state)
    with _whole_or_absent(folder, meta) as temporary:
        if "adapter" in meta:
            write_tensors(temporary / ADAPTER, weights, {"format": "pt"})
        else:
            _write_weights(temporary, weights)
        write_tensors(temporary / "optimizer.safetensors", moments)
        _write_rest(temporary, rest, *files)


def save_weights(folder: str | Path, weights: dict[str, Tensor], meta: dict[str, Any], *files: Path | None) -> None:
    """Write ``weights`` and copies of ``files`` alone as a checkpoint folder: for evaluation, not to go on training."""
    with _whole_or_absent(Path(folder), meta) as temporary:
        _write_weights(temporary, weights)
        for file in filter(None, files):
            copy_file(file, temporary / file.name)


@contextmanager
def _whole_or_absent(folder: Path, meta: dict[str, Any]) -> Iterator[Path]:
    """Yield a hidden folder to fill; then add the manifest, sync and give it its name."""
    temporary = _begin(folder)
    try:
        yield temporary
        _finish(temporary, folder, meta)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def save_shards(
    folder: Path, state: dict[str, Any], meta: dict[str, Any], *files: Path, group: torch.distributed.ProcessGroup
) -> None:
    """Write the parts of ``state`` that the processes of ``group`` hold; each of them calls this.

    As ``save`` otherwise: rank 0 adds what is not sharded, the manifest and the name.
    """
    from llama_scale.checkpoint import sharded

    rank, temporary = torch.distributed.get_rank(group), _hidden(folder)
    weights, moments, rest = _split(state)
    if meta["model"]["tie_embeddings"]:
        del weights["head.weight"]
    try:
        sharded.run_together(group, (lambda: _begin(folder)) if rank == 0 else None)
        sharded.write(temporary, weights | moments, group)

        def add() -> None:
            for part in temporary.glob(f"shard-{rank + 1:05d}-*"):
                _fsync(part)
            if rank == 0:
                _write_rest(temporary, rest, *files)

        sharded.run_together(group, add)
        sharded.run_together(group, (lambda: _finish(temporary, folder, meta)) if rank == 0 else None)
    except BaseException:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def _begin(folder: Path) -> Path:
    """Make the empty hidden folder that ``folder`` is written in."""
    temporary = _hidden(folder)
    _remove(temporary)
    temporary.mkdir(parents=True)
    return temporary


def _finish(temporary: Path, folder: Path, meta: dict[str, Any]) -> None:
    """Sync the parts, add the manifest and give the folder its name."""
    parts = sorted(temporary.iterdir())
    for part in parts:
        _fsync(part)
    hashes = {part.name: sha256(part) for part in parts}
    sizes = {part.name: part.stat().st_size for part in parts}
    write_json(
        temporary / "manifest.json", {"format": FORMAT, "meta": meta, "files": hashes, "bytes": sizes}, sealed=True
    )
    _fsync(temporary)
    if folder.exists() or folder.is_symlink():
        discard(folder)
    os.replace(temporary, folder)
    _fsync(folder.parent)


def discard(folder: Path) -> None:
    """Delete a checkpoint: it loses its name first, so that no part of it is ever taken for one."""
    hidden = folder.with_name(f".{folder.name}.old")
    _remove(hidden)
    os.replace(folder, hidden)
    _remove(hidden)


def prune(run: Path, keep_last: int, keep_every: int = 0, keep_steps: Iterable[int] = ()) -> None:
    """Delete all checkpoints but the last ``keep_last``, multiples of ``keep_every`` and those at ``keep_steps``."""
    for folder in list_checkpoints(run)[:-keep_last]:
        step = int(folder.name.removeprefix("step-"))
        if (not keep_every or step % keep_every) and step not in keep_steps:
            discard(folder)


def make_room(run: Path, keep_every: int = 0, keep_steps: Iterable[int] = ()) -> Path | None:
    """Delete the oldest checkpoint that a run can do without, for a full disk; return it, or None if there is none.

    The newest valid one stays, and so do those that ``prune`` would keep for good.
    """
    with ROOM:
        if (needed := newest(run)) is None:
            return None
        for folder in list_checkpoints(run):
            step = int(folder.name.removeprefix("step-"))
            if folder != needed and (not keep_every or step % keep_every) and step not in keep_steps:
                discard(folder)
                return folder
    return None


def write_with_room(
    write: Callable[[], None],
    make_room: Callable[[], Path | None],
    name: str,
    group: torch.distributed.ProcessGroup | None = None,
) -> None:
    """Call ``write``, which says ``name``; as long as the disk is full, make room and call it again.

    Of several processes each of ``group`` calls this, rank 0 makes the room, and all call again or none does. Raises
    what ``write`` raised, when there is no room to be made.
    """

    def for_all(condition: bool) -> bool:
        if group is None:
            return condition
        holds = torch.tensor(float(condition))  # ()
        torch.distributed.all_reduce(holds, torch.distributed.ReduceOp.MAX, group=group)
        return bool(holds)

    first = group is None or torch.distributed.get_rank(group) == 0
    while True:
        try:
            return write()
        except (OSError, RuntimeError) as error:
            if not for_all(isinstance(error, OSError) and error.errno in FULL):
                raise
            deleted = make_room() if first else None
            if not for_all(deleted is not None):
                raise
            if deleted is not None:
                print(f"{name}: the disk is full; {deleted.name} was deleted to make room", file=sys.stderr, flush=True)


def clear_leftovers(run: Path) -> None:
    """Delete what writes and deletions that were cut short left behind."""
    for pattern in (".step-*.tmp", ".step-*.old"):
        for folder in (run / "checkpoints").glob(pattern):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, if it is there, or the link in its place, but not what that links to."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; a failure of the disk is an OSError that names it."""
    try:
        path.touch()
        mode = path.stat().st_mode  # as the umask leaves it; safetensors makes its file for the owner alone
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
        path.chmod(mode)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def _write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the weights; of two names of one matrix, such as tied embeddings, only the first."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, value in weights.items():
        first.setdefault((value.data_ptr(), value.shape), name)
    write_tensors(folder / "model.safetensors", {name: weights[name] for name in first.values()}, {"format": "pt"})


def _write_rest(folder: Path, rest: dict[str, Any], *files: Path) -> None:
    write_json(folder / "trainer.json", rest)
    for file in files:
        copy_file(file, folder / file.name)


def _split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return Lightning's state as weights, moments by ``INDEX.NAME``, and what is no tensor.

    The weights are named as in Llama, without Lightning's prefix. Moment "3.exp_avg" is that of the optimizer's
    parameter 3: a name that begins with a number is a moment's, also in a file that holds both kinds.
    """
    rest = dict(state)
    weights = {k.removeprefix(LIGHTNING_PREFIX): v for k, v in rest.pop("state_dict").items()}
    (optimizer,) = rest.pop("optimizer_states")
    moments = {f"{index}.{k}": v for index, values in optimizer["state"].items() for k, v in values.items()}
    return weights, moments, rest | {"param_groups": optimizer["param_groups"]}


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_state(folder: str | Path) -> dict[str, Any]:
    """Read a checkpoint back as Lightning's state dictionary; raise InputError if damaged."""
    folder = Path(folder)
    state = load_rest(folder)
    moments = state["optimizer_states"][0]["state"]
    for key, value in _read(folder, "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    weights = _read(folder, ADAPTER if (folder / ADAPTER).exists() else "model.safetensors")
    if "embedding.weight" in weights:
        weights.setdefault("head.weight", weights["embedding.weight"])
    state["state_dict"] = {LIGHTNING_PREFIX + name: value for name, value in weights.items()}
    return state


def load_rest(folder: str | Path) -> dict[str, Any]:
    """Read what a checkpoint has beside tensors; raise InputError if it is damaged."""
    verify(folder)
    state = read_json(Path(folder) / "trainer.json")
    optimizer = {"state": {}, "param_groups": state.pop("param_groups")}
    return state | {"state_dict": {}, "optimizer_states": [optimizer]}


def _read(folder: Path, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a file, or those of its kind in a sharded checkpoint."""
    if (folder / name).exists() or not any(folder.glob("shard-*")):
        return load_file(folder / name, device=device)
    from llama_scale.checkpoint import sharded

    of_optimizer = name.startswith("optimizer")  # whose tensors are named INDEX.NAME
    tensors = sharded.read_whole(folder, lambda key: key.split(".")[0].isdigit() == of_optimizer)
    return {key: value.to(device) for key, value in tensors.items()}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; raise InputError if there is none, it has changed or it lacks a part.

    One that was written before manifests were sealed is taken as it is: the files that it names are still checked, but
    not what it says of the run.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; use an earlier checkpoint") from None
    format_name = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if format_name != FORMAT:
        raise InputError(f"{path}: format {format_name!r}, not {FORMAT}; use an earlier checkpoint")
    meta, files = manifest.get("meta"), manifest.get("files")
    if not (isinstance(meta, dict) and isinstance(meta.get("step"), int) and "model" in meta):
        raise InputError(f"{path}: 'meta' has no step or no model; use an earlier checkpoint")
    if not isinstance(files, dict):
        raise InputError(f"{path}: 'files' is missing; use an earlier checkpoint")
    return manifest


def verify(folder: str | Path) -> dict[str, Any]:
    """Return the manifest's ``meta``; raise InputError naming the first missing or damaged file."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    sizes = manifest.get("bytes", {})
    for name, digest in manifest["files"].items():
        if problem := _damage(folder / name, digest, sizes.get(name)):
            raise InputError(f"{folder}/{name}: {problem}; use an earlier checkpoint")
    return manifest["meta"]


def _damage(path: Path, digest: str, size: int | None) -> str | None:
    """Return what is wrong with a file of a checkpoint, or None; manifests of before do not tell its ``size``."""
    try:
        found = path.stat().st_size
        check_regular(path)
        if path.is_dir():
            return "a folder stands in its place"
        if size is not None and found != size:
            return f"{found:,} bytes, not {size:,}"
        if size is None and found > MOST_BYTES and path.suffix != ".safetensors":
            return f"{found:,} bytes, more than it can have"
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # whose length the header tells
                pass
        return None if sha256(path) == digest else "checksum does not match"
    except FileNotFoundError:
        return "missing"
    except (OSError, SafetensorError) as error:
        return f"unreadable ({error})"


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    return sorted((Path(run) / "checkpoints").glob("step-*"))


def valid(run: str | Path) -> Iterator[Path]:
    """Yield the valid checkpoints of a run, newest first; damaged ones are named on stderr."""
    for folder in reversed(list_checkpoints(run)):
        try:
            verify(folder)
        except InputError as error:
            print(f"skipping a damaged checkpoint: {error}", file=sys.stderr)
        else:
            yield folder


def newest(run: str | Path) -> Path | None:
    """Return the newest valid checkpoint of a run, or None; damaged ones are named on stderr."""
    return next(valid(run), None)


def resolve(path: str | Path) -> Path:
    """Return the checkpoint folder that ``path`` means: itself, or the newest of a run.

    Raises InputError when there is none or when it is damaged.
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        verify(path)
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such run or checkpoint folder; train one: launch/train.py")
    if checkpoint := newest(path):
        return checkpoint
    raise InputError(f"{path}: no valid checkpoint under checkpoints/; train it first")


def weights_sha256(folder: str | Path) -> str:
    """Return a hash that stands for the weights: that of their file, or of all their parts."""
    files = read_manifest(folder)["files"]
    for name in (ADAPTER, "model.safetensors"):
        if name in files:
            return files[name]
    parts = "".join(f"{name} {files[name]}\n" for name in sorted(files) if name.startswith("shard-"))
    return hashlib.sha256(parts.encode()).hexdigest()


def load_meta(path: str | Path) -> dict[str, Any]:
    """Return what the manifest says of the run: model shape, step, tokens, data folder."""
    return read_manifest(path)["meta"]


def load_model(path: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Llama:
    """Load the whole weights of a checkpoint or run for evaluation; raise InputError if they cannot be.

    ``checkpoint.opened.load_model`` reads adapters as well.
    """
    folder = resolve(path)
    if (folder / ADAPTER).exists():
        raise InputError(f"{folder}: an adapter, not whole weights; merge it with launch/export.py first")
    try:
        weights = _read(folder, "model.safetensors", device)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder}/model.safetensors: cannot be read ({error})") from None
    weights.setdefault("head.weight", weights["embedding.weight"])
    model = Llama.empty_model(ModelConfig(**load_meta(folder)["model"]), device)
    model.load_state_dict(weights)
    return model.to(dtype).eval() if dtype else model.eval()
