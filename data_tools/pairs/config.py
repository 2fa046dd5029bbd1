"""What a person can set about pairs."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llama_scale.errors import InputError, at_least_1, check_fields
from llama_scale.files import check_name

Language = Literal["python", "java", "javascript"]
LANGUAGES = {"installed": "python", "jdk": "java", "npm": "javascript", "mbpp": "python"}
PUBLISHED_SPLITS = ("codexglue-code-to-text", "codexglue-text-to-code", "mbpp", "mbxp")


@dataclass(frozen=True)
class PairsConfig:
    """Pairs of a function's documentation and its code.

    Args:
        name: Name of the folder.
        out: Folder that it is made in.
        source: installed is the Python of this machine, jdk the Java sources of an installed JDK (src.zip), npm the
            JavaScript of installed npm packages. The codexglue ones are the Hub's data sets, mbpp and mbxp the
            benchmarks' own training tasks.
        path: src.zip or a JDK's folder, a folder node_modules, a local copy of a data set of the Hub, mbpp.jsonl, or
            the folder of MBXP's files; null finds what can be found.
        language: Language of the sources that have several.
        format: signature has the documentation as a comment and the signature as prompt and the body as completion;
            seed has "Prompt: ... Code:" and the whole function; task is the benchmark's own prompt (mbpp, mbxp).
        packages: Only these packages; null is all that there are. Of a JDK modules or Java packages.
        exclude: Packages left out.
        licenses: SPDX names that may be used; null is all, each noted.
        max_bytes: Most bytes of source read.
        longest: Most UTF-8 bytes of a completion; longer ones are left out and counted.
        least_complexity: Least cyclomatic complexity of a function.
        most_complexity: Greatest cyclomatic complexity; null is any.
        thirds: Only these thirds of the pairs by complexity (low, middle, high); null is all.
        balance: Have as many pairs, or as many bytes of completions, in each third; none takes them as they come.
        near_duplicates: Remove near duplicates, Jaccard index .7 of word 5-grams.
        test: Held-out pairs, from packages that no training pair is from; at most so many of a published test split.
        humaneval: Leave functions with HumanEval's text out.
        mbpp: Path of mbpp.jsonl, whose text is left out too.
        mbxp: Folder of MBXP's files, whose text in the language is left out too.
        seed: Seed of every choice at random.
        workers: Processes; null is one for each CPU. The pairs do not depend on it.
    """

    name: str = "python"
    out: str = "pairs"
    source: Literal[
        "installed", "jdk", "npm", "codexglue-code-to-text", "codexglue-text-to-code", "mbpp", "mbxp"
    ] = "installed"  # fmt: skip
    path: str | None = None
    language: Language = "python"
    format: Literal["signature", "seed", "task"] = "signature"
    packages: list[str] | None = None
    exclude: list[str] | None = None
    licenses: list[str] | None = None
    max_bytes: int | None = None
    longest: int = 2_000
    least_complexity: int = 1
    most_complexity: int | None = None
    thirds: list[Literal["low", "middle", "high"]] | None = None
    balance: Literal["none", "pairs", "bytes"] = "none"
    near_duplicates: bool = True
    test: int = 500
    humaneval: bool = True
    mbpp: str | None = None
    mbxp: str | None = None
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check = partial(check_fields, self)
        check("at least 1", at_least_1, "max_bytes longest test least_complexity most_complexity workers")
        if self.most_complexity is not None and self.most_complexity < self.least_complexity:
            raise InputError(
                f"most_complexity: {self.most_complexity} is below least_complexity, {self.least_complexity}"
            )
        if self.format == "task" and self.source not in ("mbpp", "mbxp"):
            raise InputError(f"format: task is of the sources mbpp and mbxp; {self.source} has signature and seed")
        if self.source in LANGUAGES and self.language not in ("python", self.code_language):
            raise InputError(f"language: {self.source} is in {self.code_language}, not {self.language}")

    @property
    def code_language(self) -> str:
        """The language of the code."""
        return LANGUAGES.get(self.source, self.language)

    @property
    def folder(self) -> Path:
        """Where the pairs are written."""
        return Path(self.out) / self.name

    @property
    def settings(self) -> dict[str, Any]:
        """What the pairs depend on: every field but those of where and how they are made."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "out", "workers")}
