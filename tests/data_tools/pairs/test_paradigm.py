"""The paradigm of a function, by hand for each language."""

import pytest

from data_tools.pairs.paradigm import paradigm

pytest.importorskip("tree_sitter_python", reason="tree-sitter and its grammars are not installed")


@pytest.mark.parametrize(("source", "language", "expected"), [
    ("def f(self):\n    for x in self.y:\n        g(x)\n", "python", "object-oriented"),
    ("def f(cls):\n    return cls.x\n", "python", "object-oriented"),
    ("def f(self):\n    return 3\n", "python", "plain"),  # it has an object and does not use it
    ("def f(x):\n    n = 0\n    for y in x:\n        n += y\n    return n\n", "python", "imperative"),
    ("def f(x):\n    x -= 1\n    return x\n", "python", "imperative"),
    ("def f(x):\n    return [y for y in x]\n", "python", "functional"),
    ("def f(x):\n    return sorted(x, key=lambda y: -y)\n", "python", "functional"),
    ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\n", "python", "functional"),
    ("def f(x):\n    return list(map(int, x))\n", "python", "functional"),
    ("def f(x):\n    for y in [z for z in x]:\n        g(y)\n", "python", "imperative"),
    ("def f(x):\n    y = x + 1\n    return y\n", "python", "plain"),
    ("int f() { return this.x; }", "java", "object-oriented"),
    ("int f(int n) { int s = 0; for (int i = 0; i < n; i++) { s += i; } return s; }", "java", "imperative"),
    ("int f(int n) { n *= 2; return n; }", "java", "imperative"),
    ("int f(List<A> x) { return x.stream().map(A::b).sum(); }", "java", "functional"),
    ("int f(int n) { return n < 2 ? 1 : n * f(n - 1); }", "java", "functional"),
    ("int f(int n) { int m = n; m = m + 1; return m; }", "java", "plain"),
    ("function f(x) { return this.y + x; }", "javascript", "object-oriented"),
    ("function f(x) { for (const y of x) { g(y); } }", "javascript", "imperative"),
    ("function f(x) { x++; return x; }", "javascript", "imperative"),
    ("function f(x) { return x.filter((y) => y > 1); }", "javascript", "functional"),
    ("function f(n) { return n < 2 ? 1 : n * f(n - 1); }", "javascript", "functional"),
    ("function f(x) { return x + 1; }", "javascript", "plain"),
])  # fmt: skip
def test_paradigm(source, language, expected):
    assert paradigm(source, language) == expected
