"""Parquet shards that differ: each is read by its own schema."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_tools.sources import local
from data_tools.sources.hub import dataset_rows, hub_documents
from data_tools.sources.tables import parquet_rows
from llama_scale.errors import InputError


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def shard(folder, number, rows, **columns):
    names = [f"s{number}r{i}" for i in range(rows)]
    table = {"content": [f"x = '{name}'\n" for name in names], "max_stars_repo_name": names,
             "max_stars_repo_licenses": [["MIT"]] * rows, "max_stars_count": list(range(rows))}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(table | columns), folder / f"train-{number:05d}.parquet")
    return folder / f"train-{number:05d}.parquet"


@pytest.fixture
def stack(tmp_path):
    """The first has nulls alone in a column, the second another column, the third one less and other types."""
    folder = tmp_path / "stack" / "data" / "python"
    shard(folder, 0, 300, max_stars_count=pa.nulls(300))
    shard(folder, 1, 5, new=["z"] * 5)
    shard(folder, 2, 5, max_stars_count=[1.0, None, float("nan"), 3.0, 4.0])
    return tmp_path / "stack"


@pytest.mark.parametrize("start", [0, 1, 299, 300, 302, 309, 310, 999])
def test_shards_that_differ_are_read_from_any_row(stack, start, capsys):
    names = [f"s0r{i}" for i in range(300)] + [f"s{n}r{i}" for n in (1, 2) for i in range(5)]
    found = list(hub_documents("the-stack", "Python", str(stack), None, None, 999, start))
    assert [document.package for document in found] == names[start:]
    assert [document.content for document in found] == [f"x = '{name}'\n".encode() for name in names[start:]]
    assert [d.stars for d in found] == ([0] * 300 + [0, 1, 2, 3, 4] + [1, 0, 0, 3, 4])[start:]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "train-00001.parquet: has the column 'new', unlike" in lines[0]
    assert "train-00002.parquet: lacks the column 'new'" in lines[1]
    parquet_found = local.parquet_documents(str(stack), None, start)
    assert [d.package for d in parquet_found] == names[start:]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", None])
def test_a_shard_that_is_damaged_is_named(stack, content):
    file = stack / "data" / "python" / "train-00001.parquet"
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    with pytest.raises(InputError, match=r"train-00001.parquet: not a Parquet file, or damaged") as error:
        list(dataset_rows("the-stack", "Python", str(stack)))
    assert "\n" not in str(error.value)


def test_a_shard_without_its_contents_is_named_with_its_columns(stack):
    file = stack / "data" / "python" / "train-00001.parquet"
    parquet.write_table(parquet.read_table(file).drop_columns(["content"]), file)
    with pytest.raises(InputError, match=r"train-00001.parquet: no column 'content'; it has max_stars_repo_name, "):
        list(dataset_rows("the-stack", "Python", str(stack)))


def test_only_known_columns_are_read(tmp_path):
    file = shard(tmp_path, 0, 3, odd=pa.array([{"a": 1}] * 3), content=["a", None, "c"])
    rows = [(number, row) for _, number, row in parquet_rows([file], {"content"}, ("content",))]
    assert rows == [(1, {"content": "a"}), (2, {"content": None}), (3, {"content": "c"})]


@pytest.mark.parametrize(("column", "problem"), [([1, 2], "no_content"), ([None, None], "no_content")])
def test_contents_of_another_type_are_counted(tmp_path, column, problem):
    shard(tmp_path / "s" / "data" / "python", 0, 2, content=column)
    found = list(hub_documents("the-stack", "Python", str(tmp_path / "s"), None, None, 999))
    assert [document.problem for document in found] == [problem] * 2


@pytest.mark.parametrize(("path", "words"), [("nowhere", "nowhere"), ("empty", "empty"), ("file", "file")])
def test_a_copy_that_is_none_is_named(tmp_path, path, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError) as error:
        list(dataset_rows("the-stack", "Python", str(tmp_path / path)))
    assert words in str(error.value) and "\n" not in str(error.value)
