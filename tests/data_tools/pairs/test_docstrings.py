"""Docstring and code of functions: exact texts, and the same syntax tree for every function of the standard library."""

import ast
import json.decoder
import textwrap
from collections import Counter
from pathlib import Path

from data_tools.pairs.docstrings import documented_functions

SOURCE = '''
class Stack:
    @property
    def top(self, default=None,
            *, pop: bool = False) -> int:
        """Return the last value
        that was pushed.

        Raises what a list raises.
        """

        if not self.values:  # none
            return default
        return self.values[-1]

    def __len__(self):
        """Return how many values there are."""
        size = len(self.values)
        return size

async def wait(seconds):
    "Wait that many seconds."
    await sleep(seconds)
    return seconds

def test_stack():
    """Push and pop one value."""
    stack = Stack()
    assert stack

def short():
    """Return the number one."""
    return 1

def brief():
    """Too brief."""
    x = 1
    return x

def nothing():
    """Do nothing at all here."""

def one_line(): """All on one line."""; return 1

class Text:
    def page(self):
        """Return a page of text."""
        text = """
        indented"""
        return text
'''


def test_functions_of_a_file():
    dropped = Counter()
    top, wait = sorted(documented_functions(SOURCE.encode(), dropped), key=lambda function: function.line)
    assert (top.name, top.doc) == ("top", "Return the last value that was pushed.")
    assert top.signature == "def top(self, default=None,\n        *, pop: bool = False) -> int:\n"
    assert top.body == "    if not self.values:  # none\n        return default\n    return self.values[-1]\n"
    assert wait.code == "async def wait(seconds):\n    await sleep(seconds)\n    return seconds\n"
    assert dropped == {
        "special method": 1,
        "test": 1,
        "code too short": 1,
        "docstring too short or long": 1,
        "no code": 1,
        "several statements on a line": 1,
        "changes when dedented": 1,
    }


def test_every_function_is_what_the_parser_finds():
    """Of real files: without docstring and decorators the tree is that of the file, found by another way."""
    seen = 0
    for path in (json.decoder.__file__, textwrap.__file__, ast.__file__):
        content = Path(path).read_bytes()
        trees = {node.lineno: node for node in ast.walk(ast.parse(content)) if hasattr(node, "decorator_list")}
        for function in documented_functions(content, Counter()):
            node = trees[function.line]
            node.decorator_list, node.body = [], node.body[1:]
            assert ast.unparse(ast.parse(function.code)) == ast.unparse(node)
            assert ast.get_docstring(ast.parse(function.code).body[0]) is None
            seen += 1
    assert seen > 20


def test_files_that_are_no_python():
    dropped = Counter()
    assert not list(documented_functions(b"def f(:\n", dropped))
    assert not list(documented_functions(b"\xff\xfe", dropped))
    assert not list(documented_functions(b"a\x00", dropped))
    assert dropped == {"no Python": 3}
