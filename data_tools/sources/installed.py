"""The Python of this interpreter as documents: its standard library and installed packages."""

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from data_tools.progress import with_progress
from data_tools.sources import licenses
from data_tools.sources.document import Document
from llama_scale.errors import InputError, nearest

STDLIB = "python-stdlib"
OWN_NAME = "llama-scale"


@dataclass(frozen=True)
class Package:
    """An installed package: ``files`` are its Python files, relative to ``root``."""

    name: str
    version: str
    license: str
    root: Path
    files: list[str]


def installed_documents(
    packages: list[str] | None = None, exclude: list[str] | None = None, max_bytes: int | None = None,
    seed: int = 0, start: int = 0,
) -> Iterator[Document]:  # fmt: skip
    """Yield the Python files of this interpreter: its standard library and installed packages.

    Args:
        packages: Only these packages; None is all.
        exclude: Packages left out.
        max_bytes: Most bytes to yield. Files are taken in the order of a hash of (seed, package,
            path), so every package keeps about its share and adding one moves few files.
        seed: Seed of that choice.
        start: Number of the first document to yield.

    Raises:
        InputError: A package in ``packages`` is not installed.
    """
    files = [(package, path) for package in installed_packages(packages, exclude) for path in package.files]
    names = [(package.name, path) for package, path in files]
    chosen = chosen_files(names, lambda i: _size(files[i][0].root / files[i][1]), max_bytes, seed)
    entries = [files[i] for i in chosen]
    rest = entries[start:]
    for package, path in with_progress(rest, "reading", len(rest), "file"):
        try:
            content = (package.root / path).read_bytes()
        except OSError:
            content = None
        yield Document(package.name, package.version, package.license, path, content)


def chosen_files(
    names: Sequence[tuple[str, str]], size: Callable[[int], int], max_bytes: int | None, seed: int
) -> list[int]:
    """Return the numbers of files, (package, path) each, by name: of all, or of those of ``max_bytes`` together.

    Those are the first in the order of a hash of (seed, package, path). ``size`` gives the bytes of a number.
    """
    chosen = sorted(range(len(names)), key=lambda i: _choice(seed, *names[i]))
    if max_bytes is not None:
        chosen = chosen[: bisect_right(list(accumulate(map(size, chosen))), max_bytes)]
    return sorted(chosen, key=lambda i: names[i])


def _choice(seed: int, package: str, path: str) -> bytes:
    return hashlib.sha256(f"{seed}/{package}/{path}".encode("utf-8", "backslashreplace")).digest()


def installed_packages(packages: list[str] | None = None, exclude: list[str] | None = None) -> list[Package]:
    """Return the standard library and the installed packages but this project, by name.

    A package's files are those that its RECORD lists, and its license is the one its metadata
    states. Where two versions are on sys.path, the one that Python imports is meant.

    Raises:
        InputError: A package in ``packages`` is not installed.
    """
    available: dict[str, importlib.metadata.Distribution | None] = {STDLIB: None}
    for distribution in importlib.metadata.distributions():
        name = canonical(distribution.metadata.get("Name") or OWN_NAME)
        if name != OWN_NAME:
            available.setdefault(name, distribution)
    for name in packages or []:
        if canonical(name) not in available:
            raise InputError(f"packages: {name!r} is not installed{nearest(canonical(name), available)}")
    names = set(available if packages is None else map(canonical, packages))
    names -= set(map(canonical, exclude or []))
    return [_package(name, available[name]) for name in sorted(names)]


def _package(name: str, distribution: importlib.metadata.Distribution | None) -> Package:
    if distribution is None:
        root = Path(sysconfig.get_path("stdlib"))
        return Package(name, platform.python_version(), "PSF-2.0", root, _stdlib_files(root))
    listed = [f for f in distribution.files or [] if f.suffix == ".py" and ".." not in f.parts and not f.is_absolute()]
    license = licenses.from_metadata(distribution.metadata)
    root = Path(distribution.locate_file(""))
    return Package(name, distribution.version, license, root, sorted(set(map(str, listed))))


def canonical(name: str) -> str:
    """Return a package name in its canonical spelling: lower case with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _stdlib_files(root: Path) -> list[str]:
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in ("site-packages", "dist-packages")]
        files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    return sorted(Path(file).relative_to(root).as_posix() for file in files)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
