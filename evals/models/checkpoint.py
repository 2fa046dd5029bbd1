"""A checkpoint of this project as a model that completes prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evals.models.request import Completion, Request
from evals.perplexity import References, reference_bits_per_byte
from llama_scale.checkpoint.opened import load_model, load_tokenizer
from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.device import set_threads
from llama_scale.generation.generate import generate
from llama_scale.generation.weight_layout import store_by_columns
from llama_scale.model.llama import Llama


@dataclass
class CheckpointCompleter:
    """A model of this project with its tokenizer; ``cuda_graphs`` as in ``generate``."""

    model: Llama
    tokenizer: AnyTokenizer
    cuda_graphs: bool = False

    def complete(self, request: Request) -> Iterator[Completion]:
        """Yield completions batch by batch; each depends on (seed, task, sample) alone."""
        prompts = list(request.prompts.values())
        options = {"tasks": list(request.prompts), "cuda_graphs": self.cuda_graphs}
        drawn = generate(
            self.model, self.tokenizer, prompts, request.sampling, request.n_samples, request.batch_size, **options
        )
        for row in drawn:
            yield Completion(row.task, row.sample, row.text, len(row.tokens), row.finish_reason, row.prompt_truncated)

    def score_references(self, pairs: Sequence[tuple[str, str]]) -> References:
        """Score (prompt, solution) pairs in batches."""
        return reference_bits_per_byte(self.model, self.tokenizer, pairs)


def open_checkpoint(
    folder: Path, device: str, bf16: bool = False, threads: int | None = None, cuda_graphs: bool = False
) -> CheckpointCompleter:
    """Load a checkpoint folder, an adapter merged in, with its tokenizer; raise InputError if it cannot be."""
    set_threads(threads)
    model = load_model(folder, device, torch.bfloat16 if bf16 else torch.float32)
    return CheckpointCompleter(store_by_columns(model), load_tokenizer(folder), cuda_graphs)
