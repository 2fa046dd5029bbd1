"""Folders, JSON lines and Parquet that a person hands over, with everything wrong in them."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_tools import prepare
from data_tools.config import PrepareConfig
from data_tools.corpus.collect import collect
from data_tools.corpus.split import shuffled_order
from data_tools.sources import local, the_stack
from data_tools.sources.open_source import source_documents
from data_tools.sources.source_rules import SourceRules
from llama_scale.errors import InputError

CODE = "def add(first, second):\n    total = first + second\n    return total\n"


def collected(documents, folder, rules=None):
    documents = list(documents)
    return collect(lambda start: documents[start:], folder, rules)


def dropped(found):
    return {reason: row["files"] for reason, row in found.dropped.items()}


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
    assert len(shuffled_order(found.records, 0)) == 2
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"content": CODE, "package": "a\ud800", "path": "b\udfff", "license": "M\ud800"})
    )
    rows = local.jsonl_documents(str(tmp_path / "rows.jsonl"), None)
    found = collected(rows, tmp_path / "b", SourceRules(frozenset({"M\\ud800"})))
    assert [(r.package, r.path) for r in found.records] == [("a\\ud800", "b\\udfff")]
    json.dumps([found.left_out, found.examples], ensure_ascii=False).encode()


def test_rows_of_the_wrong_types(tmp_path):
    """A license that is no text is none that may be used; a star that is no number is none."""
    licenses = [5, {"a": 1}, [{"a": 1}], [["MIT"]], ["MIT", 5], True, 1.5, ["MIT"], "MIT", [], ""]
    rows = [{"content": CODE, "package": f"p{i}", "license": license, "stars": stars}
            for i, (license, stars) in enumerate(
                zip(licenses, ["9", None, [], {}, -2, 0, 1.0, 7, 3.0, 1e999, 10**400], strict=True)
            )]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode())
    found = collected(local.jsonl_documents(str(path), "ISC"), tmp_path / "a")
    assert [(r.package, r.license, r.stars) for r in found.records] == [
        ("p10", "ISC", 10**400), ("p7", "MIT", 7), ("p8", "MIT", 3), ("p9", "ISC", 0),
    ]  # fmt: skip
    assert found.dropped["license"]["files"] == 7


def test_stars_that_are_missing_in_a_table(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"max_stars_repo_name": ["a", "b"], "content": [CODE, CODE],
            "max_stars_count": [float("nan"), 4.0], "max_forks_count": [None, 2]}  # fmt: skip
    parquet.write_table(pa.table(rows), path)
    found = list(local.parquet_documents(str(path), "MIT"))
    assert [(d.stars, d.forks) for d in found] == [(0, 0), (4, 2)]
    assert [the_stack.whole_number(value) for value in (None, "3", float("inf"), 2.0)] == [0, 0, 0, 2]


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    texts = [f"{CODE}# {i}\n" for i in range(3000)]
    parquet.write_table(pa.table({"content": texts}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^path: .*rows\.parquet: not a Parquet file, or damaged"):
        list(local.parquet_documents(str(path), "MIT"))
    wrong = pa.array([b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
    parquet.write_table(pa.table({"content": wrong}), path)
    with pytest.raises(InputError, match=r"^path: .*rows\.parquet: not a Parquet file, or damaged"):
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
    with pytest.raises(InputError, match=r"git ls-files failed \(fatal: .*not a git repository"):
        list(local.folder_documents(str(tmp_path), "Python", None, 99))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"needs git, which is not installed"):
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
    with pytest.raises(InputError, match="no such file or folder"):
        if source == "folder":
            list(local.folder_documents("a" * 5000, "Python", None, 9))
        else:
            list(read[source]("a" * 5000, None))


def test_a_file_that_only_says_it_is_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    for data in (b"garbage", gzip.compress(b"{}\n")[:-4], b"\x1f\x8b"):
        path.write_bytes(data)
        assert list(local.jsonl_documents(str(path), None))[-1].problem == "truncated_gzip"


def test_a_folder_of_projects(tmp_path):
    root = tmp_path / "projects"
    one, two = root / "one", root / "two"
    for project in (one, two):
        project.mkdir(parents=True)
        (project / "a.py").write_text(CODE + f"# {project.name}\n")
    (one / "LICENSE").write_text("\nMIT License\n\nCopyright\n")
    (one / "loop").symlink_to(one)
    (one / "link.py").symlink_to("a.py")
    (one / "loop.py").symlink_to("loop.py")
    (one / ".hidden").mkdir()
    (one / ".hidden" / "b.py").write_text(CODE)
    (one / "long.py").write_bytes(b"x" * (100 << 20))
    os.mkfifo(one / "pipe.py")
    subprocess.run(["git", "init", "-q", str(two)], check=True)
    subprocess.run(["git", "-C", str(two), "add", "a.py"], check=True)
    (two / "untracked.py").write_text(CODE)
    (two / "gone.py").write_text(CODE)
    subprocess.run(["git", "-C", str(two), "add", "gone.py"], check=True)
    (two / "gone.py").unlink()
    (root / "own.py").write_text(CODE + "# own\n")
    documents = local.folder_documents(str(root), "Python", "ISC", 10 << 20)
    found = collected(documents, tmp_path / "work")
    assert [(r.package, r.path, r.license) for r in found.records] == [
        ("one", "a.py", "MIT"), ("projects", "own.py", "ISC"), ("two", "a.py", "ISC"),
    ]  # fmt: skip
    assert dropped(found) == {"symlink": 2, "too_large": 1, "not_a_file": 1, "unreadable": 1}
    assert found.examples["symlink"] == ["one: link.py", "one: loop.py"]


def test_json_lines(tmp_path):
    rows = [
        {"content": CODE, "package": "a", "path": "x.py", "license": ["MIT"]},
        {"text": CODE + "#\n", "repo_name": "b", "licence": "GPL-3.0"},
        {"content": None, "license": "MIT"},
        {"content": "bad \ud800", "license": "MIT", "package": "s"},
        {"content": CODE, "license": "MIT"},
    ]
    lines = [json.dumps(row).encode() for row in rows] + [b"{not json", b"\xff\xfe", b"[1]"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    packed = gzip.compress(json.dumps(rows[0]).encode() + b"\n" + random.Random(0).randbytes(9000).hex().encode())
    (tmp_path / "b.jsonl.gz").write_bytes(packed[:-3000])
    found = collected(local.jsonl_documents(str(tmp_path), None), tmp_path / "work")
    assert {r.package for r in found.records} == {"a", "s", "a.jsonl:5"}
    assert dropped(found) == {"bad_json": 3, "no_content": 1, "license": 1, "truncated_gzip": 1}


@pytest.mark.parametrize("source", ["folder", "jsonl", "parquet"])
def test_paths_that_are_missing(tmp_path, source):
    def collect(path):
        settings = PrepareConfig(name="x", source=source, path=path)
        return collected(source_documents(settings, 0), tmp_path / "work")

    for path, message in ((None, "needs one"), (str(tmp_path / "no"), "no such file or folder")):
        with pytest.raises(InputError, match=message):
            collect(path)
    (tmp_path / "bad.parquet").write_text("no")
    if source == "parquet":
        with pytest.raises(InputError, match="not a Parquet file"):
            collect(str(tmp_path))


def test_a_build_from_a_folder(tmp_path):
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("json", "email", "html", "http", "logging", "xml"):
        project = tmp_path / "projects" / name
        shutil.copytree(library / name, project, ignore=shutil.ignore_patterns("__pycache__"))
        (project / "LICENSE").write_text("MIT License\n")
        (project / "contact.py").write_text(f"{name} = 'a.person@uni-{name}.ac.uk'\n" * 9)
        (project / "broken.py").write_text(f"this is no code of {name}\n" * 9)
    settings = PrepareConfig(
        name="x", out=str(tmp_path / "x"), source="folder", path=str(tmp_path / "projects"),
        workers=1, vocab_size=500, val_share=0.2, redact=True, parses=True, near_duplicates=False,
        humaneval=False,
    )  # fmt: skip
    manifest = prepare.prepare(settings)
    assert manifest["dropped"]["does_not_parse"]["files"] == 6
    assert "near_duplicate" not in manifest["dropped"]
    assert manifest["redacted"] >= 6 * 9
    assert {row["license"] for row in manifest["sources"]} == {"MIT"}
    page = (settings.folder / "report.html").read_text()
    assert "No benchmark was searched for" in page
    assert "does not parse" in page
    assert (settings.folder / "report.png").read_bytes().startswith(b"\x89PNG")
    flags = json.loads((settings.folder / "contamination.json").read_text())
    assert flags["tasks"] == {}
