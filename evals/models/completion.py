"""What completes prompts: a checkpoint, a transformers folder, a completion server."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from evals.perplexity import References, Score, reference_bits_per_byte, windows
from llama_scale.checkpoint.folder import load_model
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.device import set_threads
from llama_scale.errors import InputError
from llama_scale.generation.generate import generate
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.llama import Llama


@dataclass(frozen=True)
class Request:
    """What to draw: ``n_samples`` completions of each prompt, ``batch_size`` rows together.

    ``prompts`` are by the number of their task, which fixes the random numbers.
    """

    prompts: Mapping[int, str]
    sampling: SamplingConfig
    n_samples: int = 1
    batch_size: int = 64


class Source(Protocol):
    """Whatever completes prompts."""

    def complete(self, request: Request) -> Iterator[dict[str, Any]]:
        """Yield rows of task, sample, text, tokens, ended_by and prompt_cut, in any order."""
        ...

    def gold(self, pairs: Sequence[tuple[str, str]]) -> References | None:
        """Score (prompt, solution) pairs, teacher-forced; None where that cannot be done."""
        ...


@dataclass
class Checkpoint:
    """A model of this project with its tokenizer; ``cuda_graphs`` as in ``generate``."""

    model: Llama
    tokenizer: Tokenizer
    cuda_graphs: bool = False

    def complete(self, request: Request) -> Iterator[dict[str, Any]]:
        """Yield completions batch by batch; each depends on (seed, task, sample) alone."""
        drawn = generate(
            self.model,
            self.tokenizer,
            list(request.prompts.values()),
            request.sampling,
            request.n_samples,
            request.batch_size,
            tasks=list(request.prompts),
            cuda_graphs=self.cuda_graphs,
        )
        for row in drawn:
            yield {
                "task": row.task, "sample": row.sample, "text": row.text,
                "tokens": len(row.tokens), "ended_by": row.finish_reason,
                "prompt_cut": row.prompt_truncated,
            }  # fmt: skip

    def gold(self, pairs: Sequence[tuple[str, str]]) -> References:
        """Score (prompt, solution) pairs in batches."""
        return reference_bits_per_byte(self.model, self.tokenizer, pairs)


def open_checkpoint(
    folder: Path,
    device: str,
    bf16: bool = False,
    threads: int | None = None,
    cuda_graphs: bool = False,
) -> Checkpoint:
    """Load a checkpoint folder with its tokenizer; raise InputError if it cannot be."""
    set_threads(threads)
    model = load_model(folder, device, torch.bfloat16 if bf16 else torch.float32)
    return Checkpoint(model, Tokenizer(folder / "tokenizer.model"), cuda_graphs)


@dataclass
class Server:
    """An OpenAI-compatible server: ``url`` ends before /completions, as in http://host/v1."""

    url: str
    name: str
    timeout: float = 600.0

    def complete(self, request: Request) -> Iterator[dict[str, Any]]:
        """Ask for the completions of one prompt at a time; raise InputError if that fails."""
        sampling, count = request.sampling, request.n_samples
        for number, prompt in request.prompts.items():
            body = {
                "model": self.name, "prompt": prompt, "n": count,
                "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature,
                "top_p": sampling.top_p, "seed": sampling.seed + number,
                "stop": list(sampling.stop[:4]) or None,
            }  # fmt: skip
            choices = self._ask(body)
            if len(choices) < count:
                raise InputError(f"{self.url}: {len(choices)} completions of {count} asked for")
            for index, choice in enumerate(choices[:count]):
                text = cut(str(choice.get("text") or ""), sampling.stop)
                yield {
                    "task": number, "sample": index, "text": text, "tokens": None,
                    "ended_by": choice.get("finish_reason"), "prompt_cut": False,
                }  # fmt: skip

    def _ask(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        url = f"{self.url.rstrip('/').removesuffix('/completions')}/completions"
        request = urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return json.load(reply)["choices"]
        except urllib.error.HTTPError as error:
            said = error.read(200).decode("utf-8", "replace").replace("\n", " ")
            raise InputError(f"{url}: {error.code} {said}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{url}: no completion ({type(error).__name__}: {error})") from None

    def gold(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Servers give no probabilities of a given text that could be relied on."""


@dataclass
class Transformers:
    """A folder that transformers' AutoModelForCausalLM loads; no code of the folder is run."""

    folder: Path
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        try:
            import transformers

            load = {"trust_remote_code": False, "local_files_only": True}
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **load)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder, dtype=self.dtype, use_safetensors=True, **load
            )
        except ImportError:
            raise InputError("transformers is not installed; pip install transformers") from None
        except (OSError, ValueError) as error:
            words = str(error).splitlines()[0]
            raise InputError(f"{self.folder}: transformers cannot load it ({words})") from None
        self.model = model.to(self.device).eval()

    @property
    def context(self) -> int:
        """Most tokens that the model sees."""
        return getattr(self.model.config, "max_position_embeddings", None) or 2048

    def complete(self, request: Request) -> Iterator[dict[str, Any]]:
        """Yield the completions of one prompt after another, with transformers' own sampler."""
        sampling = request.sampling
        hot = sampling.temperature > 0
        extra = {"temperature": sampling.temperature, "top_p": sampling.top_p,
                 "top_k": sampling.top_k or 0} if hot else {}  # fmt: skip
        for number, prompt in request.prompts.items():
            ids = self.tokenizer(prompt)["input_ids"]
            room = max(1, self.context - sampling.max_new_tokens)
            inputs = torch.tensor([ids[-room:]], device=self.device)  # (1, T)
            for start in range(0, request.n_samples, request.batch_size):
                count = min(request.batch_size, request.n_samples - start)
                torch.manual_seed(sampling.seed + 1_000_003 * number + start)
                out = self.model.generate(
                    inputs, attention_mask=torch.ones_like(inputs), do_sample=hot,
                    num_return_sequences=count, max_new_tokens=sampling.max_new_tokens,
                    pad_token_id=self.tokenizer.eos_token_id or 0, tokenizer=self.tokenizer,
                    stop_strings=list(sampling.stop) or None, **extra,
                )  # fmt: skip
                for index, row in enumerate(out[:, inputs.shape[1] :].tolist()):
                    text = self.tokenizer.decode(row, skip_special_tokens=True)
                    yield {
                        "task": number, "sample": start + index,
                        "text": cut(text, sampling.stop), "tokens": len(row),
                        "ended_by": "transformers", "prompt_cut": len(ids) > room,
                    }  # fmt: skip

    @torch.inference_mode()
    def gold(self, pairs: Sequence[tuple[str, str]]) -> References:
        """Score (prompt, solution) pairs one at a time, the solution encoded by itself.

        A solution longer than the context is scored in pieces, as in ``reference_bits_per_byte``.
        """
        scores, short = [], 0
        for prompt, solution in pairs:
            before = self.tokenizer(prompt)["input_ids"] or [self.tokenizer.eos_token_id or 0]
            after = self.tokenizer(solution, add_special_tokens=False)["input_ids"]
            short += len(before) + len(after) > self.context + 1
            nats = 0.0
            for window, targets in windows(before, after, self.context):
                ids = torch.tensor(window, device=self.device)  # (T + 1,)
                logits = self.model(ids[None, :-1]).logits[0, -targets:].float()  # (M, V)
                nats += F.cross_entropy(logits, ids[-targets:], reduction="sum").item()
            scores.append(Score(nats, len(after), len(solution.encode())))
        return References(scores, short)


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
