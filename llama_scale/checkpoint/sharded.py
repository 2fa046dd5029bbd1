"""Tensors that every process writes its own part of, by torch.distributed.checkpoint (DCP).

The parts are safetensors files that carry their offsets as JSON, so any number of processes can read them back, each
only what it needs. DCP's default format keeps its index in a pickle, which could run code on loading; this one cannot.
Plain safetensors files are read by the same calls.

A (6, 4) matrix that four processes share is rows 0-1 in the first's file, 2-3 in the second's, 4-5 in the third's and
nothing in the fourth's. Two processes that read it back, rows 0-2 and 3-5, each take their rows from two of the files.
"""

import errno
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def write(folder: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup) -> None:
    """Write this process's part of ``tensors`` into ``folder``.

    Every process of ``group`` calls this. Raises OSError on all of them if one cannot write.
    """
    storage = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    try:
        dcp.save(tensors, storage_writer=storage, process_group=group)
    except CheckpointException as error:  # not an Exception, and with a traceback of each process
        rank, (cause, _) = min(error.failures.items())
        number = getattr(cause, "errno", None) or errno.EIO
        reason = getattr(cause, "strerror", None) or str(cause)
        raise OSError(number, f"process {rank}: {reason}", str(folder)) from None


def read(folder: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill ``tensors``, sharded or whole, from the files of ``folder``.

    With a ``group`` every process of it calls this; without, the process reads alone.
    """
    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(tensors, storage_reader=reader, process_group=group, no_dist=group is None)


def read_whole(folder: Path, is_wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return the tensors of ``folder`` whose names satisfy ``is_wanted``, in host memory."""
    known = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if isinstance(entry, TensorStorageMetadata) and is_wanted(name)
    }
    read(folder, tensors)
    return tensors


def run_together(group: dist.ProcessGroup, action: Callable[[], object] | None) -> None:
    """Run ``action`` on this process, if it has one, and wait for those of all others.

    Each process of ``group`` calls this, so that all go on or none does: raises this process's error, or RuntimeError
    where another one failed.
    """
    error: Exception | None = None
    try:
        if action is not None:
            action()
    except Exception as raised:
        error = raised
    failed = torch.tensor(float(error is not None))
    dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=group)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another process could not write its part of the checkpoint")
