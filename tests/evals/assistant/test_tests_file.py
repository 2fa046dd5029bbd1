"""Files of tests, as people write them, become assertions."""

import pytest

from evals.assistant.tests_file import read_tests
from llama_scale.errors import InputError


def test_functions_become_their_assertions():
    text = "import math\nfrom m import f\n\nassert f(0) == 0\n"
    text += "\ndef test_a():\n    'words'\n    x = 2\n    assert f(x) == math.ceil(3.5)\n"
    assert read_tests(text, "m").splitlines() == [
        "import math", "assert f(0) == 0", "'words'", "x = 2", "assert f(x) == math.ceil(3.5)",
    ]  # fmt: skip
    assert "from other import g" in read_tests("from other import g\nassert g(1)", "m")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import m\nassert m.f(1)", "line 1: import m cannot be had"),
        ("from m import f as g\nassert g(1)", "f as g: import each name"),
        ("from m import *\nassert g(1)", "import each name"),
        ("def test_a(tmp_path):\n    assert f(1)", "line 1: test_a has arguments"),
        ("def test_a():\n    return f(1)\nassert f(1)", "does more than assert"),
        ("class TestA:\n    def test_a(self):\n        assert f(1)", "TestA: tests are assertions"),
        ("x = 1", "expected assertions"),
        ("assert (", "not Python"),
        ("(" * 100_000, "not Python"),
    ],
)
def test_what_needs_more_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        read_tests(text, "m")
