"""A transformers LLaMA decoded by this project's own sampler: with a cache of its prompts, no copy of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from llama_scale.data.open_tokenizer import AnyTokenizer, open_tokenizer
from llama_scale.errors import InputError
from llama_scale.generation.completion import Completion
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.running_batch import decode
from llama_scale.model.hf import as_llama
from llama_scale.model.llama import Llama


@dataclass
class NativeSampler:
    """A ``Llama`` and the tokenizer of its folder, which ends a text at any of ``tokenizer.ends``."""

    llama: Llama
    tokenizer: AnyTokenizer

    def draw(
        self, prompts: Sequence[list[int]], samples: Sequence[tuple[int, int]], limit: int, sampling: SamplingConfig
    ) -> list[list[int]]:
        """Return at most ``limit`` new ids after each prompt, of ``samples`` (task, sample); an end's id is the last.

        Equal prompts share one pass. The ids do not depend on the batch (float32).
        """
        contexts: dict[tuple[int, ...], list[int]] = {}
        rows = [
            Completion(*sample, contexts.setdefault(tuple(ids), ids), False)
            for ids, sample in zip(prompts, samples, strict=True)
        ]
        for _ in decode(self.llama, self.tokenizer, rows, replace(sampling, max_new_tokens=limit), len(rows)):
            pass
        end = min(self.tokenizer.ends)
        return [[*row.tokens, end] if row.finish_reason == "stop" else row.tokens for row in rows]


def open_native(inner: Any, folder: Path, ends: Sequence[int], unknown: Tensor) -> NativeSampler | None:
    """Return the sampler of transformers' model ``inner`` from ``folder``; None where ours would not draw the same.

    That is a model that is no LLaMA, a tokenizer that does not give text back byte for byte or whose ids have gaps: of
    ``unknown`` (V,), the ids that are not to be drawn, all must be the last.
    """
    llama = as_llama(inner)
    if llama is None or not ends:
        return None
    try:
        tokenizer = open_tokenizer(folder)
    except InputError:
        return None
    if unknown[: tokenizer.vocab_size].any() or not unknown[tokenizer.vocab_size :].all():
        return None
    tokenizer.ends = frozenset(ends)
    return NativeSampler(llama, tokenizer)
