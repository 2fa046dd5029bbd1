"""Files on this machine as documents: a folder of projects, JSON lines, Parquet."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.sources.document import Document
from data_tools.sources.json_rows import READ, Unreadable, json_rows
from data_tools.sources.json_rows import SUFFIXES as SUFFIXES_READ
from data_tools.sources.license_texts import header_license, joined, stated_license
from data_tools.sources.licenses import UNKNOWN
from data_tools.sources.tables import parquet_rows
from data_tools.sources.the_stack import STACK_COLUMNS, license_expression, stack_documents, whole_number
from llama_scale.errors import InputError, nearest

SUFFIXES = {"Python": (".py",)}
# Columns and fields that state a license, whatever a data set calls them.
LICENSE_FIELDS = (
    "license", "licence", "licenses", "licences", "detected_licenses", "repo_license", "repo_licenses", "license_spdx",
    "spdx", "spdx_id", "spdx_license", "license_expression", "gha_license_id", "max_stars_repo_licenses",
)  # fmt: skip
ROW_FIELDS = (
    "content", "text", "package", "repo_name", "version", "path", "stars", *LICENSE_FIELDS
)  # fmt: skip


def folder_documents(
    path: str | None, language: str, license: str | None, limit: int, start: int = 0
) -> Iterator[Document]:
    """Yield the source files under a folder, each project in it a package.

    A git repository gives the files that it tracks; another folder all that are not hidden. A
    folder that cannot be read stands for its files. Links are not followed. A file is under the terms
    of all license files and metadata from ``path`` down to its own folder; ``license`` is for files
    of which nothing of that states any, not for terms that are not recognized.

    Raises:
        InputError: There is no such folder, or the language is not known here.
    """
    root = _existing_path(path, "folder")
    if not root.is_dir():
        raise InputError(f"path: {root}: not a folder")
    if language not in SUFFIXES:
        raise InputError(f"language: {language!r} is not known{nearest(language, SUFFIXES)}")
    license_of = _LicensesAbove(root)
    projects = [root]
    if not (root / ".git").exists():
        folders = (p for p in root.iterdir() if p.is_dir() and not p.is_symlink())
        projects += sorted(p for p in folders if not p.name.startswith("."))
    # ``start`` counts the files of all projects: one that has fewer is passed over, and the next is
    # asked for the rest. With projects of 3 and 5 files, start 4 begins at file 1 of the second.
    for project in projects:
        if project == root and len(projects) > 1:  # the folders in it are projects of their own
            names = sorted(p.name for p in root.iterdir() if not p.is_dir() or p.is_symlink())
        else:
            names = _project_files(project)
        everything = set(names)
        names = [name for name in names if name.endswith((*SUFFIXES[language], "/"))]
        for name in names[start:]:
            content, problem = _read(project / name, limit)
            stated = license_of(project / name)
            if f"{name}.license" in everything:  # of the REUSE convention
                sidecar, _ = _read(project / f"{name}.license", limit)
                stated = joined([*filter(None, [stated, header_license(sidecar or b"")])])
            yield Document(project.resolve().name, "", stated or license or UNKNOWN, name, content, problem)
        start = max(0, start - len(names))


def _project_files(project: Path) -> list[str]:
    if (project / ".git").exists():
        if not shutil.which("git"):
            raise InputError(f"path: {project}: a git repository needs git, which is not installed")
        done = subprocess.run(["git", "-C", str(project), "ls-files", "-z"], capture_output=True, check=False)
        if done.returncode:
            reason = os.fsdecode(done.stderr).partition("\n")[0][:200]
            raise InputError(f"path: {project}: git ls-files failed ({reason})")
        return sorted(set(filter(None, os.fsdecode(done.stdout).split("\0"))))
    files = []

    def add_unreadable(error: OSError) -> None:
        files.append(f"{Path(error.filename).relative_to(project).as_posix()}/")

    for folder, folders, names in os.walk(project, onerror=add_unreadable):
        here = Path(folder).relative_to(project)
        # A link to a folder is listed as a file that is not followed.
        links = [f for f in folders if (Path(folder) / f).is_symlink()]
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in links)
        files += [(here / name).as_posix() for name in [*names, *links]]
    return sorted(files)


def _read(path: Path, limit: int) -> tuple[bytes | None, str | None]:
    """Return a file's bytes, or None and why not."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return None, "symlink"
        if stat.S_ISDIR(status.st_mode):
            return None, "unreadable"
        if not stat.S_ISREG(status.st_mode):
            return None, "not_a_file"
        if status.st_size > limit:
            return None, "too_large"
        return path.read_bytes(), None
    except OSError:
        return None, "unreadable"


class _LicensesAbove:
    """What the folders from ``root`` down to a file's own state together; each folder is looked at once."""

    def __init__(self, root: Path) -> None:
        self.root, self.known = root, {}

    def __call__(self, file: Path) -> str | None:
        """Return the license of a file; None where no folder states one."""
        return self._of_folder(file.parent)

    def _of_folder(self, folder: Path) -> str | None:
        if folder not in self.known:
            above = self._of_folder(folder.parent) if folder != self.root and self.root in folder.parents else None
            names = {name for name in (above, stated_license(folder)) if name}
            self.known[folder] = joined([*names])
        return self.known[folder]


def jsonl_documents(path: str | None, license: str | None, start: int = 0) -> Iterator[Document]:
    """Yield the rows of a file of JSON lines, or of one list, or of all such files in a folder; packed or not.

    A row has ``content`` (or ``text``), and may have ``package`` (or ``repo_name``), ``path``,
    ``license`` (or another of LICENSE_FIELDS), ``stars``. A row without a package is one of its own.

    Raises:
        InputError: A file cannot be read, or is of no kind that is.
    """
    for file in _files(path, "jsonl", SUFFIXES_READ, READ):
        number = 0
        try:
            for number, row in json_rows(file):
                if number > start:
                    name = f"{file.name}:{number}"
                    rejected = _unusable(name, license, "bad_json")
                    yield _row_document(row, name, license) if isinstance(row, dict) else rejected
        except Unreadable:
            number += 1
            if number > start:
                yield _unusable(f"{file.name}:{number}", license, "truncated_gzip")
        start = max(0, start - number)


def _unusable(name: str, license: str | None, problem: str) -> Document:
    return Document(name, "", license or UNKNOWN, name, None, problem)


def parquet_documents(path: str | None, license: str | None, start: int = 0) -> Iterator[Document]:
    """Yield the rows of a Parquet file, or of all in a folder: The Stack's columns or jsonl's.

    Raises:
        InputError: See ``tables.parquet_rows``.
    """
    files = _files(path, "parquet", (".parquet",), ".parquet")
    for file, number, row in parquet_rows(files, {*ROW_FIELDS, *STACK_COLUMNS}, ("content", "text"), start):
        if "max_stars_repo_name" in row:
            yield from stack_documents(iter([row]), license)
        else:
            yield _row_document(row, f"{file.name}:{number}", license)


def _row_document(row: dict[str, Any], name: str, license: str | None) -> Document:
    text = row.get("content", row.get("text"))
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    problem = None if isinstance(content, bytes) else "no_content"
    return Document(
        package=str(row.get("package") or row.get("repo_name") or name),
        version=str(row.get("version") or ""),
        license=_row_license(row) or license or UNKNOWN,
        path=str(row.get("path") or name),
        content=None if problem else content,
        problem=problem,
        stars=whole_number(row.get("stars")),
    )


def _row_license(row: dict[str, Any]) -> str | None:
    stated = [license_expression(row.get(name)) for name in LICENSE_FIELDS]
    return joined([expression for expression in stated if expression])


def _files(path: str | None, source: str, suffixes: tuple[str, ...], read: str) -> list[Path]:
    root = _existing_path(path, source)
    if not root.is_dir():
        return [root]
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name.lower().endswith(suffixes))
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    if not files:
        raise InputError(f"path: {root}: no files there that are read: {read}")
    # Beside files of lines, .json is rather settings than data.
    return [p for p in files if ".json" not in map(str.lower, p.suffixes)] or files


def _existing_path(path: str | None, source: str) -> Path:
    if path is None:
        raise InputError(f"path: the source {source} needs one")
    if not os.path.exists(path):
        raise InputError(f"path: {path}: no such file or folder")
    return Path(path)
