"""The Python of this interpreter as documents: its standard library and installed packages."""

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from bisect import bisect_right
from collections.abc import Iterator
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
    entries = []
    for package in installed_packages(packages, exclude):
        for path in package.files:
            name = f"{seed}/{package.name}/{path}".encode("utf-8", "backslashreplace")
            entries.append((hashlib.sha256(name).digest(), package, path))
    entries.sort(key=lambda entry: entry[0])
    if max_bytes is not None:
        sizes = (_size(package.root / path) for _, package, path in entries)
        entries = entries[: bisect_right(list(accumulate(sizes)), max_bytes)]
    entries.sort(key=lambda entry: (entry[1].name, entry[2]))
    rest = entries[start:]
    for _, package, path in with_progress(rest, "reading", len(rest), "file"):
        try:
            content = (package.root / path).read_bytes()
        except OSError:
            content = None
        yield Document(package.name, package.version, package.license, path, content)


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
