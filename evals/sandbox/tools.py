"""Java and JavaScript: which tool runs a program, and what it must be able to read."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from glob import glob

LANGUAGES = ("python", "java", "javascript")
HEAP_MEGABYTES = 256
# Beside Python's: execve (which finds only the tool itself behind the walls), socketpair (which leads nowhere else),
# sched_setaffinity, fadvise64, pkey_alloc.
CALLS = {"x86_64": (59, 53, 203, 221, 330), "aarch64": (221, 199, 122, 223, 289)}


@dataclass(frozen=True)
class Tool:
    """How a language's programs are run.

    ``argv`` starts the program in ``file``; ``paths`` are the files and folders that it reads; ``libraries`` are
    folders of its own shared libraries; ``start`` is the CPU seconds that it takes before a program's first line.
    """

    language: str
    argv: list[str]
    file: str
    paths: list[str]
    libraries: list[str]
    start: float


@lru_cache
def find_tool(language: str) -> Tool | None:
    """Return the tool of a language, None if this machine does not have it."""
    return {"java": _java, "javascript": _javascript}[language]()


def _java() -> Tool | None:
    compiler, machine = shutil.which("javac"), shutil.which("java")
    if not compiler or not machine:
        return None
    home = os.path.dirname(os.path.dirname(os.path.realpath(compiler)))
    program = f"{home}/bin/java"
    libraries = _libraries(program, *glob(f"{home}/lib/server/*.so"), *glob(f"{home}/lib/lib*.so"))
    # One file is compiled in memory and run: its first class has the main method.
    argv = [program, f"-Xmx{HEAP_MEGABYTES}m", "-Xss1m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData", "-Xshare:auto", "-Djava.io.tmpdir=/tmp", "/tmp/Main.java"]  # fmt: skip
    paths = [home, *glob("/etc/java*"), *libraries]
    return Tool("java", argv, "/tmp/Main.java", paths, [f"{home}/lib", f"{home}/lib/server"], 3.0)


def _javascript() -> Tool | None:
    if not (node := shutil.which("node")):
        return None
    program = os.path.realpath(node)
    argv = [program, f"--max-old-space-size={HEAP_MEGABYTES}", "--no-addons", "/tmp/main.js"]
    return Tool("javascript", argv, "/tmp/main.js", [program, *_libraries(program)], [], 0.5)


def _libraries(*files: str) -> list[str]:
    """Return the folders of the shared libraries that files are linked with."""
    done = subprocess.run(["ldd", *files], capture_output=True, text=True)
    words = [word for line in done.stdout.splitlines() for word in line.split()]
    # A library's line is "libm.so.6 => /lib/libm.so.6 (0x7f...)"; "/usr/bin/node:" begins a file's.
    paths = [word for word in words if word.startswith("/") and not word.endswith(":")]
    return sorted({folder for path in paths if os.path.isdir(folder := os.path.dirname(path))})
