"""Held-out pairs of prompt and completion, as fine-tuning has them: sampled and parsed; there are no tests to pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from evals.benchmarks.mbxp import end_of_braces
from evals.benchmarks.rows import Row, read_rows
from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.sandbox.types import NO_TESTS, Program, Script, Verdict
from llama_scale.files import check_built

REMEDY = "give the test.jsonl that launch/prepare.py pairs wrote"
# After a body at the start of a line: another function, class, comment or statement of the module.
PYTHON_STOPS = ("\nclass ", "\ndef ", "\nasync def ", "\n#", "\n@", "\nif ", "\nimport ", "\nfrom ", "\nprint(")
WHOLE_STOPS = ("\nclass ", "\n#", "\nif __name__", "\nPrompt:")  # of a format whose completion is the function


@dataclass(frozen=True)
class PairsConfig(CodeConfig):
    """Held-out pairs, completed; what is not told here is as in CodeConfig.

    Args:
        data: File of pairs, of one language and format.
        timeout: CPU seconds in which a function's definition is executed.
    """

    suite: ClassVar[str] = "pairs"

    data: str | None = None

    @property
    def local_data(self) -> Path | None:
        """The file, if one is given."""
        return None if self.data is None else Path(self.data)


def read(config: PairsConfig) -> Suite:
    """Read the pairs; raise InputError where a row is none."""
    path = Path(config.data or "test.jsonl")
    rows = read_rows(path, "pairs.data", REMEDY)
    check_built(path)
    tasks = [_task(row) for row in rows]
    form, language = rows[0].take("format", str, ""), tasks[0].language
    stops = WHOLE_STOPS if form == "seed" else PYTHON_STOPS
    about = {"format": form, "language": language}
    return Suite(config.with_stops(stops if language == "python" else ("\nPrompt:",)), tasks, about)


def _task(row: Row) -> Task:
    prompt, language = row.take("prompt", str), row.take("language", str, "python")
    whole = row.take("format", str, "") == "seed"

    def source(completion: str) -> str:
        return function_source("" if whole else prompt, completion, language)

    def programs(completion: str) -> Sequence[Program | Script]:
        return [Script(source(completion), language=language)] if language == "python" else ()

    return Task(
        row.take("id", str),
        prompt,
        programs,
        row.take("completion", str),
        combine=without_tests,
        language=language,
        source=source,
    )


def function_source(prompt: str, completion: str, language: str) -> str:
    """Return a function as a file of its language that can be parsed: a Java method stands in a class.

    In Java and JavaScript what follows the function is cut off, as it is where a stop string ends it.
    """
    text = prompt + completion
    if language == "python":
        return text
    end, _ = end_of_braces(text, len(prompt))
    text = text[:end] if end else text
    return f"class Main {{\n{text}\n}}\n" if language == "java" else f"({{\n{text}\n}})" if _is_method(text) else text


def _is_method(text: str) -> bool:
    """Whether JavaScript begins as a method, name(...) {, which stands in an object alone."""
    code = next((line.strip() for line in text.splitlines() if not line.strip().startswith(("//", "*", "/*"))), "")
    head = code.partition("(")[0].split()
    return bool(head) and "=" not in code.partition("{")[0] and "function" not in head and head[0] not in (
        "const", "let", "var", "class"
    )  # fmt: skip


def without_tests(verdicts: Sequence[Verdict]) -> Verdict:
    """Return whether the definition parses and loads: that it runs is no test passed."""
    return replace(verdicts[0], passed=False, reason=NO_TESTS)
