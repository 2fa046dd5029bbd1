"""The kernel's walls by system call, numbers as in its headers: landlock(7), seccomp(2), capabilities(7)."""

import ctypes
import functools
import os
import platform
import struct
from collections.abc import Sequence
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
HOLDING = ctypes.PyDLL(None, use_errno=True)  # the same; the interpreter's lock is held meanwhile
NEW_NS, NEW_UTS, NEW_IPC = 0x20000, 0x4000000, 0x8000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEV = 1, 2, 4
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18
DETACH = 2
NO_NEW_PRIVS, SET_SECCOMP, DROP_BOUND, SET_DUMPABLE = 38, 22, 24, 4
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# What an interpreter needs, and nothing else: read, write, memory, time, threads, its own signals.
ALLOWED = {
    "x86_64": (
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 32,
        33, 34, 35, 36, 37, 38, 39, 60, 63, 73, 74, 77, 79, 80, 81, 89, 95, 96, 97, 98, 99, 100, 102, 104,
        107, 108, 110, 111, 115, 118, 120, 121, 124, 127, 128, 130, 131, 137, 138, 158, 186, 201, 202, 204,
        217, 218, 219, 228, 229, 230, 231, 232, 233, 257, 262, 267, 269, 270, 271, 273, 281, 290, 291, 292,
        293, 309, 318, 324, 332, 334, 439,
    ),
    "aarch64": (
        17, 19, 20, 21, 22, 23, 24, 32, 43, 44, 46, 48, 49, 50, 56, 57, 59, 61, 62, 63, 64, 65, 66, 67, 68,
        72, 73, 78, 79, 80, 82, 93, 94, 96, 98, 99, 101, 102, 103, 113, 114, 115, 123, 124, 128, 132, 133,
        134, 135, 136, 137, 139, 148, 150, 153, 155, 156, 158, 160, 163, 165, 166, 168, 169, 172, 173, 174,
        175, 176, 177, 178, 179, 214, 215, 216, 222, 226, 227, 233, 278, 283, 291, 293, 439,
    ),
}  # fmt: skip
# clone (threads only), clone3 (absent, so that libc falls back to clone), tgkill and kill (itself only), ioctl (of
# terminals and lengths, which touch nothing), prlimit64 (its own limits), fcntl (no owner, signal or notice: the kernel
# would send signals to others for a program that may not).
SPECIAL = {
    "x86_64": {"clone": 56, "clone3": 435, "tgkill": 234, "kill": 62, "ioctl": 16, "prlimit64": 302, "fcntl": 72},
    "aarch64": {"clone": 220, "clone3": 435, "tgkill": 131, "kill": 129, "ioctl": 29, "prlimit64": 261, "fcntl": 25},
}
FCNTLS = (0, 1, 2, 3, 1030)  # F_DUPFD F_GETFD F_SETFD F_GETFL F_DUPFD_CLOEXEC
SET_FLAGS, ASYNC = 4, 0x2000  # F_SETFL, without O_ASYNC
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
RECEIVE = {"x86_64": (47,), "aarch64": (212,)}  # recvmsg, for the judge
NO_CAPABILITIES = struct.pack("Ii", 0x20080522, 0)  # the header; of this process
THREAD = 0x10000
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x50000
AT_LEAST = 0x35  # a comparison of classic BPF: skip so many instructions where the register is at least a number


def call(result: int) -> int:
    """Return what a libc function returned; raise OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fork() -> int:
    """Fork as os.fork does, in a process of one thread, without what the interpreter then does in the new one.

    That is to forget other threads, of which there are none, and to seed ``random`` anew: in pages that are copied for
    it, twice as much work as the fork itself.
    """
    return call(HOLDING.fork())


def unshare(flags: int) -> None:
    """Move this process (PID: its next children) into new namespaces."""
    call(LIBC.unshare(flags))


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount; paths are text."""
    texts = [t if t is None else t.encode() for t in (source, target, kind)]
    call(LIBC.mount(*texts, ctypes.c_ulong(flags), data.encode() if data else None))


def pivot_root() -> None:
    """Make the working directory the root and let go of the old one."""
    call(LIBC.syscall(PIVOT_ROOT[platform.machine()], b".", b"."))
    call(LIBC.umount2(b".", DETACH))
    os.chdir("/")


def prctl(option: int, *args: int) -> None:
    """Call prctl(2) with integers."""
    call(LIBC.prctl(option, *[ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]))


def drop_bounding_set() -> None:
    """Leave no capability that any later program could gain."""
    for capability in range(64):
        if LIBC.prctl(DROP_BOUND, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            return


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    call(LIBC.syscall(CAPSET[platform.machine()], NO_CAPABILITIES, bytes(24)))


def restrict_files(readable: list[str], writable: list[str], programs: list[str] | None = None) -> bool:
    """Let this process and its children read below ``readable`` and write ``writable`` only.

    Below ``programs`` they may also read and start programs. Also no TCP port, abstract socket or signal outwards where
    the kernel can refuse them. Returns False if the kernel has no Landlock.
    """
    version = LIBC.syscall(444, None, 0, 1)
    if version < 1:
        return False
    access = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rules = struct.pack("<QQQ", (1 << access) - 1, 3 if version >= 4 else 0, 3 * (version >= 6))
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = call(LIBC.syscall(444, rules, ctypes.c_size_t(size), 0))
    rights_of = [(readable, READ_FILE | READ_DIR), (writable, READ_FILE | WRITE_FILE),
                 (programs or [], READ_FILE | READ_DIR | EXECUTE)]  # fmt: skip
    for paths, rights in rights_of:
        for path in filter(os.path.exists, paths):
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("<Qi", rights if os.path.isdir(path) else rights & ~READ_DIR, fd)
            call(LIBC.syscall(445, ruleset, 1, rule, 0))
            os.close(fd)
    call(LIBC.syscall(446, ruleset, 0))
    os.close(ruleset)
    return True


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Return one BPF instruction; a comparison skips ``yes`` or ``no`` of those that follow it."""
    return struct.pack("HBBI", code, yes, no, value)


def syscall_filter(pid: int, more: Sequence[int] = ()) -> bytes:
    """Return the seccomp program (classic BPF) for a process with this id; ``more`` is allowed too.

    A list of what is allowed; all else fails with EPERM. Raises KeyError on a processor whose numbers are not here.

    The program reads the kernel's struct seccomp_data (the call's number at 0, the processor at 4, the arguments from
    16) into one register and compares it.
    """
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    machine = platform.machine()
    special = SPECIAL[machine]
    low = 16  # offset of the first argument's low half; the others follow 8 bytes apart
    allow, deny = _step(give, ALLOW), _step(give, ERRNO | 1)
    own = _step(load, low) + _step(equal, pid, 0, 1) + allow + deny
    commands = b"".join(_step(equal, command, 0, 1) + allow for command in FCNTLS)
    flags = _step(equal, SET_FLAGS, 0, 3) + _step(load, low + 16) + _step(any_bit, ASYNC, 1, 0) + allow
    asks = b"".join(_step(equal, request, 0, 1) + allow for request in IOCTLS)
    bodies = {
        "clone": _step(load, low) + _step(any_bit, THREAD, 0, 1) + allow + deny,
        "clone3": _step(give, ERRNO | 38),
        "tgkill": own,
        "kill": own,
        "prlimit64": _step(load, low) + _step(equal, 0, 0, 1) + allow + deny,
        "fcntl": _step(load, low + 8) + commands + flags + deny,
        "ioctl": _step(load, low + 8) + asks + deny,
    }
    by_number = dict.fromkeys((*ALLOWED[machine], *more), allow) | {special[name]: bodies[name] for name in bodies}
    head = _step(load, 4) + _step(equal, AUDIT_ARCH[machine], 1, 0) + _step(give, KILL) + _step(load, 0)
    return head + _search(by_number, deny)


def _search(bodies: dict[int, bytes], other: bytes) -> bytes:
    """Return a program that does what ``bodies`` has for the number in the register, and ``other`` for all others.

    It is a binary search, as the kernel tries each filter that is put up with every number there is. Of bodies {3: a,
    4: a, 9: b} the ranges begin at 0, 3, 5, 9 and 10, and the first comparison is with 5: below it, the ranges from 0
    and 3 follow at once, from it on they are skipped.
    """
    ranges: list[tuple[int, bytes]] = []
    for first, body in sorted(({0: other} | {number + 1: other for number in bodies} | bodies).items()):
        if not ranges or body != ranges[-1][1]:
            ranges.append((first, body))

    def choose(ranges: list[tuple[int, bytes]]) -> bytes:
        if len(ranges) == 1:
            return ranges[0][1]
        half = len(ranges) // 2
        below, from_it_on = choose(ranges[:half]), choose(ranges[half:])
        return _step(AT_LEAST, ranges[half][0], len(below) // 8, 0) + below + from_it_on  # an instruction has 8 bytes

    return choose(ranges)


@functools.cache
def kernel_form(program: bytes) -> tuple[bytes, Any]:
    """Return the struct sock_fprog of a seccomp program, and what it points to; before a fork, so that it is shared."""
    buffer = ctypes.create_string_buffer(program, len(program))
    return struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)), buffer


def restrict_calls(program: bytes) -> None:
    """Apply a seccomp program to this process, for good; no_new_privs must be set."""
    call(LIBC.prctl(SET_SECCOMP, ctypes.c_ulong(2), kernel_form(program)[0], 0, 0))
