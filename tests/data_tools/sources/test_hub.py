"""The Stack's schemas from local Parquet and a local object store, hostile rows among them."""

import gzip
import hashlib
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_tools import prepare
from data_tools.corpus import corpus
from data_tools.prepare import PrepareConfig
from data_tools.sources import blob_store, hub
from llama_scale.errors import InputError
from tests.conftest import run_script

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


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def config(tmp_path, source, **other):
    return PrepareConfig(name="x", out=str(tmp_path / "x"), source=source, workers=1, **other)


def collected(settings, tmp_path):
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    return corpus.collect(
        lambda start: prepare._documents(settings, start),
        tmp_path / "work",
        prepare._rules(settings),
        prepare._limit(settings),
    )


def dropped(found):
    return {reason: row["files"] for reason, row in found.dropped.items()}


@pytest.fixture
def v1(tmp_path):
    folder = tmp_path / "stack" / "data" / "python"
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(V1)
    assert len(table.schema) == 29
    parquet.write_table(table.slice(0, 4), folder / "train-00000-of-00002.parquet")
    parquet.write_table(table.slice(4), folder / "train-00001-of-00002.parquet")
    return tmp_path / "stack"


@pytest.mark.parametrize("source", ["the-stack", "the-stack-dedup", "the-stack-smol"])
def test_the_stack(tmp_path, v1, source):
    found = collected(config(tmp_path, source, path=str(v1)), tmp_path)
    assert dropped(found) == V1_COUNTS
    assert found.examples["hash_mismatch"] == ["grace/seven: a.py"]
    records = {record.package: record for record in found.records}
    assert set(records) == {"alice/one", "bob/two", "frank/six", "ivan/nine", UNNAMED}
    assert records["bob/two"].license == "Apache-2.0 AND MIT"
    assert records["alice/one"].stars == 7
    assert records["alice/one"].version == "f" * 40
    assert list(corpus.contents(found.folder, [records["alice/one"]])) == [CODE.encode()]
    kept = list(found.records)
    parquet_found = collected(config(tmp_path, "parquet", path=str(v1)), tmp_path)
    assert list(parquet_found.records) == kept


def test_starcoderdata_has_no_licenses_of_its_own(tmp_path):
    folder = tmp_path / "data" / "python"
    folder.mkdir(parents=True)
    rows = [{"max_stars_repo_path": "a.py", "max_stars_repo_name": "a/b", "max_stars_count": 3}]
    table = pa.Table.from_pylist([rows[0] | {"id": "1", "content": CODE}])
    parquet.write_table(table, folder / "train-00000.parquet")
    settings = config(tmp_path, "starcoderdata", path=str(tmp_path / "data"))
    assert dropped(collected(settings, tmp_path)) == {"license": 1}
    (record,) = collected(replace(settings, license="MIT"), tmp_path).records
    assert (record.package, record.license, record.stars) == ("a/b", "MIT", 3)


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


@pytest.fixture
def objects(tmp_path):
    folder = tmp_path / "content"
    folder.mkdir()
    for name, content in CONTENTS.items():
        packed = gzip.compress(content)
        packed = packed[:-9] if name == "truncated" else content if name == "no_gzip" else packed
        (folder / f"{V2[name]['blob_id']}.gz").write_bytes(packed)
    return folder


def v2_rows():
    keys = ("language",)
    for name, file in V2.items():
        yield file | REPOSITORY | {
            "directory_id": "d", "repo_name": f"owner/{name}", "extension": "py",
            **{key: file[key] for key in keys},
        }  # fmt: skip


def test_the_stack_v2(tmp_path, objects):
    folder = tmp_path / "stack-v2"
    (folder / "data" / "Python").mkdir(parents=True)
    table = pa.Table.from_pylist(list(v2_rows()))
    assert len(table.schema) == 26
    parquet.write_table(table, folder / "data" / "Python" / "train-00000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: Python\n  data_files:\n  - split: train\n"
        "    path: data/Python/*.parquet\n---\n"
    )
    settings = config(tmp_path, "the-stack-v2", path=str(folder), store=objects.as_uri())
    found = collected(settings, tmp_path)
    check_v2(found)
    unlicensed = replace(settings, licenses=["MIT", "no_license"])
    assert "owner/unlicensed" in {r.package for r in collected(unlicensed, tmp_path).records}


def check_v2(found):
    assert dropped(found) == V2_COUNTS
    records = {record.package: record for record in found.records}
    assert set(records) == {"owner/good", "owner/latin", "owner/bom"}
    assert (records["owner/good"].stars, records["owner/good"].path) == (5, "a.py")
    (latin,) = corpus.contents(found.folder, [records["owner/latin"]])
    assert latin == LATIN.decode("latin-1").encode()


def test_the_stack_v2_smol_ids_and_a_git_clone(tmp_path):
    clone = tmp_path / "clone"
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    for name, content in {"a.py": CODE.encode(), "b.py": LATIN}.items():
        (clone / name).write_bytes(content)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "files"], check=True)
    extra = {"alphanum_fraction": 0.5, "alpha_fraction": 0.5, "num_lines": 1}
    extra |= {"avg_line_length": 1.0, "max_line_length": 1}
    files = [V2["good"] | extra, V2["latin"] | extra, V2["missing"] | extra]
    files.append(V2["good"] | extra | {"language": "Java"})
    row = REPOSITORY | {"repo_name": "o/r", "repo_url": "u", "num_files": 4, "files": files}
    folder = tmp_path / "ids"
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist([row]), folder / "train-00000.parquet")
    source = "the-stack-v2-train-smol-ids"
    found = collected(config(tmp_path, source, path=str(folder), store=f"git:{clone}"), tmp_path)
    assert dropped(found) == {"missing_content": 1}
    contents = sorted(corpus.contents(found.folder, found.records))
    assert contents == sorted([CODE.encode(), LATIN.decode("latin-1").encode()])


def test_a_store_over_http_tries_again(monkeypatch):
    import io
    import urllib.error

    content, asked = CODE.encode(), []

    def urlopen(url, timeout):
        asked.append(url)
        if len(asked) == 1:
            raise urllib.error.URLError("reset")
        if len(asked) == 2:
            raise urllib.error.HTTPError(url, 503, "busy", {}, None)
        if "gone" in url:
            raise urllib.error.HTTPError(url, 404, "no", {}, None)
        return io.BytesIO(gzip.compress(content))

    pauses = []
    monkeypatch.setattr(blob_store.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(blob_store.time, "sleep", pauses.append)
    read = blob_store.open_store("s3://softwareheritage/content", 1000)
    blob = hashlib.sha1(content).hexdigest()
    assert read(blob, git_id(content)) == content
    assert pauses == [1, 2]
    assert asked[0] == f"https://softwareheritage.s3.amazonaws.com/content/{blob}"
    with pytest.raises(blob_store.Problem, match="missing_content"):
        read("gone", "x")


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "store: expected s3"), ("ftp://x", "found 'ftp://x'"), ("file:///nowhere", "no such"),
     ("git:/nowhere", "no such clone")],
)  # fmt: skip
def test_bad_stores(address, message):
    with pytest.raises(InputError, match=message):
        blob_store.open_store(address, 10)


def test_rows_resume_after_network_failures():
    opened, pauses = [], []

    def open_at(start):
        opened.append(start)
        for row in range(start, 10):
            if row in (3, 7) and opened.count(row) < 2:
                raise ConnectionError("reset")
            yield {"row": row}

    rows = list(hub.resumed(open_at, "x", pauses.append))
    assert [row["row"] for row in rows] == list(range(10))
    assert opened == [0, 3, 3, 7, 7]
    assert pauses == [2, 4, 2, 4], "a row between two failures starts the count again"


def test_rows_give_up_in_the_end():
    def open_at(start):
        raise TimeoutError
        yield

    pauses = []
    with pytest.raises(InputError, match="failed 6 times at row 0"):
        list(hub.resumed(open_at, "x", pauses.append))
    assert pauses == [2, 4, 8, 16, 32]

    def broken(start):
        raise KeyError("a bug is no network failure")
        yield

    with pytest.raises(KeyError):
        list(hub.resumed(broken, "x"))


def test_no_token_is_one_line(tmp_path):
    done = run_script(
        "prepare.py", "--name=x", "--source=the-stack", "--workers=1",
        cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), HF_TOKEN="",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "bigcode/the-stack needs a Hugging Face token; accept the terms at" in done.stderr


def test_no_such_local_copy(tmp_path):
    with pytest.raises(InputError, match=r"^source: .*nowhere"):
        collected(config(tmp_path, "the-stack", path=str(tmp_path / "nowhere")), tmp_path)
