"""A file of tests, as pytest would collect it, made into assertions that the judge runs one by one."""

import ast

from llama_scale.errors import InputError

ENDS = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Nonlocal, ast.Global)


def read_tests(text: str, module: str) -> str:
    """Return the assertions of a file of tests of ``module``, with what they need.

    Imports of the module go, as its names are the program's. Functions ``test_*`` become their bodies. Raises
    InputError where the tests need more than that.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"not Python ({' '.join(str(error).split())})") from None
    body: list[ast.stmt] = []
    for node in tree.body:
        body += _statements(node, module)
    if not any(isinstance(node, ast.Assert) for statement in body for node in ast.walk(statement)):
        raise InputError("expected assertions (assert f(1) == 2, or functions test_* with them), found none")
    tree.body = body
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _statements(node: ast.stmt, module: str) -> list[ast.stmt]:
    """Return what a statement at the top of a file of tests becomes."""
    where = f"line {node.lineno}"
    if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == module for alias in node.names):
        raise InputError(f"{where}: import {module} cannot be had here; write from {module} import NAME")
    if isinstance(node, ast.ImportFrom) and node.module == module:
        if renamed := next((alias for alias in node.names if alias.asname or alias.name == "*"), None):
            raise InputError(f"{where}: {ast.unparse(renamed)}: import each name as what it is called there")
        return []
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
        if node.args.args or node.args.kwonlyargs or node.decorator_list:
            raise InputError(f"{where}: {node.name} has arguments or a decorator, which need pytest")
        if any(isinstance(inner, ENDS) for inner in ast.walk(node)):
            raise InputError(f"{where}: {node.name} does more than assert (return, yield, await, global)")
        return node.body
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        raise InputError(f"{where}: {node.name}: tests are assertions, or functions test_* without arguments")
    return [node]
