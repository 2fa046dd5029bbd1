"""Weights and checkpoints split over two processes on a CPU."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.multiprocessing.spawn import spawn

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.checkpoint import sharded
from llama_scale.checkpoint.async_writer import Snapshot
from llama_scale.config import ModelConfig
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama
from llama_scale.training.fsdp import shard

SHAPE = {
    "vocab_size": 97, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 40, "context_length": 8,
}  # fmt: skip


def config(tied: bool) -> ModelConfig:
    return ModelConfig(**SHAPE, tie_embeddings=tied)


def in_two_processes(work, *arguments):
    spawn(begin, (work, arguments), nprocs=2)


def begin(rank, work, arguments):
    port = str(29_600 + os.getppid() % 300)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank)}
    os.environ["WORLD_SIZE"] = "2"
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        work(rank, *arguments)
    finally:
        dist.destroy_process_group()


def draw_and_save(rank, folder):
    group = dist.new_group(backend="gloo")
    mesh = DeviceMesh.from_group(group, "cpu")
    for tied in (True, False):
        with torch.device("meta"):
            model = Llama(config(tied))
        shard(model, mesh, seed=7)
        expected = Llama(config(tied)).init_weights(7)
        assert torch.equal(model.rope, expected.rope)
        mine = 0
        for (name, value), whole in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
            assert torch.equal(value.full_tensor(), whole), name
            assert value.to_local().shape[0] <= -(-whole.shape[0] // 2), name
            mine += 0 if tied and name == "head.weight" else value.to_local().numel()
        total = sum(p.numel() for p in expected.parameters())
        assert mine < 0.55 * total
        weights = {f"model.{k}": v for k, v in model.state_dict().items()}
        moments = {0: {"exp_avg": weights["model.embedding.weight"].clone()}}
        optimizer = {"state": moments, "param_groups": [{"params": [0]}]}
        state = {"state_dict": weights, "global_step": 3, "optimizer_states": [optimizer]}
        meta = {"model": vars(config(tied)), "step": 3}
        copy = Snapshot().take(state, mesh)
        tokenizer = folder / "tokenizer.model"
        checkpoint.save_shards(folder / f"step-{tied}", copy, meta, tokenizer, group=group)


def test_parts_are_drawn_saved_and_read_as_a_whole(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    in_two_processes(draw_and_save, tmp_path)
    for tied in (True, False):
        folder = tmp_path / f"step-{tied}"
        expected = Llama(config(tied)).init_weights(7).state_dict()
        assert checkpoint.verify(folder)["step"] == 3
        state = checkpoint.load_state(folder)
        assert {k.removeprefix("model.") for k in state["state_dict"]} == set(expected)
        for name, value in expected.items():
            assert torch.equal(state["state_dict"][f"model.{name}"], value), name
        (moments,) = state["optimizer_states"][0]["state"].values()
        assert torch.equal(moments["exp_avg"], expected["embedding.weight"])
        assert state["optimizer_states"][0]["param_groups"] == [{"params": [0]}]
        assert not list(tmp_path.glob(".step-*"))
        model = checkpoint.load_model(folder)
        assert torch.equal(model.head.weight, expected["head.weight"])


def fail_on_one(rank, folder):
    group = dist.new_group(backend="gloo")
    with pytest.raises(OSError if rank == 1 else RuntimeError):
        sharded.run_together(group, (lambda: (folder / "none" / "x").write_text("")) if rank == 1 else None)
    sharded.run_together(group, None)
    (folder / f"rank-{rank}").mkdir()
    (folder / f"rank-{rank}" / "file").write_text("")
    place = folder / "rank-1" / "file" / "no folder" if rank == 1 else folder / "rank-0"
    with pytest.raises(OSError, match="process 1: Not a directory"):
        sharded.write(place, {f"tensor of {rank}": torch.zeros(2)}, group)
    shutil.rmtree(folder / f"rank-{rank}")
    state = {"state_dict": {"model.embedding.weight": torch.zeros(2), "model.head.weight": None},
             "optimizer_states": [{"state": {}, "param_groups": []}]}  # fmt: skip
    meta = {"model": {"tie_embeddings": True}}
    missing = folder / "no-tokenizer.model"
    with pytest.raises(InputError if rank == 0 else RuntimeError):
        checkpoint.save_shards(folder / "step-1", state, meta, missing, group=group)


def test_a_failure_of_one_is_known_to_all_and_leaves_nothing(tmp_path):
    in_two_processes(fail_on_one, Path(tmp_path))
    assert list(tmp_path.iterdir()) == []
