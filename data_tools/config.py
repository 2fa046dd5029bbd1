"""What a person can set about a build."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from llama_scale.data.shards import MAX_VOCAB
from llama_scale.errors import InputError, at_least_1, check_fields
from llama_scale.files import check_name

TheStack = Literal["the-stack", "the-stack-dedup", "the-stack-smol"]
TheStackV2 = Literal["the-stack-v2", "the-stack-v2-dedup", "the-stack-v2-train-smol-ids"]
SourceName = Literal["installed", "folder", "jsonl", "parquet", TheStack, TheStackV2, "starcoderdata"]


@dataclass(frozen=True)
class PrepareConfig:
    """One build of token shards.

    Args:
        name: Name of the build: letters, digits and . _ - after the first.
        out: Folder of the build; null is data/<name>.
        until: Stop after this step and keep its files; null is the whole build.
        source: Where the files come from; installed is this interpreter's standard library and installed packages.
        path: The folder or file of the sources folder, jsonl and parquet; for a data set a local copy.
        language: Programming language to take from a data set that has several.
        store: Where the-stack-v2 contents are: s3://, https:// or file:// with one gzip file for
            each blob id, or git: and the path of a clone.
        license: SPDX name of the files of a source that states none.
        licenses: SPDX names that may be used; null is the permissive ones.
        packages: Only these packages or repositories; null is all.
        exclude: Packages left out, for example benchmarks that a model will be scored on.
        max_bytes: Most bytes of source to read; null is all. Installed files are chosen by a hash
            of the seed and their path, other sources are read from their beginning.
        max_file_bytes: Larger files are left out.
        redact: Replace emails, keys and public IP addresses.
        parses: Leave out files that are neither Python 3 nor Python 2.
        near_duplicates: Remove near duplicates, Jaccard index .7 of word 5-grams.
        humaneval: Remove files with HumanEval's tasks.
        mbpp: MBPP's own JSONL or JSON; files with its tasks are removed.
        apps: APPS's own JSONL or folder; files with its tasks are removed.
        val_share: Share of the bytes held out for validation, as whole packages.
        vocab_size: Number of token ids.
        tokenizer_bytes: Most bytes of training text that the tokenizer is trained on.
        tokenizer_even: Take that text evenly from the packages, small ones whole, instead of in
            proportion to their size.
        fim_rate: Share of training documents rearranged for fill-in-the-middle.
        fim_spm: Share of those with the suffix first.
        packing: How training documents follow each other; best_fit cuts none that fits pack_length.
        pack_length: Tokens of a sequence under best_fit: the model's context length.
        shard_tokens: Most tokens in one shard.
        seed: Seed of the choice of files, the validation packages and the document order.
        workers: Processes; null is one for each CPU that this process may use. The shards depend
            neither on it nor on the engine.
        engine: What runs them: processes of this one; datatrove's local executor; or slurm, its
            executor for jobs on the machines of a cluster that share the folder.
        partition: SLURM partition of the jobs.
        time: SLURM time limit of a job.
    """

    RENAMED: ClassVar[dict[str, str]] = {"licence": "license", "licences": "licenses"}

    name: str
    out: str | None = None
    until: Literal["collect", "filter", "dedup", "decontaminate", "tokenizer", "encode"] | None = None
    source: SourceName = "installed"
    path: str | None = None
    language: str = "Python"
    store: str | None = None
    license: str | None = None
    licenses: list[str] | None = None
    packages: list[str] | None = None
    exclude: list[str] = field(default_factory=list)
    max_bytes: int | None = None
    max_file_bytes: int = 10 << 20
    redact: bool = False
    parses: bool = False
    near_duplicates: bool = True
    humaneval: bool = True
    mbpp: str | None = None
    apps: str | None = None
    val_share: float = 0.05
    vocab_size: int = 32_000
    tokenizer_bytes: int = 64_000_000
    tokenizer_even: bool = False
    fim_rate: float = 0.0
    fim_spm: float = 0.5
    packing: Literal["concatenated", "best_fit"] = "concatenated"
    pack_length: int = 2_048
    shard_tokens: int = 1 << 26
    seed: int = 0
    workers: int | None = None
    engine: Literal["processes", "datatrove", "slurm"] = "processes"
    partition: str | None = None
    time: str = "24:00:00"

    def __post_init__(self) -> None:
        check_name("name", self.name)
        sizes = "max_bytes max_file_bytes vocab_size tokenizer_bytes pack_length shard_tokens"
        check_fields(self, "at least 1", at_least_1, f"{sizes} workers")
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed: expected a number of 64 bits, found {self.seed}")
        if self.vocab_size > MAX_VOCAB:
            raise InputError(f"vocab_size: shards hold ids below {MAX_VOCAB}, found {self.vocab_size}")
        if not 0 < self.val_share < 1:
            raise InputError(f"val_share: expected between 0 and 1, found {self.val_share}")
        for name in ("fim_rate", "fim_spm"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected 0 to 1, found {getattr(self, name)}")
        if self.packing == "best_fit" and self.shard_tokens < self.pack_length:
            raise InputError(f"shard_tokens: {self.shard_tokens} is less than pack_length {self.pack_length}")

    @property
    def folder(self) -> Path:
        """Folder of the finished build."""
        return Path(self.out or Path("data") / self.name)

    @property
    def settings(self) -> dict:
        """What the shards depend on: every field but those of where and how they are made."""
        other = ("out", "until", "workers", "engine", "partition", "time")
        return {name: value for name, value in asdict(self).items() if name not in other}
