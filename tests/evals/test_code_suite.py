"""Drawing, stopping, going on, and what judged completions say together."""

import math

import pytest

from evals.benchmarks.apps import AppsConfig, read
from evals.benchmarks.mbpp import MbppConfig
from evals.code_suite import sample, says_something, score, summarize
from evals.journal import append_row
from evals.models.request import Completion, Request
from evals.sandbox.types import NOT_MEASURED
from evals.verdicts import Execution, ExecutionConfig
from llama_scale.errors import InputError
from llama_scale.generation.sampling import SamplingConfig
from tests.conftest import ROOT

APPS = str(ROOT / "tests" / "fixtures" / "apps.jsonl")


class Asked:
    """A model that keeps the requests; after ``dies_after`` completions it fails."""

    def __init__(self, dies_after=math.inf):
        self.requests: list[Request] = []
        self.dies_after = dies_after

    def complete(self, request):
        self.requests.append(request)
        drawn = 0
        for task in request.prompts:
            for number in range(request.n_samples):
                if drawn == self.dies_after:
                    raise KeyboardInterrupt
                drawn += 1
                yield Completion(task, number, f"print({task}, {number})", 1, "stop")


@pytest.fixture
def suite():
    return read(AppsConfig(data=APPS, n_samples=3, sampling=SamplingConfig(temperature=1.0)))


def test_a_task_half_drawn_is_drawn_again(suite, tmp_path):
    whole = sample(suite, Asked(), Execution(folder=tmp_path / "whole", identity="m"))
    assert len(suite.tasks) == 4 and len(whole) == 12
    killed = Execution(folder=tmp_path / "killed", identity="m")
    with pytest.raises(KeyboardInterrupt):
        sample(suite, Asked(dies_after=5), killed)
    source = Asked()
    assert sample(suite, source, killed) == whole
    assert list(source.requests[0].prompts) == [1, 2, 3], "the first is whole, the second is not"
    # The rows of the half-drawn task stand twice in the file now; each is taken once.
    again = Asked()
    assert sample(suite, again, killed) == whole and again.requests == []


def test_completions_of_other_settings_or_another_model_are_not_taken(suite, tmp_path):
    sample(suite, Asked(), Execution(folder=tmp_path, identity="m"))
    other = Asked()
    sample(suite, other, Execution(folder=tmp_path, identity="n"))
    hot = read(AppsConfig(data=APPS, n_samples=3, sampling=SamplingConfig(temperature=0.5)))
    sample(hot, other, Execution(folder=tmp_path, identity="n"))
    assert [list(request.prompts) for request in other.requests] == [[0, 1, 2, 3]] * 2


def test_completions_that_cannot_be_read_are_drawn_anew(suite, tmp_path):
    execution = Execution(folder=tmp_path, identity="m")
    append_row(tmp_path / "apps-completions.jsonl", {"settings": "of before"})
    source = Asked()
    assert len(sample(suite, source, execution)) == 12
    assert list(source.requests[0].prompts) == [0, 1, 2, 3]


def test_assertion_pass_rate_is_a_share_of_each_tasks_tests(suite):
    right = suite.tasks[0].reference
    once = "print(int(input()) ** 2)"  # one of the three inputs has two lines
    rows = [
        {"task_id": "APPS/4001", "sample": i, "completion": text}
        for i, text in enumerate([right, once, "  \n", "print(", "print(1)"])
    ]
    rows.append({"task_id": "APPS/4004", "sample": 0, "completion": "print(1)"})
    with Execution(ExecutionConfig(workers=2)) as execution:
        result, samples = score(rows, suite, execution)
    assert [(s["assertions_passed"], s["assertions"]) for s in samples] == [
        (3, 3), (2, 3), (0, 3), (0, 3), (0, 3), (0, 0)
    ]  # fmt: skip
    assert result["assertion_pass_rate"] == pytest.approx((1 + 2 / 3) / 6)
    assert [s["parses"] for s in samples] == [True, True, False, False, True, True]
    assert result["parse_rate"] == pytest.approx(4 / 6)
    assert [s["passed"] for s in samples] == [True] + [False] * 5
    assert samples[5]["reason"] == "no tests"
    assert result["pass_at_k"] == {"1": pytest.approx((1 / 5 + 0) / 2)}
    logs = [math.log(1.5 / 6), math.log(0.5 / 2)]
    assert result["log_pass_rate"] == pytest.approx(sum(logs) / 2)


def test_a_summary_leaves_out_what_was_not_measured():
    def row(task, passed, reason="x"):
        return {
            "task_id": task,
            "sample": 0,
            "passed": passed,
            "reason": reason,
            "parses": True,
            "assertions_passed": 1,
            "assertions": 4,
            "prompt_truncated": True,
        }

    samples = [row("a", True), row("a", False), row("b", True), row("c", False, NOT_MEASURED)]
    result = summarize(samples, (1, 2), {"b": ["file.py"]})
    assert result["pass_at_k"] == {"1": pytest.approx(0.75)} and result["n_tasks"] == 2
    assert result["not_measured"] == 1 and result["assertion_pass_rate"] == 0.25
    assert result["contaminated"] == ["b"] and result["prompts_truncated"] == 4
    assert result["pass_at_k_clean"] == {"1": 0.5, "2": 1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AppsConfig(max_tests=-1), r"apps\.max_tests: expected more than 0, found -1"),
        (lambda: MbppConfig(k=(0, -3)), r"mbpp\.k: expected more than 0, found \(0, -3\)"),
        (lambda: AppsConfig(n_tasks=0), r"apps\.n_tasks: expected more than 0, found 0"),
        (lambda: read(AppsConfig(data=APPS, gold_tasks=5)), r"apps\.gold_tasks: expected 1 to 4"),
    ],
)
def test_bad_settings_are_named_at_once(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("completion", "says"),
    [
        ("    return a + b\n", True),
        ("\n   \n", False),
        ("    # adds the two\n", False),
        ("    pass\n    pass\n    pass\n", False),
        ("    pass\n    pass\n    return 1  # done\n", True),
    ],
)
def test_what_a_completion_must_have_to_say_something(completion, says):
    assert says_something(completion) == says
