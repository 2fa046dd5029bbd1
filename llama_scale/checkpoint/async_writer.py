"""Checkpoints written beside training: a copy in host memory, then a thread of its own."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


class Snapshot:
    """Copies nested state into host buffers that are allocated once and used again.

    Tensors of a GPU go to pinned memory without waiting for each other; tensors that share their storage share their
    copy. The GPU holds no second copy at any time.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple, Tensor] = {}

    def take(self, state: dict[str, Any], mesh: DeviceMesh | None = None) -> dict[str, Any]:
        """Return a copy of ``state`` that training cannot change.

        The copy of a tensor split over devices is split alike over ``mesh``, their hosts.
        """
        seen: dict[tuple, Tensor] = {}

        def copied(value: Any, path: tuple) -> Any:
            if isinstance(value, dict):
                return {key: copied(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(copied(item, (*path, index)) for index, item in enumerate(value))
            if isinstance(value, DTensor):
                part, shape, stride = copied(value.to_local(), path), value.shape, value.stride()
                return DTensor.from_local(part, mesh, value.placements, run_check=False, shape=shape, stride=stride)
            if not isinstance(value, Tensor):
                return copy.deepcopy(value)
            identity = (value.data_ptr(), value.shape, value.dtype)
            if value.numel() == 0 or identity not in seen:
                seen[identity] = self._buffer(value.detach(), path)
                seen[identity].copy_(value.detach(), non_blocking=True)
            return seen[identity]

        result = copied(state, ())
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return result

    def _buffer(self, value: Tensor, path: tuple) -> Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            pinned = value.device.type == "cuda"
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned)
            self._buffers[path] = buffer
        return buffer


class Writer:
    """Runs one job at a time on a thread, so that disks are not waited for.

    The error of a job is kept until ``collect`` hands it to the caller's thread. ``name`` is that of the last job.
    """

    def __init__(self) -> None:
        self.name = ""
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def submit(self, job: Callable[[], None], name: str) -> None:
        """Run ``job`` beside the caller; wait first for the one before."""
        self.wait()
        self.name = name
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer")
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self._error = error

    def wait(self) -> None:
        """Return once no job runs."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def collect(self) -> Exception | None:
        """Return the error of the last job and forget it; do not wait."""
        error, self._error = self._error, None
        return error
