import pytest

from evals.metrics.degenerate import copied_share, degenerate, repetition, trivial_baselines

PROMPT = 'def f(x):\n    """Return the sum of all the numbers in the list that are above zero."""\n'


@pytest.mark.parametrize(("completion", "expected"), [
    ("", "empty"), ("  \n", "empty"), ("    pass\n", "only pass"), ("    ...\n", "only pass"),
    ("def f(x):\n    pass\n", "only pass"), ("    return None\n", "returns None"), ("    return\n", "returns None"),
    ("    # nothing yet\n", "comment only"), ('    """Words."""\n', "comment only"),
    ('    """Words."""\n    return None\n', "returns None"),
    ("    Return the sum of all the numbers in the list that are above zero.", "copies prompt"),
    ("    return sum(n for n in x if n > 0)\n", None), ("    return None or x\n", None), ("    return (", None),
])  # fmt: skip
def test_python(completion, expected):
    assert degenerate(completion, PROMPT) == expected


@pytest.mark.parametrize(("language", "completion", "expected"), [
    ("java", "}", "empty"), ("java", "return null; } }", "returns None"), ("java", "// no\n", "comment only"),
    ("java", "return a; } }", None), ("javascript", "return null }", "returns None"), ("javascript", "}", "empty"),
    ("javascript", "return undefined;\n}", "returns None"), ("javascript", "return 0;\n}", None),
])  # fmt: skip
def test_braces(language, completion, expected):
    pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
    assert degenerate(completion, "", language) == expected


def test_repetition_and_copies():
    assert repetition("a b c d e f g") == 0
    assert repetition("a b " * 50) == pytest.approx(1 - 2 / 97)
    assert copied_share("a b c d", "a b c d") == 0  # too short to say
    assert copied_share(PROMPT, PROMPT) == 1


def test_trivial_baselines():
    found = trivial_baselines(["a", "b", "c"])
    assert found == {"empty": ["", "", ""], "first reference": ["a", "a", "a"],
                     "reference of another task": ["b", "c", "a"]}  # fmt: skip
