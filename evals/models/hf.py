"""A transformers folder as a model that completes prompts."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evals.models.native import open_native
from evals.models.request import Completion, Request, cut_at_stop
from evals.perplexity import References, Score, windows
from llama_scale.data.byte_level import end_ids
from llama_scale.errors import InputError
from llama_scale.files import check_regular
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import prompt_room
from llama_scale.generation.sampling import draw_tokens, sample_keys
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.lora import load_adapter, merge
from llama_scale.text import first_line

# Texts whose tokens end where they end with most tokenizers: a solution is encoded behind one of them.
ANCHORS = ("\n", ")", "x", "#", ";")
NO_BYTE = 8  # tokens within a stop string, beside one for each of its bytes


class Draw:
    """A logits processor that leaves one token of each row possible: the one that our own sampler takes.

    So nothing that a folder sets beside the weights (temperature, penalties, suppressed and forced tokens) has a say,
    and a completion depends on (seed, task, sample) alone. ``unknown`` (V,) are the ids that the tokenizer lacks.
    """

    def __init__(self, keys: Tensor, sampling: SamplingConfig, unknown: Tensor) -> None:
        self.keys, self.sampling, self.unknown, self.step = keys, sampling, unknown, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) with all but the drawn token at -inf."""
        scores = scores.float().masked_fill(self.unknown[: scores.shape[1]], -torch.inf)
        if not scores.amax(-1).isfinite().all():
            raise InputError("the model's output is not finite; its weights are damaged or need another precision")
        sampled = self.sampling.temperature > 0
        tokens = draw_tokens(scores, self.keys, self.step, self.sampling) if sampled else scores.argmax(-1)  # (B,)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class StopAt:
    """A stopping criterion: a row ends with a stop string in its new text, never in the prompt's end and that.

    ``lengths`` are the new tokens of each row (B,) that so ended, None of the others.
    """

    def __init__(self, tokenizer: Any, start: int, stops: Sequence[str], rows: int) -> None:
        self.tokenizer, self.start, self.stops = tokenizer, start, stops
        self.reach = max((len(stop.encode()) for stop in stops), default=0) + NO_BYTE
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Return which rows (B,) have ended."""
        new = input_ids.shape[1] - self.start
        for row, length in enumerate(self.lengths):
            if length is None and self.stops:
                text = decode(self.tokenizer, input_ids[row, self.start + max(0, new - self.reach) :].tolist())
                self.lengths[row] = new if any(stop in text for stop in self.stops) else None
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


@dataclass
class TransformersCompleter:
    """A folder that transformers' AutoModelForCausalLM loads; no code of the folder is run.

    A LLaMA is decoded by this project's own sampler, unless ``natively`` is False: the same tokens, sooner.
    With ``seq2seq`` it is AutoModelForSeq2SeqLM, whose encoder reads the prompt: such a model is asked by ``draw``.

    Its generation_config.json is read for the ids that end a document and for nothing else. With ``adapter``, a
    checkpoint of fine-tuning or a folder of peft, that adapter is merged into the weights. Raises InputError where the
    folder cannot be loaded, lacks weights, or its tokenizer has ids that the model does not.
    """

    folder: Path
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    adapter: Path | None = None
    seq2seq: bool = False
    natively: bool = True

    def __post_init__(self) -> None:
        dtype = torch.float32 if self.adapter else self.dtype  # an adapter is merged in float32
        self.tokenizer, model = load_folder(self.folder, dtype, self.seq2seq)
        if self.adapter is not None:
            foreign = ForeignModel(model)
            load_adapter(foreign, self.adapter)
            merge(foreign)
        self.model = model.to(self.device, self.dtype).eval()
        self.context = getattr(model.config, "max_position_embeddings", None) or 2048  # most tokens that it sees
        self.ends = all_end_ids(self.folder, self.tokenizer, model.config)
        self.vocab_size = self.model.get_input_embeddings().weight.shape[0]
        vocab, added = self.tokenizer.get_vocab(), self.tokenizer.get_added_vocab()
        most = max((i for token, i in vocab.items() if token not in added), default=0)
        if most >= self.vocab_size:
            found = f"the tokenizer has ids up to {most}, the model only {self.vocab_size} rows"
            raise InputError(f"{self.folder}: {found}; they are not of one model")
        logits = (self.model.get_output_embeddings() or self.model.get_input_embeddings()).weight.shape[0]
        self.unknown = torch.ones(logits, dtype=torch.bool, device=self.device)  # (V,)
        known = {*vocab.values(), *self.ends}
        self.unknown[[i for i in known if i < logits]] = False
        self.native = open_native(self.model, self.folder, self.ends, self.unknown) if self.natively else None

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return a prompt's ids, with the special ids that the tokenizer begins a text with, none that end one."""
        ids = self.tokenizer(prompt)["input_ids"]
        plain = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        extra = len(ids) - len(plain)
        begin = next((n for n in range(extra + 1) if ids[n : n + len(plain)] == plain), extra)
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        return self._checked(ids[: begin + len(plain)] or [start or 0])

    def encode_solution(self, before: list[int], solution: str) -> list[int]:
        """Return the ids of ``solution`` after the prompt's ids ``before``, which give its text back.

        It is encoded by itself where that does. A tokenizer that puts a space before each text does not: there it is
        encoded behind a text whose own ids are left out. Where nothing gives it back (a tokenizer that loses some
        characters), the ids that keep the most of its beginning are returned.
        """
        candidates = [self.tokenizer(solution, add_special_tokens=False)["input_ids"]]
        for anchor in ANCHORS:
            known, whole = (
                self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (anchor, anchor + solution)
            )
            if whole[: len(known)] == known:
                candidates.append(whole[len(known) :])
        texts = [self.continuation(before, ids) for ids in candidates]
        same = [_common_length(solution, text) + (text == solution) for text in texts]
        return self._checked(candidates[same.index(max(same))])

    def _checked(self, ids: list[int]) -> list[int]:
        if (most := max(ids, default=0)) >= self.vocab_size:
            found = f"the tokenizer gives the id {most}, the model only has {self.vocab_size} rows"
            raise InputError(f"{self.folder}: {found}; they are not of one model")
        return ids

    def continuation(self, prompt: list[int], drawn: list[int]) -> str:
        """Return the text that ``drawn`` adds to the text of ``prompt``.

        The two are decoded together: alone, the decoder of a LLaMA tokenizer takes a first space away.
        """
        before, whole = decode(self.tokenizer, prompt), decode(self.tokenizer, prompt + drawn)
        same = len(before) if whole.startswith(before) else _common_length(before, whole)
        return whole[same:]

    def complete(self, request: Request) -> Iterator[Completion]:
        """Yield the completions of one prompt after another; each depends on (seed, task, sample) alone."""
        most_new = request.sampling.max_new_tokens
        most = prompt_room(self.context, most_new)
        for task, prompt in request.prompts.items():
            ids = self.encode_prompt(prompt)
            kept = ids[-most:]
            limit = min(most_new, max(1, self.context - len(kept)))
            for start in range(0, request.n_samples, request.batch_size):
                samples = range(start, min(start + request.batch_size, request.n_samples))
                prompts, pairs = [kept] * len(samples), [(task, sample) for sample in samples]
                rows = self.draw(prompts, pairs, limit, request.sampling)
                for sample, row in zip(samples, rows, strict=True):
                    yield self.completion((task, sample), kept, row, request.sampling, len(ids) > most)

    @torch.inference_mode()
    def draw(
        self, prompts: Sequence[list[int]], samples: Sequence[tuple[int, int]], limit: int, sampling: SamplingConfig
    ) -> list[list[int]]:
        """Return at most ``limit`` new ids after each prompt, of ``samples`` (task, sample).

        After an end id there may be more. Prompts of unequal length are padded, an encoder's at the end.
        """
        if self.native:
            return self.native.draw(prompts, samples, limit, sampling)
        from transformers import LogitsProcessorList, StoppingCriteriaList

        longest = max(map(len, prompts))
        inputs = torch.zeros((len(prompts), longest), dtype=torch.long)  # (B, T)
        mask = torch.zeros_like(inputs)
        for row, ids in enumerate(prompts):
            place = slice(0, len(ids)) if self.seq2seq else slice(longest - len(ids), longest)
            inputs[row, place], mask[row, place] = torch.tensor(ids), 1
        settings = generation_settings(self.ends, limit)
        start = 1 if self.seq2seq else longest  # of what is new: after the decoder's first id, or the prompt
        if self.seq2seq:
            settings.decoder_start_token_id = self.model.config.decoder_start_token_id
        draw = Draw(sample_keys(sampling.seed, samples).to(self.device), sampling, self.unknown)
        stop = StopAt(self.tokenizer, start, sampling.stop, len(samples))
        out = self.model.generate(
            inputs.to(self.device),
            attention_mask=mask.to(self.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([draw]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        rows = out[:, start:].tolist()  # (B, new), padded where a row ended before the others
        return [row[:length] for row, length in zip(rows, stop.lengths, strict=True)]

    def completion(
        self, sample: tuple[int, int], prompt: list[int], row: list[int], sampling: SamplingConfig, truncated: bool
    ) -> Completion:
        """Return the completion that the ids of ``row`` are, up to an end id, cut before the first stop string."""
        end = next((n for n, token in enumerate(row) if token in self.ends), None)
        whole = decode(self.tokenizer, row[:end]) if self.seq2seq else self.continuation(prompt, row[:end])
        text = cut_at_stop(whole, sampling.stop)
        reason = "stop" if end is not None or len(text) < len(whole) else "length"
        return Completion(*sample, text, len(row[:end]), reason, truncated)

    @torch.inference_mode()
    def score_references(self, pairs: Sequence[tuple[str, str]]) -> References:
        """Score (prompt, solution) pairs one at a time, each solution after its prompt's ids, a long one in pieces."""
        scores, truncated, changed = [], 0, 0
        for prompt, solution in pairs:
            before = self.encode_prompt(prompt)
            after = self.encode_solution(before, solution)
            changed += self.continuation(before, after) != solution
            truncated += len(before) + len(after) > self.context + 1
            nats = 0.0
            for window, targets in windows(before, after, self.context):
                ids = torch.tensor(window, device=self.device)  # (T + 1,)
                logits = self.model(ids[None, :-1]).logits[0, -targets:].float()  # (M, V)
                nats += F.cross_entropy(logits, ids[-targets:], reduction="sum").item()
            scores.append(Score(nats, len(after), len(solution.encode())))
        if changed:
            lossy = f"its tokenizer does not give {changed} of {len(pairs)} reference solutions back"
            print(f"{self.folder}: {lossy}; their bits per byte are of the changed text", file=sys.stderr)
        return References(scores, truncated)


def load_folder(folder: Path, dtype: torch.dtype, seq2seq: bool = False) -> tuple[Any, Any]:
    """Return tokenizer and model of a transformers folder; raise InputError if they cannot be had whole."""
    try:
        import transformers
    except ImportError:
        raise InputError("transformers is not installed; pip install transformers") from None
    if (folder / "adapter_config.json").exists():
        try:
            import peft  # noqa: F401
        except ImportError:
            needed = "holds an adapter, which needs peft; pip install peft, or merge it into its base"
            raise InputError(f"{folder}: {needed}") from None
    for file in folder.iterdir():
        check_regular(file)
    local = {"trust_remote_code": False, "local_files_only": True}
    options = local | {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    options["generation_config"] = transformers.GenerationConfig()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
        model, report = kind.from_pretrained(folder, **options)
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises there has many types
        raise InputError(f"{folder}: transformers cannot load it ({first_line(error)[:200]})") from None
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{folder}: the weights lack {missing[0]} ({len(missing)} in all); they would be random")
    return tokenizer, model


def all_end_ids(folder: Path, tokenizer: Any, config: Any) -> list[int]:
    """Return the ids that end a document: the tokenizer's, and those of both configs.

    Raises InputError if generation_config.json is no JSON object.
    """
    own = getattr(config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]), *end_ids(folder)]
    return sorted({i for i in ids if type(i) is int and i >= 0})


def generation_settings(ends: list[int], limit: int) -> Any:
    """Return settings under which ``generate`` takes the likeliest token, up to ``limit`` of them or an end."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0
    )


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Return the text of ids as it was written: special ids left out, no space taken away before a comma or stop."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _common_length(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their start."""
    length = min(len(first), len(second))
    return next((n for n in range(length) if first[n] != second[n]), length)
