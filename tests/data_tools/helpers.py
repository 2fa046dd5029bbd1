"""Packages, rows and readers that the tests of the data steps share."""

import gzip
import hashlib
import json
import os
import sysconfig
from datetime import datetime
from pathlib import Path

from data_tools.prepare import PrepareConfig
from tests.conftest import ROOT

LIBRARY = Path(sysconfig.get_path("stdlib"))
SIZE = 256  # tokens of a packed sequence
FOLDERS = ["asyncio", "collections", "concurrent", "ctypes", "email", "encodings", "html", "http",
           "importlib", "json", "logging", "multiprocessing", "re", "unittest", "urllib", "wsgiref",
           "xml"]  # fmt: skip


def install_packages(site: Path, packages: dict[str, tuple[str, dict[str, str]]]) -> None:
    """Lay out packages as pip does: files, METADATA and RECORD."""
    for name, (license, files) in packages.items():
        info = site / f"{name.lower()}-1.0.dist-info"
        info.mkdir(parents=True)
        header = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(header + f"License-Expression: {license}\n")
        for path, text in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, "../../bin/x.py"]))


def tiny_config(folder):
    return PrepareConfig(
        name="tiny",
        out=str(folder / "tiny"),
        packages=[f"fake-{name}" for name in [*FOLDERS, "copy"]],
        val_share=0.15,
        vocab_size=600,
        tokenizer_bytes=600_000,
        shard_tokens=200_000,
        workers=1,
    )


def document_rows(folder):
    with gzip.open(folder / "documents.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def file_contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def flags_and_environment(config, site):
    flags = [f"--{name}={json.dumps(value) if isinstance(value, list) else value}"
             for name, value in vars(config).items() if value is not None]  # fmt: skip
    return flags, {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}


CODE = "def add(first, second):\n    total = first + second\n    return total\n"


STAMP = datetime(2023, 9, 6, 9, 14)


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def v1_row(content, repo="alice/one", path="a.py", licenses=("MIT",), **other):
    row = {"size": len(content or ""), "ext": "py", "lang": "Python"}
    row["hexsha"] = git_id((content or "").encode())
    for kind in ("stars", "issues", "forks"):
        row |= {
            f"max_{kind}_repo_path": path,
            f"max_{kind}_repo_name": repo,
            f"max_{kind}_repo_head_hexsha": "f" * 40,
            f"max_{kind}_repo_licenses": None if licenses is None else list(licenses),
            f"max_{kind}_count": None,
            f"max_{kind}_repo_{kind}_event_min_datetime": None,
            f"max_{kind}_repo_{kind}_event_max_datetime": "2021-01-01T00:00:00.000Z",
        }
    row |= {"content": content, "avg_line_length": 1.0, "max_line_length": 1}
    return row | {"alphanum_fraction": 0.5} | other


V1 = [
    v1_row(CODE, max_stars_count=7),
    v1_row(CODE.replace("add", "mul"), "bob/two", "b.py", ("Apache-2.0", "MIT")),
    v1_row(CODE + "# gpl\n", "carol/three", licenses=("GPL-3.0",)),
    v1_row(CODE + "# none\n", "dan/four", licenses=None),
    v1_row(None, "erin/five"),
    v1_row(CODE + "# nul \0\n", "frank/six"),
    v1_row(CODE + "# wrong\n", "grace/seven", hexsha="0" * 40),
    v1_row("x = '" + "y" * (11 << 20) + "'\n", "heidi/eight"),
    v1_row("\ufeff" + CODE + "# bom\n", "ivan/nine"),
    v1_row(CODE + "# no name\n", None),
]


UNNAMED = "unnamed-" + V1[-1]["hexsha"][:12]


V1_COUNTS = {
    "license": 2, "no_content": 1, "hash_mismatch": 1, "too_large": 1,
}  # fmt: skip


def v2_file(content: bytes, path="/a.py", encoding="UTF-8", **other):
    return {
        "blob_id": hashlib.sha1(content).hexdigest(),
        "path": path,
        "content_id": git_id(content),
        "language": "Python",
        "length_bytes": len(content),
        "detected_licenses": ["MIT"],
        "license_type": "permissive",
        "src_encoding": encoding,
        "is_vendor": False,
        "is_generated": False,
    } | other


LATIN = "name = 'é'\nother = 'ü'\n".encode("latin-1")


V2 = {
    "good": v2_file(CODE.encode()),
    "latin": v2_file(LATIN, encoding="ISO-8859-1"),
    "bom": v2_file(b"\xef\xbb\xbf" + CODE.encode()),
    "unlicensed": v2_file(b"a = 1\n", detected_licenses=[], license_type="no_license"),
    "wrong_encoding": v2_file(LATIN + b"# 1\n"),
    "unknown_encoding": v2_file(b"# 2\n", encoding="no-such"),
    "vendored": v2_file(b"# 3\n", is_vendor=True),
    "generated": v2_file(b"# 4\n", is_generated=True),
    "too_large": v2_file(b"# 5\n", length_bytes=11 << 20),
    "lies_about_size": v2_file(b"# 6" * (4 << 20), length_bytes=3),
    "missing": v2_file(b"# 7\n"),
    "truncated": v2_file(b"# 8\n" * 500),
    "no_gzip": v2_file(b"# 9\n"),
    "wrong_hash": v2_file(b"# 10\n"),
    "wrong_git_hash": v2_file(b"# 11\n", content_id="0" * 40),
    "null": v2_file(b"# 12\n", blob_id=None),
}


CONTENTS = {
    "good": CODE.encode(), "latin": LATIN, "bom": b"\xef\xbb\xbf" + CODE.encode(),
    "unlicensed": b"a = 1\n", "wrong_encoding": LATIN + b"# 1\n", "unknown_encoding": b"# 2\n",
    "lies_about_size": b"# 6" * (4 << 20), "truncated": b"# 8\n" * 500, "no_gzip": b"# 9\n",
    "wrong_hash": b"# something else\n", "wrong_git_hash": b"# 11\n",
}  # fmt: skip


V2_COUNTS = {
    "wrong_encoding": 2, "vendored": 1, "generated": 1, "too_large": 2, "missing_content": 1,
    "truncated_gzip": 2, "hash_mismatch": 2, "no_content": 1, "license": 1,
}  # fmt: skip


REPOSITORY = {
    "snapshot_id": "s", "revision_id": "r" * 40, "branch_name": "main", "visit_date": STAMP,
    "revision_date": STAMP, "committer_date": STAMP, "github_id": None, "star_events_count": 5,
    "fork_events_count": 2, "gha_license_id": None, "gha_event_created_at": None,
    "gha_created_at": None, "gha_language": None,
}  # fmt: skip


def v2_rows():
    keys = ("language",)
    for name, file in V2.items():
        yield file | REPOSITORY | {
            "directory_id": "d", "repo_name": f"owner/{name}", "extension": "py",
            **{key: file[key] for key in keys},
        }  # fmt: skip
