"""One contender in a process of its own."""

import json
from dataclasses import asdict

import pytest

from benchmarks.training.worker import main as worker_main
from tests.benchmarks.training.helpers import JOB


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("CUDA error: out of memory", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_every_way_to_say_out_of_memory(said, full, monkeypatch, capsys):
    def fail(job):
        raise RuntimeError(said)

    monkeypatch.setattr("benchmarks.training.worker.build_step", fail)
    monkeypatch.setattr("sys.argv", ["worker", json.dumps(asdict(JOB))])
    if full:
        worker_main()
        assert json.loads(capsys.readouterr().out) == {"error": "out of memory"}
    else:
        with pytest.raises(RuntimeError):
            worker_main()
