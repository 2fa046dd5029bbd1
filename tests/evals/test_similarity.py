"""Similarity, degenerates and trivial baselines of judged samples; the run itself is that of launch/evaluate.py."""

import pytest

from evals.benchmarks import mbxp
from evals.benchmarks.mbxp import MbxpConfig
from evals.similarity import describe, similarities
from evals.verdicts import Execution, ExecutionConfig
from tests.conftest import ROOT

pytest.importorskip("tree_sitter_java", reason="tree-sitter and its grammars are not installed")
SMALL = ROOT / "tests" / "fixtures" / "mbxp"


def test_ends_of_each_similarity():
    for language, text in (
        ("python", "    return a + b\n"),
        ("java", "return a + b; }"),
        ("javascript", "return a; }"),
    ):
        assert set(similarities(text, text, language).values()) == {1.0}
        assert set(similarities(text, "", language).values()) == {0.0}


def test_samples_beside_references():
    suite = mbxp.read(MbxpConfig(data=str(SMALL), language="python", split="all"))
    texts = [suite.tasks[0].reference, "    pass\n", suite.tasks[0].reference.replace("sum", "max")]
    rows = [
        {"task_id": "MBXP/11", "completion": text, "passed": i == 0, "reason": "passed" if i == 0 else "wrong answer"}
        for i, text in enumerate(texts)
    ]
    with Execution(ExecutionConfig(workers=1)) as execution:
        result, described = describe(rows, suite, execution)
    assert [row["degenerate"] for row in described] == [None, "only pass", None]
    assert described[0]["similarity"]["codebleu"] == 1
    assert result["degenerate_rates"] == {"only pass": 1 / 3}
    area = result["area_for_passing"]["bleu"]
    assert (area["value"], area["pairs"], area["tasks"]) == (1.0, 2, 1)
    # Each of these needs no model, and two of three parse.
    assert result["baseline_parse_rates"] == {"empty": 0.0, "first reference": 1.0, "reference of another task": 1.0}
