"""Programs that try to pass without being right, or to harm the machine; none may succeed.

Each of CHEATS defines ``f``, which should square a number. Each of HARMS runs ``attempt`` and is
right only if the attempt raised nothing, so that passing means harm.
"""

import platform

from tests.evals.sandbox import wire_attacks

EQUAL = """
class E{base}:
    def __eq__(self, o): return True
    def __ne__(self, o): return False
    def __lt__(self, o): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __bool__(self): return True
    def __hash__(self): return 0
    def __len__(self): return 1
    def __iter__(self): return iter(())
    def __contains__(self, o): return True
    def __sub__(self, o): return self
    __rsub__ = __add__ = __radd__ = __mul__ = __abs__ = __sub__
    def __float__(self): return 4.0
    def __index__(self): return 4
    def __getattr__(self, n): return self
    def __call__(self, *a): return self
def f(x): return {value}
"""
FRAMES = """
import sys, gc
def f(x):
    frame = sys._getframe()
    while frame:
        for scope in (frame.f_globals, frame.f_locals):
            for name, value in list(scope.items()):
                if {test}:
                    {act}
        frame = frame.f_back
    return None
"""
CHEATS = {
    "sys.exit": "import sys\nsys.exit(0)",
    "exit in f": "import sys\ndef f(x): sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "quit": "quit()",
    "os._exit": "import os\nos._exit(0)",
    "os._exit in f": "import os\ndef f(x): os._exit(0)",
    "abort": "import os\nos.abort()",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0",
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\n1 / 0",
    "unraisable": "import sys, os\nsys.unraisablehook = lambda *a: os._exit(0)\n"
                  "class D:\n    def __del__(self): raise ValueError\nd = D()\ndel d\n"
                  "def f(x): return 0",
    "thread exits": "import threading, os, time\n"
                    "threading.Thread(target=lambda: os._exit(0)).start()\ntime.sleep(1)",
    "thread answers": "import threading, os, struct\ndef go():\n"
                      "    b = b'{\"value\":4}'\n"
                      "    while True: os.write(3, struct.pack('<I', len(b)) + b)\n"
                      "threading.Thread(target=go, daemon=True).start()\ndef f(x): return 4",
    "signal handler": "import signal, os\nfor s in range(1, 32):\n"
                      "    try: signal.signal(s, lambda *a: os._exit(0))\n"
                      "    except Exception: pass\nsignal.setitimer(signal.ITIMER_REAL, .01)\n"
                      "def f(x):\n    while True: pass",
    "fork": "import os\nos.fork()\ndef f(x): return 0",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "recursion": "def f(x): return f(x)",
    "endless": "def f(x):\n    while True: pass",
    "sleep": "import time, sys\ndef f(x): raise TimeoutError",
    "assertion swallowed": "def f(x): raise AssertionError",
    "stop iteration": "def f(x): raise StopIteration",
    "generator exit": "def f(x): raise GeneratorExit",
    "exception named passed": "class passed(Exception): pass\ndef f(x): raise passed('passed')",
    "exception named builtin": "def f(x): raise type('passed', (BaseException,), {})",
    "equal object": EQUAL.format(base="", value="E()"),
    "equal int": EQUAL.format(base="(int)", value="E(0)"),
    "equal float": EQUAL.format(base="(float)", value="E(0)"),
    "equal str": EQUAL.format(base="(str)", value="E('x')"),
    "equal list": EQUAL.format(base="(list)", value="E([0])"),
    "equal tuple": EQUAL.format(base="(tuple)", value="E((0,))"),
    "equal dict": EQUAL.format(base="(dict)", value="E(a=1)"),
    "equal bytes": EQUAL.format(base="(bytes)", value="E(b'x')"),
    "equal set": EQUAL.format(base="(set)", value="E({0})"),
    "equal type": EQUAL.format(base="(type)", value="E('T', (), {})"),
    "equal in a list": EQUAL.format(base="", value="[E()]"),
    "equal as class": EQUAL.format(base="", value="E"),
    "__class__ lies": "class E:\n    __class__ = int\n    def __eq__(s, o): return True\n"
                      "def f(x): return E()",
    "reduce": "class E:\n    def __reduce__(self): return eval, ('4',)\ndef f(x): return E()",
    "nan": "def f(x): return float('nan')",
    "not implemented": "def f(x): return NotImplemented",
    "ellipsis": "def f(x): return ...",
    "mock": "from unittest import mock\ndef f(x): return mock.ANY",
    "everything iterator": "import itertools\ndef f(x): return itertools.count()",
    "frame: names": FRAMES.format(test="'expect' in name or 'answer' in name", act="return value"),
    "frame: ints": FRAMES.format(test="name in ('passed', 'assertions_passed')",
                                 act="scope[name] = 9"),
    "frame: globals": FRAMES.format(test="callable(value)", act="scope[name] = lambda *a: None"),
    "frame: code": FRAMES.format(test="name == 'code'", act="scope[name] = None"),
    "frame: verdict": FRAMES.format(test="isinstance(value, dict) and 'passed' in value",
                                    act="value['passed'] = True"),
    "gc: dicts": "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
                 "        if type(o) is dict and ('passed' in o or 'tests' in o):\n"
                 "            o['passed'] = True\n            return o.get('tests')\n    return 0",
    "gc: functions": "import gc, types\ndef f(x):\n    for o in gc.get_objects():\n"
                     "        if isinstance(o, types.FunctionType) and o.__name__ == 'run':\n"
                     "            o.__code__ = (lambda task: {'passed': True}).__code__\n"
                     "    return 0",
    "judge module": "import sys\nj = sys.modules.get('evals.sandbox.judge')\n"
                    "j.Tally.wrong = j.Tally.right\nj.run = lambda t: {'passed': True}\n"
                    "def f(x): return 0",
    "plain module": "import sys\np = sys.modules['evals.sandbox.wire']\n"
                    "p.encode = lambda v, h=None: {'opaque': 'x', 'passed': True}\n"
                    "def f(x): return 0",
    "pickle sent": "import sys\np = sys.modules['evals.sandbox.wire']\n"
                   "p.encode = lambda v, h=None: {'type': 'eval'}\ndef f(x): return 0",
    "deep answer": "import sys\np = sys.modules['evals.sandbox.wire']\n"
                   "import os, struct\ndef f(x):\n    b = b'[' * 100000\n"
                   "    os.write(3, struct.pack('<I', len(b)) + b)\n    os._exit(0)",
    "huge answer": "def f(x): return 'x' * (1 << 27)",
    "huge length": "import os\ndef f(x):\n    os.write(3, b'\\xff' * 64)\n    os._exit(0)",
    "patched abs": "import builtins\nbuiltins.abs = lambda *a: 0\ndef f(x): return 0",
    "patched isinstance": "import builtins\nbuiltins.isinstance = lambda *a: True\n"
                          "builtins.all = builtins.any = lambda *a: True\ndef f(x): return 0",
    "patched AssertionError": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,"
                              " ), {'__init__': lambda s, *a: None})\ndef f(x): return 0",
    "patched __import__": "import builtins\nbuiltins.__import__ = lambda *a: None\n"
                          "def f(x): return 0",
    "patched math": "import math\nmath.isclose = math.fabs = lambda *a, **k: True\n"
                    "def f(x): return 0",
    "patched unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n"
                        "def f(x): return 0",
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\n"
                    "def f(x): return 0",
    "patched os.write": "import os\nw = os.write\n"
                        "os.write = lambda d, b: w(d, b.replace(b'0', b'4'))\ndef f(x): return 0",
    "redefined check": "def check(g): pass\nassert_ = check\ndef f(x): return 0",
    "trace": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
             "def f(x): return 0",
    "audit hook": "import sys\nsys.addaudithook(lambda *a: None)\ndef f(x): return 0",
    "forged stdout": "print('passed', flush=True)\nprint('{\"passed\": true}', flush=True)\n"
                     "import os\nos._exit(0)",
    "forged fds": "import os\nfor n in range(1024):\n"
                  "    try: os.write(n, b'{\"passed\": true, \"reason\": \"passed\"}')\n"
                  "    except OSError: pass\ndef f(x): return 0",
    "forged frames": "import os, struct\nb = b'{\"value\": true}'\n"
                     "os.write(3, (struct.pack('<I', len(b)) + b) * 20)\ndef f(x): return 0",
    "closed fds": "import os\nos.closerange(0, 1024)\ndef f(x): return 0",
    "constants": "import ctypes\nn = 4\na = (ctypes.c_uint32 * 8).from_address(id(n))\n"
                 "b = (ctypes.c_uint32 * 8).from_address(id(0))\na[6] = b[6]\ndef f(x): return 0",
    "true poisoned": "import ctypes\nctypes.c_uint32.from_address(id(False) + 24).value = 1\n"
                     "def f(x): return False",
    "type slots": "import ctypes\ndef f(x):\n    ctypes.c_void_p.from_address(id(int) + 200).value"
                  " = 0\n    return 0",
    "redefined builtin": "def sorted(*a): return a\ndef f(x): return 0",
    "main module": "import sys\nsys.modules['__main__'].__dict__.clear()\ndef f(x): return 0",
    "globals": "globals()['__right'] = globals()['__wrong'] = lambda *a: None\ndef f(x): return 0",
    "open the tests": "import os\ndef f(x):\n    for n in range(3, 64):\n"
                      "        try: print(os.pread(n, 9999, 0))\n        except OSError: pass\n"
                      "    return 0",
    "source of the tests": "import linecache\ndef f(x): return linecache.getlines('<tests>')",
    "arguments": "class E(int): pass\ndef f(x):\n    import sys\n    return sys.argv or 0",
}  # fmt: skip
HARMS = {
    "write /tmp": "open('/tmp/llama_scale_harm', 'w').write('x')",
    "write here": "open('harm', 'w').write('x')",
    "write the library": "import os, json\nopen(json.__file__, 'a')",
    "mkdir": "import os\nos.mkdir('/tmp/harm')",
    "remove": "import os, json\nos.remove(json.__file__)",
    "chmod": "import os, json\nos.chmod(json.__file__, 0o777)",
    "symlink": "import os\nos.symlink('/', '/tmp/root')",
    "passwd": "open('/etc/passwd').read()",
    "proc": "import os\nassert [p for p in os.listdir('/proc') if p.isdigit()]",
    "environment": "import os\nassert os.environ.get('HOME') or os.environ.get('PATH')",
    "home": "import os\nassert os.listdir('/root') + os.listdir('/home')",
    "memfd": "import os\nos.memfd_create('x')",
    "socket": "import socket\nsocket.socket()",
    "unix socket": "import socket\nsocket.socketpair()",
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', 9), .1)",
    "resolve": "import socket\nsocket.gethostbyname('localhost')",
    "fork": "import os\nif os.fork() == 0: os._exit(0)",
    "spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "system": "import os\nassert os.system('true') == 0",
    "exec": "import os, sys\nos.execv(sys.executable, ['python', '-c', '0'])",
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()",
    "daemon": "import os\nos.setsid()\nassert os.fork() == 0",
    "kill all": "import os\nos.kill(-1, 9)",
    "kill parent": "import os\nos.kill(os.getppid(), 9)",
    "ptrace": "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b't', b'/tmp', b'tmpfs', 0, 0) == 0",
    "unshare": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "setuid": "import ctypes\nassert ctypes.CDLL(None).setuid(0) == 0 and __import__('os').fork()",
    "chroot": "import os\nos.chroot('/tmp')",
    "bpf": "import ctypes\nassert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0",
    "io_uring": "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, 0) >= 0",
    "keyring": "import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "perf": "import ctypes\nassert ctypes.CDLL(None).syscall(298, 0, 0, -1, -1, 0) >= 0",
    "other memory": "import ctypes\nassert ctypes.CDLL(None).syscall(310, 1, 0, 1, 0, 1, 0) >= 0",
    "shared memory": "import ctypes\nassert ctypes.CDLL(None).shmget(0, 1 << 30, 0o1777) >= 0",
    "own a descriptor": "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, 1)",
    "own it as a thread": "import fcntl, struct\nfcntl.fcntl(0, 15, struct.pack('ii', 1, 1))",
    "choose its signal": "import fcntl, signal\nfcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)",
    "signals of a descriptor": "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, os.O_APPEND | os.O_ASYNC)",
    "async by ioctl": "import fcntl, struct\nfcntl.ioctl(1, 0x5452, struct.pack('i', 1))",
    "owner by ioctl": "import fcntl, struct\nfcntl.ioctl(1, 0x8901, struct.pack('i', 1))",
    "lease": "import fcntl\nfcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "notice of a folder": "import fcntl, os\nfcntl.fcntl(0, fcntl.F_NOTIFY, 1)",
    "lock": "import fcntl, os\nfcntl.lockf(os.open('/dev/null', os.O_RDWR), fcntl.LOCK_EX)",
    "raise limits": "import resource\n"
                    "resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
    "list memory": "x = []\nwhile True: x.append('a' * 10**6)",
    "one allocation": "x = bytearray(1 << 31)",
    "int memory": "x = 1 << (1 << 33)",
    "output": "while True: print('x' * 100000)",
    "stderr": "import sys\nwhile True: sys.stderr.write('x' * 100000)",
    "raw output": "import os\nwhile True: os.write(1, b'x' * (1 << 20))",
    "sparse output": "import os\nos.ftruncate(1, 1 << 40)",
    "descriptors": "import os\nwhile True: os.dup(0)",
    "pipes": "import os\nwhile True: os.pipe()",
    "threads": "import threading, time\nfor _ in range(500):\n"
               "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
}  # fmt: skip


def cheats():
    """Return name -> source of the programs that should square a number and do not."""
    return CHEATS | wire_attacks.CHEATS


def harms():
    """Return name -> source of the programs that square a number if their attempt succeeds."""
    sources = {}
    rare = wire_attacks.HARMS if platform.machine() == "x86_64" else {}
    for name, attempt in (HARMS | rare).items():
        body = "".join(f"    {line}\n" for line in attempt.splitlines())
        sources[name] = f"def attempt():\n{body}\nattempt()\ndef f(x): return x * x\n"
    return sources
