"""Disks too small for what a run would write: real runs on a tmpfs of a few checkpoints."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.files import append_jsonl, read_jsonl
from tests.conftest import ROOT, TINY_MODEL

TENSORS = {name: torch.zeros(3) for name in ("embedding.weight", "head.weight")}
CHECKPOINT = 504 << 10  # bytes on disk of one of TINY_MODEL's
NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def can_mount() -> bool:
    try:
        done = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here (unshare --mount)")


def train_on_a_disk(size: int, data: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    """Train in a namespace where the runs lie on a tmpfs of ``size`` bytes; copy them to ``out`` at the end."""
    disk = out.with_name("disk")
    disk.mkdir()
    flags = ["--optim.batch_tokens=512", "--val_tokens=2000", "--threads=1", "--device=cpu", "--tokens=10240"]
    argv = [sys.executable, ROOT / "launch/train.py", *TINY_MODEL, f"--data={data}", f"--run={disk}/run", *flags, *more]
    script = (
        f"mount -t tmpfs -o size={size} tmpfs {disk} && {shlex.join(map(str, argv))}\n"
        f"code=$?; cp -r {disk}/run {out}; exit $code"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, text=True, env=environment)


@needs_mounts
def test_room_for_two_checkpoints_and_not_for_three(tiny_data, tmp_path):
    """The older one is deleted only where the new one finds no room, and the run ends as on a large disk."""
    done = train_on_a_disk(int(2.4 * CHECKPOINT), tiny_data, tmp_path / "out", "--checkpoint_every=5")
    assert done.returncode == 0, done.stderr
    assert "step 15: the disk is full; step-00000005 was deleted to make room" in done.stderr
    assert "not saved" not in done.stderr
    assert checkpoint.newest(tmp_path / "out").name == "step-00000020"
    rows = [row["step"] for row in read_jsonl(tmp_path / "out/metrics.jsonl")]
    assert rows[-1] == 20 and (tmp_path / "out/result.json").is_file()


@needs_mounts
def test_what_is_kept_for_good_is_not_deleted_for_room(tiny_data, tmp_path):
    flags = ["--checkpoint_every=5", "--keep_steps=[5]"]
    done = train_on_a_disk(int(2.4 * CHECKPOINT), tiny_data, tmp_path / "out", *flags)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("train.py: error: no space left on device")
    assert "step 15: checkpoint not saved" in done.stderr
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path / "out")]
    assert names == ["step-00000005", "step-00000010"]


@needs_mounts
def test_room_for_one_checkpoint_keeps_that_one(tiny_data, tmp_path):
    done = train_on_a_disk(int(1.5 * CHECKPOINT), tiny_data, tmp_path / "out", "--checkpoint_every=5")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("train.py: error: no space left on device")
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "out")] == ["step-00000005"]
    assert checkpoint.newest(tmp_path / "out").name == "step-00000005"


def test_room_is_made_of_the_oldest_and_never_of_the_last_valid_one(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save_weights(tmp_path / f"checkpoints/step-{step:08d}", TENSORS, {"step": step, "model": {}}, None)
    (tmp_path / "checkpoints/step-00000004/model.safetensors").write_bytes(b"damaged")
    room = [checkpoint.make_room(tmp_path, keep_steps=[2]) for _ in range(3)]
    assert [path and int(path.name[5:]) for path in room] == [1, 4, None]
    assert [int(path.name[5:]) for path in checkpoint.list_checkpoints(tmp_path)] == [2, 3]


def test_a_row_that_does_not_fit_leaves_no_half_line(tmp_path):
    """With a limit on the size of a file the system takes half of the row before it refuses the rest."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n')
    code = f"""
import resource, signal
from llama_scale.files import append_jsonl
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    append_jsonl({str(path)!r}, [{{"step": 2}}])
except OSError as error:
    print(error.errno, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"27 {path}\n", done.stderr
    assert path.read_text() == '{"step": 1}\n'
    append_jsonl(path, [{"step": 2}, {"step": 3}])
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3]
