import sys

import pytest

from evals.metrics.language_tokens import language_tokens
from llama_scale.errors import InputError


def test_python_has_its_layout_and_no_comments():
    tokens = language_tokens("if x:  # why\n\n    y(1)\nz\n")
    assert tokens == ["if", "x", ":", "NEWLINE", "INDENT", "y", "(", "1", ")", "NEWLINE", "DEDENT", "z", "NEWLINE"]
    assert language_tokens("f( x )") == language_tokens("f(x)")


@pytest.mark.parametrize(
    "text", ["def f(a:\n  return (a +\n", "x = '''abc\n y", "if a:\n    b\n  c\n d", "a ? b ! $ `"]
)
def test_what_is_not_python_has_tokens_too(text):
    tokens = language_tokens(text)
    letters = "".join(t for t in tokens if t not in ("NEWLINE", "INDENT", "DEDENT"))
    assert "".join(letters.split()) == "".join(text.split())


@pytest.mark.parametrize("language", ["java", "javascript"])
def test_braces(language):
    pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
    tokens = language_tokens('f(a) /* no */ ; s = "x y" // no\n', language)
    assert tokens == ["f", "(", "a", ")", ";", "s", "=", '"x y"']


def test_blank_has_none():
    assert language_tokens(" \n\t") == language_tokens("", "java") == []


def test_missing_grammar_names_the_extra(monkeypatch):
    from evals.metrics import syntax_tree

    syntax_tree._parser.cache_clear()
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    with pytest.raises(InputError, match=r"java needs tree-sitter .* pip install 'llama_scale\[metrics\]'"):
        language_tokens("a", "java")
    syntax_tree._parser.cache_clear()
