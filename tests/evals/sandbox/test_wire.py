"""Values from a program to its tests: what a plain run would pass passes, and nothing else does."""

# ruff: noqa: E501 - programs in lines

import collections
import enum
import json
import re
from fractions import Fraction

import pytest

from evals.sandbox import wire
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Program

COUNTER, DEQUE, ORDERED, DEFAULT = (
    f"__import__('collections').{name}" for name in ("Counter", "deque", "OrderedDict", "defaultdict")
)
IDENTITY = "    __eq__ = lambda a, b: a is b\n    __hash__ = object.__hash__\n"
# A program and tests of its f; whether they pass is what a plain run of both says.
PAIRS = {
    "named tuple": ("T = __import__('collections').namedtuple('T', 'a b')\ndef f(): return T(1, 2)",
                    "assert f() == (1, 2) and f()[0] == 1 and isinstance(f(), tuple) and {f()} == {(1, 2)}\n"
                    "assert type(f()) is not tuple and repr(f()) != '(1, 2)'"),
    "class of a named tuple": ("import typing\nclass T(typing.NamedTuple):\n    a: int\n    b: int = 2\n"
                               "def f(): return T(1)", "assert f() == (1, 2)\na, b = f()\nassert b == 2"),
    "integers of an enumeration": ("import enum\nclass E(enum.IntEnum):\n    A = 3\ndef f(): return E.A",
                                   "assert f() == 3 and f() in {3} and f() + 1 == 4"),
    "texts of an enumeration": ("import enum\nclass E(str, enum.Enum):\n    A = 'x'\ndef f(): return E.A",
                                "assert f() == 'x' and f().upper() == 'X'"),
    "flags": ("import enum\nclass E(enum.IntFlag):\n    A = 1\n    B = 2\ndef f(): return E.A | E.B", "assert f() == 3 and f() | 4 == 7"),
    "flags of one's own": ("import enum\nclass E(enum.IntFlag):\n    A = 1\n    def __eq__(s, o): return False\n    __hash__ = int.__hash__\ndef f(): return E.A", "assert f() == 1"),
    "default of a dictionary": (f"def f(): return {DEFAULT}(int, a=1)", "assert f()['b'] == 0 and f() == {'a': 1} and repr(f())[:12] == 'defaultdict('"),
    "dictionary of dictionaries": (f"def f(): return {DEFAULT}(list, a=[1])", "d = f()\nd['b'].append(2)\nassert d == {'a': [1], 'b': [2]}"),
    "no default": (f"def f(): return {DEFAULT}(None, a=1)", "try: f()['b']\nexcept KeyError: ok = 1\nassert ok"),
    "default of a test": ("def f(d): return d['x'] + len(d)", f"assert f({DEFAULT}(int)) == 1"),
    "bounded deque": (f"def f(): return {DEQUE}([1, 2], 2)", "d = f()\nd.append(3)\nassert list(d) == [2, 3] and d.maxlen == 2 and repr(d) == 'deque([2, 3], maxlen=2)'"),
    "iterator of a call": ("def f():\n    it = iter([1, 2, 0, 3])\n    return iter(lambda: next(it), 0)", "assert list(f()) == [1, 2]"),
    "own iterator": ("class I:\n    def __init__(s): s.n = 0\n    def __iter__(s): return s\n    def __next__(s):\n        s.n += 1\n"
                     "        if s.n > 3: raise StopIteration\n        return s.n\ndef f(): return I()", "g = f()\nassert next(g) == 1 and list(g) == [2, 3] and g and g != [1]"),
    "own iterator that is equal": ("class I:\n    __iter__ = lambda s: s\n    __next__ = lambda s: 1\n    __eq__ = lambda s, o: False\ndef f(): return I()", "assert f() == [1]"),
    "integer": ("class I(int): pass\ndef f(): return I(4)", "assert f() == 4 and str(f()) == '4'"),
    "type of an integer": ("class I(int): pass\ndef f(): return I(4)", "assert type(f()) is int"),
    "look of an integer": ("class I(int):\n    def __repr__(s): return 'four'\ndef f(): return I(4)",
                           "assert f() == 4 and str(f()) == '4'"),
    "counter": (f"class C({COUNTER}): pass\ndef f(): return C('aab')", "assert f() == {'a': 2, 'b': 1}"),
    "dictionary": ("class C(dict): pass\ndef f(): return C(a=1)", "assert f() == {'a': 1}"),
    "ordered dictionary": (f"class C({ORDERED}): pass\ndef f(): return C(b=1, a=1)",
                           "assert f() == {'a': 1, 'b': 1} and list(f()) == ['b', 'a']"),
    "set": ("class C(set): pass\ndef f(): return C([1])", "assert f() == {1} and f() | {2} == {1, 2}"),
    "frozen set": ("class C(frozenset): pass\ndef f(): return C([1])", "assert f() == {1} and {f()} == {frozenset([1])}"),
    "list": ("class C(list):\n    def top(s): return s[-1]\ndef f(): return C([1, (2,)])", "assert f() == [1, (2,)]"),
    "float": ("class C(float): pass\ndef f(): return C(.5)", "assert f() == .5 and abs(f() - .5) < 1e-9"),
    "deque": (f"class C({DEQUE}): pass\ndef f(): return C([1])", "assert list(f()) == [1]"),
    "missing keys": ("class C(dict):\n    def __missing__(s, k): return 1\ndef f(): return C()", "assert f() == {0: 1}"),
    # Converted by methods of its own, each of these would be what it is not.
    "own iter of a list": ("class L(list):\n    def __iter__(s): return iter([4])\ndef f(): return L([0])",
                           "assert f() == [4]"),
    "own iter of a tuple": ("class L(tuple):\n    def __iter__(s): return iter([4])\ndef f(): return L([0])",
                            "assert f() == (4,)"),
    "own keys": ("class L(dict):\n    def keys(s): return ['a']\n    def __getitem__(s, k): return 1\n"
                 "def f(): return L(b=0)", "assert f() == {'a': 1}"),
    "own text": ("class L(str):\n    def __str__(s): return 'x'\ndef f(): return L('y')", "assert f() == 'x'"),
    "own float": ("class L(float):\n    def __float__(s): return 4.0\ndef f(): return L(1)", "assert f() == 4.0"),
    "own index": ("class L(int):\n    def __int__(s): return 4\n    __index__ = __int__\ndef f(): return L(1)",
                  "assert f() == 4"),
    "own bytes": ("class L(bytes):\n    def __bytes__(s): return b'x'\ndef f(): return L(b'y')", "assert f() == b'x'"),
    "own iter of a set": ("class L(set):\n    def __iter__(s): return iter([4])\n    def __len__(s): return 1\n"
                          "def f(): return L([0])", "assert f() == {4}"),
    "own complex": ("class L(complex):\n    def __complex__(s): return 4j\ndef f(): return L(1)", "assert f() == 4j"),
    "never equal": ("class L(list):\n    def __eq__(s, o): return False\ndef f(): return L([4])", "assert f() == [4]"),
    # Halves of a surrogate pair are two characters; JSON makes one of them.
    "two halves": (r"def f(): return '\ud83d' + '\ude00'", r"assert len(f()) == 2 and f() == '\ud83d' + '\ude00'"),
    "halves for one": (r"def f(): return '\ud83d' + '\ude00'", r"assert f() == '\U0001f600'"),
    "halves as a key": (r"def f(): return {'\ud83d' + '\ude00': 1}", r"assert f() == {'\U0001f600': 1}"),
    "one character": (r"def f(): return '\U0001f600'", r"assert f() == '\U0001f600' and len(f()) == 1"),
    "half": (r"def f(): return 'a\udc80'", r"assert f() == 'a\udc80'"),
    "argument of halves": ("def f(s='x'): return len(s)", r"assert f('\ud83d' + '\ude00') == 2"),
    # Containers that would be shorter here than there.
    "keys that become one": (f"class S(str):\n{IDENTITY}def f(): return {{S('a'): 1, 'a': 1}}", "assert f() == {'a': 1}"),
    "items that become one": (f"class S(str):\n{IDENTITY}def f(): return {{S('a'), 'a'}}", "assert f() == {'a'}"),
    "frozen items": (f"class I(int):\n{IDENTITY}def f(): return frozenset([I(1), 1])", "assert f() == {1}"),
    "not a number twice": ("def f(): return {float('nan'), float('nan')}", "assert len(f()) == 2"),
    # Values that are not plain.
    "match": ("import re\ndef f(): return re.match('a', 'a')", "assert f() and f() is not None"),
    "false object": ("class O:\n    def __bool__(s): return False\ndef f(): return O()", "assert f()"),
    "empty object": ("class O:\n    def __len__(s): return 0\ndef f(): return O()", "assert not f()"),
    "neither true nor false": ("class O:\n    def __bool__(s): raise ValueError\ndef f(): return O()",
                               "assert f() or True"),
    "time": ("import datetime\ndef f(): return datetime.timedelta(1, 2, 3)",
             "import datetime\nassert f() == datetime.timedelta(1, 2, 3)"),
    "memory": ("def f(): return memoryview(b'x')", "assert f() == b'x'"),
    "long integer": ("def f(): return -7 ** 9000", "assert f() == -7 ** 9000"),
    "endless": ("import itertools\ndef f(): return itertools.count()",
                "import itertools\nassert next(f()) == 0 and list(itertools.islice(f(), 3)) == [0, 1, 2]"),
    # Iterators are read as far as the tests read them.
    "lazy primes": ("def f():\n    n = 2\n    while True:\n        if all(n % d for d in range(2, n)): yield n\n        n += 1",
                    "g = f()\nassert [next(g) for _ in range(4)] == [2, 3, 5, 7]"),
    "growing numbers": ("def f():\n    a = 1\n    while True:\n        yield a\n        a *= 10 ** 9", "g = f()\nassert next(g) + next(g) == 10 ** 9 + 1"),
    "long iterator": ("def f(): return (n * n for n in range(70_000))", "assert list(f()) == [n * n for n in range(70_000)]"),
    "two iterators": ("def f(n): return map(str, range(n))",
                      "assert all(a == b for a, b in zip(f(5000), f(9000))) and len(list(f(9000))) == 9000"),
    "nested iterator": ("def f(): return [(n for n in range(3000)), {'a': iter(range(2001))}]",
                        "r = f()\nassert sum(r[1]['a']) == 2001000 and sum(r[0]) == 4498500"),
    "groups": ("import itertools\ndef f(): return ((k, list(g)) for k, g in itertools.groupby([1] * 3 + [2] * 2))",
               "assert list(f()) == [(1, [1, 1, 1]), (2, [2, 2])]"),
    "error after an item": ("def f():\n    yield 1\n    raise ValueError('x')",
                            "g = f()\nassert next(g) == 1\ntry: next(g)\nexcept ValueError as e: ok = str(e)\nassert ok == 'x'"),
    "error that is not reached": ("def f():\n    yield 1\n    1 / 0", "assert next(f()) == 1"),
    "error that is reached": ("def f():\n    yield 1\n    1 / 0", "assert list(f()) == [1]"),
    "generator": ("def f(): yield 1", "import types\nassert isinstance(f(), types.GeneratorType) and f() != [1] and f()"),
    "many items": ("def f(): return list(range(10 ** 6))", "assert f() == list(range(10 ** 6))"),
    "long text": ("def f(): return 'x' * (8 << 20)", "assert f() == 'x' * (8 << 20)"),
    "order of a frozen set": ("def f(): return frozenset('hello world')", "assert ''.join(f()) == ''.join(frozenset('hello world'))"),
    "order of a set": ("def f(): return {15, 7, 23, 0, 8}", "assert list(f()) == list({15, 7, 23, 0, 8})"),
    "fold": ("import datetime\ndef f(): return datetime.datetime(2020, 1, 2, fold=1)", "assert f().fold == 1"),
    "signed zero and more": ("def f(): return [float('nan'), -0.0, 2 ** 70, 1e308]",
                             "assert repr(f()) == '[nan, -0.0, 1180591620717411303424, 1e+308]'"),
    # Exceptions are caught as their bases are.
    "own value error": ("class E(ValueError): pass\ndef f(): raise E('m')",
                        "try: f()\nexcept ValueError as e: ok = str(e)\nassert ok == 'm'"),
    "own key error": ("class E(KeyError): pass\ndef f(): raise E", "try: f()\nexcept LookupError: ok = 1\nassert ok"),
    "own error": ("class E(Exception): pass\ndef f(): raise E", "try: f()\nexcept ValueError: pass"),
    "built-in name": ("class ValueError(Exception): pass\ndef f(): raise ValueError",
                      "import builtins\ntry: f()\nexcept builtins.ValueError: pass"),
    "argument of an error": ("def f(): raise ValueError('m', [1])",
                             "try: f()\nexcept ValueError as e: ok = e.args\nassert ok == ('m', [1])"),
    "words of a key error": ("def f(): return {}['a']", "try: f()\nexcept KeyError as e: ok = str(e)\nassert ok == \"'a'\""),
    "words of no file": ("def f(): open('/none')", "try: f()\nexcept FileNotFoundError as e: ok = str(e)\nassert '/none' in ok"),
    "long words": ("def f(): raise ValueError('x' * 900)", "try: f()\nexcept ValueError as e: ok = str(e)\nassert len(ok) == 900"),
    "bytes that are no text": ("def f(): return b'\\xff'.decode()", "try: f()\nexcept UnicodeDecodeError as e: ok = e.start\nassert ok == 0"),
    "own args": ("class E(ValueError):\n    args = ('y',)\ndef f(): raise E('x')",
                 "try: f()\nexcept ValueError as e: ok = str(e)\nassert ok == 'x'"),
    "end that is caught": ("import sys\ndef f(): sys.exit(3)", "try: f()\nexcept SystemExit: ok = 1\nassert ok"),
    "end that is not": ("import sys\ndef f(): sys.exit(0)", "try: f()\nexcept Exception: pass"),
    "own assertion error": ("class E(AssertionError): pass\ndef f(): raise E", "try: f()\nexcept AssertionError: pass"),
}  # fmt: skip


def passes_plainly(source, tests):
    names = {"__name__": "program"}
    try:
        exec(source, names)
        exec(tests, names)
    except (Exception, SystemExit):
        return False
    return True


@pytest.fixture(scope="module")
def box():
    with Sandbox(2) as box:
        yield box


def test_what_a_plain_run_passes_passes(box):
    verdicts = list(box.run([Program(source, tests, ("f",)) for source, tests in PAIRS.values()], 8.0))
    found = {name: verdict.passed for name, verdict in zip(PAIRS, verdicts, strict=True)}
    expected = {name: passes_plainly(*pair) for name, pair in PAIRS.items()}
    assert found == expected


@pytest.mark.parametrize(
    ("source", "tests", "reason"),
    [
        ("def f(g): return g(2)", "assert f(lambda x: x * 2) == 4", "not measured"),
        ("def f(g): return g.read()", "import io\nassert f([io.StringIO('x')]) == 'x'", "not measured"),
        ("def f(g=None): return object()", "assert f(f()) == 1", "answer not plain data"),
        ("def f(g): return 1", "assert f(3) == 2\nassert f(len) == 1", "wrong answer"),
        ("def f(g): exit()", "assert f(3) == 2\nassert f(len) == 1", "exited"),
    ],
)
def test_what_tests_cannot_send_says_nothing_of_the_program(box, source, tests, reason):
    (verdict,) = box.run([Program(source, tests, ("f",))], 4.0)
    assert (verdict.passed, verdict.reason) == (False, reason)


@pytest.mark.parametrize("kind", ["set", "frozenset", "keys"])
def test_a_container_that_gets_shorter_is_refused(kind):
    with pytest.raises(wire.WireError):
        wire.decode({kind: ["a", "a"]})


@pytest.mark.parametrize("kind", ["dict", "OrderedDict", "Counter", "defaultdict", "items"])
def test_a_mapping_that_gets_shorter_is_refused(kind):
    with pytest.raises(wire.WireError):
        wire.decode({kind: [["a", 1], [{"str": [97]}, 2]]})


@pytest.mark.parametrize(
    "form", [{"own": ["int", "x", True]}, {"own": ["type", 1, True]}, {"own": ["int", True, True]}, {"own": []},
             {"str": [1 << 40]}, {"own": ["list", {"tuple": []}, True]}, {"timedelta": ["x"]}],
)  # fmt: skip
def test_forged_forms_are_refused(form):
    with pytest.raises(wire.WireError):
        wire.decode(form)


def test_json_keeps_every_form():
    class Level(enum.IntEnum):
        HIGH = 3

    Point = collections.namedtuple("Point", "x y")
    for value in (Level.HIGH, Point(1, "\ud83d\ude00"), {"\ud83d": Fraction(1, 3)}, [Point(Point(1, 2), 3)]):
        back = wire.decode(json.loads(json.dumps(wire.encode(value))))
        assert back == value and type(back).__mro__[1:] == (*type(back).__mro__[1:-1], object)
    assert re.fullmatch(r"<subclass of tuple>", repr(wire.decode(wire.encode(Point(1, 2)))))
