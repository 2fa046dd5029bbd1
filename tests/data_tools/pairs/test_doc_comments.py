"""Comment and code of Java methods and JavaScript functions: exact texts, and what the languages' own tools say."""

import shutil
import subprocess
from collections import Counter

import pytest

pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
from data_tools.pairs.doc_comments import commented_functions, first_paragraph

JAVA = """package a;
public class Stack<T> {
    /**
     * Returns the last {@code value} that was <i>pushed</i>,
     * which stays.
     *
     * @param pop whether it goes
     */
    @Override
    public <T> T top(int depth,
            boolean pop) throws Exception {
        // none
        if (pop)
            return null;
        return values[depth];
    }

    /** Says how it looks like. */
    public String toString() { return ""; }

    /** Has no code at all. */
    abstract void nothing();

    /** Too brief. */
    void brief() {
        run();
    }

    /** @return a value of some kind */
    int tagged() {
        return 1;
    }

    /** Returns a page of text. */
    String page() {
        return \"\"\"
            indented\"\"\";
    }

    /* No documentation of any kind. */
    int plain() {
        return 1;
    }
}
"""
JAVASCRIPT = """/**
 * Adds two numbers
 * and returns the sum.
 * @param {number} a
 */
export function add(a, b) {
  return a + b;
}
const o = {
  /** Doubles what it is given. */
  twice: async function (x) {
    return 2 * x;
  },
  /** Halves what it is given. */
  half(x) {
    return x / 2;
  },
  /** Gets what it was given. */
  get value() {
    return this.x;
  },
};
/** Calls what it is given. */
A.prototype.call = function(f) {
  return f();
};
/** Maps what it is given. */
const map = (xs) => {
  return xs.map(f);
};
class B extends A {
  /** Runs what it was given. */
  run(x) {
    return super.run(x);
  }
  /** Hides what it was given. */
  static hide(x) {
    return this.#x;
  }
}
/** Says the number one. */
function one() { return 1 }
"""


def found_in(source, language):
    dropped = Counter()
    return {f.name: f for f in commented_functions(source.encode(), language, dropped)}, dropped


def test_java_methods():
    found, dropped = found_in(JAVA, "java")
    (top,) = found.values()
    assert top.doc == "Returns the last value that was pushed, which stays."
    assert top.signature == "@Override\npublic <T> T top(int depth,\n        boolean pop) throws Exception {\n"
    assert top.body == "    // none\n    if (pop)\n        return null;\n    return values[depth];\n}\n"
    assert top.line == 9
    assert dropped == {
        "special method": 1, "no code": 1, "docstring too short or long": 2, "changes when dedented": 1,
    }  # fmt: skip


def test_javascript_functions():
    found, dropped = found_in(JAVASCRIPT, "javascript")
    assert {name: f.signature for name, f in found.items()} == {
        "add": "function add(a, b) {\n",
        "twice": "async function twice(x) {\n",
        "half": "function half(x) {\n",
        "call": "A.prototype.call = function(f) {\n",
        "map": "const map = (xs) => {\n",
    }
    assert (found["add"].doc, found["add"].body) == ("Adds two numbers and returns the sum.", "  return a + b;\n}\n")
    assert found["half"].body == "  return x / 2;\n}\n"
    assert found["call"].body == "  return f();\n};\n"
    assert dropped == {"needs its class": 3, "several statements on a line": 1}


@pytest.mark.parametrize(("comment", "text"), [
    ("/** One line. */", "One line."),
    ("/**\n * First.<p>Second.\n */", "First."),
    ("/**\n *\n * See {@link A#b the method}\n * &lt;here&gt;.\n *\n * More.\n */", "See A#b the method <here>."),
    ("/** @param x a number */", ""),
    ("/** If a < b and b > c then <b>so</b>. */", "If a < b and b > c then so."),
])  # fmt: skip
def test_first_paragraph(comment, text):
    assert first_paragraph(comment) == text


def test_files_that_are_of_no_use():
    assert found_in("/** Adds two numbers. */ function f(a) {", "javascript")[0] == {}
    assert found_in("// " + "x" * 3_000, "javascript")[1] == {"minified": 1}
    dropped = Counter()
    assert not list(commented_functions(b"\xff\xfe", "java", dropped))
    assert dropped == {"not UTF-8": 1}


def test_node_reads_each_function_alone(tmp_path):
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    functions = [f.code for f in found_in(JAVASCRIPT, "javascript")[0].values()]
    texts = "".join(f"new vm.Script({text!r});\n" for text in functions)
    subprocess.run(["node", "-e", f"const vm = require('vm');\n{texts}"], check=True)
