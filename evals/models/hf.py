"""A transformers folder as a model that completes prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from evals.models.request import Completion, Request, cut_at_stop
from evals.perplexity import References, Score, windows
from llama_scale.errors import InputError
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.lora import load_adapter, merge


@dataclass
class TransformersCompleter:
    """A folder that transformers' AutoModelForCausalLM loads; no code of the folder is run.

    With ``adapter``, a checkpoint of fine-tuning or a folder of peft, that adapter is merged into the weights.
    """

    folder: Path
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    adapter: Path | None = None

    def __post_init__(self) -> None:
        try:
            import transformers

            load = {"trust_remote_code": False, "local_files_only": True}
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **load)
            load |= {"dtype": self.dtype, "use_safetensors": True}
            model = transformers.AutoModelForCausalLM.from_pretrained(self.folder, **load)
        except ImportError:
            raise InputError("transformers is not installed; pip install transformers") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder}: transformers cannot load it ({str(error).splitlines()[0]})") from None
        if self.adapter is not None:
            foreign = ForeignModel(model.float())  # merged in float32
            load_adapter(foreign, self.adapter)
            merge(foreign)
        self.model = model.to(self.device, self.dtype).eval()
        self.context = getattr(model.config, "max_position_embeddings", None) or 2048  # most tokens that it sees

    def complete(self, request: Request) -> Iterator[Completion]:
        """Yield the completions of one prompt after another, with transformers' own sampler."""
        sampling = request.sampling
        options = {"do_sample": sampling.temperature > 0, "max_new_tokens": sampling.max_new_tokens,
                   "pad_token_id": self.tokenizer.eos_token_id or 0, "tokenizer": self.tokenizer,
                   "stop_strings": list(sampling.stop) or None}  # fmt: skip
        if options["do_sample"]:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or 0}
        room = max(1, self.context - sampling.max_new_tokens)
        for task, prompt in request.prompts.items():
            ids = self.tokenizer(prompt)["input_ids"]
            inputs = torch.tensor([ids[-room:]], device=self.device)  # (1, T)
            for start in range(0, request.n_samples, request.batch_size):
                count = min(request.batch_size, request.n_samples - start)
                torch.manual_seed(sampling.seed + 1_000_003 * task + start)
                mask = torch.ones_like(inputs)
                out = self.model.generate(inputs, attention_mask=mask, num_return_sequences=count, **options)
                # out is (count, T + new), padded where a row ended before the others.
                for index, row in enumerate(out[:, inputs.shape[1] :].tolist()):
                    yield self._completion(task, start + index, row, request, len(ids) > room)

    def _completion(self, task: int, sample: int, drawn: list[int], request: Request, truncated: bool) -> Completion:
        """Return a completion of the tokens ``drawn``, with what pads them at the end."""
        whole = self.tokenizer.decode(drawn, skip_special_tokens=True)
        text = cut_at_stop(whole, request.sampling.stop)
        ended = len(text) < len(whole) or self.tokenizer.eos_token_id in drawn
        reason = "stop" if ended or len(drawn) < request.sampling.max_new_tokens else "length"
        return Completion(task, sample, text, len(drawn), reason, truncated)

    @torch.inference_mode()
    def score_references(self, pairs: Sequence[tuple[str, str]]) -> References:
        """Score (prompt, solution) pairs one at a time, each solution encoded by itself, a long one in pieces."""
        scores, truncated = [], 0
        for prompt, solution in pairs:
            before = self.tokenizer(prompt)["input_ids"] or [self.tokenizer.eos_token_id or 0]
            after = self.tokenizer(solution, add_special_tokens=False)["input_ids"]
            truncated += len(before) + len(after) > self.context + 1
            nats = 0.0
            for window, targets in windows(before, after, self.context):
                ids = torch.tensor(window, device=self.device)  # (T + 1,)
                logits = self.model(ids[None, :-1]).logits[0, -targets:].float()  # (M, V)
                nats += F.cross_entropy(logits, ids[-targets:], reduction="sum").item()
            scores.append(Score(nats, len(after), len(solution.encode())))
        return References(scores, truncated)
