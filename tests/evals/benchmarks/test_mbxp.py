"""MBXP in three languages: what is read, what passes, and what must not."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from evals import code_suite
from evals.benchmarks import mbxp
from evals.benchmarks.mbxp import FILES, MbxpConfig
from evals.benchmarks.mbxp_values import driver, expected_lines, read_value
from evals.sandbox import tools
from evals.sandbox.types import NOT_MEASURED
from evals.verdicts import Execution, ExecutionConfig
from llama_scale.errors import InputError
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data" / "eval" / "mbxp"
SMALL = ROOT / "tests" / "fixtures" / "mbxp"  # of the same schema, written for these tests
BRACES = ["java", "javascript"]


def need(language):
    if language != "python" and tools.find_tool(language) is None:
        pytest.skip(f"no tool for {language}")


@pytest.fixture(scope="module")
def execution():
    with Execution(ExecutionConfig(workers=2)) as opened:
        if opened.sandbox.level != "isolated":
            pytest.skip("Java and JavaScript run at level isolated alone")
        yield opened


def suite_of(language, **settings):
    return mbxp.read(MbxpConfig(data=str(SMALL), language=language, split="all", **settings))


def judged(suite, completions, execution):
    """Score one completion of each task, by task_id."""
    rows = [{"task_id": task, "sample": 0, "completion": text} for task, text in completions]
    return code_suite.score(rows, suite, execution)


@pytest.mark.parametrize("language", FILES)
def test_references_pass_and_those_of_others_fail(language, execution):
    need(language)
    suite = suite_of(language, paired=False)
    known = [(task.task_id, task.reference) for task in suite.tasks if task.reference]
    result, rows = judged(suite, known, execution)
    assert [(row["passed"], row["assertions_passed"], row["assertions"]) for row in rows] == [(True, 3, 3)] * len(known)
    assert result["parse_rate"] == result["load_rate"] == 1
    assert result.get("compile_rate", 1) == 1
    others = [(task, text) for (task, _), (_, text) in zip(known, known[1:] + known[:1], strict=True)]
    assert not any(row["passed"] for row in judged(suite, others, execution)[1])


JAVA = {
    "return 0;\n    }\n}": ("wrong answer", True, True, True, 0),
    "return nums.get(0) + nums.get(1);\n    }\n}": ("wrong answer", True, True, True, 1),
    "return nums.get(9);\n    }\n}": ("raised ArrayIndexOutOfBoundsException", True, True, True, 0),
    "return sum(nums);\n    }\n}": ("not loaded", True, False, False, 0),
    "return (;\n    }\n}": ("not loaded", False, False, False, 0),
    "System.exit(0); return 0;\n    }\n}": ("wrong answer", True, True, True, 0),
    "return 0;\n    }\n}\nclass Other { static { System.exit(0); } }": ("wrong answer", True, True, True, 0),
}
JAVASCRIPT = {
    "  return 0;\n}": ("wrong answer", True, True, 0),
    "  return x;\n}": ("raised ReferenceError", True, True, 0),
    "  return (;\n}": ("not loaded", False, False, 0),
    "  process.exit(0);\n}": ("wrong answer", True, True, 0),
    "  require('fs').writeSync(1, 'i6\\n'); return 6;\n}": ("wrong answer", True, True, 0),
    "  return String(nums.reduce((a, b) => a + b, 0));\n}": ("wrong answer", True, True, 0),
}


def test_java_verdicts(execution):
    need("java")
    rows = judged(suite_of("java"), [("MBXP/11", text) for text in JAVA], execution)[1]
    found = [tuple(row[n] for n in ("reason", "parses", "compiles", "loads", "assertions_passed")) for row in rows]
    assert found == list(JAVA.values())
    assert not any(row["passed"] for row in rows)


def test_javascript_verdicts(execution):
    need("javascript")
    rows = judged(suite_of("javascript"), [("MBXP/11", text) for text in JAVASCRIPT], execution)[1]
    found = [tuple(row[n] for n in ("reason", "parses", "loads", "assertions_passed")) for row in rows]
    assert found == list(JAVASCRIPT.values())
    assert not any(row["passed"] for row in rows)


def test_what_a_program_prints_does_not_matter(execution):
    need("javascript")
    text = "  console.log('hello'); process.stdout.write('x');\n  return nums.reduce((a, b) => a + b, 0);\n"
    assert judged(suite_of("javascript"), [("MBXP/11", text)], execution)[1][0]["passed"]


def test_python_loads_apart_from_passes(execution):
    texts = ["    return 0\nraise ValueError\n", "    return 0\n", "    return (\n"]
    rows = judged(suite_of("python"), [("MBXP/11", text) for text in texts], execution)[1]
    assert [(row["parses"], row["loads"], row["passed"]) for row in rows] == [
        (True, False, False), (True, True, False), (False, False, False),
    ]  # fmt: skip


@pytest.mark.parametrize("language", BRACES)
def test_a_missing_tool_is_no_pass(language, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    tools.find_tool.cache_clear()
    try:
        suite = suite_of(language)
        with Execution(ExecutionConfig(workers=1)) as execution:
            result, rows = judged(suite, [(task.task_id, task.reference) for task in suite.tasks], execution)
        assert {row["reason"] for row in rows} == {NOT_MEASURED}
        assert not any(row["passed"] for row in rows)
        assert result["not_measured"] == len(rows) and result["pass_at_k"] == {} and "parse_rate" not in result
    finally:
        tools.find_tool.cache_clear()


def test_splits_and_pairs():
    assert mbxp.paired_numbers(str(SMALL)) == {11, 602}  # 12's Java solution lists its tests
    assert mbxp.split_numbers({11, 510, 511, 602}, "test") == [11, 510]
    tasks = mbxp.read(MbxpConfig(data=str(SMALL), language="java", split="test")).tasks
    assert [task.task_id for task in tasks] == ["MBXP/11"]


def test_parameters_have_the_prompts_names():
    task = mbxp.problems(str(SMALL), "javascript")[0]
    assert task.solution == "  return nums.reduce((a, b) => a + b, 0);\n}"
    assert mbxp.with_parameters("  return o.nUms + nUMS + Nums + numsy;", task) == (
        "  return o.nUms + nums + Nums + numsy;"
    )


def test_what_follows_the_function_is_cut_and_a_last_brace_put_back():
    java, script = (mbxp.problems(str(SMALL), language)[0] for language in BRACES)
    whole = mbxp.whole_source(java, java.solution)
    assert mbxp.whole_source(java, java.solution + "\nclass More {}") == whole
    assert mbxp.whole_source(java, java.solution.removesuffix("\n}")) == whole
    text = mbxp.whole_source(script, "  return '}' /* } */; // }\n} more(")
    assert text.endswith("// }\n}")
    assert mbxp.whole_source(script, "  if (a) {").endswith("if (a) {")  # not ended: nothing is put back


@pytest.mark.parametrize("value", [
    "[1, -2.5, 'a\\'b', \"é\", true, null]", "{'b': [], 'a': {}}", "new Set([2, 1, 2])", "[[], [[1]], -0]", "1e21",
])  # fmt: skip
def test_a_value_is_written_as_javascript_does(value, tmp_path):
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    test = f"var arg00 = 1;\nvar x0 = {value};\nvar v0 = {value};\n"
    (tmp_path / "a.js").write_text(driver(test, "javascript"))
    said = subprocess.run(["node", tmp_path / "a.js"], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:2] == ["loaded", *expected_lines(test, "javascript")]


@pytest.mark.parametrize(("one", "other", "language"), [
    ("1", "1L", "java"), ("1", "1.0", "java"), ("Arrays.asList(1)", "new HashSet(){{add(1);}}", "java"),
    ("'1'", "1", "javascript"), ("[]", "{}", "javascript"), ("null", "undefined", "javascript"),
])  # fmt: skip
def test_unequal_values_have_unequal_forms(one, other, language):
    assert read_value(one, language) != read_value(other, language)


def test_order_matters_in_lists_alone():
    assert read_value("new HashMap(){{put(1, 2);put(3, 4);}}", "java") == read_value(
        "new HashMap(){{put(3, 4);put(1, 2);}}", "java"
    )
    assert read_value("new Set([1, 2])", "javascript") == read_value("new Set([2, 1])", "javascript")
    assert read_value("1", "javascript") == read_value("1.0", "javascript")
    assert read_value("[1, 2]", "javascript") != read_value("[2, 1]", "javascript")


@pytest.mark.parametrize(("change", "words"), [
    ({"test": "var x0 = f();\n"}, "field 'test' is 0 values for its calls"),
    ({"test": "var x0 = f();\nvar v0 = g(1);\n"}, "field 'test' is 'g' in a value"),
    ({"task_id": "11"}, "field 'task_id' is '11'"),
    ({"prompt": None}, "field 'prompt' is missing"),
])  # fmt: skip
def test_bad_rows_are_named(change, words, tmp_path):
    row = json.loads((SMALL / FILES["javascript"]).read_text().splitlines()[0])
    (tmp_path / FILES["javascript"]).write_text(json.dumps(row | change) + "\n")
    with pytest.raises(InputError, match="line 1: ") as caught:
        mbxp.problems(str(tmp_path), "javascript")
    assert words in str(caught.value)


def test_without_data_the_files_are_named():
    with pytest.raises(
        InputError, match=r"mbxp.data: no folder is set; give the folder of MBXP's mbpp_release_v1.jsonl"
    ):
        mbxp.read(MbxpConfig())


@pytest.mark.parametrize("language", FILES)
def test_published_counts(language):
    if not DATA.exists():
        pytest.skip(f"{DATA} is not there")
    known = mbxp.problems(str(DATA), language)
    assert (len(known), sum(p.solution is not None for p in known)) == COUNTS[language]


COUNTS = {"python": (974, 960), "java": (966, 812), "javascript": (966, 863)}


@pytest.mark.slow
@pytest.mark.parametrize("language", FILES)
def test_every_published_reference_passes(language, execution):
    if not DATA.exists():
        pytest.skip(f"{DATA} is not there")
    need(language)
    config = MbxpConfig(data=str(DATA), language=language, split="all", paired=False)
    suite = mbxp.read(config)
    suite = replace(suite, tasks=[task for task in suite.tasks if task.reference])
    rows = judged(suite, [(task.task_id, task.reference) for task in suite.tasks], execution)[1]
    assert [row["task_id"] for row in rows if not row["passed"]] == []
