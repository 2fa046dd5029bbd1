"""Held-out pairs as a suite: what is parsed is the function, and nothing passes for want of tests."""

import json
import shutil

import pytest

from evals import code_suite
from evals.benchmarks.pairs import PairsConfig, function_source, read
from evals.verdicts import Execution
from llama_scale.errors import InputError

ROW = {"id": "a", "prompt": "# Add one.\ndef f(x):\n", "completion": "    return x + 1\n", "format": "signature"}


def write(path, *rows):
    path.write_text("".join(json.dumps(ROW | {"id": str(i)} | row) + "\n" for i, row in enumerate(rows)))
    return PairsConfig(data=str(path))


def test_parsed_and_loaded_but_never_passed(tmp_path):
    suite = read(write(tmp_path / "test.jsonl", *[{}] * 4))
    texts = ["    return x\n", "    return (\n", "    return x\n", ""]
    texts[2] = "    return x\nraise ValueError\n"
    rows = [{"task_id": str(i), "sample": 0, "completion": text} for i, text in enumerate(texts)]
    with Execution() as execution:
        result, samples = code_suite.score(rows, suite, execution)
    assert [row["parses"] for row in samples] == [True, False, True, False]
    assert [row["loads"] for row in samples] == [True, False, False, False]
    assert not any(row["passed"] for row in samples)
    assert result["pass_at_k"] == {} and "log_pass_rate" not in result
    assert result["parse_rate"] == 0.5


def test_a_whole_function_stands_without_its_prompt(tmp_path):
    row = {"prompt": "Prompt: add one\nCode:\n", "completion": "def f(x):\n    return x + 1\n", "format": "seed"}
    suite = read(write(tmp_path / "test.jsonl", row))
    assert suite.tasks[0].source("def f(): pass") == "def f(): pass"
    assert suite.about == {"format": "seed", "language": "python"}


@pytest.mark.parametrize(
    ("language", "prompt", "completion", "source"),
    [
        ("java", "int f(int x) {\n", "  return x;\n}\nint g() {}", "class Main {\nint f(int x) {\n  return x;\n}\n}\n"),
        ("javascript", "function f(x) {\n", "  return x;\n}\nmore(", "function f(x) {\n  return x;\n}"),
        ("javascript", "f(x) {\n", "  return x;\n}", "({\nf(x) {\n  return x;\n}\n})"),
        ("javascript", "const f = (x) => {\n", "  return x;\n}", "const f = (x) => {\n  return x;\n}"),
    ],
)
def test_the_file_that_is_parsed(language, prompt, completion, source):
    assert function_source(prompt, completion, language) == source


@pytest.mark.parametrize("language", ["java", "javascript"])
def test_each_language_has_its_own_parser(tmp_path, language):
    tool = {"java": "javac", "javascript": "node"}[language]
    head = {"java": "int f(int x) {\n", "javascript": "function f(x) {\n"}[language]
    suite = read(
        write(tmp_path / "test.jsonl", *[{"language": language, "prompt": head, "completion": "return x; }"}] * 2)
    )
    rows = [{"task_id": str(i), "sample": 0, "completion": text} for i, text in enumerate(["return x; }", "return ("])]
    with Execution() as execution:
        result, samples = code_suite.score(rows, suite, execution)
    if shutil.which(tool):
        assert [row["parses"] for row in samples] == [True, False]
        assert not any(row["passed"] for row in samples)
    else:
        assert result["not_measured"] == 2 and not any(row["parses"] for row in samples)


def test_a_pair_that_is_there_twice(tmp_path):
    """Its samples would be judged by the last of the two, and counted as those of one task."""
    with pytest.raises(InputError, match=r"pairs.data: 1 tasks are there twice, a first; .* give each once"):
        read(write(tmp_path / "test.jsonl", {"id": "a"}, {}, {"id": "a", "prompt": "other"}))


def test_a_row_that_is_no_pair(tmp_path):
    with pytest.raises(InputError, match="field 'prompt' is 5"):
        read(write(tmp_path / "test.jsonl", {"prompt": 5}))
