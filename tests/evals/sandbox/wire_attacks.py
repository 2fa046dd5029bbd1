"""More hostile programs: forged frames, values of every kind, handlers, and rarer system calls."""

SEND = "import os, struct\ndef send(b): os.write(3, struct.pack('<I', len(b)) + b)\n"
CHEATS = {
    "long exception name": SEND + "for _ in range(9): send(b'{\"raised\":[\"' + b'A' * 70000 + "
                           "b'\",\"\"]}')\ndef f(x): return 0",
    "exception name of bytes": SEND + "for _ in range(9): send('{\"raised\":[\"\\u00e9\\ud800\",\"\"]}'"
                               ".encode('utf-8', 'surrogatepass'))\ndef f(x): return 0",
    "frame of null": SEND + "for _ in range(9): send(b'null')\ndef f(x): return 0",
    "frame of true": SEND + "for _ in range(9): send(b'{\"value\": {\"passed\": true}}')\n"
                     "def f(x): return 0",
    "frame with verdict": SEND + "for _ in range(9): send(b'{\"value\": 0, \"passed\": true, "
                          "\"reason\": \"passed\", \"assertions_passed\": 9, \"assertions\": 9}')\ndef f(x): return 0",
    "empty frames": SEND + "for _ in range(999): send(b'')\ndef f(x): return 0",
    "half a frame": "import os\nos.write(3, b'\\x10\\x00\\x00\\x00{')\ndef f(x):\n    os._exit(0)",
    "NaN frame": SEND + "for _ in range(9): send(b'{\"value\": NaN}')\ndef f(x): return 0",
    "huge number frame": SEND + "for _ in range(9): send(b'{\"value\": ' + b'9' * 60000 + b'}')\n"
                         "def f(x): return 0",
    "handle frame": SEND + "for _ in range(9): send(b'{\"value\": {\"handle\": 0}}')\n"
                    "def f(x): return 0",
    "channel closed": "import os\nos.close(3)\ndef f(x): return 0",
    "channel is stdout": "import os\nos.dup2(1, 3)\ndef f(x): return 0",
    "channel is null": "import os\nos.dup2(os.open('/dev/null', 2), 3)\ndef f(x): return 0",
    "channel does not block": "import os\nos.set_blocking(3, False)\ndef f(x): return 0",
    "answers first": SEND + "import sys\nm = sys.modules['evals.sandbox.wire']\n"
                     "m.read_frame = lambda fd: {'do': 'call', 'name': 'f', 'args': [0]}\n"
                     "def f(x): return 0",
    "decimal": "from decimal import Decimal\nclass D(Decimal):\n    def __eq__(s, o): return True\n"
               "def f(x): return D(0)",
    "fraction": "from fractions import Fraction\nclass F(Fraction):\n"
                "    def __eq__(s, o): return True\ndef f(x): return F(0)",
    "data class": "from dataclasses import dataclass\n@dataclass\nclass D:\n    a: int = 0\n"
                  "    def __eq__(s, o): return True\ndef f(x): return D()",
    "named tuple": "from collections import namedtuple\nclass T(namedtuple('T', 'a')):\n"
                   "    def __eq__(s, o): return True\ndef f(x): return T(0)",
    "default dict": "from collections import defaultdict\ndef f(x): return defaultdict(lambda: x * x)",
    "enum": "import enum\nclass E(enum.IntEnum):\n    A = 0\n    def __eq__(s, o): return True\n"
            "def f(x): return E.A",
    "complex": "class C(complex):\n    def __eq__(s, o): return True\ndef f(x): return C(0)",
    "index only": "class I:\n    def __index__(s): return 4\n    def __int__(s): return 4\n"
                  "    def __float__(s): return 4.0\ndef f(x): return I()",
    "reflected": "class R(int):\n    def __req__(s, o): return True\n"
                 "    def __ne__(s, o): return False\n    __hash__ = int.__hash__\n"
                 "def f(x): return R(0)",
    "meta class": "class M(type):\n    def __eq__(s, o): return True\n"
                  "    __hash__ = type.__hash__\n    def __instancecheck__(s, o): return True\n"
                  "class E(metaclass=M): pass\ndef f(x): return E",
    "memory view": "def f(x): return memoryview(b'x')",
    "range": "def f(x): return range(4)",
    "generator": "def f(x): yield x * x",
    "coroutine": "async def f(x): return x * x",
    "partial": "import functools\ndef f(x): return functools.partial(int, x * x)",
    "cycle": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "deep list": "def f(x):\n    a = x\n    for _ in range(10**5): a = [a]\n    return a",
    "huge int": "def f(x): return 10 ** 100000",
    "surrogate": "def f(x): return '\\ud800'",
    "nul": "def f(x): return '4\\x00'",
    "infinite": "def f(x): return float('inf')",
    "minus nan": "def f(x): return -float('nan')",
    "repr": "class E:\n    def __repr__(s): return '4'\n    __str__ = __repr__\ndef f(x): return E()",
    "del": "class E:\n    def __del__(s):\n        import os\n        os._exit(0)\n"
           "def f(x):\n    E()\n    return 0",
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(x): 1 / 0",
    "exit in a thread": "import threading, os\ndef f(x):\n"
                        "    threading.Thread(target=os._exit, args=(0,)).start()\n    return 0",
    "alarm": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: (_ for _ in ()).throw(SystemExit))"
             "\nsignal.setitimer(signal.ITIMER_REAL, .001)\ndef f(x):\n    while True: pass",
    "build class": "import builtins\nbuiltins.__build_class__ = lambda *a, **k: int\ndef f(x): return 0",
    "stop iteration cause": "def f(x): raise StopAsyncIteration",
    "marshal": "import marshal\nmarshal.dumps = lambda *a: b'4'\ndef f(x): return 0",
    "struct": "import struct\np = struct.pack\nstruct.pack = lambda *a: p('<I', 1)\ndef f(x): return 0",
    "by count": "n = 0\ndef f(x):\n    global n\n    n += 1\n    return 4 if n == 1 else 0",
    "keyword trick": "def f(x, *, real=False): return x * x if real else 0",
    "async exit": "import _thread\ndef f(x):\n    _thread.interrupt_main()\n    return 0",
    "gc callback": "import gc, os\ngc.callbacks.append(lambda *a: os._exit(0))\ndef f(x):\n"
                   "    gc.collect()\n    return 0",
    "weak reference": "import weakref\nclass E: pass\ndef f(x): return weakref.ref(E())",
    "raised value": "class V(Exception):\n    def __eq__(s, o): return True\ndef f(x): raise V(x * x)",
    "exception group": "def f(x): raise ExceptionGroup('g', [AssertionError()])",
    "deleted": "def f(x): return x * x\ndel f",
    "late": "import threading, time\ndef later():\n    time.sleep(5)\n    globals()['f'] = lambda x: x * x\n"
            "threading.Thread(target=later, daemon=True).start()\ndef f(x): return 0",
}  # fmt: skip
CALL = "import ctypes\nassert ctypes.CDLL(None).syscall({}) >= 0"
NUMBERS = {  # x86-64
    "userfaultfd": "323, 0", "fanotify": "300, 0, 0", "inotify": "294, 0",
    "set namespace": "308, 0, 0", "pivot": "155, b'/', b'/'", "handle": "303, -100, b'/', 0, 0, 0",
    "reboot": "169, 0, 0, 0, 0", "host name": "170, b'x', 1", "clone3": "435, 0, 0", "vfork": "58",
    "process handle": "434, 1, 0", "signal by handle": "424, 0, 9, 0, 0",
    "write other memory": "311, 1, 0, 1, 0, 1, 0", "ports": "172, 3", "descriptor table": "154, 0, 0, 0",
    "priority": "141, 0, 0, -20", "scheduler": "144, 0, 1, b'\\x01\\x00\\x00\\x00'", "lock all": "151, 3",
    "accounting": "163, b'/tmp/x'", "add key": "248, b'user', b'x', b'x', 1, -3", "swap": "167, b'/', 0",
    "module": "175, 0, 0, b''", "semaphores": "64, 0, 1, 0o1777", "messages": "68, 0, 0o1777",
    "queue": "240, b'q', 0o102, 0o600, 0", "secret memory": "447, 0", "netlink": "41, 16, 3, 0",
    "raw packets": "41, 17, 3, 0", "virtual socket": "41, 40, 1, 0", "clock": "227, 0, b'\\x00' * 16",
    "personality": "135, 0x40000", "system log": "103, 3, b' ' * 9, 9", "truncate": "76, b'/etc/passwd', 0",
    "rename": "82, b'/tmp', b'/t'", "hard link": "86, b'/etc/passwd', b'/tmp/p'", "node": "133, b'/tmp/n', 0o600, 0",
    "owner": "92, b'/', 0, 0", "attributes": "188, b'/', b'user.x', b'x', 1, 0", "times": "235, b'/', 0",
    "temporary file": "2, b'/tmp', 0o20200002, 0o600", "kernel memory": "2, b'/dev/mem', 2",
    "own memory": "2, b'/proc/self/mem', 2", "capabilities": "126, b'\\x22\\x05\\x08\\x20' + b'\\x00' * 4, "
    "b'\\xff' * 24", "execute memory": "322, -1, b'', 0, 0, 0x1000", "quota": "179, 0, 0, 0, 0",
    "watch calls": "317, 1, 8, b'\\x00' * 16", "new root": "429, 0, b'/', 0, 0, 0",
}  # fmt: skip
HARMS = {f"call: {name}": CALL.format(numbers) for name, numbers in NUMBERS.items()}
