"""Which way of programming a function is written in, by what stands in its syntax tree.

One definition for the three languages, of what a function does itself: a method that works on its object is
object-oriented, one with a loop or a counter is imperative, one that maps, filters, calls itself or builds functions
is functional, and one with none of these is plain.
"""

from typing import Any

from evals.metrics.syntax_tree import nodes, parse

PARADIGMS = ("object-oriented", "imperative", "functional", "plain")
IMPERATIVE = {
    "for_statement", "while_statement", "do_statement", "for_in_statement", "enhanced_for_statement",
    "augmented_assignment", "augmented_assignment_expression", "update_expression",
}  # fmt: skip
FUNCTIONAL = {
    "list_comprehension", "set_comprehension", "dictionary_comprehension", "generator_expression", "lambda",
    "lambda_expression", "arrow_function", "function_expression", "method_reference",
}  # fmt: skip
HIGHER_ORDER = {"map", "filter", "reduce", "partial", "flatMap", "forEach"}
FUNCTIONS = {"function_definition", "function_declaration", "method_declaration", "method_definition"}
CALLS = {"call", "call_expression", "method_invocation"}
OPERATORS = {"+=", "-=", "*=", "/=", "%="}  # Java's assignment_expression has them and = alike


def paradigm(source: str, language: str) -> str:
    """Return the paradigm of a function: the first of ``PARADIGMS`` that something in it is of."""
    names: set[str] = set()
    kinds: set[str] = set()
    for node in nodes(parse(source, language).root_node):
        if node.type in FUNCTIONS:
            names.add(_text(node.child_by_field_name("name")))
        if _is_own_object(node):
            kinds.add("object-oriented")
        elif node.type in IMPERATIVE or (
            node.type == "assignment_expression" and _text_of(node, "operator") in OPERATORS
        ):
            kinds.add("imperative")
        elif node.type in FUNCTIONAL or (node.type in CALLS and _called(node) in HIGHER_ORDER | names):
            kinds.add("functional")
    return next((name for name in PARADIGMS if name in kinds), "plain")


def _is_own_object(node: Any) -> bool:
    """Whether a node is the object that a method is called on: self. or cls. in Python, this and super elsewhere."""
    if node.type == "attribute":
        return _text_of(node, "object") in ("self", "cls")
    return node.type in ("this", "super")


def _called(call: Any) -> str:
    """Return the name of what is called, the last one of a dotted name."""
    return _text(call.child_by_field_name("function") or call.child_by_field_name("name")).split(".")[-1]


def _text_of(node: Any, field: str) -> str:
    return _text(node.child_by_field_name(field))


def _text(node: Any) -> str:
    return "" if node is None else node.text.decode("utf-8", "replace")
