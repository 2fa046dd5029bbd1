"""The Stack's schemas from local Parquet and a local object store, hostile rows among them."""

import gzip
import hashlib
import shutil
import subprocess
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_tools.corpus.collect import collect
from data_tools.corpus.corpus import read_contents
from data_tools.prepare import PrepareConfig
from data_tools.sources import blob_store, hub, retry
from data_tools.sources.open_source import read_limit, source_documents, source_rules
from llama_scale.errors import InputError
from tests.conftest import run_script
from tests.data_tools.helpers import CODE, LATIN, REPOSITORY, UNNAMED, V1, V1_COUNTS, V2, V2_COUNTS, git_id, v2_rows


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
    return collect(
        lambda start: source_documents(settings, start), tmp_path / "work", source_rules(settings), read_limit(settings)
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
    assert list(read_contents(found.folder, [records["alice/one"]])) == [CODE.encode()]
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


def test_the_stack_v2(tmp_path, objects):
    folder = tmp_path / "stack-v2"
    (folder / "data" / "Python").mkdir(parents=True)
    table = pa.Table.from_pylist(list(v2_rows()))
    assert len(table.schema) == 26
    parquet.write_table(table, folder / "data" / "Python" / "train-00000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: Python\n  data_files:\n  - split: train\n    path: data/Python/*.parquet\n---\n"
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
    (latin,) = read_contents(found.folder, [records["owner/latin"]])
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
    contents = sorted(read_contents(found.folder, found.records))
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
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    read = blob_store.open_store("s3://softwareheritage/content", 1000)
    blob = hashlib.sha1(content).hexdigest()
    assert read(blob, git_id(content)) == content
    assert pauses == [2, 4]
    assert asked[0] == f"https://softwareheritage.s3.amazonaws.com/content/{blob}"
    with pytest.raises(blob_store.UnusableContent, match="missing_content"):
        read("gone", "x")


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "store: expected s3"), ("ftp://x", "found 'ftp://x'"), ("file:///nowhere", "no such"),
     ("git:/nowhere", "no such clone")],
)  # fmt: skip
def test_bad_stores(address, message):
    with pytest.raises(InputError, match=message):
        blob_store.open_store(address, 10)


def test_rows_resume_after_network_failures(monkeypatch):
    opened, pauses = [], []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)

    def open_at(start):
        opened.append(start)
        for row in range(start, 10):
            if row in (3, 7) and opened.count(row) < 2:
                raise ConnectionError("reset")
            yield {"row": row}

    rows = list(hub.rows_with_retries(open_at, "x"))
    assert [row["row"] for row in rows] == list(range(10))
    assert opened == [0, 3, 3, 7, 7]
    assert pauses == [2, 4, 2, 4], "a row between two failures starts the count again"


def test_rows_give_up_in_the_end(monkeypatch):
    def open_at(start):
        raise TimeoutError
        yield

    pauses = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    with pytest.raises(InputError, match=r"^x: row 0: the network failed 6 times \(TimeoutError\)"):
        list(hub.rows_with_retries(open_at, "x"))
    assert pauses == [2, 4, 8, 16, 32]

    def broken(start):
        raise KeyError("a bug is no network failure")
        yield

    with pytest.raises(KeyError):
        list(hub.rows_with_retries(broken, "x"))


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
