"""Complete a prompt with a trained run: python examples/generate.py runs/NAME 'def fib(n):'."""

import sys

from llama_scale import SamplingConfig, generate, load


def main(run: str, prompt: str) -> None:
    """Print three completions, each up to the next function."""
    model, tokenizer = load(run)
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=64, stop=("\ndef ",))
    for completion in generate(model, tokenizer, [prompt], sampling, n_samples=3):
        print(f"--- {len(completion.tokens)} tokens\n{prompt}{completion.text}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/generate.py RUN PROMPT")
    main(sys.argv[1], sys.argv[2])
