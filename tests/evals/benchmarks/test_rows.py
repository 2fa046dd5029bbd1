"""Files of the wrong shape: the message names file, row, field, what was found and what to do."""

import gzip
import hashlib
import json
import subprocess

import datasets
import pytest

from evals.benchmarks import apps, mbpp
from evals.benchmarks.apps import AppsConfig
from evals.benchmarks.mbpp import MbppConfig
from evals.benchmarks.rows import Row, content_sha256, read_rows
from evals.results import read_completions
from llama_scale.errors import InputError
from tests.conftest import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
PUBLISHED = {
    "mbpp": "give mbpp.jsonl or sanitized-mbpp.json as published",
    "apps": "give the published folder, or a file with one of its problems to a line",
}
GONE = object()


def read(suite, path):
    config = {
        "mbpp": MbppConfig(data=str(path), split="all", profile="incoder"),
        "apps": AppsConfig(data=str(path), difficulty="all"),
    }
    return {"mbpp": mbpp, "apps": apps}[suite].read(config[suite])


def refused(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("suite", "field", "value", "found"),
    [
        ("mbpp", "task_id", "figures", "'figures', expected a whole number"),
        ("mbpp", "task_id", True, "True, expected a whole number"),
        ("mbpp", "text", None, "missing, expected a text"),
        ("mbpp", "code", 5, "5, expected a text"),
        ("mbpp", "code", "def (", "not Python (invalid syntax), expected what Python parses"),
        ("mbpp", "test_list", GONE, "missing, expected a list"),
        ("mbpp", "test_list", [], "empty, expected at least one test"),
        ("mbpp", "test_list", ["assert f()", 7], "a list with 7, expected a list of texts"),
        ("mbpp", "test_list", ["assert"], "not Python (invalid syntax), expected what Python pa"),
        ("mbpp", "test_setup_code", ["x"], "['x'], expected a text"),
        ("apps", "problem_id", "figures", "'figures', expected a whole number"),
        ("apps", "question", {"a": 1}, "{'a': 1}, expected a text"),
        ("apps", "input_output", "{", "not JSON (Expecting property name enclosed in double quot"),
        ("apps", "input_output", "[1]", "[1], expected an object"),
        ("apps", "inputs", {"input_output": {"inputs": "1"}}, "'1', expected a list"),
        ("apps", "fn_name", {"input_output": {"fn_name": 3}}, "3, expected a text"),
        ("apps", "solutions", '["print(1)", null]', "a list with None, expected a list of texts"),
        ("apps", "difficulty", 2, "2, expected a text"),
    ],
)
def test_a_field_of_the_wrong_shape_is_named(suite, field, value, found, tmp_path):
    rows = [json.loads(line) for line in (FIXTURES / f"{suite}.jsonl").read_text().splitlines()]
    bad = rows[1]
    bad |= value if isinstance(value, dict) and field not in bad else {field: value}
    bad = {name: value for name, value in bad.items() if value is not GONE}
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, [rows[0], bad, *rows[2:]])).replace("\n", "\n\n", 1))
    message = refused(read, suite, file)
    assert message.startswith(f"{suite}.data: {file}: line 3: field '{field}' is {found}")
    assert message.endswith(f"; {PUBLISHED[suite]}")
    file.write_text(json.dumps([rows[0], bad]))
    assert f"{suite}.data: {file}: row 2: field '{field}' is " in refused(read, suite, file)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", " is empty;"),
        (b"\n \n", " is empty;"),
        (b"[]", " is empty;"),
        (b"7\n", ": line 1 is 7, expected an object;"),
        (b'[{"task_id": 1}, "x"]', ": row 2 is 'x', expected an object;"),
        (b'[{"task_id": 1', " is not JSON (Expecting ',' delimiter"),
        (b'\n{"task_id": 1', ": line 2 is not JSON (Expecting ',' delimiter"),
        (b"\xff\xfe", ": line 1 is not JSON ("),
        (b"[" * 99999, " is not JSON (maximum recursion depth"),
    ],
)
@pytest.mark.parametrize("suite", ["mbpp", "apps"])
def test_a_file_that_is_no_list_of_tasks_is_named(suite, content, found, tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(content)
    message = refused(read, suite, file)
    assert message.startswith(f"{suite}.data: {file}{found}")
    assert message.endswith(f"; {PUBLISHED[suite]}")


def test_a_folder_of_something_else_is_named(tmp_path):
    message = f"apps.data: {tmp_path} has no problem's folder; {PUBLISHED['apps']}"
    assert refused(read, "apps", tmp_path) == message
    folder = tmp_path / "test" / "figures"
    folder.mkdir(parents=True)
    (folder / "question.txt").write_text("Q")
    message = refused(read, "apps", tmp_path)
    assert f"{folder}: field 'problem_id' is 'figures', expected a whole number" in message
    (folder / "metadata.json").write_text("[]")
    assert f"{folder}: field 'metadata' is [], expected an object" in refused(read, "apps", tmp_path)
    assert f"mbpp.data: {tmp_path} cannot be read (" in refused(read, "mbpp", tmp_path)


def test_samples_of_the_wrong_shape_are_named(tmp_path):
    right = {"task_id": "HumanEval/0", "completion": "    pass\n"}
    file = tmp_path / "s.jsonl"
    for row, found in (
        ({"task_id": 0} | {"completion": ""}, "'task_id' is 0, expected a text"),
        ({"task_id": "HumanEval/0"}, "'completion' is missing, expected a text"),
        (right | {"language": "cobol"}, "'language' is 'cobol', expected one of python, java, jav"),
    ):
        file.write_text(f"{json.dumps(right)}\n{json.dumps(row)}\n")
        message = refused(read_completions, file)
        assert message.startswith(f"samples: {file}: line 2: field {found}")
    packed = tmp_path / "s.jsonl.gz"
    data = gzip.compress(json.dumps(right).encode())
    packed.write_bytes(data)
    assert read_completions(packed) == [right | {"sample": 0}]
    for damaged in (data[:-9], data[:12] + bytes([data[12] ^ 255]) + data[13:], b"none"):
        packed.write_bytes(damaged)
        assert refused(read_completions, packed).startswith(f"samples: {packed} cannot be read (")


def test_the_hub_gives_what_the_file_gives(tmp_path, monkeypatch):
    """As the datasets library hands rows out, two splits of MBPP among them."""
    found = {}
    monkeypatch.setattr("datasets.load_dataset", lambda name, *_, **__: found[name])
    rows = {name: [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").open()]
            for name in PUBLISHED}  # fmt: skip
    found["codeparrot/apps"] = datasets.Dataset.from_list(rows["apps"])
    parts = {"prompt": rows["mbpp"][:3], "test": rows["mbpp"][3:]}
    found["google-research-datasets/mbpp"] = datasets.DatasetDict(
        {split: datasets.Dataset.from_list(part) for split, part in parts.items()}
    )
    local = AppsConfig(data=str(FIXTURES / "apps.jsonl"), difficulty="all")
    assert apps.problems(AppsConfig(difficulty="all")) == apps.problems(local)
    assert mbpp.problems() == mbpp.problems(str(FIXTURES / "mbpp.jsonl"))
    renamed = [{"id" if k == "problem_id" else k: v for k, v in r.items()} for r in rows["apps"]]
    (tmp_path / "id.jsonl").write_text("\n".join(map(json.dumps, renamed)))
    named = AppsConfig(data=str(tmp_path / "id.jsonl"), difficulty="all")
    assert apps.problems(named) == apps.problems(local)
    found["codeparrot/apps"] = datasets.Dataset.from_list([rows["apps"][0] | {"solutions": "{}"}])
    message = refused(apps.problems, AppsConfig())
    assert message.startswith("apps: the Hub's row 1: field 'solutions' is {}, expected a list")


def test_lines_and_a_list_are_one(tmp_path):
    rows = [{"a": "x\u2028y\x85z"}, {"b": [1]}]
    lines, whole = tmp_path / "lines.jsonl", tmp_path / "list.json"
    lines.write_text("\r\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8")
    whole.write_text(json.dumps(rows, indent=1))
    for path in (lines, whole):
        assert [row.fields for row in read_rows(path, "x", "y")] == rows


def test_a_folder_has_the_sum_of_its_listing(tmp_path):
    for name in ("b/2.txt", "a/1.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert content_sha256(tmp_path, "x") == said.stdout.split()[0]
    expected = hashlib.sha256(b"c.txt").hexdigest()
    assert content_sha256(tmp_path / "c.txt", "x") == expected
    assert "x: " in refused(content_sha256, tmp_path / "none", "x")
    with open(tmp_path / "b/huge", "wb") as file:
        file.truncate(1 << 42)  # takes no room
    assert "larger than" in refused(content_sha256, tmp_path, "x")


def test_a_long_integer_in_the_wrong_place_is_named():
    row = Row("apps.data: row 1", "give APPS", {"solutions": {"a": 10**5000}})
    with pytest.raises(InputError, match="field 'solutions' is a value of type dict with a very long integer"):
        row.texts("solutions")
