import ast
import os
import textwrap
from pathlib import Path

import pytest

from evals.metrics.complexity import complexity, terciles

pytest.importorskip("tree_sitter_python", reason="tree-sitter and its grammars are not installed")


@pytest.mark.parametrize(("source", "language", "expected"), [
    ("def f(): pass", "python", 1),
    ("def f(x):\n  if x and y or z: pass\n  elif w: pass\n  else: pass", "python", 5),
    ("def f(x):\n  for a in x: pass\n  else: pass\n  try: pass\n  except E: pass\n  else: pass", "python", 5),
    ("def f(x): return [a for a in x if a for b in a]", "python", 4),
    ("int f(int x) { return x > 0 && x < 9 || x == 3 ? 1 : 2; }", "java", 4),
    ("void f(int x) { switch (x) { case 1: break; case 2: break; default: g(); } }", "java", 3),
    ("void f() { try { do { } while (a); } catch (E e) { for (;;) ; } }", "java", 4),
    ("function f(x) { return x ?? (x ? 1 : 2); }", "javascript", 3),
    ("function f(x) { switch (x) { case 1: break; default: } for (const a of x) { while (a) ; } }", "javascript", 4),
])  # fmt: skip
def test_counts_decisions(source, language, expected):
    assert complexity(source, language) == expected


def library_functions(count):
    """Yield functions of the standard library that have no function or class inside."""
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        source = path.read_text(errors="replace")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                inner = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
                if len(inner) == 1 and count > 0:
                    count -= 1
                    yield textwrap.dedent(" " * node.col_offset + ast.get_source_segment(source, node))


def test_equals_radon_on_the_standard_library():
    radon = pytest.importorskip("radon.complexity", reason="radon is not installed")
    functions = list(library_functions(2400))
    same = sum(complexity(text) == radon.cc_visit(text)[0].complexity for text in functions)
    assert len(functions) == 2400
    assert same >= 0.97 * len(functions)


def test_terciles():
    assert terciles([5, 1, 9, 2, 7, 3]) == [1, 0, 2, 0, 2, 1]
    assert terciles([1, 1, 1, 1, 2, 8]) == [0, 0, 0, 0, 2, 2]
