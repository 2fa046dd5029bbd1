"""Programs that end, read and fail in odd ways: each beside a plain run of itself by this interpreter."""

# ruff: noqa: E501 - programs in lines

import subprocess
import sys

import pytest

from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Program, Script

STDIN = "3\n1 2 3\n"
SUM = "n = int(input())\nprint(sum(map(int, input().split())))\n"
SCRIPTS = {
    # Standard error is not output.
    "debug": f"import sys\nprint('debug', file=sys.stderr)\n{SUM}",
    "much debug": f"import sys\nfor _ in range(9): sys.stderr.write('x' * (1 << 20))\n{SUM}",
    "logging": f"import logging\nlogging.warning('x')\n{SUM}",
    "warning of the compiler": f"{SUM}if n is 0: print(0)\n",
    "warnings": f"import warnings\nwarnings.warn('x')\n{SUM}",
    "descriptor 2": f"import os\nos.write(2, b'x')\n{SUM}",
    "/dev/stderr": f"print('x', file=open('/dev/stderr', 'w'))\n{SUM}",
    "traceback": f"import traceback\ntry: 1 / 0\nexcept ZeroDivisionError: traceback.print_exc()\n{SUM}",
    # A script ends as an interpreter ends it.
    # Where a thread comes after the main thread, it waits for it: of two that read at once, either may find the end.
    "thread": f"import threading\ndef main():\n    threading.main_thread().join()\n    print(input())\n"
              f"threading.Thread(target=main).start()\n{SUM.splitlines()[0]}\n",
    "thread that fails": f"import threading\nthreading.Thread(target=lambda: 1 / 0).start()\n{SUM}",
    "thread after an error": "from threading import Thread, main_thread\n"
                             "Thread(target=lambda: (main_thread().join(), print(2))).start()\nprint(1)\n1 / 0",
    "thread after exit": "import sys\nfrom threading import Thread, main_thread\n"
                         "Thread(target=lambda: (main_thread().join(), print(2))).start()\nprint(1)\nsys.exit()",
    "exit in a thread": f"import sys, threading\nthreading.Thread(target=sys.exit, args=(1,)).start()\n{SUM}",
    "daemon": f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n{SUM}",
    "timer": "import threading\nthreading.Timer(.05, lambda: print(input())).start()",
    "executor": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(2).submit(lambda: print(input()))",
    "atexit": "import atexit\nprint(1)\n@atexit.register\ndef last(): print(input())",
    "atexit in order": "import atexit\nfor n in range(3): atexit.register(print, n)\n1 / 0",
    "atexit that fails": f"import atexit\natexit.register(lambda: 1 / 0)\n{SUM}",
    "atexit that exits": "import atexit, os\nprint(1, flush=True)\natexit.register(os._exit, 3)",
    "buffered output": "import atexit, io, sys\nsys.stdout = buffer = io.StringIO()\n"
                       "atexit.register(lambda: sys.__stdout__.write(buffer.getvalue()))\nprint(input())",
    "open file": "file = open(1, 'w', closefd=False)\nfile.write(input())",
    "open file in a function": "import os\ndef f():\n    global file\n    file = os.fdopen(os.dup(1), 'w')\n    "
                               "file.write(input())\nf()",
    "fast output": "import io, os, sys\nclass Out(io.TextIOWrapper): pass\n"
                   "sys.stdout = Out(io.BufferedWriter(io.FileIO(1, 'w', closefd=False)))\nprint(input())",
    "standard output of before": "import io, sys\nsys.stdout.write(input())\nsys.stdout = io.StringIO()\nprint(2)",
    "destructor": "class D:\n    def __del__(self): print('gone', name)\nname = 'x'\nd = D()\nprint(input())",
    "destructor in a circle": "class D:\n    def __del__(self): print('gone')\nd = D()\nd.d = d\nprint(input())",
    "finalizer": "import weakref\nclass D: pass\nd = D()\nweakref.finalize(d, print, 'gone')\nprint(input())",
    "generator": "def g():\n    try: yield 1\n    finally: print('closed')\nit = g()\nprint(next(it))",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__)\n1 / 0",
    "hook that exits": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\n1 / 0",
    "closed output": "import sys\nprint(1)\nsys.stdout.close()",
    "closed descriptor": "import os\nos.close(1)\nprint(1)",
    "no output file": "import sys\nprint(1)\nsys.stdout.flush()\nsys.stdout = None\nprint(2)",
    # Exit codes.
    "exit": "print(1)\nexit()", "quit": "print(1)\nquit(0)", "exit False": "print(1)\nexit(False)",
    "exit True": "print(1)\nexit(True)", "exit text": "print(1)\nexit('')", "exit 0.0": "print(1)\nexit(0.0)",
    "exit 256": "import sys\nprint(1)\nsys.exit(256)",
    "exit 2 ** 70": "import sys\nprint(1)\nsys.exit(2 ** 70)", "exit -2 ** 63": "import sys\nsys.exit(-2 ** 63)", "exit -1": "print(1)\nexit(-1)", "exit 10": "exit(10)",
    "os._exit": "import os\nprint(1)\nos._exit(0)", "interrupt": "print(1)\nraise KeyboardInterrupt",
    "end of input": "print(open(0).read())\nprint(input())", "assert": "assert False",
    # What stands first in a file.
    "future": f"from __future__ import division, print_function\n{SUM}",
    "docstring and future": f"'''doc'''\nfrom __future__ import annotations\ndef f(x: y): print(__doc__)\nf(1)\n{SUM}",
    "comment and future": f"# x\n\nfrom __future__ import annotations; n = 1\n{SUM}",
    "future too late": f"x = 1\nfrom __future__ import annotations\n{SUM}",
    "docstring": "'''doc'''\nprint(__doc__)", "no docstring": "print(__doc__)",
    "encoding": f"# -*- coding: utf-8 -*-\nprint('\u00e9')\n{SUM}",
    "shebang": f"#!/usr/bin/env python3\n{SUM}", "byte order mark": f"\ufeff{SUM}", "CRLF": SUM.replace("\n", "\r\n"),
    "tabs": "if True:\n\tif True:\n\t\tprint(input())", "form feed": f"\f{SUM}", "nothing": "", "a comment": "# x",
    "line number": "import sys\ndef f(): print(sys._getframe().f_lineno)\nf()",
    # Standard input.
    "/dev/stdin": "print(open('/dev/stdin').read())", "/dev/fd/0": "print(open('/dev/fd/0', 'rb').read())",
    "/proc/self/fd/0": "print(list(open('/proc/self/fd/0')))", "open(0)": "print(open(0).read().split())",
    "path of bytes": "print(open(b'/dev/stdin').read())", "no path": "try: open(None)\nexcept TypeError: print(1)",
    "no such file": "try: open('/dev/none')\nexcept FileNotFoundError as e: print(e.filename)",
    "pathlib": "import pathlib\nprint(pathlib.Path('/dev/stdin').read_text())",
    "os.open": "import os\nprint(os.read(os.open('/dev/stdin', os.O_RDONLY), 99))",
    "/dev/stdout": "print(input(), file=open('/dev/stdout', 'w'))",
    "os.read": "import os\nprint(os.read(0, 99))", "buffer": "import sys\nprint(sys.stdin.buffer.readline())",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(line, end='')",
    "mmap": "import mmap\nprint(mmap.mmap(0, 0, access=mmap.ACCESS_READ).read())",
    "prompt": "print(input('n? '))", "select": "import select, sys\nprint(len(select.select([sys.stdin], [], [], 0)[0]))",
    # The interpreter.
    "main": "if __name__ == '__main__':\n    print(input())", "module": "import __main__\nx = 1\nprint(__main__.x)",
    "own names": "print(sorted(n for n in globals() if n not in ('__cached__', '__annotations__', '__loader__')))",
    "arguments": "import sys, os\nprint(sys.argv[1:], os.path.basename(__file__) == sys.argv[0], os.path.isabs(__file__))",
    "recursion": "def f(n):\n    try: return f(n + 1)\n    except RecursionError: return n\n"
                 "import sys\nprint(f(0), sys.getrecursionlimit())\nsys.setrecursionlimit(400)\n"
                 "print(f(0), sys.getrecursionlimit())",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return n and f(n - 1) + 1\nprint(f(50_000))",
    "bad limits": "import sys\nfor n in (0, -1, 1 << 40, 'x'):\n    try: sys.setrecursionlimit(n)\n"
                  "    except Exception as e: print(type(e).__name__)",
    "thread with a large stack": "import sys, threading\nsys.setrecursionlimit(10 ** 7)\n"
                                 "threading.stack_size(512 << 20)\ndef f(n): return n and f(n - 1) + 1\n"
                                 "t = threading.Thread(target=lambda: print(f(20_000)))\nt.start()\nt.join()",
    "asyncio": "import asyncio\nasync def f(n):\n    await asyncio.sleep(n / 100)\n    return n\n"
               "async def main(): print(await asyncio.gather(f(2), f(1), asyncio.to_thread(input)))\nasyncio.run(main())",
    "asyncio queue": "import asyncio\nasync def put(q):\n    for n in range(3): await q.put(n)\n"
                     "async def main():\n    q = asyncio.Queue()\n    t = asyncio.create_task(put(q))\n"
                     "    print([await asyncio.wait_for(q.get(), 1) for _ in range(3)])\n    await t\n"
                     "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())",
    "sqlite3": "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t (x)')\n"
               "c.executemany('insert into t values (?)', [(i,) for i in range(9)])\n"
               "print(c.execute('select sum(x) from t').fetchall())",
    "data class": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(1))",
    "pickle": "import pickle\nclass P: x = 1\nprint(type(pickle.loads(pickle.dumps(P()))).__name__, P.__module__)",
    "inspect": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))",
    "type hints": "import typing\nclass N:\n    next: 'N'\nprint(typing.get_type_hints(N))",
    "alarm": "import signal, time\ndef ring(*_): print('ring')\nsignal.signal(signal.SIGALRM, ring)\n"
             "signal.setitimer(signal.ITIMER_REAL, .05)\ntime.sleep(.2)",
    "signal to itself": "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('got'))\n"
                        "signal.raise_signal(signal.SIGUSR1)",
    "pause": "import signal\nsignal.signal(signal.SIGALRM, lambda *_: print('ring'))\n"
             "signal.setitimer(signal.ITIMER_REAL, .5)\nsignal.pause()",
    "wait for a signal": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
                         "signal.setitimer(signal.ITIMER_REAL, .05)\nprint(signal.sigwait([signal.SIGALRM]))",
    "kill itself": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('got'))\n"
                   "os.kill(os.getpid(), signal.SIGUSR1)",
    "no standard output": "import sys\ndel sys.stdout",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\n"
                "unittest.main(exit=False)\nprint(input())",
    "doctest": "def f():\n    'x\\n\\n    >>> f()\\n    1\\n    '\n    return 1\nimport doctest\nprint(doctest.testmod())",
    "decimal": "from decimal import Decimal, getcontext\ngetcontext().prec = 50\nprint(Decimal(1) / 7)",
    "locale": "import locale\nlocale.setlocale(locale.LC_ALL, 'C')\nprint(locale.localeconv()['decimal_point'])",
    "datetime": "import datetime\nprint(datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc).isoformat())",
    "queue": "import queue, threading\nq = queue.Queue()\nthreading.Thread(target=lambda: q.put(input())).start()\n"
             "print(q.get())",
    "temporary text": "import tempfile\nf = tempfile.SpooledTemporaryFile(mode='w+')\nf.write('x')\nf.seek(0)\nprint(f.read())",
    "unicode": "print('\\N{SNOWMAN}', input())", "bytes": "import sys\nsys.stdout.buffer.write(b'\\xc3\\xa9')",
    "memory": "print(len(bytearray(300 << 20)))", "gc": "import gc\nprint(gc.isenabled(), gc.get_threshold())",
    "timeit": "import timeit\nprint(timeit.timeit('1') > 0)",
    "set order": "print({'a', 'b', 'c'} == set('abc'), [*{'x'}])",
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(2) as box:
        yield box


def plainly(path, source, stdin=STDIN):
    """Return the output of a program that this interpreter runs, and whether it ended well."""
    path.write_bytes(source.encode())
    file = path.with_name("stdin")
    file.write_text(stdin)
    with file.open() as given:
        done = subprocess.run(
            [sys.executable, "-Xutf8", path.name], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=path.parent, env={"PYTHONHASHSEED": "0"},
        )  # fmt: skip
    return done.stdout.decode(), done.returncode == 0


def test_scripts_do_what_they_do_in_a_plain_run(sandbox, tmp_path):
    expected = {name: plainly(tmp_path / "program.py", source) for name, source in SCRIPTS.items()}
    verdicts = sandbox.run([Script(source, STDIN) for source in SCRIPTS.values()], 8.0)
    found = {name: (v.output, v.passed) for name, v in zip(SCRIPTS, verdicts, strict=True)}
    assert found == expected


@pytest.mark.parametrize(
    "source",
    [
        "if __name__ == '__main__':\n    print(input())",
        "if __name__ == '__main__':\n    import sys\n    sys.exit(main())",
        "if not __name__ != '__main__': raise ValueError",
        "assert __name__ != '__main__'",
        "import sys\nassert sys.modules[__name__].f is f",
        "import pickle\nassert pickle.loads(pickle.dumps(f)) is f",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nassert P(1) == P(1)",
    ],
)
def test_functions_are_called_in_a_module_that_is_not_main(sandbox, source):
    program = Program(f"def f(x): return x * x\n{source}", "assert f(2) == 4", ("f",))
    (verdict,) = sandbox.run([program], 4.0)
    assert verdict.passed, verdict


def test_what_stands_first_may_follow_a_preamble(sandbox):
    first = "from __future__ import annotations\n"
    sources = [f"{first}print(gcd(4, 6), __doc__)", f"'''doc'''\n{first}print(gcd(4, 6), __doc__)", "import"]
    scripts = [Script(source, preamble="from math import gcd\n") for source in sources]
    verdicts = list(sandbox.run(scripts, 4.0))
    assert [v.output for v in verdicts] == ["2 None\n", "2 doc\n", ""]
    assert [v.reason for v in verdicts] == ["passed", "passed", "syntax error"]


def test_long_integers_are_read_and_written(sandbox):
    digits = "7" * 5000
    sources = ["print(int(input()) + 0)", "import sys\nprint(sys.stdin.read().strip())", "print(10 ** 5000 // 9 * 7)"]
    verdicts = sandbox.run([Script(source, digits, expected=digits) for source in sources], 4.0)
    assert [v.passed for v in verdicts] == [True] * 3


def test_as_much_may_be_written_as_is_expected(sandbox):
    expected = "x" * (6 << 20)
    sources = ["print('x' * (6 << 20))", "while True: print('x' * (1 << 20), end='')", "print('x' * (5 << 20))"]
    verdicts = sandbox.run([Script(source, expected=expected) for source in sources], 4.0)
    assert [(v.reason, len(v.output)) for v in verdicts] == [
        ("passed", 1000), ("too much output", 1000), ("wrong answer", 1000)
    ]  # fmt: skip


def test_much_output_is_too_much_however_it_is_written(sandbox):
    sources = [
        "while True: print('x' * 10000)",
        "import sys\nsys.stdout = open(1, 'w', buffering=1 << 24)\nprint('x' * (5 << 20))",
        "import threading\ndef f():\n    while True: print('x' * 10000)\nt = threading.Thread(target=f)\nt.start()\n1 / 0",
    ]
    verdicts = list(sandbox.run([Script(source) for source in sources], 4.0))
    assert [v.reason for v in verdicts] == ["too much output"] * 3
