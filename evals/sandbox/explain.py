"""What failing assertions were about, for whoever repairs a program: both values, and what the program says of it.

It is asked for (Program.explain) and looks on alone: an assertion is evaluated as it stands, in its order, once.
"""

import ast
import reprlib
from typing import Any

from evals.sandbox import wire

LONGEST = 200  # characters of a text
MOST = 10  # failures that are told of
LAST_LINE = 1 << 24
UNKNOWN = object()
COMPARED = {ast.Eq: "", ast.NotEq: "not ", ast.Lt: "< ", ast.LtE: "<= ", ast.Gt: "> ", ast.GtE: ">= ",
            ast.Is: "is ", ast.IsNot: "is not ", ast.In: "in ", ast.NotIn: "not in "}  # fmt: skip


class Notes:
    """Notes on the assertions of one program's tests, whose functions are ``names``.

    ``left`` and ``right`` are put around the sides of an assertion's comparison and give back what they got.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.failures = set(names), []
        self.tests: list[tuple[str, bool, str]] = []  # text, whether the program stands on the right, what is expected
        self.number: int | None = None
        self.sides: list[Any] = [UNKNOWN, UNKNOWN]

    def prepare(self, node: ast.Assert) -> list[ast.stmt]:
        """Return the statements to run for an assertion: it, its sides looked at, after a note that it begins."""
        text, test, turned, words = ast.unparse(node.test), node.test, False, "a true value"
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test.operand, words = _looked_at("__left__", test.operand), "a false value"
        elif isinstance(test, ast.Compare) and len(test.ops) == 1:
            called = [any(getattr(n, "id", "") in self.names for n in ast.walk(s)) for s in _sides(test)]
            turned, words = called == [False, True] and type(test.ops[0]) is ast.Eq, COMPARED[type(test.ops[0])]
            test.left = _looked_at("__left__", test.left)
            test.comparators = [_looked_at("__right__", test.comparators[0])]
        elif isinstance(test, ast.Call) and len(test.args) == 2 and getattr(test.func, "id", "").startswith("__"):
            words = ""  # a comparison by a helper of the tests
            test.args = [_looked_at(name, arg) for name, arg in zip(("__left__", "__right__"), test.args, strict=True)]
        else:
            node.test = _looked_at("__left__", test)
        self.tests.append((text[:LONGEST], turned, words))
        begin = ast.Expr(ast.Call(ast.Name("__begin__", ast.Load()), [ast.Constant(len(self.tests) - 1)], []))
        return [ast.fix_missing_locations(ast.copy_location(begin, node)), ast.fix_missing_locations(node)]

    def scope(self) -> dict[str, Any]:
        """Return the names that prepared assertions use."""
        return {"__begin__": self.begin, "__left__": self.left, "__right__": self.right}

    def begin(self, number: int) -> None:
        """Note that an assertion begins."""
        self.number, self.sides = number, [UNKNOWN, UNKNOWN]

    def left(self, value: Any) -> Any:
        """Note the value on the left of an assertion."""
        self.sides[0] = value
        return value

    def right(self, value: Any) -> Any:
        """Note the value on the right of an assertion."""
        self.sides[1] = value
        return value

    def failed(self, reason: str, claim: dict[str, Any]) -> None:
        """Note that the assertion that began last failed, or, where none has begun, the program itself."""
        ended = bool(self.failures) and not self.failures[0]["test"]  # before any assertion: there is no more to say
        if len(self.failures) < MOST and not ended:
            text, turned, words = ("", False, "") if self.number is None else self.tests[self.number]
            got, expected = self.sides[::-1] if turned else self.sides
            failure = {"test": text, "reason": reason, "number": -1 if self.number is None else self.number} | claim
            if reason == "wrong answer" and got is not UNKNOWN:
                failure["got"] = shown(got)
                failure["expected"] = (words + ("" if expected is UNKNOWN else shown(expected)))[:LONGEST]
            self.failures.append(failure)
        self.number = None


def _sides(test: ast.Compare) -> list[ast.expr]:
    return [test.left, test.comparators[0]]


def _looked_at(name: str, value: ast.expr) -> ast.expr:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [value], []), value)


def shown(value: Any) -> str:
    """Return plain data as Python writes it, at most LONGEST characters; other things are only said to be such."""
    writer = reprlib.Repr()
    writer.maxlevel, writer.maxstring, writer.maxother, writer.maxlong = 8, LONGEST, LONGEST, LONGEST
    for name in ("maxdict", "maxlist", "maxtuple", "maxset", "maxfrozenset", "maxdeque", "maxarray"):
        setattr(writer, name, 50)
    if type(value) is wire.Opaque or type(value).__module__ == "evals.sandbox.judge":
        return "an object that is not plain data"
    try:
        text = writer.repr(value)
    except (ValueError, RecursionError, MemoryError):  # a number of thousands of digits
        return "a value too long to show"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def claim_of(frame: dict[str, Any]) -> dict[str, Any]:
    """Return what a program's frame says of its error, as far as it has the right form: words, line, column."""
    raised, where = frame.get("raised"), frame.get("where")
    words = raised[-1] if type(raised) is list and raised and type(raised[-1]) is str else ""
    claim: dict[str, Any] = {"claimed": words[:LONGEST]}
    if type(where) is list and len(where) == 2 and all(type(n) is int and 0 <= n < LAST_LINE for n in where):
        claim |= {"line": where[0], "column": where[1]}
    return claim
