"""Planted copies of benchmark tasks are found, clean code is not."""

import ast
import json
import random
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from data_tools.dedup.minhash import word_shingles
from data_tools.filters import benchmark_texts, contamination
from evals.benchmarks import apps, mbpp
from llama_scale.errors import InputError
from tests.conftest import ROOT

LIBRARY = Path(sysconfig.get_path("stdlib"))
SMALL = ROOT / "tests" / "fixtures"
EVAL = ROOT.parent / "shared" / "data" / "eval"


@pytest.fixture(scope="module")
def parts():
    return list(benchmark_texts.humaneval())


@pytest.fixture(scope="module")
def index(parts):
    return contamination.build_index(parts)


def planted(text: str, change: str, rng: random.Random) -> bytes:
    """A copy inside a real file; the changes keep every character but its case or white space."""
    if change == "upper":
        text = text.upper()
    elif change == "spaces":
        text = "".join(rng.choice([" ", "\t", "\n    "]) if c == " " else c for c in text)
        text = text.replace("\n", "\r\n\r\n")
    around = (LIBRARY / "json" / "decoder.py").read_text()
    at = around.index("\n", rng.randrange(len(around) - 200)) + 1
    return (around[:at] + text + "\n" + around[at:]).encode()


@pytest.mark.parametrize("change", ["verbatim", "upper", "spaces"])
def test_every_copy_of_a_task_is_found(parts, index, change):
    rng = random.Random(0)
    tasks = {}
    for part in parts:
        tasks.setdefault(part.task, {})[part.kind] = part.text
    assert len(tasks) == 164
    for kinds in (("prompt",), ("prompt", "solution"), ("test",)):
        texts = ["".join(row[kind] for kind in kinds) for row in tasks.values()]
        found = contamination.search([planted(t, change, rng) for t in texts], index)
        for task, matches in zip(tasks, found, strict=True):
            assert task in {match["task"] for match in matches}, (task, kinds)


@pytest.mark.parametrize("change", ["verbatim", "upper", "spaces"])
def test_solutions_alone_are_found_when_they_are_evidence(parts, index, change):
    rng = random.Random(1)
    short = {number for number in index.too_short if parts[number].kind == "solution"}
    numbers = [n for n, part in enumerate(parts) if part.kind == "solution" and n not in short]
    found = contamination.search([planted(parts[n].text, change, rng) for n in numbers], index)
    for number, matches in zip(numbers, found, strict=True):
        assert parts[number].task in {m["task"] for m in matches if m["part"] == "solution"}
    assert len(short) < 40


class Renamed(ast.NodeTransformer):
    """Give every argument and every assigned name another one."""

    def __init__(self, names):
        self.names = {name: f"renamed_{i}" for i, name in enumerate(sorted(names))}

    def visit_Name(self, node):
        return ast.Name(self.names.get(node.id, node.id), node.ctx)

    def visit_arg(self, node):
        return ast.arg(self.names.get(node.arg, node.arg), node.annotation)


def test_renamed_variables_with_their_docstring(parts, index):
    by_task = {}
    for part in parts:
        by_task.setdefault(part.task, {})[part.kind] = part.text
    contents = []
    for row in by_task.values():
        tree = ast.parse(row["prompt"] + row["solution"])
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
                 and isinstance(n.ctx, ast.Store)} | {
                     n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}  # fmt: skip
        contents.append(ast.unparse(Renamed(names).visit(tree)).encode())
    found = contamination.search(contents, index)
    recall = sum(bool(matches) for matches in found) / len(found)
    assert recall > 0.9


def test_clean_code_is_not_touched(index):
    files = sorted(LIBRARY.rglob("*.py"))
    contents = [f.read_bytes() for f in files if "site-packages" not in f.parts][::6]
    assert len(contents) > 200
    assert not any(contamination.search(contents, index))


def test_stop_list_is_used():
    alphabet = " ".join("abcdefghijklmnopqrstuvwxyz")
    part = benchmark_texts.Part("x", "x/0", "prompt", alphabet)
    index = contamination.build_index([part])
    assert not index.grams
    other = benchmark_texts.Part("x", "x/0", "prompt", alphabet[::-1])
    assert len(contamination.build_index([other]).grams) == 14
    (hashes,) = word_shingles([alphabet[::-1].encode()], 13)
    assert set(contamination.build_index([other]).grams) == set(hashes.tolist())


def test_summary_flags_tasks(parts, index):
    text = next(part.text for part in parts if part.task == "HumanEval/3")
    (matches,) = contamination.search([text.encode()], index)
    rows = [{"package": "p", "path": "a.py", "matches": matches}]
    value = contamination.summary(parts, index, rows)
    flags = value["tasks"]["humaneval"]
    assert flags["HumanEval/3"] == {"contaminated": True, "files": 1}
    assert flags["HumanEval/4"] == {"contaminated": False, "files": 0}
    assert len(flags) == value["benchmarks"]["humaneval"]["tasks"] == 164
    assert value["benchmarks"]["humaneval"]["tasks_found"] == 1


def test_nothing_to_look_for():
    assert contamination.search([b"x = 1"], contamination.build_index([])) == [[]]


def test_small_mbpp_and_apps_of_their_own_schemas():
    full, sanitized = (list(benchmark_texts.mbpp(SMALL / name)) for name in ("mbpp.jsonl", "sanitized-mbpp.json"))
    assert len({part.task for part in full}) == 7 and len(full) == 21
    assert {part.task for part in sanitized} < {part.task for part in full}
    setups = [part.text for part in full if part.task == "MBPP/12" and part.kind == "test"]
    assert setups[0].startswith("chain = Link(3, Link(4))\nassert total(chain) == 7\n")
    rows = list(benchmark_texts.apps(SMALL / "apps.jsonl"))
    kinds = Counter((part.task, part.kind) for part in rows)
    assert kinds["APPS/4001", "test"] == 6 and kinds["APPS/4003", "solution"] == 2
    assert kinds["APPS/4004", "prompt"] == 1 and kinds["APPS/4004", "test"] == 0
    # The evaluation, which reads the flags, calls the tasks by the same names.
    config = apps.AppsConfig(data=str(SMALL / "apps.jsonl"), difficulty="all")
    assert {part.task for part in rows} == {task.task_id for task in apps.read(config).tasks}
    config = mbpp.MbppConfig(data=str(SMALL / "mbpp.jsonl"), split="all")
    assert {part.task for part in full} == {task.task_id for task in mbpp.read(config).tasks}
    index = contamination.build_index([*full, *rows])
    texts = [part.text for part in rows if part.kind == "prompt" and len(part.text.split()) > 13]
    found = contamination.search([text.encode() for text in texts], index)
    assert len(texts) >= 2 and all(found)


@pytest.mark.skipif(not EVAL.exists(), reason="needs ../shared/data/eval")
def test_mbpp_and_apps_of_their_own_schemas():
    for name, tasks in (("mbpp.jsonl", 974), ("sanitized-mbpp.json", 427)):
        parts = list(benchmark_texts.mbpp(EVAL / name))
        assert len({part.task for part in parts}) == tasks
    rows = list(benchmark_texts.apps(EVAL / "apps_introductory_50.jsonl"))
    assert len({part.task for part in rows}) == 50
    assert {part.kind for part in rows} == {"prompt", "solution", "test"}
    assert len({part.task for part in benchmark_texts.apps(EVAL / "apps_layout")}) == 5
    # The evaluation, which reads the flags, calls the tasks by the same names.
    for found, file in ((rows, "apps_introductory_50.jsonl"), (None, "apps_layout/train")):
        found = found or benchmark_texts.apps(EVAL / file)
        assert {r.task for r in found} == {
            f"APPS/{problem.number}"
            for problem in apps.problems(apps.AppsConfig(data=str(EVAL / file), difficulty="all"))
        }
    chosen = [*parts, *rows]
    index = contamination.build_index(chosen)
    prompts = [part for part in rows if part.kind == "prompt"]
    for part, found in zip(prompts, contamination.search([p.text.encode() for p in prompts], index), strict=True):
        assert part.task in {match["task"] for match in found}


def test_benchmarks_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"mbpp: .*no such file"):
        list(benchmark_texts.mbpp(tmp_path / "mbpp.jsonl"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "?"}) + "\n")
    for name, read in (("mbpp", benchmark_texts.mbpp), ("apps", benchmark_texts.apps)):
        with pytest.raises(InputError, match=rf"{name}: .*line 1: field '\w+' is missing"):
            list(read(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match=r"no question\.txt"):
        list(benchmark_texts.apps(tmp_path))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_every_task_of_a_file_counts(tmp_path, end):
    """Neither a missing last line end nor a line separator inside a text loses tasks."""
    row = {"code": "c", "test_list": ["assert c"], "difficulty": "introductory", "input_output": {}}
    row |= {"text": "a\u2028b\u2029c\x85d", "question": "a\u2028b\u2029c\x85d"}
    rows = [row | {"task_id": i, "problem_id": i} for i in (1, 2, 3)]
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\n".join(json.dumps(r, ensure_ascii=False).encode() for r in rows) + end)
    for read in (benchmark_texts.mbpp, benchmark_texts.apps):
        prompts = [part for part in read(path) if part.kind == "prompt"]
        assert [part.task[-1] for part in prompts] == ["1", "2", "3"]
        assert {part.text for part in prompts} == {row["text"]}
    assert [task.number for task in mbpp.problems(str(path))] == [1, 2, 3]
    problems = apps.problems(apps.AppsConfig(data=str(path)))
    assert [problem.number for problem in problems] == [1, 2, 3]
    path.write_bytes(path.read_bytes() + b'\n{"task_id": 4, "te')
    message = rf"tasks\.jsonl: line {4 + len(end.splitlines())} is not JSON"
    for read in (benchmark_texts.mbpp, benchmark_texts.apps, mbpp.problems):
        with pytest.raises(InputError, match=message):
            list(read(str(path)))


@pytest.mark.parametrize("field", ["question", "solutions"])
def test_a_benchmark_of_the_wrong_types(tmp_path, field):
    row = {"problem_id": 1, "question": "?", "task_id": 1, "text": "?", "test_list": []}
    row |= {field: [3], "code": 3}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    for name, read, part in (("mbpp", benchmark_texts.mbpp, "code"), ("apps", benchmark_texts.apps, field)):
        with pytest.raises(InputError, match=rf"{name}: .*field '{part}' is .*\[?3.*expected a"):
            list(read(tmp_path / "a.jsonl"))


def test_a_problem_that_is_not_utf8(tmp_path):
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001/question.txt").write_bytes(b"\xff?")
    with pytest.raises(InputError, match=r"apps: .*question\.txt cannot be read \(.utf-8. codec"):
        list(benchmark_texts.apps(tmp_path))
