"""Batched sampling with a KV cache.

The context of a completion is what the tokenizer makes of its prompt: of our models one document end followed by the
prompt, as at the start of a document in training. The samples of a prompt share its keys and values; finished sequences
leave the batch and others begin. The random numbers of a sample depend on (seed, task, sample) alone, so a completion
does not change with the batch that it is drawn in.
"""

from collections.abc import Iterator, Sequence

from llama_scale.config import ModelConfig
from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.generation.completion import Completion, ShownText
from llama_scale.generation.running_batch import decode
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.llama import Llama


def prompt_room(context_length: int, max_new_tokens: int) -> int:
    """Return the most tokens of a prompt that are kept: what the new ones leave, and half of the context at least."""
    return max(context_length - max_new_tokens, (context_length + 1) // 2)


def encode_prompt(
    tokenizer: AnyTokenizer, prompt: str, config: ModelConfig, max_new_tokens: int
) -> tuple[list[int], bool]:
    """Return the context tokens of a prompt and whether its start had to be cut.

    The last ``prompt_room`` tokens are kept.
    """
    ids = tokenizer.context(prompt)
    most = prompt_room(config.context_length, max_new_tokens)
    return ids[-most:], len(ids) > most


def generate(
    model: Llama,
    tokenizer: AnyTokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    n_samples: int = 1,
    batch_size: int = 64,
    tasks: Sequence[int] | None = None,
    cuda_graphs: bool = False,
) -> Iterator[Completion]:
    """Yield ``n_samples`` completions of each prompt, those of one together and in order, as they end.

    ``tasks`` number the prompts (default: their positions); with the seed and the sample's
    number they fix its random numbers. ``batch_size`` is completions decoded together, begun
    longest prompts first; ``cuda_graphs`` replays the kernels of a step as one CUDA graph (GPU
    only). Ids that the tokenizer lacks are never drawn; raises InputError if it has ids that the
    model lacks.
    """
    by_prompt = []
    for task, prompt in zip(tasks or range(len(prompts)), prompts, strict=True):
        ids, truncated = encode_prompt(tokenizer, prompt, model.config, sampling.max_new_tokens)
        by_prompt.append([Completion(task, n, ids, truncated) for n in range(n_samples)])
    by_prompt.sort(key=lambda samples: -len(samples[0].context))
    samples_of = {id(samples[0].context): samples for samples in by_prompt}
    completions = [completion for samples in by_prompt for completion in samples]
    for ended in decode(model, tokenizer, completions, sampling, batch_size, cuda_graphs):
        for context in dict.fromkeys(id(completion.context) for completion in ended):
            if all(completion.finish_reason is not None for completion in samples_of[context]):
                yield from samples_of[context]


def stream(model: Llama, tokenizer: AnyTokenizer, prompt: str, sampling: SamplingConfig) -> Iterator[str]:
    """Yield the completion of one prompt as it comes: whole characters, never a stop string."""
    ids, truncated = encode_prompt(tokenizer, prompt, model.config, sampling.max_new_tokens)
    completion = Completion(0, 0, ids, truncated)
    shown = ShownText(completion, sampling.stop)
    for _ in decode(model, tokenizer, [completion], sampling, batch_size=1):
        if text := shown.take():
            yield text
