"""One contender in a process of its own: reads a number, takes that training step, times it.

    python -m benchmarks.training.worker JOB

A number with a minus, as -3, asks instead for the kernels of that many steps. JOB is the JSON of a ``TrainingJob``.
Each answer is a line of JSON on standard output.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from benchmarks.baselines import build_contender
from benchmarks.hardware import peak_process_memory
from benchmarks.timing import device_clock
from benchmarks.training.kernels import profile_steps
from llama_scale.config import ModelConfig, OptimConfig
from llama_scale.device import attention_backends, set_threads
from llama_scale.errors import InputError
from llama_scale.training.optim import build_optimizer, clip_in_step

OUT_OF_MEMORY = "out of memory"
# As torch and Triton, the CPU allocator and cuBLAS say it.
OUT_OF_MEMORY_PHRASES = (OUT_OF_MEMORY, "not enough memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class TrainingJob:
    """What a worker trains.

    Args:
        peer: llama_scale, or the name of a peer.
        model: The fields of the model's configuration.
        micro_batch: Sequences in a forward pass.
        accumulate: Forward passes in a step.
        bf16: Compute under bf16 autocast, the weights in float32.
        compile: Compile the model.
        recompute: Recompute each block in the backward pass (ours alone).
        device: cpu or cuda.
        threads: CPU threads; None leaves the library's choice.
        draw_on_device: Draw the weights on the device, which is fast and gives other values.
    """

    MODULE: ClassVar[str] = "benchmarks.training.worker"

    peer: str
    model: dict[str, Any]
    micro_batch: int
    accumulate: int = 1
    bf16: bool = False
    compile: bool = False
    recompute: bool = False
    device: str = "cpu"
    threads: int | None = None
    draw_on_device: bool = False

    @property
    def trains(self) -> str:
        """What is trained: contenders that train the same have the same losses."""
        return "all weights"

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self.micro_batch * self.accumulate * self.model["context_length"]


def draw_batch(job: TrainingJob, number: int) -> torch.Tensor:
    """Return the tokens of training step ``number`` (accumulate, micro_batch, T + 1)."""
    shape = (job.accumulate, job.micro_batch, job.model["context_length"] + 1)
    generator = torch.Generator().manual_seed(number)
    vocab_size = ModelConfig(**job.model).vocab_size
    return torch.randint(0, vocab_size, shape, generator=generator).to(job.device)


def build_step(job: TrainingJob) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that takes a training step on a batch and returns its loss."""
    config = ModelConfig(**job.model)
    model, loss = build_contender(job.peer, config, job.compile, job.device, job.draw_on_device)
    if job.recompute:
        for block in model.blocks:
            block.recompute = True
    optimizer = build_optimizer(model, OptimConfig(), lr=1e-3)

    def step(batch: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=job.device)
        for tokens in batch:  # (B, T + 1)
            with torch.autocast(job.device, torch.bfloat16, enabled=job.bf16, cache_enabled=False):
                value = loss(tokens)
            (value / job.accumulate).backward()
            total += value.detach() / job.accumulate
        clip_in_step(optimizer, model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def peak_memory(device: str) -> int:
    """Return the most bytes of tensors on the GPU, or of this process in host memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_process_memory()


def main() -> None:
    """Build the contender, then take the steps that standard input asks for."""
    serve(TrainingJob(**json.loads(sys.argv[1])), build_step, draw_batch)


def serve(job: Any, build_step: Callable[[Any], Callable], draw_batch: Callable[[Any, int], Any]) -> None:
    """Answer what standard input asks for with the steps of ``job``; one begins with a batch drawn by its number."""
    set_threads(job.threads)
    clock = device_clock(job.device)
    try:
        step = build_step(job)
        reply(threads=torch.get_num_threads(), torch=torch.__version__)
        with attention_backends(job.device, masked=job.model.get("document_mask", False)):
            for line in sys.stdin:
                if int(line) < 0:
                    reply(kernels=profile_steps(partial(step, draw_batch(job, 0)), -int(line), job.device))
                    continue
                batch = draw_batch(job, int(line))
                start = clock()
                loss = step(batch)
                seconds = clock() - start
                reply(seconds=seconds, loss=loss.item(), memory=peak_memory(job.device))
    except (InputError, ImportError) as error:
        reply(error=str(error))
    except RuntimeError as error:
        if not any(phrase in str(error) for phrase in OUT_OF_MEMORY_PHRASES):
            raise
        reply(error=OUT_OF_MEMORY)


def reply(**values: Any) -> None:
    """Write one line of JSON."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
