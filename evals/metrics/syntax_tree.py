"""Syntax trees of Python, Java and JavaScript by tree-sitter, no judge of syntax: it accepts what compilers refuse."""

import importlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from llama_scale.errors import InputError


@lru_cache
def _parser(language: str) -> Any:
    try:
        import tree_sitter

        grammar = importlib.import_module(f"tree_sitter_{language}")
    except ImportError as error:
        remedy = "pip install 'llama_scale[metrics]'"
        raise InputError(f"metrics: {language} needs tree-sitter ({error}); {remedy}") from None
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def parse(source: str, language: str) -> Any:
    """Return the tree of a text; parts that are not of the language are ERROR nodes in it.

    Raises InputError where tree-sitter or the language's grammar is not installed.
    """
    return _parser(language).parse(source.encode("utf-8", "replace"))


def nodes(root: Any) -> Iterator[Any]:
    """Yield a node and all below it, each before its children, in the order of the text."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def is_comment(node: Any) -> bool:
    """Whether a node is a comment in one of the three languages."""
    return node.type in ("comment", "line_comment", "block_comment")


def leaves(root: Any) -> Iterator[Any]:
    """Yield the tokens below a node, a text in quotes being one, comments left out."""
    stack = [root]
    while stack:
        node = stack.pop()
        if is_comment(node):
            continue
        if not node.children or node.type in ("string", "string_literal", "character_literal", "template_string"):
            if node.end_byte > node.start_byte:
                yield node
        else:
            stack.extend(reversed(node.children))
