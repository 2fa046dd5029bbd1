"""Shards are read back exactly, across their ends, and damage is named."""

import errno
import json
import os

import numpy as np
import pytest

from llama_scale.data.shards import ShardWriter, check_tokenizer, data_fingerprint, load_tokenizer, open_tokens
from llama_scale.data.tokenizer import Tokenizer, train_tokenizer
from llama_scale.errors import InputError


@pytest.fixture
def build(tiny_data, tmp_path):
    """A copy of the small build that a test may damage."""
    folder = tmp_path / "build"
    folder.mkdir()
    for path in tiny_data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def joined(folder, split="train"):
    files = sorted(folder.glob(f"{split}-*.bin"))
    return np.concatenate([np.fromfile(file, dtype="<u2") for file in files])


def test_documents_lie_where_add_said(tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 65536, rng.integers(1, 60)) for _ in range(200)]
    documents.insert(50, rng.integers(0, 65536, 500))
    with ShardWriter(tmp_path, "train", shard_tokens=128) as writer:
        places = [writer.add(ids) for ids in documents]
    shards = [np.fromfile(tmp_path / shard["file"], dtype="<u2") for shard in writer.shards]
    assert [len(shard) for shard in shards] == [shard["tokens"] for shard in writer.shards]
    assert sorted(len(shard) for shard in shards)[-2] <= 128, "only one document is longer"
    for (shard, start), ids in zip(places, documents, strict=True):
        assert (shards[shard][start : start + len(ids)] == ids).all()
    assert (np.concatenate(shards) == np.concatenate(documents)).all()


@pytest.mark.parametrize("ids", [[1, 65536], np.array([1, 65536]), [-1], np.array([-1])])
def test_an_id_that_does_not_fit_is_refused(tmp_path, ids):
    with pytest.raises(OverflowError), ShardWriter(tmp_path, "train") as writer:
        writer.add(ids)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_shard_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "train", 10) as writer:
        for _ in range(3):
            writer.add(range(6))
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-00000.bin", "train-00001.bin"]


def test_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"train-00000\.bin") as error:  # noqa: SIM117
        with ShardWriter(tmp_path, "train") as writer:
            writer.add([1, 2, 3])
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_read_equals_the_joined_files(tiny_data):
    tokens = open_tokens(tiny_data, "train")
    expected = joined(tiny_data)
    assert len(tokens.shards) > 2, "the test must cross shard ends"
    assert tokens.n_tokens == len(expected)
    rng = np.random.default_rng(1)
    for _ in range(300):
        start, end = np.sort(rng.integers(0, len(expected) + 1, 2))
        assert (tokens.read(start, end - start) == expected[start:end]).all()
    for end in tokens.ends[:-1].tolist():
        assert (tokens.read(end - 3, 7) == expected[end - 3 : end + 4]).all()
        assert (tokens.read(end, 5) == expected[end : end + 5]).all()
    assert (tokens.read(0, len(expected)) == expected).all()
    assert tokens.read(0, 1).dtype == np.uint16


def test_windows_equal_the_joined_files(tiny_data):
    tokens = open_tokens(tiny_data, "train")
    expected = joined(tiny_data)
    starts = np.random.default_rng(2).integers(0, len(expected) - 65, 500)
    starts[:3] = tokens.ends[0] - 32, tokens.ends[0] - 65, len(expected) - 65
    windows = tokens.windows(starts, 65)
    assert windows.dtype == np.int64
    assert (windows == expected[starts[:, None] + np.arange(65)]).all()
    assert tokens.windows(np.array([], dtype=np.int64), 65).shape == (0, 65)


def test_out_of_range(tiny_data):
    tokens = open_tokens(tiny_data, "val")
    for start, length in ((-1, 2), (tokens.n_tokens - 1, 2), (0, -1)):
        with pytest.raises(IndexError):
            tokens.read(start, length)
    for start in (-1, tokens.n_tokens - 1):
        with pytest.raises(IndexError):
            tokens.windows(np.array([0, start]), 2)


def test_facts_of_a_build(tiny_data):
    tokens = open_tokens(tiny_data, "val")
    tokenizer = load_tokenizer(tokens)
    assert tokens.vocab_size == tokenizer.vocab_size
    assert tokens.eos == tokenizer.eos
    assert tokens.tokenizer_fingerprint == tokenizer.fingerprint
    ids = tokens.read(0, tokens.n_tokens)
    assert tokens.n_bytes == tokenizer.byte_lengths[ids].sum()
    assert (ids == tokens.eos).sum() == tokens.manifest["splits"]["val"]["documents"]


def test_the_fingerprint_follows_tokens_and_tokenizer(tiny_data):
    manifest = open_tokens(tiny_data, "train").manifest
    splits, name = manifest["splits"], manifest["tokenizer"]["fingerprint"]
    assert data_fingerprint(splits, name) == manifest["fingerprint"]
    assert data_fingerprint(splits, "another") != manifest["fingerprint"]
    changed = json.loads(json.dumps(splits))
    changed["val"]["shards"][0]["sha256"] = "0" * 64
    assert data_fingerprint(changed, name) != manifest["fingerprint"]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_changed_shard_is_named(build):
    flip(build / "train-00001.bin", 1000)
    message = r"train-00001\.bin: checksum \w{12} does not match manifest.json .* damaged"
    with pytest.raises(InputError, match=message):
        open_tokens(build, "train")
    open_tokens(build, "val")
    open_tokens(build, "train", verify=False)


@pytest.mark.parametrize("change", [lambda data: data[:-2], lambda data: data + b"\0\0"])
def test_a_shard_of_another_length_is_named_even_unverified(build, change):
    path = build / "val-00000.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=r"val-00000\.bin: \d+ bytes, but manifest.json says"):
        open_tokens(build, "val", verify=False)


def test_missing_parts(build):
    (build / "val-00000.bin").unlink()
    with pytest.raises(InputError, match=r"val-00000\.bin: no such file"):
        open_tokens(build, "val")
    (build / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no manifest\.json.*launch/prepare\.py"):
        open_tokens(build, "train")
    with pytest.raises(InputError, match=r"nowhere: no such folder.*launch/prepare\.py"):
        open_tokens(build / "nowhere", "train")


@pytest.mark.parametrize("change", [{"format": "v0"}, {"tokenizer": None}, {"splits": None}])
def test_a_foreign_manifest(build, change):
    manifest = json.loads((build / "manifest.json").read_text()) | change
    manifest = {name: value for name, value in manifest.items() if value is not None}
    (build / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: .*run launch/prepare\.py again"):
        open_tokens(build, "train")


def test_another_tokenizer_is_refused(build, tiny_data, tmp_path):
    train_tokenizer(["def f(x):\n    return x\n" * 50], tmp_path / "other.model", 300)
    tokens = open_tokens(tiny_data, "train")
    message = "does not match the shards of"
    with pytest.raises(InputError, match=rf"other\.model: {message}"):
        check_tokenizer(tokens, Tokenizer(tmp_path / "other.model"))
    (build / "tokenizer.model").write_bytes((tmp_path / "other.model").read_bytes())
    with pytest.raises(InputError, match=rf"tokenizer\.model: {message}"):
        open_tokens(build, "train")
    flip(build / "tokenizer.model", 0)
    with pytest.raises(InputError, match=r"tokenizer\.model: not a SentencePiece model"):
        open_tokens(build, "train")
    (build / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.model: no such tokenizer"):
        open_tokens(build, "train")
