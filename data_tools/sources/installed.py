"""The Python of this interpreter as documents: its standard library and installed packages."""

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
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
    packages: list[str] | None = None,
    exclude: list[str] | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
    start: int = 0,
) -> Iterator[Document]:
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
            key = hashlib.sha256(name).digest()
            entries.append((key, package, path))
    entries.sort(key=lambda entry: entry[0])
    if max_bytes is not None:
        sizes = [_size(package.root / path) for _, package, path in entries]
        entries = entries[: _count_within(sizes, max_bytes)]
    entries.sort(key=lambda entry: (entry[1].name, entry[2]))
    rest = entries[start:]
    for _, package, path in with_progress(rest, "reading", len(rest), "file"):
        content = _read(package.root / path)
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
            hint = nearest(canonical(name), available)
            raise InputError(f"packages: {name!r} is not installed{hint}")
    names = set(available if packages is None else map(canonical, packages))
    names -= set(map(canonical, exclude or []))
    return [_package(name, available[name]) for name in sorted(names)]


def _package(name: str, distribution: importlib.metadata.Distribution | None) -> Package:
    if distribution is None:
        root = Path(sysconfig.get_path("stdlib"))
        return Package(name, platform.python_version(), "PSF-2.0", root, _stdlib_files(root))
    return Package(
        name=name,
        version=distribution.version,
        license=licenses.from_metadata(distribution.metadata),
        root=Path(distribution.locate_file("")),
        files=sorted({str(f) for f in distribution.files or [] if _inside(f)}),
    )


def canonical(name: str) -> str:
    """Return a package name in its canonical spelling: lower case with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _inside(path: importlib.metadata.PackagePath) -> bool:
    return path.suffix == ".py" and ".." not in path.parts and not path.is_absolute()


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


def _count_within(sizes: list[int], limit: int) -> int:
    """Return how many leading ``sizes`` sum to at most ``limit``."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > limit:
            return count
    return len(sizes)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
