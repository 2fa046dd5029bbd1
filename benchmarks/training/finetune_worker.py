"""One contender of fine-tuning in a process of its own, as worker.py is one of pretraining.

    python -m benchmarks.training.finetune_worker JOB

JOB is the JSON of a ``FinetuneJob``.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.baselines import transformers_llama
from benchmarks.training.worker import serve
from llama_scale.config import LoraSettings, ModelConfig, TuneOptimConfig
from llama_scale.data.examples import ExampleBatch
from llama_scale.model.llama import Llama
from llama_scale.model.lora import PREFIX, adapt, file_names
from llama_scale.training.finetune import completion_loss
from llama_scale.training.optim import build_optimizer, clip_in_step

IGNORED = -100  # a label that transformers leaves out of the loss


@dataclass(frozen=True)
class FinetuneJob:
    """What a worker tunes.

    Args:
        peer: llama_scale, or peft: transformers' LLaMA with peft's model around it.
        method: lora or full.
        model: The fields of the model's configuration.
        micro_batch: Examples in a step, one forward pass.
        length: Tokens of the longest example that may come.
        rank: Of the adapters, on every layer but the head.
        bf16: Compute under bf16 autocast, the weights in float32.
        device: cpu or cuda.
        threads: CPU threads; None leaves the library's choice.
    """

    MODULE: ClassVar[str] = "benchmarks.training.finetune_worker"

    peer: str
    method: str
    model: dict[str, Any]
    micro_batch: int
    length: int
    rank: int
    bf16: bool = False
    device: str = "cpu"
    threads: int | None = None

    @property
    def trains(self) -> str:
        """What is trained: contenders that train the same have the same losses."""
        return self.method


class PaddedBatch(NamedTuple):
    """Examples of unequal length, padded at their ends: ``tokens`` (B, T + 1), which of them are, which are targets."""

    tokens: Tensor
    present: Tensor  # (B, T + 1) bool
    target: Tensor  # (B, T + 1) bool


def draw_batch(job: FinetuneJob, number: int) -> PaddedBatch:
    """Return the examples of step ``number``: of a half to the whole length, of which a third to two are targets."""
    generator = torch.Generator().manual_seed(number)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    lengths = draw(job.length // 2, job.length + 1, job.micro_batch)  # (B,)
    prompts = (lengths * (1 + torch.rand(job.micro_batch, generator=generator)) / 3).long().clamp(min=1)
    place = torch.arange(int(lengths.max()))  # (T + 1,)
    present = place < lengths[:, None]  # (B, T + 1)
    tokens = draw(3, ModelConfig(**job.model).vocab_size, job.micro_batch, len(place)) * present
    batch = PaddedBatch(tokens, present, present & (place >= prompts[:, None]))
    return PaddedBatch(*(value.to(job.device) for value in batch))


def build_contender(job: FinetuneJob) -> tuple[nn.Module, Callable[[PaddedBatch], Tensor]]:
    """Return a model and its loss; all contenders have the same weights, and the same adapters."""
    llama = Llama.empty_model(ModelConfig(**job.model)).init_weights(0)
    settings = LoraSettings(job.rank)
    if job.peer == "peft":
        return build_peft(llama, settings, job)
    if job.method == "lora":
        adapt(llama, settings, seed=0)
    llama.to(job.device).train()
    return llama, lambda batch: completion_loss(llama, to_examples(batch))


def to_examples(batch: PaddedBatch) -> ExampleBatch:
    """Return a batch as ours is."""
    inputs, target = batch.tokens[:, :-1], batch.target[:, 1:]
    rows = target.flatten().nonzero().flatten()  # (M,)
    return ExampleBatch(inputs, rows, batch.tokens[:, 1:][target], torch.ones((), device=inputs.device))


def build_peft(llama: Llama, settings: LoraSettings, job: FinetuneJob) -> tuple[nn.Module, Callable]:
    """Return transformers' LLaMA with peft's model around it, its loss as transformers' Trainer has it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=int(settings.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(transformers_llama(llama), config)
    adapt(llama, settings, seed=0)
    ours = dict(llama.named_parameters())
    with torch.no_grad():
        theirs = dict(model.named_parameters())
        for name, file_name in file_names(llama).items():
            theirs[file_name.replace(".weight", ".default.weight")].copy_(ours[name])
    assert all(name.startswith(PREFIX) for name in theirs)
    model.to(job.device).train()

    def loss(batch: PaddedBatch) -> Tensor:
        labels = batch.tokens.masked_fill(~batch.target, IGNORED)
        return model(input_ids=batch.tokens, attention_mask=batch.present.long(), labels=labels, use_cache=False).loss

    return model, loss


def build_step(job: FinetuneJob) -> Callable[[PaddedBatch], Tensor]:
    """Return the function that takes a step on a batch and returns its loss: fused AdamW and clipping for all."""
    model, loss = build_contender(job)
    optimizer = build_optimizer(model, TuneOptimConfig(), lr=1e-4)

    def step(batch: PaddedBatch) -> Tensor:
        with torch.autocast(job.device, torch.bfloat16, enabled=job.bf16):
            value = loss(batch)
        value.backward()
        clip_in_step(optimizer, model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return step


def main() -> None:
    """Build the contender, then take the steps that standard input asks for."""
    serve(FinetuneJob(**json.loads(sys.argv[1])), build_step, draw_batch)


if __name__ == "__main__":
    main()
