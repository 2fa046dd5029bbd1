"""Kill a process at every write of a checkpoint; run by test_folder.py in a fresh process.

Each write, fsync, creation, rename and deletion is one point. At point i a forked child ends at
once (no handler runs, as with SIGKILL), leaving the file that it wrote cut in half.
"""

import os
import shutil
import sys
from pathlib import Path

import torch

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.config import ModelConfig, OptimConfig
from llama_scale.model.llama import Llama
from llama_scale.training.optim import build_optimizer

CONFIG = ModelConfig(32, 1, 2, 64, vocab_size=64, context_length=16)
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree"}


def make_state(step: int) -> dict:
    model = Llama(CONFIG).init_weights(step)
    optimizer = build_optimizer(model, OptimConfig(), 1e-2)
    model.loss(torch.zeros(1, 9, dtype=torch.long)).backward()
    optimizer.step()
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    return {"state_dict": weights, "optimizer_states": [optimizer.state_dict()]}


def save(run: Path, step: int) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    meta = {"model": vars(CONFIG), "step": step}
    checkpoint.save(folder, make_state(step), meta, run.parent / "tokenizer.model")


def arm(run: Path, target: int) -> None:
    """End this process at its ``target``-th change of the run's files."""
    count, root = 0, str(run)

    def point(path: object = None) -> None:
        nonlocal count
        count += 1
        if count == target:
            if path and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os._exit(9)

    def audit(event: str, values: tuple) -> None:
        if event == "open" and isinstance(values[1], str) and set(values[1]) & set("wxa+"):
            if str(values[0]).startswith(root):
                point()
        elif event in CHANGES and any(str(value).startswith(root) for value in values):
            point()

    write, sync = checkpoint.save_file, os.fsync

    def save_file(tensors: dict, path: Path, metadata: dict | None) -> None:
        point()
        write(tensors, path, metadata)
        point(path)

    def fsync(handle: int) -> None:
        point(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)
        point()

    checkpoint.save_file, os.fsync = save_file, fsync
    sys.addaudithook(audit)


def try_point(folder: Path, steps: list[int], target: int) -> bool:
    """Kill at point ``target`` of a save after those of ``steps``; False when there is no such."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(folder / "before", run)
    child = os.fork()
    if child == 0:
        arm(run, target)
        save(run, 2)
        checkpoint.prune(run, keep_last=1)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = checkpoint.newest(run)
    assert found is not None, f"point {target}: no valid checkpoint"
    step = int(found.name.removeprefix("step-"))
    for name, value in make_state(step)["state_dict"].items():
        assert torch.equal(checkpoint.load_state(found)["state_dict"][name], value), target
    checkpoint.clear_leftovers(run)
    save(run, 2)
    checkpoint.prune(run, keep_last=1)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-00000002"], names
    checkpoint.verify(run / "checkpoints/step-00000002")
    return killed


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    (folder / "tokenizer.model").write_bytes(b"pieces" * 100)
    for steps in ([1], [1, 2]):
        shutil.rmtree(folder / "before", ignore_errors=True)
        for step in steps:
            save(folder / "before", step)
        points = 1
        while try_point(folder, steps, points):
            points += 1
        print(f"{points - 1} of {points - 1} kill points left a valid checkpoint")


if __name__ == "__main__":
    main()
