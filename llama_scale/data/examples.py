"""Pairs of prompt and completion as training examples: encoded apart, masked, in batches.

A pair is a line of JSON with the fields id, prompt and completion; what else it has (language, source, format,
reference) is kept. An example is the tokens of a context, which is the prompt as generation starts from it, of the
completion and of a document end. The completion and the end are targets. Which tokens those are, and where padding
begins, is told by lengths: a document end in the text or as padding is like any other token.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llama_scale.data.loader import batch_number, permute
from llama_scale.errors import InputError
from llama_scale.files import check_built, check_text, numbered_rows, read_bytes
from llama_scale.records import has_values

FIELDS = ("id", "prompt", "completion")


class TextTokenizer(Protocol):
    """What encodes pairs: the tokenizers of data/tokenizer.py and data/byte_level.py."""

    eos: int

    def context(self, prompt: str) -> list[int]:
        """Return the ids that a completion follows."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...


@dataclass(frozen=True)
class Pair:
    """A prompt and what should follow it; ``rest`` is what else its line has."""

    id: str
    prompt: str
    completion: str
    rest: dict[str, Any] = field(default_factory=dict)


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a file of pairs; raise InputError naming the line that is none, and on no pairs or several formats."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file; make pairs with launch/prepare.py or name another")
    data = read_bytes(path)
    check_built(path)
    pairs: dict[str, Pair] = {}
    for number, row in numbered_rows(data, str(path)):
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is {type(row).__name__}, not an object with {', '.join(FIELDS)}")
        for name in FIELDS:
            check_text(f"{path}: line {number}: {name}", row.get(name))
        if not row["completion"]:
            raise InputError(f"{path}: line {number}: the completion is empty; leave the pair out")
        if row["id"] in pairs:
            raise InputError(f"{path}: line {number}: the id {row['id']!r:.60} is there before; ids are unique")
        rest = {name: value for name, value in row.items() if name not in FIELDS}
        pairs[row["id"]] = Pair(row["id"], row["prompt"], row["completion"], rest)
    if not pairs:
        raise InputError(f"{path}: no pairs in it")
    pair_format(list(pairs.values()), str(path))
    return list(pairs.values())


def pair_format(pairs: Sequence[Pair], source: str) -> str | None:
    """Return the one format that the pairs name, or None where they name none; raise InputError on several."""
    formats = sorted({str(pair.rest.get("format")) for pair in pairs})
    if len(formats) > 1:
        raise InputError(f"{source}: pairs of the formats {' and '.join(formats)}; never mix them in one run")
    return pairs[0].rest.get("format")


def rank_of(pair_id: str, draw: int) -> bytes:
    """Return where a pair stands in the random order number ``draw``: by the hash of its id."""
    return hashlib.sha256(f"{draw}\n{pair_id}".encode()).digest()


def by_complexity(pairs: Sequence[Pair], ids: Sequence[str], seed: int, source: str) -> list[int]:
    """Return the numbers of ``ids`` from the simplest pair to the most complex, equal ones in a random order of a seed.

    Raises InputError, naming the ``source``, if one has no complexity.
    """
    known = {pair.id: pair.rest.get("complexity") for pair in pairs}
    for name in ids:
        if not isinstance(known[name], int | float) or isinstance(known[name], bool):
            raise InputError(f"{source}: {name!r:.60} has no number as its complexity, which an order by it needs; "
                             "launch/prepare.py pairs writes it")  # fmt: skip
    return sorted(range(len(ids)), key=lambda i: (known[ids[i]], rank_of(ids[i], seed)))


def with_values(pairs: Sequence[Pair], ids: Sequence[str], wanted: Mapping[str, Any], source: str) -> list[int]:
    """Return the numbers of ``ids`` whose pairs have the ``wanted`` values: of each field the one, or one of a list.

    Raises InputError, naming the ``source`` and what its pairs have, if none does.
    """
    rest = {pair.id: pair.rest for pair in pairs}
    numbers = list(range(len(ids)))
    for name, values in wanted.items():
        kept = [i for i in numbers if has_values(rest[ids[i]], {name: values})]
        if not kept:
            found = Counter(str(rest[ids[i]].get(name)) for i in numbers).most_common(5)
            shown = ", ".join(f"{value:.40} ({n})" for value, n in found)
            accepted = values if isinstance(values, list) else [values]
            raise InputError(f"only.{name}: no pair of {source} has {accepted}; they have {shown}")
        numbers = kept
    return numbers


@dataclass(frozen=True)
class Examples(Dataset):
    """Encoded pairs.

    Attributes:
        ids: Of the pairs.
        tokens: Of each pair its context, completion and document end, (T + 1,) int32.
        prompts: (n,) int64, tokens of each context.
        sizes: (n,) int64, UTF-8 bytes of each completion.
        dropped: Pairs that were left out because they are longer than the longest allowed.
        prompt_loss: Whether the context's tokens, but the first, are targets too.
    """

    ids: list[str]
    tokens: list[np.ndarray] = field(repr=False)
    prompts: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    dropped: int = 0
    prompt_loss: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Inputs of each example, (n,): its tokens but the last."""
        return np.array([len(tokens) - 1 for tokens in self.tokens], dtype=np.int64)

    @property
    def targets(self) -> np.ndarray:
        """Targets of each example, (n,)."""
        return self.lengths if self.prompt_loss else self.lengths + 1 - self.prompts

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the ids and tokens, in their order."""
        digest = hashlib.sha256()
        for name, tokens in zip(self.ids, self.tokens, strict=True):
            digest.update(name.encode() + b"\n" + tokens.tobytes())
        return digest.hexdigest()

    def subset(self, count: int, draw: int) -> "Examples":
        """Return ``count`` of the examples, in their order: of each draw the larger sets hold the smaller ones.

        Raises InputError if there are fewer.
        """
        if count > len(self):
            raise InputError(f"examples: {count} asked for and there are {len(self)} that fit")
        order = sorted(range(len(self)), key=lambda i: rank_of(self.ids[i], draw))
        return self.select(sorted(order[:count]))

    def select(self, numbers: Sequence[int]) -> "Examples":
        """Return the examples of these numbers, in that order."""
        chosen = list(numbers)
        ids, tokens = [self.ids[i] for i in chosen], [self.tokens[i] for i in chosen]
        return Examples(ids, tokens, self.prompts[chosen], self.sizes[chosen], self.dropped, self.prompt_loss)

    def __getitems__(self, micro_batches: list["MicroBatch"]) -> "ExampleBatch":
        """Return the one micro-batch in the list, as DataLoader hands it on."""
        (micro_batch,) = micro_batches
        return self.batch(micro_batch.examples, micro_batch.step_targets, micro_batch.parts)

    def batch(self, numbers: Sequence[int], step_targets: int | None = None, parts: int = 1) -> "ExampleBatch":
        """Return the examples of these numbers as one batch, padded to the longest of them.

        ``step_targets`` and ``parts`` are those of the optimizer step that it is a part of (default: it alone). Of no
        examples there is a batch of one token without a target.
        """
        chosen = [self.tokens[i] for i in numbers]
        longest = max((len(tokens) - 1 for tokens in chosen), default=1)
        inputs = np.zeros((max(1, len(chosen)), longest), dtype=np.int64)
        rows, targets = [], []
        for row, (i, tokens) in enumerate(zip(numbers, chosen, strict=True)):
            inputs[row, : len(tokens) - 1] = tokens[:-1]
            first = 1 if self.prompt_loss else int(self.prompts[i])  # the first target; position t says token t + 1
            rows.append(np.arange(first - 1, len(tokens) - 1) + row * longest)
            targets.append(tokens[first:].astype(np.int64))
        empty = np.zeros(0, dtype=np.int64)
        count = sum(map(len, targets))
        share = count * parts / step_targets if step_targets else float(count > 0)
        return ExampleBatch(
            torch.from_numpy(inputs),
            torch.from_numpy(np.concatenate([empty, *rows])),
            torch.from_numpy(np.concatenate([empty, *targets])),
            torch.tensor(share, dtype=torch.float32),
        )


class ExampleBatch(NamedTuple):
    """Padded examples and where their targets are.

    ``inputs`` is (B, T). ``rows`` (M,) are the places in the flattened (B T,) whose next tokens are the ``targets``
    (M,). ``share`` () times the mean over these targets, averaged over the parts of a step, is the mean over the
    targets of the step.
    """

    inputs: Tensor
    rows: Tensor
    targets: Tensor
    share: Tensor


class MicroBatch(NamedTuple):
    """Example numbers of a micro-batch, with the targets and the parts of its whole step."""

    examples: list[int]
    step_targets: int
    parts: int


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: TextTokenizer, longest: int, prompt_loss: bool = False, source: str = "train"
) -> Examples:
    """Encode pairs, leaving out those of more than ``longest`` inputs; raise InputError if none is left.

    Prompt and completion are encoded apart, as in generation, where the prompt's ids are all there is.
    """
    ids, tokens, prompts, sizes = [], [], [], []
    shortest = None
    for pair in pairs:
        context = tokenizer.context(pair.prompt)
        whole = [*context, *tokenizer.encode(pair.completion), tokenizer.eos]
        if len(whole) - 1 > longest:
            shortest = min(shortest or len(whole), len(whole) - 1)
            continue
        ids.append(pair.id)
        tokens.append(np.array(whole, dtype=np.int32))
        prompts.append(len(context))
        sizes.append(len(pair.completion.encode()))
    if not ids:
        raise InputError(
            f"{source}: every pair is longer than {longest} tokens (the shortest has {shortest}); use shorter pairs, "
            "a larger max_tokens, or a base with a longer context"
        )
    counts = np.array(prompts, dtype=np.int64), np.array(sizes, dtype=np.int64)
    return Examples(ids, tokens, *counts, dropped=len(pairs) - len(ids), prompt_loss=prompt_loss)


@dataclass(frozen=True)
class ExampleSampler:
    """Yields the micro-batches of one process, from ``start_step`` on; a pure function of its fields.

    An epoch has ceil(n / batch) steps and reads each example once: 22 examples in steps of 8 are 8, 8 and 6. A step is
    dealt out in equal parts, ``micro_steps`` for each of ``world`` processes, some of which may be empty. The batches
    numbered in ``skipped`` are left out, and those after them move up.
    """

    examples: Examples
    batch: int
    micro_steps: int
    seed: int
    shuffled: bool = True
    start_step: int = 0
    rank: int = 0
    world: int = 1
    skipped: Collection[int] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each example is read once."""
        return -(-len(self.examples) // self.batch)

    def step_examples(self, number: int) -> np.ndarray:
        """Return the examples of batch ``number``, (B,)."""
        epoch, step = divmod(number, self.steps_per_epoch)
        places = np.arange(step * self.batch, min((step + 1) * self.batch, len(self.examples)))
        return permute(places, len(self.examples), self.seed, epoch) if self.shuffled else places

    def counts(self, steps: int) -> np.ndarray:
        """Return the inputs and the targets that the first 0, 1, ... ``steps`` steps read, (steps + 1, 2)."""
        each = np.stack([self.examples.lengths, self.examples.targets], axis=1)  # (n, 2)
        numbers = [batch_number(step, self.skipped) for step in range(steps)]
        sums = [[0, 0], *(each[self.step_examples(number)].sum(axis=0) for number in numbers)]
        return np.cumsum(sums, axis=0)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        targets, parts = self.examples.targets, self.micro_steps * self.world
        number = batch_number(self.start_step, self.skipped)
        while True:
            if number not in self.skipped:
                chosen = self.step_examples(number)
                total = int(targets[chosen].sum())
                mine = np.array_split(chosen, parts)[self.rank * self.micro_steps :][: self.micro_steps]
                for part in mine:
                    yield [MicroBatch(part.tolist(), total, parts)]
            number += 1
