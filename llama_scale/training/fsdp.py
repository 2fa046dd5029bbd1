"""FSDP2 through Lightning: each process holds, draws, writes and reads its own part of the state.

No process ever holds the whole model: blocks are made one at a time, drawn and split at once. The checkpoints are read
by any number of processes and any strategy (sharded.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from llama_scale.checkpoint import sharded
from llama_scale.checkpoint.folder import LIGHTNING_PREFIX
from llama_scale.checkpoint.lightning import FolderCheckpointIO
from llama_scale.lightning import strategies
from llama_scale.model.llama import Llama, rope_table


def shard(model: Llama, mesh: DeviceMesh, seed: int | None) -> None:
    """Fill a model on the meta device and split it over ``mesh``, a block at a time.

    The weights are those of ``init_weights(seed)``, or not set if ``seed`` is None. Each block is gathered alone in
    training; the tables with the root.
    """
    device = torch.device(mesh.device_type)
    generator = torch.Generator().manual_seed(seed or 0)

    def fill(module: nn.Module, name: str) -> None:
        module.to_empty(device=device)
        if seed is not None:
            for own, parameter in module.named_parameters():
                model.init_parameter(f"{name}.{own}", parameter, generator)

    fill(model.embedding, "embedding")
    for index, block in enumerate(model.blocks):
        fill(block, f"blocks.{index}")
        fully_shard(block, mesh=mesh)
    fill(model.norm, "norm")
    if model.config.tie_embeddings:
        model.head.weight = model.embedding.weight
    else:
        fill(model.head, "head")
    model.rope = rope_table(model.config).to(device)
    fully_shard(model, mesh=mesh)
    for name in ("loss", "hidden"):
        register_fsdp_forward_method(model, name)


class ShardedStrategy(strategies.ModelParallelStrategy):
    """Data parallel over all processes with weights, gradients and moments split (FSDP2).

    ``tied`` says that the model's head is its embedding. ``group`` joins the processes' hosts for checkpoints, beside
    the devices' own messages, and ``source`` is the checkpoint that is being read.
    """

    group: torch.distributed.ProcessGroup
    source: Path

    def __init__(self, world: int, tied: bool) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1)
        self.tied = tied

    def setup_environment(self) -> None:
        """Connect the processes, and their hosts for the checkpoints."""
        super().setup_environment()
        group = torch.distributed.new_group(backend="gloo")
        assert isinstance(group, torch.distributed.ProcessGroup) and isinstance(self.checkpoint_io, FolderCheckpointIO)
        self.group, self.checkpoint_io.mesh = group, DeviceMesh.from_group(group, "cpu")

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimizer's state back."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this process's part of the weights."""
        assert self.lightning_module is not None, "the Trainer has connected it"
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return this process's part of the moments."""
        return getattr(optimizer, "_optimizer", optimizer).state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write on every rank through the checkpoint plugin."""
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read all but the tensors, which are read when there is a place for them."""
        self.source = Path(checkpoint_path)
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Read this process's part of the weights."""
        state = self.lightning_module_state_dict()
        weights = {name.removeprefix(LIGHTNING_PREFIX): value for name, value in state.items()}
        if self.tied:
            del weights["head.weight"]
        sharded.read(self.source, weights, self.group)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Read this process's part of the moments."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = {index: _moments(p) for index, p in enumerate(parameters)}
            flat = {f"{i}.{name}": v for i, values in moments.items() for name, v in values.items()}
            sharded.read(self.source, flat, self.group)
            optimizer.load_state_dict(dict(saved) | {"state": moments})


def _moments(parameter: Tensor) -> dict[str, Tensor]:
    """Return an empty state of AdamW for ``parameter``."""
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    like = parameter.detach()
    return {"step": step, "exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}
