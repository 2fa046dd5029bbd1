"""Files with the field names of before are read as those of today."""

import gzip
import json
import platform
import re

import pytest

from evals.benchmarks.apps import AppsConfig, read
from evals.code_suite import sample
from evals.config import EvalConfig
from evals.journal import append_row
from evals.models.request import Completion
from evals.results import is_finished, pass_rates, read_result, read_samples, table
from evals.sandbox.types import JUDGE_VERSION, Program, Verdict
from evals.sandbox.worker import MEMORY_BYTES, OUTPUT_BYTES
from evals.verdicts import Execution, digest
from llama_scale.cli import parse
from llama_scale.files import SEAL, sha256
from llama_scale.generation.config import SamplingConfig
from tests.conftest import ROOT

# As they were written, but for what the names do not change.
RESULT = {
    "suite": "humaneval", "profile": "codex", "gold_bits_per_byte": 3.25, "gold_tasks": 164,
    "gold_prompts_cut": 92, "n_tasks": 1, "n_samples": 2, "pass_at_k": {"1": 0.5},
    "pass_at_k_exact_interval": {"1": [0.0, 1.0]}, "parse_rate": 1.0, "tests_held": 0.75,
    "prompts_cut": 1, "contaminated": [], "labelled": [], "step": 195,
}  # fmt: skip
SAMPLES = [
    {"task_id": "HumanEval/0", "sample": 0, "completion": "    return 1\n", "tokens": 5,
     "ended_by": "end", "prompt_cut": True, "passed": True, "reason": "passed", "parses": True,
     "held": 8, "tests": 8, "output": ""},
    {"task_id": "HumanEval/0", "sample": 1, "completion": "    return 2\n", "tokens": 64,
     "ended_by": "length", "prompt_cut": False, "passed": False, "reason": "wrong answer",
     "parses": True, "held": 4, "tests": 8, "output": ""},
]  # fmt: skip


def test_a_result_and_its_samples(tmp_path):
    path, samples = tmp_path / "humaneval.json", tmp_path / "humaneval-samples.jsonl.gz"
    samples.write_bytes(gzip.compress("".join(json.dumps(s) + "\n" for s in SAMPLES).encode()))
    path.write_text(json.dumps(RESULT | {"samples_sha256": sha256(samples)}))
    assert is_finished(path, {"step": 195})
    result = read_result(path)
    assert (result["assertion_pass_rate"], result["prompts_truncated"]) == (0.75, 1)
    assert (result["gold_prompts_truncated"], result["labeled"]) == (92, [])
    assert "assertion_pass_rate" in table(result) and "0.7500" in table(result)
    first, second = read_samples(path)
    assert (first["finish_reason"], second["finish_reason"]) == ("stop", "length")
    assert (first["prompt_truncated"], second["prompt_truncated"]) == (True, False)
    assert (second["assertions_passed"], second["assertions"]) == (4, 8)
    assert pass_rates(path) == {"HumanEval/0": 0.5}


def test_verdicts_are_not_come_to_again(tmp_path):
    cache, program = tmp_path / "verdicts.jsonl", Program("def f(): pass", "f()", ("f",))
    limits = [2.0, MEMORY_BYTES, OUTPUT_BYTES, "isolated", JUDGE_VERSION, platform.python_version()]
    key = digest(program, limits)
    assert key != "3da7f01679d6624765390524780e8638b5a36dbe48e67200f6818af5f945b720"  # of a judge that erred
    append_row(cache, {"key": key, "passed": False, "reason": "wrong answer", "parses": True,
                       "held": 1, "tests": 4, "output": "", "seconds": 0.01})  # fmt: skip

    class Unused:
        level = "isolated"

        def run_any(self, programs, timeout):
            assert not programs
            return iter(())

        def __exit__(self, *_):
            pass

    with Execution(cache=cache) as execution:
        execution._sandbox = Unused()
        assert execution.judge([program], 2.0, "test") == [
            Verdict(False, "wrong answer", True, assertions_passed=1, assertions=4)
        ]


def test_completions_of_a_stopped_run(tmp_path):
    apps = str(ROOT / "tests" / "fixtures" / "apps.jsonl")
    suite = read(AppsConfig(data=apps, n_tasks=2, sampling=SamplingConfig(temperature=1.0)))

    class Given:
        def complete(self, request):
            for task in request.prompts:
                yield Completion(task, 0, "print(1)", 3, "stop")

    execution = Execution(folder=tmp_path, identity="m")
    expected = sample(suite, Given(), execution)
    path = tmp_path / "apps-completions.jsonl"
    text = re.sub(rf', "{SEAL}": "\w+"', "", path.read_text())  # which rows did not have yet
    for new, old in (('"finish_reason": "stop"', '"ended_by": "end"'),
                     ("prompt_truncated", "prompt_cut")):  # fmt: skip
        assert text.count(new) == 2
        text = text.replace(new, old)
    path.write_text(text)
    assert sample(suite, None, execution) == expected


@pytest.mark.parametrize("flag", ["--ranks=2", "--processes=2"])
def test_settings(flag, tmp_path):
    (tmp_path / "old.yaml").write_text("ranks: 2\n")
    assert parse(EvalConfig, "", [flag]).processes == 2
    assert parse(EvalConfig, "", [f"--config={tmp_path / 'old.yaml'}"]).processes == 2
