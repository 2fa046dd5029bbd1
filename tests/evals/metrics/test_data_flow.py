import pytest

from evals.metrics.data_flow import data_flow

pytest.importorskip("tree_sitter_python", reason="tree-sitter and its grammars are not installed")


@pytest.mark.parametrize(("language", "first", "second"), [
    ("python", "def f(a, b=1):\n    c = a.a + b\n    for x in c:\n        g(x, b=x)\n",
     "def g(u, v=1):\n    w = u.a + v\n    for y in w:\n        h(y, b=y)\n"),
    ("java", "int f(int a, int b) { int c = a + b; for (int x : l) { c += x; } return c; }",
     "int g(int u, int v) { int w = u + v; for (int y : m) { w += y; } return w; }"),
    ("javascript", "const f = (a, b) => { let c = a + b; for (const x of a) { c += x; } return c; }",
     "const g = (u, v) => { let w = u + v; for (const y of u) { w += y; } return w; }"),
])  # fmt: skip
def test_names_do_not_matter(language, first, second):
    flow = data_flow(first, language)
    assert flow and flow == data_flow(second, language)


def test_what_a_value_comes_from():
    flow = data_flow("def f(a, b):\n    c = a + b\n    return c\n", "python")
    a, b, c = 0, 1, 2
    assert flow[c, "computed", (a, b)] == 1
    assert flow[a, "computed", ()] == flow[b, "computed", ()] == 1
    assert flow != data_flow("def f(a, b):\n    c = a + a\n    return c\n", "python")
    assert flow != data_flow("def f(a, b):\n    c = a + b\n    return a\n", "python")


def test_without_variables_there_is_none():
    assert not data_flow("print(1)\nimport os\n", "python")
