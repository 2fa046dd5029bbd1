"""One step in a process of its own: python -m benchmarks.gpu.step JOB, the JSON of a ``StepJob``."""

import json
import sys
from importlib import import_module

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from llama_scale.errors import InputError

MODULES = {
    "setup": "benchmarks.gpu.setup_check",
    "correctness": "benchmarks.gpu.correctness",
    "speed": "benchmarks.gpu.speed",
    "sampling": "benchmarks.gpu.sampling",
    "ladder": "benchmarks.gpu.ladder",
}


def main() -> None:
    """Run the step that the argument describes."""
    job = StepJob(**json.loads(sys.argv[1]))
    record = Record(job.record)
    try:
        import_module(MODULES[job.name]).run(job, record)
    except InputError as error:
        sys.exit(f"{job.name}: {error}")


if __name__ == "__main__":
    main()
