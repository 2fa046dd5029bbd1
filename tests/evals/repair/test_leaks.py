"""Hidden tests cannot leak: nothing shown reaches them, and no canary of them is anywhere before sealing."""

import gzip
import json
import types
from dataclasses import fields, is_dataclass, replace

import pytest

from evals.benchmarks import apps, humaneval, mbpp, quixbugs
from evals.repair import runner
from evals.repair.outcome import VisibleJudge
from evals.repair.split import split
from evals.verdicts import Execution
from llama_scale.errors import InputError
from tests.evals.repair.helpers import CANARIES, block, right, study, write_tasks

ARMS = "resample,syntax,tests,tests:interpreter,tests:model,tests:lint,logic,logic:model,generic"


def reachable(start):
    """Every text that can be reached from an object: fields, items, closures, defaults, attributes, bound methods."""
    seen, left, texts = set(), [start], []
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, type | types.ModuleType):
            continue
        seen.add(id(item))
        if isinstance(item, str | bytes):
            texts.append(str(item))
        elif is_dataclass(item):
            left += [getattr(item, field.name) for field in fields(item)]
        elif isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
        elif isinstance(item, types.FunctionType):
            left += [cell.cell_contents for cell in item.__closure__ or ()]
            left += [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values(), *item.__code__.co_consts]
        elif isinstance(item, types.MethodType):
            left += [item.__self__, item.__func__]
        elif hasattr(item, "__dict__"):
            left += vars(item).values()
    return texts


def leaked(texts):
    return [text for text in texts if any(canary in text for canary in CANARIES)]


def test_what_is_shown_reaches_no_hidden_test(tmp_path):
    suite = mbpp.read(mbpp.MbppConfig(data=str(write_tasks(tmp_path / "tasks.jsonl", 3)), profile="incoder"))
    parts = split(suite, 1, Execution(), 2.0)
    for part in parts:
        assert part.shown.tests == (f"assert {part.shown.entry}(1) == {1 + int(part.shown.entry[4:])}",)
        assert not leaked(reachable(part.shown)) and not leaked(reachable(part.visible))
        assert leaked(reachable(part.hidden)), "the walk must see what there is to see"
    judge = VisibleJudge({part.shown.number: part.visible for part in parts}, Execution(), 2.0)
    assert not leaked(reachable(judge))


def test_nothing_shown_of_humaneval_holds_its_tests():
    suite = humaneval.read(humaneval.HumanEvalConfig())
    for part, task in zip(split(suite, 1, Execution(), 2.0), suite.tasks, strict=True):
        texts = reachable(part.shown) + reachable(part.visible)
        assert not any("METADATA" in text or "def check(" in text for text in texts), part.shown.task_id
        assert not any(task.problem["canonical_solution"] in text for text in texts), part.shown.task_id


def test_nothing_shown_of_apps_and_quixbugs_holds_other_cases_or_solutions(tmp_path):
    cases = {"inputs": ["1\n", "7700123451\n"], "outputs": ["2\n", "7700123452\n"]}
    row = {"problem_id": 1, "question": "Add 1.\nInput\n1\n\nOutput\n2\n", "input_output": json.dumps(cases),
           "solutions": json.dumps(["print(int(input()) + len('c'))  # canary"])}  # fmt: skip
    (tmp_path / "apps.jsonl").write_text(json.dumps(row))
    bug = {"name": "inc", "buggy": "def inc(x): return x", "fixed": "def inc(x): return x + 1  # canary",
           "cases": [[[1], 2], [[7700123451], 7700123452]]}  # fmt: skip
    (tmp_path / "quixbugs.jsonl").write_text(json.dumps(bug))
    suites = [
        apps.read(apps.AppsConfig(data=str(tmp_path / "apps.jsonl"))),
        quixbugs.read(quixbugs.QuixBugsConfig(data=str(tmp_path / "quixbugs.jsonl"))),
    ]
    with Execution() as execution:
        for suite in suites:
            (part,) = split(suite, 1, execution, 2.0)
            assert len(part.shown.tests) == 1
            assert not leaked(reachable(part.shown)) and not leaked(reachable(part.visible))
            assert leaked(reachable(part.hidden))


def test_no_canary_anywhere_before_sealing(tmp_path, monkeypatch):
    """All arms, critics that echo what they are told, programs that print what they can find and are called with.

    Nor is any in a file afterwards, the data's own aside.
    """
    found = {}

    def look(journal, sealed, splits, execution, timeout):
        found.update({file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "tasks.jsonl"})
        return real(journal, sealed, splits, execution, timeout)

    def answer(ask, number):
        peek = "import gc\nprint([o for o in gc.get_objects() if type(o) is dict and 'tests' in o], flush=True)\n"
        tell = "print(x, flush=True)\n    if x > 9:\n        raise type(f'Saw{x}', (Exception,), {})(x)\n"
        return block(f"{peek}def add_{ask.key[0] + 11}(x):\n    {tell}    return {ask.key[1] - 99}\n")

    def echo(ask, number):
        return "\n".join(message.content for message in ask.messages)

    real = runner.seal
    monkeypatch.setattr(runner, "seal", look)
    _, rows, model = study(tmp_path, answer, critic=echo, **{"plan.arms": ARMS, "plan.history": 3})
    asked = [message.content for ask in model.asked for message in ask.messages]
    assert len(found) >= 5 and {row["arm"] for row in rows} == set(ARMS.split(","))
    texts = [gzip.decompress(data).decode() if name.endswith(".gz") else data.decode() for name, data in found.items()]
    assert not leaked(texts) and not leaked(asked)
    assert "assert add_11(1) == 12" in str(asked), "the visible test is shown"
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "tasks.jsonl"]
    data = [gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes() for f in files]
    assert len(files) >= 10 and not leaked([str(content) for content in data])
    assert {row["sealed_reason"] for row in rows} == {"wrong answer"}
    judged = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines() if line]
    assert any(row["output"].endswith("\n1\n") for row in judged), "what is run with visible tests may speak"


def test_a_profile_that_shows_all_tests_is_refused(tmp_path):
    suite = mbpp.read(mbpp.MbppConfig(data=str(write_tasks(tmp_path / "tasks.jsonl", 1)), profile="incoder"))
    with pytest.raises(InputError, match=r"mbpp\.profile: google shows all tests"):
        split(replace(suite, about={"profile": "google"}), 1, Execution(), 2.0)


def test_right_programs_are_solved(tmp_path):
    result, rows, _ = study(tmp_path, lambda ask, _: block(right(ask.key[0] + 11)))
    assert all(row["solved"] for row in rows) and result["arms"]["tests"]["curve"][0]["solved"] == 3
