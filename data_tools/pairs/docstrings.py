"""Docstring and code of Python functions, by the rules of CodeSearchNet but with the docstring taken out of the code.

CodeSearchNet (Husain et al. 2019, 1909.09436) keeps functions whose documentation has at least three words and whose
code has at least three lines, without tests and without special methods such as ``__len__``, and cuts documentation
after its first paragraph. Its Python code still has the docstring in it, so that a model learns to copy its prompt.
"""

import ast
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

LEAST_WORDS, MOST_WORDS = 3, 256  # of the documentation, as in CodeXGLUE
LEAST_LINES = 3
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class DocumentedFunction:
    """A function of a file, dedented: its ``signature`` (decorators left out) and ``body``, each ending with a newline.

    ``doc`` is the first paragraph of its docstring, which is in neither.
    """

    name: str
    line: int
    doc: str
    signature: str
    body: str

    @property
    def code(self) -> str:
        """The function without its docstring."""
        return self.signature + self.body


def documented_functions(content: bytes, dropped: Counter[str]) -> Iterator[DocumentedFunction]:
    """Yield the functions of a Python file that have a docstring; count in ``dropped`` those of no use, by reason."""
    try:
        text = content.decode().replace("\r\n", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of string escapes in the file
            tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError):
        dropped["no Python"] += 1
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, Function) and (doc := ast.get_docstring(node)):
            found = _take(node, doc, lines)
            if isinstance(found, str):
                dropped[found] += 1
            else:
                yield found


def _take(node: Function, doc: str, lines: list[str]) -> DocumentedFunction | str:
    """Return the function, or why it is left out."""
    doc = " ".join(doc.split("\n\n")[0].split())
    if node.name.startswith("__") and node.name.endswith("__"):
        return "special method"
    first, docstring = node.lineno - 1, node.body[0]
    start, end = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
    if len(node.body) == 1:
        return "no code"
    if start <= first or lines[start][: docstring.col_offset].strip() or node.body[1].lineno <= end:
        return "several statements on a line"
    # Lines first to start - 1 are the signature, start to end - 1 the docstring, end on the body.
    whole = lines[first:start] + lines[end : node.end_lineno]
    # A blank line between docstring and code goes; one in the signature's place would stay.
    code = textwrap.dedent("\n".join(whole)) + "\n"
    if not _same(node, code):
        return "changes when dedented"  # a string over several lines
    kept = code.split("\n")
    height = start - first
    body = "\n".join(kept[height:]).lstrip("\n")
    signature = "\n".join(kept[:height]).rstrip("\n") + "\n"
    body = _four_deep(node, signature, body)
    function = DocumentedFunction(node.name, node.lineno, doc, signature, body)
    return refusal(function) or function


def refusal(function: DocumentedFunction) -> str | None:
    """Return why a function in any language is of no use as a pair; None if it is of use."""
    doc = function.doc
    if "test" in function.name.lower():
        return "test"
    if not LEAST_WORDS <= len(doc.split()) <= MOST_WORDS:
        return "docstring too short or long"
    if not doc.isascii() or "http" in doc or "<img" in doc:
        return "docstring not plain English"
    if len([line for line in function.code.split("\n") if line.strip()]) < LEAST_LINES:
        return "code too short"
    if doc in " ".join(function.code.split()):
        return "docstring in the code"
    return None


def _four_deep(node: Function, signature: str, body: str) -> str:
    """Return a body that is indented deeper than its function as one of four columns, where that changes nothing.

    CodeXGLUE has methods whose first line was moved to the margin and whose other lines were not.
    """
    indent = len(body) - len(body.lstrip(" "))
    lines = body.split("\n")
    if indent <= 4 or any(line.strip() and not line.startswith(" " * indent) for line in lines):
        return body
    moved = "\n".join(line[indent - 4 :] for line in lines)
    return moved if _same(node, signature + moved) else body


def _same(node: Function, code: str) -> bool:
    """Whether ``code`` is the function of ``node`` without its docstring and decorators."""
    try:
        (own,) = ast.parse(code).body
    except (SyntaxError, ValueError):
        return False
    bare = type(node)(**{name: getattr(node, name) for name in node._fields})  # not the file's tree
    bare.body, bare.decorator_list = node.body[1:], []
    return ast.dump(own) == ast.dump(bare)
