"""The examples of a docstring as assertions: what a person who is asked for a function may know of its tests."""

import ast
import doctest
import re
from collections.abc import Iterator

MARKS = r"(?:==>|=>|->|➞|==|=|#=>|➜|→|returns?\b|should return\b|should be\b)"


def docstring_examples(docstring: str, entry: str) -> list[str]:
    """Return the examples of calls of ``entry`` as assertions, in their order, without repeats.

    Doctests (``>>> f(1)`` and the value on the next line) and lines with an arrow or an equals sign (``f(1) -> 2``) are
    understood where the value is a literal.
    """
    found = {**dict.fromkeys(_doctests(docstring, entry)), **dict.fromkeys(_arrows(docstring, entry))}
    return list(found)


def _doctests(docstring: str, entry: str) -> Iterator[str]:
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # a docstring that is nearly one
        return
    for example in examples:
        call, value = example.source.strip(), example.want.strip().split("\n")[0].strip()
        if _is_call(call, entry) and _is_literal(value):
            yield f"assert {call} == {value}"


def _arrows(docstring: str, entry: str) -> Iterator[str]:
    for line in docstring.splitlines():
        for match in re.finditer(rf"\b{re.escape(entry)}\(", line):
            call, rest = _call_at(line, match.start())
            mark = re.match(rf"\s*{MARKS}\s*:?\s*", rest)
            if call and _is_call(call, entry) and mark and (value := _literal_at(rest[mark.end() :])):
                yield f"assert {call} == {value}"


def _call_at(line: str, start: int) -> tuple[str, str]:
    """Return the call that begins at ``start`` and what follows it; two empty texts if it does not end."""
    for end in (place + 1 for place in range(start, len(line)) if line[place] == ")"):
        try:
            ast.parse(line[start:end], mode="eval")
        except SyntaxError:
            continue
        return line[start:end], line[end:]
    return "", ""


def _is_call(text: str, entry: str) -> bool:
    """Whether a text is a call of ``entry`` with values alone."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return False
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != entry:
        return False
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    return not any(isinstance(n, ast.Name) for argument in arguments for n in ast.walk(argument))


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _literal_at(text: str) -> str:
    """Return the literal that a text begins with, "" if there is none or it goes on as a sum or the like.

    The full stop of a sentence and a comment are no part of it.
    """
    text = re.split(r"\s#", text)[0]
    for end in range(len(text), 0, -1):
        if not text[end - 1].isspace() and text[end - 1] != "." and _is_literal(text[:end]):
            return "" if re.match(r"\s*[-+*/=%<>]|[\w\"']", text[end:]) else text[:end]
    return ""
