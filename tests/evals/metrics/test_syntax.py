"""The languages' own parsers in the sandbox; a missing one says nothing."""

import shutil

import pytest

from evals.metrics.syntax import BATCH, check_syntax
from evals.sandbox import tools
from evals.verdicts import Execution, ExecutionConfig

TEXTS = {
    "python": (["def f(a):\n    return a\n", "print 1", "x = (", "", "\0", "(" * 3000], [True, *[False] * 5]),
    "javascript": (["function f(a) { return a; }", "function f() {", "let 1", " ", "(" * 100000], [True, *[False] * 4]),
    "java": (
        ["class A { int f(int a) { return a; } }", "class A { int f() { return b; } }", "class A {", "int", " "],
        [True, True, False, False, False],
    ),
}


@pytest.fixture(scope="module")
def execution():
    with Execution(ExecutionConfig(workers=1)) as opened:
        if opened.sandbox.level != "isolated":
            pytest.skip("Java and JavaScript run at level isolated alone")
        yield opened


@pytest.mark.parametrize("language", TEXTS)
def test_parsers_own_word(execution, language):
    if language != "python" and tools.find_tool(language) is None:
        pytest.skip(f"no tool for {language}")
    texts, expected = TEXTS[language]
    assert [found.parses for found in check_syntax(texts, language, execution)] == expected


def test_java_compiles_apart_from_parses(execution):
    if tools.find_tool("java") is None:
        pytest.skip("no tool for java")
    found = check_syntax(TEXTS["java"][0], "java", execution)
    assert [syntax.compiles for syntax in found] == [True, False, False, False, None]


def test_batches_keep_their_order(execution):
    texts = ["a = 1" if i % 3 else "a = " for i in range(2 * BATCH + 1)]
    assert [found.parses for found in check_syntax(texts, "python", execution)] == [
        bool(i % 3) for i in range(len(texts))
    ]


@pytest.mark.parametrize("language", ["java", "javascript"])
def test_missing_tool_says_nothing(monkeypatch, tmp_path, language):
    monkeypatch.setenv("PATH", str(tmp_path))
    tools.find_tool.cache_clear()
    assert shutil.which("node") is None
    try:
        with Execution(ExecutionConfig(workers=1)) as execution:
            assert check_syntax([TEXTS[language][0][0], " "], language, execution)[0] is None
    finally:
        tools.find_tool.cache_clear()
