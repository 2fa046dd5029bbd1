"""Complete code in the terminal: python launch/sample.py CHECKPOINT --prompt 'def fib(n):'."""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import sys
from dataclasses import dataclass
from typing import Literal

from llama_scale.cli import parse, run_cli
from llama_scale.errors import UserError
from llama_scale.generation.config import SamplingConfig


EXAMPLE = "runs/M1-201k-seed0 --prompt 'def fib(n):' --temperature 0.2 --max_new_tokens 64"


@dataclass(frozen=True, kw_only=True)
class SampleConfig(SamplingConfig):
    """One completion, printed after its prompt as it comes.

    Args:
        checkpoint: A checkpoint folder, or a run folder for its newest checkpoint.
        prompt: Code to continue; - reads it from standard input.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; auto is bf16 where this machine multiplies that faster.
        threads: CPU threads; null leaves the library's choice.
    """

    checkpoint: str
    prompt: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    threads: int | None = None


def main(argv: list[str] | None = None) -> None:
    """Stream one completion to standard output."""
    config = parse(SampleConfig, "Complete code in the terminal.", argv, "checkpoint", example=EXAMPLE)

    import torch

    from llama_scale.checkpoint.folder import resolve
    from llama_scale.checkpoint.opened import load_model, load_tokenizer
    from llama_scale.device import pick_decoding_precision, pick_device, set_threads
    from llama_scale.generation.generate import encode_prompt, stream
    from llama_scale.generation.weight_layout import store_by_columns

    set_threads(config.threads)
    prompt = read_prompt(config.prompt)
    checkpoint = resolve(config.checkpoint)
    device = pick_device(config.device)
    model = load_model(checkpoint, device)
    if pick_decoding_precision(config.precision, device, model.config.d_model, model.config.d_ff).bf16:
        model = model.to(torch.bfloat16)
    model = store_by_columns(model)
    tokenizer = load_tokenizer(checkpoint)
    ids, truncated = encode_prompt(tokenizer, prompt, model.config, config.max_new_tokens)
    if truncated:
        print(f"prompt: the model sees its last {len(ids)} tokens only", file=sys.stderr)
    print(prompt, end="", flush=True)
    for text in stream(model, tokenizer, prompt, config):
        print(text, end="", flush=True)
    print()


def read_prompt(prompt: str) -> str:
    """Return the prompt, from standard input if it is -; raise UserError if it is not UTF-8."""
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode()
        return prompt.encode().decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise UserError("prompt: not UTF-8 text; save it as UTF-8") from None


if __name__ == "__main__":
    run_cli(main)
