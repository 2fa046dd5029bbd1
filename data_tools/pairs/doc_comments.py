"""Comment and code of Java methods and JavaScript functions, by the same rules as Python's (docstrings.py).

A function counts if a ``/** ... */`` comment stands before it. A function that is a member of an object or class is
written as a function of its own, so that each parses alone: ``f(x) {...}`` and ``f: function(x) {...}`` become
``function f(x) {...}``. tree-sitter finds them.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from data_tools.pairs.docstrings import DocumentedFunction, refusal
from evals.metrics.syntax_tree import nodes, parse

# Methods that many classes have, and that their comment says nothing of.
COMMON = {
    "java": {"toString", "hashCode", "equals", "finalize", "notify", "notifyAll", "clone"},
    "javascript": {"toString", "toLocaleString", "valueOf", "constructor"},
}
FUNCTIONS = ("function_declaration", "generator_function_declaration")
VALUES = ("function_expression", "arrow_function")
LONGEST_LINE = 2_000  # a longer one is of no person's hand
NO_BODY, IN_CLASS, LAYOUT = "no code", "needs its class", "changes when dedented"


def commented_functions(content: bytes, language: str, dropped: Counter[str]) -> Iterator[DocumentedFunction]:
    """Yield the functions of a file that have a comment; count in ``dropped`` those of no use, by reason."""
    try:
        text = content.decode().replace("\r\n", "\n").expandtabs(4)
    except UnicodeDecodeError:
        dropped["not UTF-8"] += 1
        return
    if max(map(len, text.split("\n"))) > LONGEST_LINE:
        dropped["minified"] += 1
        return
    source = text.encode()
    for comment in nodes(parse(text, language).root_node):
        if not comment.type.endswith("comment") or not comment.text.startswith(b"/**"):
            continue
        found = function_of(comment.next_sibling, source, language) if comment.next_sibling else None
        if isinstance(found, tuple):
            name, code, brace, line = found
            found = documented(first_paragraph(comment.text.decode()), name, code, brace, line, language)
        if isinstance(found, str):
            dropped[found] += 1
        elif found:
            yield found


def documented(doc: str, name: str, code: str, brace: int, line: int, language: str) -> DocumentedFunction | str:
    """Return a function whose body begins at ``code[brace]``, or why it is left out."""
    if name in COMMON[language]:
        return "special method"
    head, body = code[: brace + 1], code[brace + 1 :]
    first, _, rest = body.partition("\n")
    if first.strip():
        return "several statements on a line"
    if not rest.strip("} \n;)"):
        return NO_BODY
    function = DocumentedFunction(name, line, doc, head.rstrip() + "\n", rest.rstrip() + "\n")
    return refusal(function) or function


def function_of(node: Any, source: bytes, language: str) -> tuple[str, str, int, int] | str | None:
    """Return name, code, place of the body's brace and line of the function that a node is, or why it is of no use.

    None is a node that is no function. The code is dedented.
    """
    found = _java_method(node) if language == "java" else _javascript_function(node)
    if not isinstance(found, tuple):
        return found
    name, prefix, start, body = found
    if node.has_error:
        return f"no {'Java' if language == 'java' else 'JavaScript'}"
    if body is None:
        return NO_BODY
    below = list(nodes(node))
    if language == "javascript" and any(inner.type in ("super", "private_property_identifier") for inner in below):
        return IN_CLASS
    text, before = source[start : node.end_byte].decode(), source[start : body.start_byte].decode()
    indent = _indent(source, node.start_byte, text)
    if indent and any(inner.type.startswith(("template_string", "string")) and b"\n" in inner.text for inner in below):
        return LAYOUT
    if any(line.strip() and not line.startswith(" " * indent) for line in text.split("\n")[1:]):
        return LAYOUT
    code = prefix + _moved(text, indent)
    return name, code, len(prefix) + len(_moved(before, indent)), node.start_point[0] + 1


def _indent(source: bytes, start: int, text: str) -> int:
    """Return by how many columns the lines of a function, but its first, are to be moved to the left.

    That is where its first line begins; CodeXGLUE moved this one line to the margin, so the last line may know better.
    """
    line = source[source.rfind(b"\n", 0, start) + 1 :]
    last = text.rpartition("\n")[2]
    return max(len(line) - len(line.lstrip(b" ")), len(last) - len(last.lstrip(" ")))


def _moved(text: str, indent: int) -> str:
    """Return a text whose lines, but the first, are moved to the left."""
    first, *lines = text.split("\n")
    return "\n".join([first, *(line[indent:] for line in lines)])


def _java_method(node: Any) -> tuple[str, str, int, Any] | None:
    if node.type != "method_declaration":
        return None
    return node.child_by_field_name("name").text.decode(), "", node.start_byte, node.child_by_field_name("body")


def _javascript_function(node: Any) -> tuple[str, str, int, Any] | str | None:
    """Return name, what is put before the text, where that begins, and the body."""
    if node.type == "export_statement":
        node = node.child_by_field_name("declaration")
        return _javascript_function(node) if node else None
    if node.type in FUNCTIONS:
        return _name(node, "name"), "", node.start_byte, node.child_by_field_name("body")
    if node.type in ("lexical_declaration", "variable_declaration") and node.named_child_count == 1:
        return _assigned(node, node.named_children[0], "name", "value")
    if node.type == "expression_statement" and node.named_children[0].type == "assignment_expression":
        return _assigned(node, node.named_children[0], "left", "right")
    if node.type == "pair":
        value = node.child_by_field_name("value")
        if value.type == "function_expression" and value.child_by_field_name("parameters"):
            return _member(node.child_by_field_name("key"), value, value)
    if node.type == "method_definition":
        return _member(node.child_by_field_name("name"), node, node)
    return None


def _assigned(whole: Any, node: Any, left: str, right: str) -> tuple[str, str, int, Any] | None:
    """Return a function that is the value of a name or property, with the whole statement as its text."""
    value = node.child_by_field_name(right)
    body = value.child_by_field_name("body") if value and value.type in VALUES else None
    if body is None or body.type != "statement_block":
        return None
    return _name(node, left).rpartition(".")[2], "", whole.start_byte, body


def _member(key: Any, node: Any, value: Any) -> tuple[str, str, int, Any] | str:
    """Return a member of an object or class as a function of its own."""
    start, name = value.child_by_field_name("parameters").start_byte, key.text.decode()
    words = {child.type for child in node.children if child.start_byte < start}
    if key.type != "property_identifier" or words & {"get", "set", "*"}:
        return IN_CLASS
    prefix = f"{'async ' if 'async' in words else ''}function {name}"
    return name, prefix, start, value.child_by_field_name("body")


def _name(node: Any, field: str) -> str:
    return node.child_by_field_name(field).text.decode()


def first_paragraph(comment: str) -> str:
    """Return what a ``/** ... */`` comment says first, without tags and mark-up; "" if it begins with a tag."""
    lines = [re.sub(r"^\s*\*+ ?", "", line).strip() for line in comment[3:-2].split("\n")]
    said: list[str] = []
    for line in lines:
        if line.startswith("@") or (said and not line):
            break
        said += [line] if line else []
    text = re.split(r"<(?:p|br|ul|ol|pre|h\d|table|blockquote)\b", " ".join(said), flags=re.IGNORECASE)[0]
    text = re.sub(r"\{@\w+\s+([^{}]*)\}", r"\1", text)
    return " ".join(html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", "", text)).split())
