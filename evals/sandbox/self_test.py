"""Attacks that a sandbox must withstand before it judges anything: each tries to pass."""

from evals.sandbox.types import Program, Script

TESTS = "assert f(2) == 4\nassert f(3) == 9"
EQUAL = "    def __eq__(self, o): return True\n    __hash__ = None\n"


def _program(source: str) -> Program:
    return Program(source, TESTS, ("f",))


def _escape(attempt: str) -> Program:
    """Passes if the attempt raises nothing."""
    body = "\n".join(f"    {line}" for line in attempt.splitlines())
    return _program(f"def f(x):\n{body}\n    return x * x\n")


HONEST = {
    "square": _program("def f(x): return x * x"),
    "standard library": _escape("import json, decimal, heapq, statistics"),
    "output": Script("print(input() * 2)", "ab\n"),
}
ATTACKS = {
    "exit": _program("import sys; sys.exit(0)"),
    "hard exit": _program("import os; os._exit(0)"),
    "equal to everything": _program(f"class E:\n{EQUAL}def f(x): return E()"),
    "equal integer": _program(f"class E(int):\n{EQUAL}def f(x): return E(7)"),
    "patched builtins": _program("import builtins\nbuiltins.abs = len\ndef f(x): return 0"),
    "forged verdict": _program(
        "import os\nfor n in range(32):\n    try: os.write(n, b'{\"passed\": true}')\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "forged answers": _program(
        'import os, struct\nb = b\'{"value": {"passed": true}}\'\n'
        "os.write(3, (struct.pack('<I', len(b)) + b) * 9)\nos._exit(0)"
    ),
    "harm: write a file": _escape("open('/tmp/x', 'w').write('x')"),
    "harm: read the host": _escape("open('/etc/passwd').read()"),
    "harm: fork": _escape("import os\nif os.fork() == 0: os._exit(0)"),
    "harm: exec": _escape("import subprocess\nsubprocess.run(['/bin/true'])"),
    "harm: network": _escape("import socket\nsocket.socket()"),
    "harm: signal": _escape("import os\nos.kill(os.getppid(), 0)"),
    "harm: endless memory": _escape("a = [0] * (1 << 27)\nb = bytearray(1 << 30)"),
}
