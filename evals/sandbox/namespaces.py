"""A process's own namespaces, and a root of what is to be read alone: user_namespaces(7), pivot_root(2)."""

import os
import socket

from evals.sandbox import syscalls

NOBODY = 65534


def enter_namespaces(readable: list[str]) -> list[str]:
    """Move into new namespaces with a read-only root; return the walls. Raises OSError."""
    root = os.geteuid() == 0
    if root:
        os.setgroups([])
    user, group = os.geteuid(), os.getegid()
    ready = os.pipe()
    helper = os.fork() if root else 0
    if root and helper == 0:  # stays outside, where it may map the unprivileged user
        os.close(ready[1])
        os.read(ready[0], 1)
        for name, number in (("uid_map", user), ("gid_map", group)):
            with open(f"/proc/{os.getppid()}/{name}", "w") as file:
                file.write(f"0 {NOBODY} 1\n1 {number} 1\n")
        os._exit(0)
    new = syscalls.NEW_USER | syscalls.NEW_NS | syscalls.NEW_PID | syscalls.NEW_NET
    try:
        syscalls.unshare(new | syscalls.NEW_IPC | syscalls.NEW_UTS)
    finally:
        for fd in ready:
            os.close(fd)
    if root:
        if os.waitpid(helper, 0)[1] != 0:
            raise OSError("the user map was refused")
    else:
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    build_root(readable)
    socket.sethostname("sandbox")
    if root:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    return ["user, mount, PID, network, IPC and host name namespaces",
            "read-only root with the standard library or the language's tool alone"]  # fmt: skip


def build_root(readable: list[str]) -> None:
    """Make a root of nothing but what is ``readable`` and /dev/null; all of it read-only."""
    quiet, base = syscalls.NO_SUID | syscalls.NO_DEV, "/proc"
    syscalls.mount(None, "/", None, syscalls.RECURSIVE | syscalls.PRIVATE)
    syscalls.mount("tmpfs", base, "tmpfs", quiet, "size=1m,mode=755")
    for folder in ("/dev", "/tmp"):
        os.makedirs(base + folder, 0o755, exist_ok=True)
    for path in readable:
        bind_read_only(base, path)
    for name in ("null", "urandom", "random"):
        os.close(os.open(f"{base}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o644))
        syscalls.mount(f"/dev/{name}", f"{base}/dev/{name}", None, syscalls.BIND)
    os.symlink("/tmp/stdin", f"{base}/dev/stdin")  # a program with a folder of its own finds a copy of its input there
    syscalls.mount(None, base, None, syscalls.REMOUNT | syscalls.BIND | syscalls.READ_ONLY | quiet)
    os.chdir(base)
    syscalls.pivot_root()
    os.chdir("/tmp")


def bind_read_only(base: str, path: str) -> None:
    """Make a file or folder readable below ``base``, without the packages installed in it."""
    quiet, target = syscalls.NO_SUID | syscalls.NO_DEV, base + path
    if os.path.isdir(path):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    syscalls.mount(path, target, None, syscalls.BIND)
    # A user namespace may not take away what the mount forbids already: nosuid, nodev, noexec, noatime and nodiratime
    # (the same bits in statvfs and mount) and relatime (another bit).
    flags = os.statvfs(path).f_flag
    forbidden = flags & (2 | 4 | 8 | 1024 | 2048) | (1 << 21 if flags & 4096 else 0)
    remount = syscalls.REMOUNT | syscalls.BIND | syscalls.READ_ONLY
    syscalls.mount(None, target, None, remount | quiet | forbidden)
    for name in ("site-packages", "dist-packages"):
        if os.path.isdir(f"{target}/{name}"):
            flags = quiet | syscalls.READ_ONLY
            syscalls.mount("tmpfs", f"{target}/{name}", "tmpfs", flags, "size=4k,mode=755")


def drop_root() -> None:
    """Become an unprivileged user if this is root, without namespaces."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir("/")
