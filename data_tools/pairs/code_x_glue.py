"""Rows of CodeXGLUE (Lu et al. 2021, arXiv 2102.04664) as documents, so that they go the way of any other source.

``code_to_text`` is CodeSearchNet filtered: 251,820 Python training rows, whose ``code`` still has the docstring in it.
``text_to_code`` is CONCODE: Java methods as tokens on one line, their class's members behind the comment.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.progress import with_progress
from data_tools.sources.document import Document
from data_tools.sources.hub import rows_with_retries
from data_tools.sources.json_rows import SUFFIXES, Unreadable, json_rows
from data_tools.sources.licenses import UNKNOWN
from llama_scale.errors import InputError
from llama_scale.text import first_line

NAMES = {"code_to_text": "google/code_x_glue_ct_code_to_text", "text_to_code": "google/code_x_glue_tc_text_to_code"}
COLUMNS = {
    "code_to_text": {"id": int, "repo": str, "path": str, "func_name": str, "code": str, "docstring": str, "sha": str},
    "text_to_code": {"id": int, "nl": str, "code": str},
}
MEMBERS = "concode_field_sep"  # begins the members of the class in a comment of CONCODE
Row = dict[str, Any]


def code_x_glue_documents(
    task: str, language: str, split: str, path: str | None, max_bytes: int | None = None
) -> Iterator[Document]:
    """Yield a document for each row: its comment in the language's own form, then its code.

    Args:
        task: code_to_text or text_to_code.
        language: python, java or javascript; text_to_code is in Java alone.
        split: train, validation or test.
        path: A copy of the data set on this machine; None is the Hub's.
        max_bytes: Most bytes of code, from the beginning.

    Raises:
        InputError: There is no such data, a column is missing, or the network stays away.
    """
    if task == "text_to_code" and language != "java":
        raise InputError(f"language: text_to_code is in java alone, found {language}")
    name = path or NAMES[task]
    read = 0
    rows = rows_with_retries(lambda start: _open(task, language, split, path, start), f"{name} ({split})")
    for row in with_progress(rows, f"reading {split}", unit="row"):
        for column, kind in COLUMNS[task].items():
            if not isinstance(row.get(column), kind):
                found = f"column {column} is {type(row.get(column)).__name__}, expected {kind.__name__}"
                raise InputError(f"path: {name}: {found}; give {NAMES[task]} as published")
        read += len(row["code"].encode())
        if max_bytes is not None and read > max_bytes:
            return
        yield _document(row, task, language, split)


def _open(task: str, language: str, split: str, path: str | None, start: int) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    if path is not None and not Path(path).exists():
        raise InputError(f"path: {path}: no such folder; give a copy of {NAMES[task]}, or leave path out")
    if path is not None:
        check_rows(path)
    arguments = {"name": language} if task == "code_to_text" else {}
    try:
        yield from datasets.load_dataset(path or NAMES[task], split=split, streaming=True, **arguments).skip(start)
    except (DatasetNotFoundError, DataFilesNotFoundError, FileNotFoundError, ValueError) as error:
        reason = first_line(error)[:120]
        raise InputError(f"path: {path or NAMES[task]}: no {language} {split} data there ({reason})") from None


@lru_cache
def check_rows(path: str) -> None:
    """Raise InputError naming a row of a local copy's JSON files that is no object: datasets crashes on some."""
    files = [Path(path)] if Path(path).is_file() else sorted(p for p in Path(path).rglob("*") if p.is_file())
    for file in files:
        if not file.name.lower().endswith(SUFFIXES):
            continue
        try:
            for number, row in json_rows(file):
                if not isinstance(row, dict):
                    raise InputError(f"path: {file}: row {number} is no JSON object; give the data set as published")
        except Unreadable:
            raise InputError(f"path: {file}: damaged; fetch it again") from None


def _document(row: Row, task: str, language: str, split: str) -> Document:
    if task == "text_to_code":
        doc = row["nl"].partition(MEMBERS)[0]
        content = commented_java(doc, on_lines(row["code"]))
        return Document("concode", "", UNKNOWN, f"{split}-{row['id']}", content.encode())
    code = row["code"]
    if language == "java":
        code = commented_java(row["docstring"], code)
    if language == "javascript":
        code = commented_javascript(row["docstring"], code, row["func_name"])
    path = f"{row['path']}:{row['func_name']}:{split}-{row['id']}"
    return Document(row["repo"], row["sha"][:12], UNKNOWN, path, code.encode("utf-8", "replace"))


def _comment(doc: str) -> str:
    lines = doc.replace("*/", "* /").strip().split("\n")
    return "/**\n" + "".join(f" * {line.strip()}\n" for line in lines) + " */\n"


def commented_java(doc: str, code: str) -> str:
    """Return a file with a method and its comment: a class around both."""
    return f"class C {{\n{_comment(doc)}{code}\n}}\n"


def commented_javascript(doc: str, code: str, name: str) -> str:
    """Return a file with a function and its comment: an anonymous one gets its name, a method an object around it."""
    name = re.sub(r"\W", "", name.rpartition(".")[2]) or "f"
    code = re.sub(r"\A(async\s+)?function(\s*\*)?\s*\(", rf"\1function\2 {name}(", code)
    if re.match(r"(async\s+)?function\b|(export|const|let|var)\b|[\w.]+\s*=", code):
        return _comment(doc) + code
    return f"({{\n{_comment(doc)}{code}\n}})\n"


def on_lines(code: str) -> str:
    """Return code that is tokens on one line with a line for each statement, indented by its braces."""
    lines, line, depth, brackets = [], [], 0, 0
    for token in code.split():
        if token == "}":
            depth -= 1
        line.append(token)
        brackets += (token == "(") - (token == ")")
        if token in ("{", "}") or (token == ";" and not brackets):
            lines.append("    " * max(0, depth) + " ".join(line))
            line = []
        if token == "{":
            depth += 1
    return "\n".join([*lines, *([" ".join(line)] if line else [])])
