"""Checkpoints written beside training: a copy in host memory, then a thread of its own."""

import copy
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

BLOCK = 2**30  # bytes of pinned memory asked for at once
ALIGN = 512  # bytes, between the copies in a block


class Snapshot:
    """Copies nested state into host buffers that are allocated once and used again.

    Tensors of a GPU go to pinned memory without waiting for each other; tensors that share their storage share their
    copy. The GPU holds no second copy at any time.
    """

    def __init__(self) -> None:
        self._kinds: list[tuple[torch.Size, torch.dtype, bool]] = []
        self._copies: list[Tensor] = []

    def take(self, state: dict[str, Any], mesh: DeviceMesh | None = None) -> dict[str, Any]:
        """Return a copy of ``state`` that training cannot change.

        The copy of a tensor split over devices is split alike over ``mesh``, their hosts.
        """
        originals = {identity(value): value.detach() for value in tensors(state)}
        kinds = [(value.shape, value.dtype, value.device.type == "cuda") for value in originals.values()]
        if kinds != self._kinds:
            self._kinds, self._copies = kinds, []  # the memory of the old ones can be used again
            self._copies = host_tensors(kinds)
        copies = dict(zip(originals, self._copies, strict=True))
        for key, value in originals.items():
            copies[key].copy_(value, non_blocking=True)
        if any(pinned for _, _, pinned in kinds):
            torch.cuda.current_stream().synchronize()

        def copied(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: copied(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(copied(item) for item in value)
            if isinstance(value, DTensor):
                part, shape, stride = copied(value.to_local()), value.shape, value.stride()
                return DTensor.from_local(part, mesh, value.placements, run_check=False, shape=shape, stride=stride)
            return copies[identity(value)] if isinstance(value, Tensor) else copy.deepcopy(value)

        return copied(state)


def tensors(state: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested state; of one that is split over devices this process's part."""
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        for item in state:
            yield from tensors(item)
    elif isinstance(state, DTensor):
        yield state.to_local()
    elif isinstance(state, Tensor):
        yield state


def identity(value: Tensor) -> tuple[torch.device, int, torch.Size, torch.dtype]:
    """Return what tensors that are the same memory have in common."""
    return value.device, value.data_ptr(), value.shape, value.dtype


def host_tensors(kinds: list[tuple[torch.Size, torch.dtype, bool]]) -> list[Tensor]:
    """Return a host tensor of each shape and type, pinned or not.

    torch rounds an allocation of pinned memory up to a power of two. So pinned tensors share blocks of such sizes, the
    largest tensor first, each in the first block with room: of 700, 300 and 200 MB the first two share a block of 1 GiB
    and the third gets one of 256 MiB.
    """
    found = {i: torch.empty(shape, dtype=dtype) for i, (shape, dtype, pinned) in enumerate(kinds) if not pinned}
    sizes = {
        i: math.ceil(math.prod(shape) * dtype.itemsize / ALIGN) * ALIGN
        for i, (shape, dtype, pinned) in enumerate(kinds)
        if pinned
    }
    blocks: list[Tensor] = []
    used: list[int] = []
    left = sum(sizes.values())
    for i in sorted(sizes, key=lambda i: -sizes[i]):
        shape, dtype, _ = kinds[i]
        size = sizes[i]
        block = next((n for n, taken in enumerate(used) if taken + size <= blocks[n].numel()), len(blocks))
        if block == len(blocks):
            room = max(min(BLOCK, 2 ** (left.bit_length() - 1)), 2 ** max(0, size - 1).bit_length())
            blocks.append(torch.empty(room, dtype=torch.uint8, pin_memory=True))
            used.append(0)
        start, length = used[block], math.prod(shape) * dtype.itemsize
        found[i] = blocks[block][start : start + length].view(dtype).view(shape)
        used[block] += size
        left -= size
    return [found[i] for i in range(len(kinds))]


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
