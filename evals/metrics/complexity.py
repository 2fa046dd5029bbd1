"""Cyclomatic complexity (McCabe 1976) by one definition for three languages: 1 + the decisions of a function.

A decision is a branch, a loop, a handler, a conditional expression, a case and each ``and``/``or``; Python's
comprehensions count each ``for`` and ``if``, its ``assert`` one. Functions inside a function count for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.metrics.syntax_tree import nodes, parse

DECISIONS = {
    "python": {
        "if_statement", "elif_clause", "for_statement", "while_statement", "except_clause", "except_group_clause",
        "conditional_expression", "boolean_operator", "assert_statement", "for_in_clause", "if_clause", "case_clause",
    },
    "java": {
        "if_statement", "for_statement", "enhanced_for_statement", "while_statement", "do_statement", "catch_clause",
        "ternary_expression",
    },
    "javascript": {
        "if_statement", "for_statement", "for_in_statement", "while_statement", "do_statement", "catch_clause",
        "ternary_expression", "switch_case",
    },
}  # fmt: skip
LOGICAL = {"&&", "||", "??"}


def decides(node: Any, language: str) -> bool:
    """Whether a node of a tree is a decision."""
    if node.type in DECISIONS[language]:
        return True
    if node.type == "binary_expression":
        operator = node.child_by_field_name("operator")
        return operator is not None and operator.type in LOGICAL
    if node.type == "switch_label":
        return node.text.startswith(b"case")
    # A loop's or handler's ``else`` is a branch; that of an ``if`` belongs to its condition.
    return node.type == "else_clause" and language == "python" and node.parent.type in (
        "for_statement", "while_statement", "try_statement"
    )  # fmt: skip


def complexity(source: str, language: str = "python") -> int:
    """Return the cyclomatic complexity of a function, or of all that stands in a text together."""
    return 1 + sum(decides(node, language) for node in nodes(parse(source, language).root_node))


def terciles(values: Sequence[float]) -> list[int]:
    """Return 0, 1 or 2 for each value: the lower, middle and upper third by rank; equal values are in one third."""
    low, high = np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf")
    return [int(value > low) + int(value > high) for value in values]
