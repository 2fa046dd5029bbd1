"""The Java sources of an installed JDK and the JavaScript of installed npm packages, as documents."""

import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from data_tools.progress import with_progress
from data_tools.sources.document import Document
from data_tools.sources.installed import chosen_files
from data_tools.sources.license_texts import header_license, stated_license
from data_tools.sources.licenses import UNKNOWN
from llama_scale.errors import InputError, nearest
from llama_scale.files import read_bytes, read_fields

SOURCES_ZIP = "src.zip"
JDK_FOLDERS = "/usr/lib/jvm"
CLASSPATH = "GPL-2.0-only WITH Classpath-exception-2.0"  # what each file of OpenJDK's own says in its head
SCRIPTS = (".js", ".mjs", ".cjs")
MOST_BYTES = 1 << 20  # of a file: longer ones are made by programs


def jdk_documents(
    path: str | None, packages: Sequence[str] | None = None, exclude: Sequence[str] = (),
    max_bytes: int | None = None, seed: int = 0,
) -> Iterator[Document]:  # fmt: skip
    """Yield the Java files of a JDK's src.zip, each Java package one of ours, as ``java.base/java.util``.

    Args:
        path: src.zip or a JDK's folder; None is a JDK of this machine.
        packages: Only these modules or packages, as ``java.base``; None is all.
        exclude: Modules or packages left out.
        max_bytes: Most bytes of source, chosen by a hash.
        seed: Seed of that choice.

    Raises:
        InputError: There is no such file, it is damaged, or nothing of ``packages`` is in it.
    """
    file = find_jdk_sources(path)
    version = _jdk_version(file)
    try:
        with zipfile.ZipFile(file) as archive:
            inside = [i for i in archive.infolist() if i.filename.endswith(".java") and i.file_size <= MOST_BYTES]
            named = [(_java_package(i.filename), PurePosixPath(i.filename).name) for i in inside]
            known = {package for package, _ in named}
            for name in packages or ():
                if not any(_within(package, [name]) for package in known):
                    raise InputError(f"packages: {name!r} is not in {file}{nearest(name, known)}")
            used = [
                i for i, (package, _) in enumerate(named)
                if (packages is None or _within(package, packages)) and not _within(package, exclude)
            ]  # fmt: skip
            chosen = chosen_files([named[i] for i in used], lambda n: inside[used[n]].file_size, max_bytes, seed)
            for n in with_progress(chosen, "reading", len(chosen), "file"):
                content, (package, name) = archive.read(inside[used[n]]), named[used[n]]
                own = CLASSPATH if b"Classpath" in content[:4096] else header_license(content) or UNKNOWN
                yield Document(package, version, own, name, content)
    except (OSError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: a password
        raise InputError(f"path: {file}: no readable archive of sources ({error}); install the JDK's again") from None


def find_jdk_sources(path: str | None) -> Path:
    """Return the src.zip of a JDK: what ``path`` names, or the javac's of this machine, or another installed JDK's."""
    if path is None:
        homes = [Path(os.path.realpath(javac)).parents[1]] if (javac := shutil.which("javac")) else []
        homes += sorted(Path(JDK_FOLDERS).glob("*"), reverse=True)
    else:
        homes = [Path(path)]
    for home in homes:
        for file in (home, home / SOURCES_ZIP, home / "lib" / SOURCES_ZIP):
            if file.is_file():
                return file
    where = "no JDK of this machine has its sources" if path is None else f"{path} has no {SOURCES_ZIP}"
    raise InputError(f"path: {where}; install them (Debian: openjdk-17-source) or name a {SOURCES_ZIP}")


def _jdk_version(file: Path) -> str:
    """Return the version that a JDK's file ``release`` states; "" where that is not beside the sources."""
    for folder in file.parents[:2]:
        if (folder / "release").is_file():
            found = re.search(rb'JAVA_VERSION="([^"]*)"', read_bytes(folder / "release", MOST_BYTES))
            return found[1].decode("utf-8", "replace") if found else ""
    return ""


def _java_package(path: str) -> str:
    """Return module and package: java.base/java/util/List.java is in java.base/java.util."""
    module, _, rest = path.rpartition("/")[0].partition("/")
    return f"{module}/{rest.replace('/', '.')}" if rest else module


def _within(package: str, names: Sequence[str]) -> bool:
    return any(package == name or package.startswith((f"{name}/", f"{name}.")) for name in names)


def npm_documents(
    path: str | None, packages: Sequence[str] | None = None, exclude: Sequence[str] = (),
    max_bytes: int | None = None, seed: int = 0,
) -> Iterator[Document]:  # fmt: skip
    """Yield the JavaScript files of installed npm packages, each version of a package once.

    Args:
        path: A node_modules folder; None is the current folder's, or the one that npm installs commands to.
        packages: Only these packages; None is all.
        exclude: Packages left out.
        max_bytes: Most bytes of source, chosen by a hash.
        seed: Seed of that choice.

    Raises:
        InputError: There is no such folder, or a package of ``packages`` is not in it.
    """
    root = find_node_modules(path)
    installed = npm_packages(root)
    known = {name for name, _ in installed}
    for name in packages or ():
        if name not in known:
            raise InputError(f"packages: {name!r} is not in {root}{nearest(name, known)}")
    files = [
        (name, version, folder, file)
        for (name, version), folder in sorted(installed.items())
        if (packages is None or name in packages) and name not in exclude
        for file in _scripts(folder)
    ]
    licenses = {folder: stated_license(folder) or UNKNOWN for _, _, folder, _ in files}
    names = [(f"{name}@{version}", file) for name, version, _, file in files]
    chosen = chosen_files(names, lambda i: (files[i][2] / files[i][3]).stat().st_size, max_bytes, seed)
    for i in with_progress(chosen, "reading", len(chosen), "file"):
        name, version, folder, file = files[i]
        try:
            content = (folder / file).read_bytes()
        except OSError:
            content = None
        yield Document(name, version, licenses[folder], file, content)


def find_node_modules(path: str | None) -> Path:
    """Return the folder of npm packages that ``path`` names, or the current folder's, or npm's own."""
    folders = [Path("node_modules")]
    if node := shutil.which("node"):
        prefixes = [Path(node).parents[1], Path(os.path.realpath(node)).parents[1]]
        folders += [prefix / "lib" / "node_modules" for prefix in prefixes]
    folders = folders if path is None else [Path(path), Path(path) / "node_modules"]
    for folder in folders:
        if folder.is_dir() and (folder.name == "node_modules" or npm_packages(folder)):
            return folder
    where = "no node_modules folder here" if path is None else f"{path}: no folder of npm packages"
    raise InputError(f"path: {where}; run npm install PACKAGE and name its node_modules")


def npm_packages(root: Path) -> dict[tuple[str, str], Path]:
    """Return name and version of each package below ``root``, with the first of its folders."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(root.rglob("package.json")):
        folder = file.parent
        scoped = folder.parent.name.startswith("@")
        above = folder.parent.parent if scoped else folder.parent
        if above.name != "node_modules" and above != root:
            continue
        try:
            stated = read_fields(file, ["name", "version"])
            name, version = stated["name"], stated["version"]
        except InputError:
            continue
        if isinstance(name, str) and isinstance(version, str):
            found.setdefault((name, version), folder)
    return found


def _scripts(folder: Path) -> list[str]:
    """Return a package's own JavaScript files, without those of packages inside it and minified ones."""
    files = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "node_modules" and not f.startswith("."))
        for name in sorted(names):
            path = Path(here) / name
            if name.endswith(SCRIPTS) and ".min." not in name and path.is_file() and path.stat().st_size <= MOST_BYTES:
                files.append(path.relative_to(folder).as_posix())
    return files
