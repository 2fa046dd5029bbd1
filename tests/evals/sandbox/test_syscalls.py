"""The filter of system calls, run here instruction by instruction, says of each call what the lists say."""

import platform
import struct

import pytest

from evals.sandbox import syscalls
from evals.sandbox.syscalls import ALLOW, ALLOWED, AUDIT_ARCH, ERRNO, FCNTLS, IOCTLS, KILL, SPECIAL, syscall_filter

MACHINES = sorted(ALLOWED)
LINUX = platform.machine()
OTHER_FORM = 1 << 30  # x32's calls, on x86_64


def outcome(program: bytes, number: int, *arguments: int, machine: str = LINUX) -> int:
    """Return what a classic BPF program gives for a call, as seccomp(2) has it."""
    steps = list(struct.iter_unpack("HBBI", program))
    low = [argument & 0xFFFFFFFF for argument in (*arguments, 0, 0, 0, 0)[:4]]
    data = {0: number, 4: AUDIT_ARCH[machine]} | {16 + 8 * i: value for i, value in enumerate(low)}
    at, register = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            register = data[value]
        else:
            holds = {0x15: register == value, 0x35: register >= value, 0x45: bool(register & value)}[code]
            at += yes if holds else no


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("more", [(), (1_000,), (29, 31)])
def test_each_call_is_as_listed(monkeypatch, machine, more):
    monkeypatch.setattr(syscalls.platform, "machine", lambda: machine)
    program = syscall_filter(7, more)
    special = set(SPECIAL[machine].values())
    for number in set(range(1_100)) - special:
        expected = ALLOW if number in (*ALLOWED[machine], *more) else ERRNO | 1
        assert outcome(program, number, machine=machine) == expected, number
        assert outcome(program, number | OTHER_FORM, machine=machine) == ERRNO | 1, number
    assert outcome(program, 0xFFFFFFFF, machine=machine) == ERRNO | 1


@pytest.mark.parametrize("machine", MACHINES)
def test_some_calls_depend_on_their_arguments(monkeypatch, machine):
    monkeypatch.setattr(syscalls.platform, "machine", lambda: machine)
    program, number = syscall_filter(7), SPECIAL[machine]

    def allowed(name, *arguments):
        return outcome(program, number[name], *arguments, machine=machine) == ALLOW

    assert allowed("clone", 0x10F00) and not allowed("clone", 0x11)  # a thread, a process
    assert outcome(program, number["clone3"], machine=machine) == ERRNO | 38
    assert all(allowed(name, 7) and not allowed(name, 1) and not allowed(name, -1) for name in ("kill", "tgkill"))
    assert allowed("prlimit64", 0) and not allowed("prlimit64", 1)
    assert {command for command in range(1_100) if allowed("fcntl", 0, command)} == {*FCNTLS, 4}
    assert not allowed("fcntl", 0, 4, 0x2000) and allowed("fcntl", 0, 4, 0x800)
    assert {request for request in range(0x8000) if allowed("ioctl", 0, request)} == set(IOCTLS)


def test_another_processor_is_ended():
    program = syscall_filter(7)
    other = next(machine for machine in MACHINES if machine != LINUX)
    assert outcome(program, 0, machine=other) == KILL


def test_the_search_is_short():
    """The kernel tries each number there is: a list of all that is allowed took it 150 comparisons for each."""
    steps = list(struct.iter_unpack("HBBI", syscall_filter(7)))

    def longest(at: int) -> int:
        code, yes, no, _ = steps[at]
        return (
            1 if code == 0x06 else 1 + max({longest(at + 1 + skip) for skip in ((yes, no) if code != 0x20 else (0,))})
        )

    assert longest(4) < 30 and sum(code == 0x35 for code, *_ in steps) > 40
