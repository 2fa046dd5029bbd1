"""Folders, JSON lines and Parquet that a person hands over, with everything wrong in them."""

import gzip
import json
import os
import subprocess

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_tools import corpus, local, streams
from data_tools.encode import shuffled
from data_tools.filters import SourceRules
from llama_scale.errors import UserError

CODE = "def add(first, second):\n    total = first + second\n    return total\n"


def collected(documents, folder, rules=None):
    documents = list(documents)
    return corpus.collect(lambda start: documents[start:], folder, rules)


def test_names_that_are_not_utf8(tmp_path):
    """They are kept as escapes, so that hashes, reports and terminals can hold them."""
    root = os.fsencode(tmp_path / "code")
    os.makedirs(root + b"/p\xff")
    for name in (b"/p\xff/a.py", b"/p\xff/\xfe.py", b"/p\xff/LICENSE"):
        with open(root + name, "w") as file:
            file.write("MIT License\n" + CODE)
    documents = local.folder_documents(os.fsdecode(root), "Python", None, 999)
    found = collected(documents, tmp_path / "a")
    assert [(r.package, r.path) for r in found.records] == [
        ("p\\udcff", "\\udcfe.py"), ("p\\udcff", "a.py"),
    ]  # fmt: skip
    assert len(shuffled(found.records, 0)) == 2
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"content": CODE, "package": "a\ud800", "path": "b\udfff", "licence": "M\ud800"})
    )
    rows = local.jsonl_documents(str(tmp_path / "rows.jsonl"), None)
    found = collected(rows, tmp_path / "b", SourceRules(frozenset({"M\\ud800"})))
    assert [(r.package, r.path) for r in found.records] == [("a\\ud800", "b\\udfff")]
    json.dumps([found.left_out, found.examples], ensure_ascii=False).encode()


def test_rows_of_the_wrong_types(tmp_path):
    """A licence that is no text is none that may be used; a star that is no number is none."""
    licences = [5, {"a": 1}, [{"a": 1}], [["MIT"]], ["MIT", 5], True, 1.5, ["MIT"], "MIT", [], ""]
    rows = [{"content": CODE, "package": f"p{i}", "licence": licence, "stars": stars}
            for i, (licence, stars) in enumerate(
                zip(licences, ["9", None, [], {}, -2, 0, 1.0, 7, 3.0, 1e999, 10**400], strict=True)
            )]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode())
    found = collected(local.jsonl_documents(str(path), "ISC"), tmp_path / "a")
    assert [(r.package, r.licence, r.stars) for r in found.records] == [
        ("p10", "ISC", 10**400), ("p7", "MIT", 7), ("p8", "MIT", 3), ("p9", "ISC", 0),
    ]  # fmt: skip
    assert found.dropped["licence"]["files"] == 7


def test_stars_that_are_missing_in_a_table(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"max_stars_repo_name": ["a", "b"], "content": [CODE, CODE],
            "max_stars_count": [float("nan"), 4.0], "max_forks_count": [None, 2]}  # fmt: skip
    parquet.write_table(pa.table(rows), path)
    found = list(local.parquet_documents(str(path), "MIT"))
    assert [(d.stars, d.forks) for d in found] == [(0, 0), (4, 2)]
    assert [streams.whole(value) for value in (None, "3", float("inf"), 2.0)] == [0, 0, 0, 2]


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    texts = [f"{CODE}# {i}\n" for i in range(3000)]
    parquet.write_table(pa.table({"content": texts}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"^path: .*rows\.parquet: not a Parquet file, or damaged"):
        list(local.parquet_documents(str(path), "MIT"))
    wrong = pa.array([b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
    parquet.write_table(pa.table({"content": wrong}), path)
    with pytest.raises(UserError, match=r"^path: .*rows\.parquet: not a Parquet file, or damaged"):
        list(local.parquet_documents(str(path), "MIT"))


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    for name in ("a/open", "a/closed"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.py").write_text(CODE)
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = collected(local.folder_documents(str(tmp_path), "Python", "MIT", 99), tmp_path / "b")
    assert [r.path for r in found.records] == ["open/x.py"]
    assert found.dropped == {"unreadable": {"files": 1, "bytes": 0}}
    assert found.examples == {"unreadable": ["a: closed/"]}


def test_git_that_is_missing_or_refuses(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match=r"git ls-files failed \(fatal: .*not a git repository"):
        list(local.folder_documents(str(tmp_path), "Python", None, 99))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs git, which is not installed"):
        list(local.folder_documents(str(tmp_path), "Python", None, 99))


def test_a_file_in_a_merge_conflict_counts_once(tmp_path):
    def git(*arguments, check=True):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.cc"]
        subprocess.run([*command, *arguments], check=check, capture_output=True)

    git("init", "-qb", "main")
    for branch, text in (("main", "0"), ("other", "1"), ("main", "2")):
        git("checkout", "-q", *(["-b"] if branch == "other" else []), branch, check=False)
        (tmp_path / "a.py").write_text(f"value = {text}\n")
        git("add", ".")
        git("commit", "-qm", "x")
    git("merge", "other", check=False)
    assert b"<<<<<<<" in (tmp_path / "a.py").read_bytes()
    assert len(list(local.folder_documents(str(tmp_path), "Python", None, 999))) == 1


@pytest.mark.parametrize("source", ["jsonl", "parquet", "folder"])
def test_a_path_too_long_for_the_system(source):
    read = {"jsonl": local.jsonl_documents, "parquet": local.parquet_documents}
    with pytest.raises(UserError, match="no such file or folder"):
        if source == "folder":
            list(local.folder_documents("a" * 5000, "Python", None, 9))
        else:
            list(read[source]("a" * 5000, None))


def test_a_file_that_only_says_it_is_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    for data in (b"garbage", gzip.compress(b"{}\n")[:-4], b"\x1f\x8b"):
        path.write_bytes(data)
        assert list(local.jsonl_documents(str(path), None))[-1].problem == "truncated_gzip"
