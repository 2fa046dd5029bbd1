import json

import pytest

from evals.benchmarks.mbpp import MbppConfig, Problem, free_names, problems, program, read
from evals.sandbox.pool import Sandbox
from llama_scale.errors import InputError
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data" / "eval"
FILES = ["mbpp.jsonl", "sanitized-mbpp.json"]
GOLDEN = ROOT / "tests" / "golden"
SMALL = ROOT / "tests" / "fixtures"  # of the same schemas, written for these tests
TASK = {
    "task_id": 11, "text": "Write add.", "code": "def add(a, b):\r\n  return a + b",
    "test_setup_code": "", "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
}  # fmt: skip


def path(name):
    file = DATA / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    return str(file)


def judged(tasks, sources, timeout=8.0):
    programs = [program(t, s) for t, s in zip(tasks, sources, strict=True)]
    with Sandbox(2) as box:
        return list(box.run(programs, timeout))


@pytest.mark.parametrize(("name", "count"), [(FILES[0], 7), (FILES[1], 4)])
def test_small_references_pass_and_those_of_others_fail(name, count):
    tasks = problems(str(SMALL / name))
    right = [task.code for task in tasks]
    verdicts = judged(tasks * 2, right + right[1:] + right[:1])
    assert [(v.passed, v.assertions_passed, v.assertions) for v in verdicts[:count]] == [(True, 3, 3)] * count
    assert not any(v.passed for v in verdicts[count:]) and len(tasks) == count


def test_small_files_are_read_whole():
    full, sanitized = (problems(str(SMALL / name)) for name in FILES)
    assert [task.number for task in full] == [2, 3, 4, 11, 12, 511, 601]
    shared = {task.number: task for task in full}
    for task in sanitized:
        same = shared[task.number]
        assert (task.text, task.code, task.tests) == (same.text, same.code, same.tests)
    assert [task.setup for task in sanitized] == ["", "", "import math", ""]
    assert full[4].setup == "chain = Link(3, Link(4))"
    assert not any("\r" in task.code for task in full)
    sizes = {"prompt": 3, "test": 2, "validation": 1, "train": 1, "all": 7}
    for split, size in sizes.items():
        suite = read(MbppConfig(data=str(SMALL / FILES[0]), split=split, profile="incoder"))
        assert len(suite.tasks) == size
        assert suite.about == {"profile": "incoder", "split": split, "sanitized": False}
    assert {task.task_id for task in suite.tasks if task.label} == {"MBPP/12"}


def test_prompts_of_the_small_file():
    google, incoder = (
        read(MbppConfig(data=str(SMALL / FILES[0]), profile=profile)) for profile in ("google", "incoder")
    )
    ask = "You are an expert Python programmer, and here is your task: {} Your code should pass"
    double = ask.format("Write a function that doubles a number.") + (
        " these tests:\n\nassert double(2) == 4\nassert double(-1) == -2\nassert double(0) == 0\n"
        "[BEGIN]\ndef double(n):\n    return 2 * n\n[DONE]\n\n"
    )
    area = ask.format("Write a function for the area of a circle, to two places.") + (
        " these tests:\n\nassert area(1) == 3.14\nassert area(0) == 0\nassert math.isclose(area(2), 12.57)\n[BEGIN]\n"
    )
    prompt = google.tasks[0].prompt
    assert prompt.startswith(double) and prompt.endswith("[DONE]\n\n" + area)
    assert prompt.count("[BEGIN]") == 4 and google.config.sampling.stop == ("[DONE]",)
    assert incoder.tasks[0].prompt == (
        '"""\nWrite a function for the area of a circle, to two places.\nassert area(1) == 3.14\n"""\n'
    )
    assert "\nclass" in incoder.config.sampling.stop


@pytest.mark.parametrize(("name", "step"), [(FILES[0], 8), (FILES[1], 8)])
def test_reference_solutions_pass(name, step):
    tasks = [t for i, t in enumerate(problems(path(name))) if i % step == 0]
    hard = [t for t in problems(path(name)) if t.number in (123, 367, 533, 601, 927, 737, 787) and name == FILES[0]]
    verdicts = judged(tasks + hard, [t.code for t in tasks + hard])
    both = zip(tasks + hard, verdicts, strict=True)
    assert [(t.number, v.reason) for t, v in both if not v.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [(FILES[0], 974), (FILES[1], 427)])
def test_all_reference_solutions_pass(name, count):
    tasks = problems(path(name))
    verdicts = judged(tasks, [t.code for t in tasks])
    assert (len(tasks), sum(v.passed for v in verdicts)) == (count, count)


def test_the_reference_of_another_task_fails():
    tasks = problems(path(FILES[0]))[10:60]
    verdicts = judged(tasks, [t.code for t in tasks[1:] + tasks[:1]])
    assert not any(v.passed for v in verdicts)


def test_setup_runs_after_the_solution_with_its_classes():
    task = Problem(
        number=1,
        text="",
        code="class N:\n  pass\ndef f(n): return n.v",
        tests=["assert f(n) == 3"],
        setup_code="n = N()\nn.v = 3",
    )
    cheat = "class N:\n  def __getattr__(s, k): return s\ndef f(n): return N()"
    right, wrong = judged([task] * 2, [task.code, cheat])
    assert right.passed and not wrong.passed
    assert program(task, "").objects and set(program(task, "").names) == {"N", "f"}


@pytest.mark.parametrize("profile", ["google", "incoder"])
def test_prompts_are_the_golden_ones(profile):
    tasks = read(MbppConfig(data=path(FILES[0]), profile=profile)).tasks
    assert len(tasks) == 500 and tasks[0].task_id == "MBPP/11"
    assert tasks[0].prompt == (GOLDEN / f"mbpp-{profile}.txt").read_bytes().decode()
    labeled = {t.task_id for t in tasks if t.label}
    assert labeled == {"MBPP/367"}


def test_splits():
    sizes = {"prompt": 10, "test": 500, "validation": 90, "train": 374, "all": 974}
    for split, size in sizes.items():
        assert len(read(MbppConfig(data=path(FILES[0]), split=split)).tasks) == size
    sanitized = MbppConfig(data=path(FILES[1]), sanitized=True, profile="incoder")
    assert len(read(sanitized).tasks) == 257


def test_names_of_the_tests():
    assert free_names("x = f(1)\nassert g(x, math.pi) == len([y for y in x])") == {
        "f", "g", "math", "len",
    }  # fmt: skip
    tests = ["assert sum(1) == max(1, int(math.sqrt(1)))"]
    whole = program(Problem(1, "", "def sum(a): return a", tests), "")
    assert (whole.names, whole.setup) == (("sum",), "import math")


def test_bad_data_is_named(tmp_path):
    file = tmp_path / "x.jsonl"
    with pytest.raises(InputError, match="cannot be read"):
        problems(str(file))
    file.write_text('{"task_id": 1}\n')
    with pytest.raises(InputError, match="line 1: field 'text' is missing"):
        problems(str(file))
    file.write_text(json.dumps(TASK) + "\n")
    with pytest.raises(InputError, match=r"x\.jsonl lacks tasks 2, 3 and 4"):
        read(MbppConfig(data=str(file)))
    assert len(read(MbppConfig(data=str(file), profile="incoder")).tasks) == 1
    with pytest.raises(InputError, match=r"x\.jsonl has no task of train"):
        read(MbppConfig(data=str(file), profile="incoder", split="train"))
