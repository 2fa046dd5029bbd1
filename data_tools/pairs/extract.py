"""From a source to rows: the functions of its files as pairs of prompt and completion."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from data_tools.corpus.corpus import batches
from data_tools.pairs import code_x_glue, files, tasks
from data_tools.pairs.config import PairsConfig
from data_tools.pairs.doc_comments import commented_functions
from data_tools.pairs.docstrings import DocumentedFunction, documented_functions
from data_tools.pairs.paradigm import paradigm
from data_tools.sources.document import Document
from data_tools.sources.hub import check_on_hub
from data_tools.sources.installed import installed_documents, installed_packages
from data_tools.sources.licenses import permissive
from evals.benchmarks.mbpp import HUB_NAME
from evals.metrics.complexity import complexity
from llama_scale.errors import InputError

Row = dict[str, Any]


def read_rows(config: PairsConfig, split: str | None, map_: Callable, dropped: Counter[str]) -> list[Row]:
    """Return a row for each documented function of the source; ``split`` names a part that its publisher made.

    ``map_`` runs the work on batches of files, see process_map. What is left out is counted in ``dropped``.
    """
    if config.source in ("mbpp", "mbxp"):
        rows = task_rows(config, split or "train", dropped)
        return [row for row in rows if _fits(row, config, dropped)]
    rows, documents = [], source_documents(config, split)
    for found, lost in map_(partial(rows_of_batch, config), batches(documents, size=lambda d: len(d.content or b""))):
        rows += found
        dropped.update(lost)
    if not rows:
        lost = ", ".join(f"{n:,} {reason}" for reason, n in dropped.most_common(3))
        raise InputError(f"source: {config.source} has no function of use{f' ({lost})' if lost else ''}")
    return rows


def source_documents(config: PairsConfig, split: str | None) -> Iterator[Document]:
    """Yield the files of the source."""
    chosen = {"packages": config.packages, "exclude": config.exclude or [], "max_bytes": config.max_bytes}
    if config.source == "installed":
        return installed_documents(**chosen)
    if config.source == "jdk":
        return files.jdk_documents(config.path, seed=config.seed, **chosen)
    if config.source == "npm":
        return files.npm_documents(config.path, seed=config.seed, **chosen)
    task = config.source.removeprefix("codexglue-").replace("-", "_")
    return code_x_glue.code_x_glue_documents(task, config.language, split or "train", config.path, config.max_bytes)


def check_source(config: PairsConfig) -> None:
    """Raise InputError where the source is not on this machine and cannot be fetched; nothing of it is read yet."""
    if config.source in ("mbpp", "mbxp"):
        if config.source == "mbxp" or config.path is not None:
            next(task_rows(config, "train", Counter()), None)
        else:
            check_on_hub(HUB_NAME)
    elif config.source == "jdk":
        files.find_jdk_sources(config.path)
    elif config.source == "npm":
        files.find_node_modules(config.path)
    elif config.source == "installed":
        if config.packages is not None:
            installed_packages(config.packages)
    elif config.path is None:
        check_on_hub(code_x_glue.NAMES[config.source.removeprefix("codexglue-").replace("-", "_")])
    elif not Path(config.path).exists():
        raise InputError(f"path: no {config.path}; name a copy of the data set, or leave path out")


def rows_of_batch(config: PairsConfig, documents: list[Document]) -> tuple[list[Row], Counter[str]]:
    """Return the rows of some files, and how many functions were left out for which reason."""
    rows, dropped = [], Counter()
    for document in documents:
        if document.content is None:
            dropped["unreadable file"] += 1
            continue
        if config.licenses is not None and not permissive(document.license, config.licenses):
            dropped["file of another license"] += 1
            continue
        if config.code_language == "python":
            functions = documented_functions(document.content, dropped)
        else:
            functions = commented_functions(document.content, config.code_language, dropped)
        for function in functions:
            prompt, completion = prompt_and_completion(function, config.format, config.code_language)
            row = {
                "id": f"{document.package}/{document.path}:{function.line}",
                "prompt": prompt,
                "completion": completion,
                "language": config.code_language,
                "source": f"{document.package} {document.version}".strip(),
                "license": document.license,
                "format": config.format,
                "reference": function.code,
                "package": document.package,
                "complexity": complexity(function.code, config.code_language),
                "paradigm": paradigm(function.code, config.code_language),
            }
            if _fits(row, config, dropped):
                rows.append(row)
    return rows, dropped


def task_rows(config: PairsConfig, split: str, dropped: Counter[str]) -> Iterator[Row]:
    """Yield a row for each task of a split of MBPP or MBXP."""
    if config.source == "mbpp":
        found = tasks.mbpp_tasks(config.path, split, config.format != "signature", dropped)
    else:
        found = tasks.mbxp_tasks(config.path, config.language, split)
    for task in found:
        if config.format == "task":
            prompt, completion = task.prompt, task.solution
        else:
            prompt, completion = prompt_and_completion(task.function, config.format, config.code_language)
        yield {
            "id": task.id,
            "prompt": prompt,
            "completion": completion,
            "language": config.code_language,
            "source": config.source,
            "license": tasks.LICENSE,
            "format": config.format,
            "reference": task.function.code,
            "package": config.source,
            "complexity": complexity(task.function.code, config.code_language),
            "paradigm": paradigm(task.function.code, config.code_language),
        }


def _fits(row: Row, config: PairsConfig, dropped: Counter[str]) -> bool:
    """Whether a row is within the limits of length and complexity; if not it is counted."""
    reasons = {
        "completion too long": len(row["completion"].encode()) > config.longest,
        "complexity too low": row["complexity"] < config.least_complexity,
        "complexity too high": row["complexity"] > (config.most_complexity or row["complexity"]),
    }
    failed = [reason for reason, fails in reasons.items() if fails]
    dropped.update(failed[:1])
    return not failed


def prompt_and_completion(function: DocumentedFunction, form: str, language: str = "python") -> tuple[str, str]:
    """Return the two texts of a pair; a prompt ends with its line, so that no token would reach over the seam."""
    if form == "seed":
        return f"Prompt: {function.doc}\nCode:\n", function.code
    if language == "python":
        comment = "".join(f"# {line}\n" for line in function.doc.split("\n"))
    else:
        comment = f"/** {function.doc.replace('*/', '* /')} */\n"
    return comment + function.signature, function.body


def unique_ids(rows: list[Row]) -> list[Row]:
    """Return the rows with ids that are unique: of two functions that begin in one line, the second gets a number."""
    numbers: dict[str, count] = {}
    for row in rows:
        seen = numbers.setdefault(row["id"], count())
        if number := next(seen):
            row["id"] = f"{row['id']}.{number}"
    return rows
