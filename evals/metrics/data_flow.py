"""Data flow of a program as edges between its variables, by the names' order: what CodeBLEU's fourth part compares.

An edge says that a use of a variable comes from its definition, or that a definition was computed from others. Names
that are never defined in the text (functions, modules, types, attributes) have no edges.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from evals.metrics.syntax_tree import nodes, parse

# Node types that define names: field of the names, field of what they are computed from.
DEFINITIONS = {
    "assignment": ("left", "right"),
    "augmented_assignment": ("left", "right"),
    "named_expression": ("name", "value"),
    "for_statement": ("left", "right"),
    "for_in_clause": ("left", "right"),
    "variable_declarator": ("name", "value"),
    "assignment_expression": ("left", "right"),
    "augmented_assignment_expression": ("left", "right"),
    "enhanced_for_statement": ("name", "value"),
    "for_in_statement": ("left", "right"),
    "update_expression": ("argument", "argument"),
}
ALSO_READ = {"augmented_assignment", "augmented_assignment_expression", "update_expression"}
PARAMETERS = {
    "parameters", "lambda_parameters", "formal_parameters", "formal_parameter", "spread_parameter",
    "catch_formal_parameter", "inferred_parameters", "as_pattern_target",
}  # fmt: skip
NAMES = {"identifier", "shorthand_property_identifier", "shorthand_property_identifier_pattern"}
# Identifiers that are no variables, by parent and field.
NO_VARIABLE = {
    ("attribute", "attribute"), ("keyword_argument", "name"), ("function_definition", "name"),
    ("class_definition", "name"), ("method_invocation", "name"), ("method_declaration", "name"),
    ("class_declaration", "name"), ("field_access", "field"), ("function_declaration", "name"),
    ("constructor_declaration", "name"),
}  # fmt: skip


@dataclass
class Flow:
    """Edges found so far; a name has the number of its first definition."""

    numbers: dict[str, int] = field(default_factory=dict)
    edges: Counter = field(default_factory=Counter)

    def number(self, name: str) -> int:
        """Return the number of a name, a new one if it has none."""
        return self.numbers.setdefault(name, len(self.numbers))

    def read(self, node: Any) -> list[int]:
        """Return the variables that an expression reads."""
        return [self.numbers[name] for name in variables(node) if name in self.numbers]

    def define(self, target: Any, sources: list[int]) -> None:
        """Note what the variables of a target are computed from; an item's or attribute's base is read as well."""
        for name in variables(target):
            self.edges[self.number(name), "computed", tuple(sources)] += 1


def variables(node: Any) -> list[str]:
    """Return the names of variables below a node, in the order of the text."""
    found = []
    for inner in nodes(node):
        if inner.type in NAMES and inner.parent is not None:
            parent = inner.parent
            fields = {parent.field_name_for_child(i) for i, c in enumerate(parent.children) if c.id == inner.id}
            if not any((parent.type, name) in NO_VARIABLE for name in fields):
                found.append(inner.text.decode())
    return found


def data_flow(source: str, language: str) -> Counter:
    """Return how often each edge occurs: (variable, "computed" or "read", variables it comes from)."""
    flow = Flow()
    for node in nodes(parse(source, language).root_node):
        if node.type in PARAMETERS:
            for child in node.named_children:
                default = child.child_by_field_name("value")
                names = child.child_by_field_name("name") or child
                if child.type in NAMES or "parameter" in child.type or "pattern" in child.type:
                    flow.define(names, flow.read(default) if default else [])
        elif node.type == "arrow_function" and (one := node.child_by_field_name("parameter")):
            flow.define(one, [])
        elif node.type in DEFINITIONS:
            left, right = (node.child_by_field_name(name) for name in DEFINITIONS[node.type])
            left = left or (node.named_children[0] if node.type == "update_expression" else None)
            if left is not None:
                sources = flow.read(right) if right else []
                flow.define(left, (flow.read(left) if node.type in ALSO_READ else []) + sources)
    for name in variables(parse(source, language).root_node):
        if name in flow.numbers:
            flow.edges[flow.numbers[name], "read", (flow.numbers[name],)] += 1
    return flow.edges
