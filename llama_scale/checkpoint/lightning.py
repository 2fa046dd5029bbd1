"""How Lightning writes a checkpoint folder and reads it back, and the random state in it."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from llama_scale.checkpoint import folder as checkpoints
from llama_scale.checkpoint.async_writer import Snapshot, Writer
from llama_scale.lightning import CheckpointIO


class FolderCheckpointIO(CheckpointIO):
    """Lightning's way to folder.py: copies the state, then writes on a thread.

    ``meta`` is what each manifest says and ``files`` are copied beside the weights; ``tokens_after`` tells how many
    tokens the first steps of the run read. ``accumulate`` is the number of micro-batches in a step of this process:
    Lightning counts those, and a run may continue with another number. Where the state is split over processes,
    ``mesh`` has their hosts: each calls ``save_checkpoint`` and writes its part, and ``load_checkpoint`` leaves the
    tensors out. ``make_room`` deletes a checkpoint that the run can do without; it is called only where the disk is too
    full for the new one.
    """

    def __init__(
        self,
        meta: dict[str, Any],
        files: Sequence[Path],
        *,
        tokens_after: Callable[[int], int],
        accumulate: int,
        make_room: Callable[[], Path | None],
    ) -> None:
        self.meta, self.files, self.tokens_after = meta, files, tokens_after
        self.accumulate, self.make_room = accumulate, make_room
        self.snapshot, self.writer = Snapshot(), Writer()
        self.mesh: DeviceMesh | None = None

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` as the folder ``path``, soon."""
        step = checkpoint["global_step"]
        meta = self.meta | {"step": step, "tokens": self.tokens_after(step)}
        self.writer.wait()
        state = self.snapshot.take(checkpoint, self.mesh)
        group = None if self.mesh is None else self.mesh.get_group()

        def write() -> None:
            if group is None:
                checkpoints.save(Path(path), state, meta, *self.files)
            else:
                checkpoints.save_shards(Path(path), state, meta, *self.files, group=group)

        name = f"step {step}"
        self.writer.submit(partial(checkpoints.write_with_room, write, self.make_room, name, group), name)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict:
        """Read the folder ``path`` back."""
        state = checkpoints.load_state(path) if self.mesh is None else checkpoints.load_rest(path)
        step = state["global_step"]
        progress = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        # 100 steps of 4 micro-batches are 400 "ready"; a run that goes on with 2 in a step has to find 200, and what
        # else is counted ("started", "completed") 200 lower too.
        for counts in (progress["total"], progress["current"]):
            change = step * self.accumulate - counts["ready"]
            counts |= {name: count + change for name, count in counts.items()}
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the folder ``path``."""
        checkpoints.discard(Path(path))


def random_state(device: str) -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators, those of ``device`` too, as JSON values."""
    version, numbers, gauss = random.getstate()
    of_numpy = np.random.get_state(legacy=False)
    key, position = of_numpy["state"]["key"].tolist(), of_numpy["state"]["pos"]
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [of_numpy["bit_generator"], key, position, of_numpy["has_gauss"], of_numpy["gauss"]],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device == "cuda":
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: dict[str, Any], device: str) -> None:
    """Set the generators, those of ``device`` too, to a state that ``random_state`` returned on any device."""

    def generator(name: str) -> Tensor:
        return torch.frombuffer(bytearray.fromhex(state[name]), dtype=torch.uint8)

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(generator("torch"))
    if "cuda" in state and device == "cuda":
        torch.cuda.set_rng_state(generator("cuda"))
