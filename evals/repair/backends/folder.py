"""A transformers folder as a backend: its chat template where it has one; a model with an encoder too.

Templates are rendered by transformers in jinja2's sandbox. No code of a folder is run; weights are safetensors alone.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from evals.models.hf import TransformersCompleter
from evals.repair.backends.protocol import Ask, BackendConfig, Message, Reply, task_of
from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import prompt_room

Row = tuple[int, int, list[int], int, bool]  # number of the ask, of the reply, ids, most new ids, whether it was cut


def has_encoder(folder: Path) -> bool:
    """Whether a folder's model reads a prompt with an encoder and answers with a decoder."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    return isinstance(config, dict) and config.get("is_encoder_decoder") is True


class FolderBackend:
    """A model of a transformers folder; ``identity`` says which files it is of.

    Raises InputError if it cannot be loaded, or if ``config.form`` is chat and it has no template.
    """

    def __init__(self, folder: Path, config: BackendConfig, identity: dict[str, Any], device: str,
                 dtype: torch.dtype, setting: str = "backend") -> None:  # fmt: skip
        self.model = TransformersCompleter(folder, device, dtype, seq2seq=has_encoder(folder))
        self.folder, self.batch_size = folder, config.batch_size
        template = bool(self.model.tokenizer.chat_template)
        if config.form == "chat" and not template:
            raise InputError(f"{setting}.form: {folder} has no chat template; set it to completion or auto")
        self.chat = template if config.form == "auto" else config.form == "chat"
        self.identity = identity | {"chat": self.chat}
        self.context: int | None = self.model.context
        self.parameters: int | None = sum(weight.numel() for weight in self.model.model.parameters())
        # Padding before a prompt is unseen only where positions are told; an encoder's is behind it, and masked.
        self.pads = self.model.seq2seq or "position_ids" in inspect.signature(self.model.model.forward).parameters

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies of an ask when the last of them is drawn, those with the longest prompts first."""
        rows = [self._row(number, n, ask, sampling) for number, ask in enumerate(asks) for n in range(ask.n)]
        rows.sort(key=lambda row: (row[3], -len(row[2])))
        found: dict[int, dict[int, Reply]] = {}
        for batch in self._batches(rows):
            pairs = [(task_of(asks[number].key), n) for number, n, *_ in batch]
            drawn = self.model.draw([row[2] for row in batch], pairs, batch[0][3], sampling)
            for (number, n, ids, _, cut), pair, new in zip(batch, pairs, drawn, strict=True):
                made = self.model.completion(pair, ids, new, sampling, cut)
                replies = found.setdefault(number, {})
                replies[n] = Reply(made.text, len(ids), made.tokens, made.finish_reason, cut)
                if len(replies) == asks[number].n:
                    yield number, [replies[i] for i in range(asks[number].n)]

    def _row(self, number: int, n: int, ask: Ask, sampling: SamplingConfig) -> Row:
        ids, context, most_new = self._ids(ask.messages), self.model.context, sampling.max_new_tokens
        if self.model.seq2seq:
            return number, n, ids[-context:], most_new, len(ids) > context
        most = prompt_room(context, most_new)
        kept = ids[-most:]
        return number, n, kept, min(most_new, max(1, context - len(kept))), len(ids) > most

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a chat, as its template writes it, or of a text to continue."""
        if self.chat:
            ids = self.model.tokenizer(self.chat_text(messages), add_special_tokens=False)["input_ids"]
        elif self.model.seq2seq:  # an encoder reads the id that ends a text too
            ids = self.model.tokenizer(messages[0].content)["input_ids"]
        else:
            return self.model.encode_prompt(messages[0].content)
        if not ids or max(ids) >= self.model.vocab_size:
            raise InputError(f"{self.folder}: the tokenizer gives ids that the model lacks; they are not of one model")
        return ids

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Return a chat as the folder's template writes it, up to where the model answers.

        A template that refuses messages of the system gets them at the head of the user's first one.
        """
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._rendered(turns)
        except TemplateError:
            pass
        try:
            if turns[0]["role"] == "system" and len(turns) > 1:
                head, first, *others = turns
                turns = [first | {"content": f"{head['content']}\n\n{first['content']}"}, *others]
            return self._rendered(turns)
        except TemplateError as error:
            raise InputError(f"{self.folder}: its chat template refuses these messages ({error})") from None

    def _rendered(self, turns: list[dict[str, str]]) -> str:
        return self.model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Yield rows to draw together: of one limit, and of one length where the model cannot be padded."""
        batch: list[Row] = []
        for row in rows:
            alike = batch and batch[0][3] == row[3] and (self.pads or len(batch[0][2]) == len(row[2]))
            if batch and (not alike or len(batch) == self.batch_size):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch
