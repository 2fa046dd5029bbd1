"""JSON in the forms that people have it: lines, a list, packed; and what is none of them."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pytest

from data_tools.sources import json_rows as module
from data_tools.sources import local
from data_tools.sources.json_rows import Unreadable, json_rows
from llama_scale.errors import InputError

ROWS = [{"content": f"x = {n}  # é\n", "license": "MIT", "package": f"p{n}"} for n in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
LIST = json.dumps(ROWS, indent=1).encode()


def zstd(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (".jsonl", LINES), (".ndjson", LINES), (".json", LINES), (".json", LIST), (".jsonl", LIST),
        (".jsonl", b"\xef\xbb\xbf" + LINES.rstrip()), (".json", b"\n  " + LIST), (".JSONL", LINES),
    ],
)  # fmt: skip
def test_every_form_gives_the_same_rows(tmp_path, kind, packed, data):
    file = tmp_path / f"rows{kind}{packed}"
    file.write_bytes(PACKERS[packed](data))
    for path in (file, tmp_path):
        found = list(local.jsonl_documents(str(path), None))
        assert [(d.package, d.content.decode(), d.license) for d in found] == [
            (row["package"], row["content"], "MIT") for row in ROWS
        ]
        assert [d.package for d in local.jsonl_documents(str(path), None, start=3)] == ["p3", "p4"]
    (tmp_path / "unnamed").write_bytes(PACKERS[packed](data))
    assert len(list(local.jsonl_documents(str(tmp_path / "unnamed"), None))) == 5


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
def test_a_packed_file_that_is_cut_gives_what_comes_before(tmp_path, packed):
    file = tmp_path / f"rows.jsonl{packed}"
    whole = PACKERS[packed](b"".join(json.dumps({"content": str(n) * 99}).encode() + b"\n" for n in range(3000)))
    for data in (whole[: len(whole) // 2], b"garbage", b""):
        file.write_bytes(data)
        with pytest.raises(Unreadable):
            list(json_rows(file))
            if not data:
                raise Unreadable  # an empty file is one of no rows to some
        problems = [document.problem for document in local.jsonl_documents(str(file), None)]
        assert problems[-1:] == ["truncated_gzip"] or not data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.csv", b"content,license\nx,MIT\n"), ("rows.txt", b"x = 1\n"), ("rows.tar", b"x" * 1000),
        ("rows.zip", b"PK\3\4rest"), ("rows.parquet", b"PAR1rest"), ("rows.py", b"import os\n"), ("rows", b""),
    ],
)  # fmt: skip
def test_what_is_no_json_names_what_is_read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        InputError, match=r"not JSON; what is read is JSON lines or one JSON list \(.jsonl, .ndjson, .*zst"
    ):
        list(local.jsonl_documents(str(tmp_path / name), None))
    with pytest.raises(InputError, match=r"no files there that are read: JSON lines or one JSON list"):
        list(local.jsonl_documents(str(tmp_path), None))


def test_lists_that_are_none(tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    for data in (b"[", b'[{"a": 1}', b"[1 2]", b"[" * 100_000):
        file.write_bytes(data)
        with pytest.raises(InputError, match=r"rows.json: not a JSON list"):
            list(json_rows(file))
    file.write_bytes(b'[1, null, "x", {}]')
    assert list(json_rows(file)) == [(1, 1), (2, None), (3, "x"), (4, {})]
    assert {d.problem for d in local.jsonl_documents(str(file), None)} == {"bad_json", "no_content"}
    monkeypatch.setattr(module, "MAX_LIST_BYTES", 5)
    with pytest.raises(InputError, match="a JSON list of more than"):
        list(json_rows(file))


def test_a_line_may_be_a_list(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"[1]\n" + LINES)
    problems = [d.problem for d in local.jsonl_documents(str(tmp_path / "rows.jsonl"), None)]
    assert problems == ["bad_json"] + [None] * 5
