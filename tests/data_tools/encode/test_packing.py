"""Best-fit packing and fill-in-the-middle, alone and through a build."""

import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from data_tools import prepare
from data_tools.encode.fim import Fim, arrange
from data_tools.encode.packing import best_fit
from data_tools.lookup import LookupConfig, lookup
from llama_scale.data.shards import load_tokenizer, open_tokens
from llama_scale.errors import InputError
from tests.conftest import run_script
from tests.data_tools.test_prepare import config, site, tiny  # noqa: F401

SIZE = 256


def naive(lengths, size):
    """Room left in each sequence by the same rule, the slow way."""
    pieces = sorted((min(size, n - s) for n in lengths for s in range(0, n, size)), reverse=True)
    rooms = []
    for piece in pieces:
        best = min((r for r in rooms if r >= piece), default=None)
        if best is None:
            rooms.append(size - piece)
        else:
            rooms[rooms.index(best)] -= piece
    return sorted(rooms)


@pytest.mark.parametrize("size", [1, 7, 64, 2048])
def test_best_fit_equals_the_slow_way(size):
    rng = np.random.default_rng(size)
    lengths = rng.geometric(1 / (1 + size / 3), 500).tolist()
    count, sequences = best_fit(lengths, size, 0)
    sequences = list(sequences)
    assert len(sequences) == count
    assert sorted(size - sum(n for _, _, n in row) for row in sequences) == naive(lengths, size)
    pieces = sorted(piece for row in sequences for piece in row)
    for document, length in enumerate(lengths):
        mine = [(s, n) for d, s, n in pieces if d == document]
        assert sum(n for _, n in mine) == length
        assert [s for s, _ in mine] == list(range(0, length, size))
        assert length > size or len(mine) == 1, "no document that fits is cut"


def test_order_of_sequences_follows_the_seed():
    first, again, other = (list(best_fit(range(1, 200), 200, seed)[1]) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)


def test_fim_cuts_a_share_anywhere():
    text = "é" + "abc\n" * 25
    found = [arrange(text, str(i), Fim(0.4, 0.25, 7)) for i in range(4000)]
    assert all("".join(parts) == text for _, parts in found)
    kinds = [kind for kind, _ in found]
    assert kinds.count(None) / 4000 == pytest.approx(0.6, abs=0.03)
    assert kinds.count("spm") / 1600 == pytest.approx(0.25, abs=0.04)
    cuts = np.array([(len(p), len(p) + len(m)) for kind, (p, m, _) in found if kind])
    assert cuts.min() == 0
    assert cuts.max() == len(text)
    assert cuts.mean(axis=0) == pytest.approx([len(text) / 3, 2 * len(text) / 3], rel=0.06)
    assert found == [arrange(text, str(i), Fim(0.4, 0.25, 7)) for i in range(4000)]
    assert [arrange(text, str(i), Fim(0.4, 0.25, 8))[0] for i in range(4000)] != kinds
    assert arrange("", "x", Fim(1.0, 0.0, 0)) == ("psm", ("", "", ""))


@pytest.fixture(scope="module")
def packed(site, tmp_path_factory):  # noqa: F811
    settings = replace(
        tiny(tmp_path_factory.mktemp("packed")),
        packing="best_fit",
        pack_length=SIZE,
        fim_rate=0.5,
        shard_tokens=30_000,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        return settings, prepare.prepare(settings)


def test_a_packed_build_with_fim(packed, config, site, tmp_path):  # noqa: F811
    settings, manifest = packed
    tokens = open_tokens(settings.folder, "train")
    model = load_tokenizer(tokens)
    packing = manifest["splits"]["train"]["packing"]
    assert tokens.n_tokens == packing["sequences"] * SIZE + 1
    assert packing["padding"] <= 0.01 * tokens.n_tokens
    with gzip.open(settings.folder / "documents.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    documents, kinds = {}, set()
    bounds = np.cumsum([0, *map(len, tokens.shards)])
    for row in rows:
        if row["split"] == "val":
            assert "fim" not in row, "validation text stays as it is"
            continue
        ids = tokens.shards[row["shard"]][row["start"] :][: row["tokens"]].tolist()
        begin = int(bounds[row["shard"]]) + row["start"]
        assert begin // SIZE == (begin + row["tokens"] - 1) // SIZE, "inside one sequence"
        documents.setdefault((row["path"], row.get("fim")), []).append((row.get("first", 0), ids))
        assert row.get("of", 0) > SIZE or "first" not in row
        kinds.add(row.get("fim"))
    assert kinds == {None, "psm", "spm"}
    pre, suf, mid = model.fim
    for (path, kind), pieces in documents.items():
        ids = [i for _, piece in sorted(pieces) for i in piece]
        assert ids[-1] == model.eos
        if kind == "psm":
            a, b = ids.index(suf), ids.index(mid)
            assert ids[0] == pre
            ids = ids[1:a] + ids[b + 1 :] + ids[a + 1 : b]
        elif kind == "spm":
            a = ids.index(mid)
            assert ids[:2] == [pre, suf]
            ids = ids[a + 1 :] + ids[2:a]
        assert model.decode_bytes(ids) == (site / path).read_bytes()
    train = manifest["splits"]["train"]
    assert sum(row["bytes"] for row in rows if row["split"] == "train") == train["bytes"]
    again = replace(settings, out=str(tmp_path / "again"), workers=2)
    assert prepare.prepare(again) == manifest


def test_text_never_makes_the_marks(packed):
    settings, _ = packed
    model = load_tokenizer(open_tokens(settings.folder, "val"))
    for text in ("<fim_prefix>", "<fim_suffix> a <fim_middle>", "</s><s>", "▁<fim_middle>\n "):
        ids = model.encode(text)
        assert not set(ids) & {1, 2, *model.fim}
        assert model.decode_bytes(ids) == text.encode()


def test_lookup_names_the_file_of_a_token(packed, site, tmp_path):  # noqa: F811
    settings, _ = packed
    tokens = open_tokens(settings.folder, "train")
    model = load_tokenizer(tokens)
    rng = np.random.default_rng(0)
    for _ in range(20):
        shard = int(rng.integers(len(tokens.shards)))
        token = int(rng.integers(len(tokens.shards[shard]) - SIZE))
        found = lookup(LookupConfig(str(settings.folder), token, shard))
        assert found["id"] == tokens.shards[shard][token]
        assert found["text"] == model.decode([found["id"]])
        content = (site / found["path"]).read_bytes()
        assert found["text"].encode() in content or "\ufffd" in found["text"]
    done = run_script("prepare.py", "lookup", f"--data={settings.folder}", "--shard=1",
                      "--token=12", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fake-")
    assert "license   MIT" in done.stdout
    for flags, message in (
        ({"token": 10**9}, "token: train shard 0 has"),
        ({"token": 0, "shard": 99}, "shard: .* train shards"),
        ({"token": tokens.n_tokens, "shard": 0}, "token"),
    ):
        with pytest.raises(InputError, match=message):
            lookup(LookupConfig(str(settings.folder), **flags))
    last = len(tokens.shards) - 1
    with pytest.raises(InputError, match="is padding"):
        lookup(LookupConfig(str(settings.folder), len(tokens.shards[last]) - 1, last))


@pytest.mark.parametrize("damage", ["text", "cut", "bits"])
def test_lookup_in_a_damaged_list_of_documents(packed, tmp_path, damage):
    settings, _ = packed
    folder = shutil.copytree(settings.folder, tmp_path / "copy")
    path = folder / "documents.jsonl.gz"
    data = path.read_bytes()
    middle = len(data) // 2
    changed = {"text": b"garbage", "cut": data[:middle], "bits": data[:middle] + data[9:]}
    path.write_bytes(changed[damage])
    last = json.loads(gzip.decompress(data).splitlines()[-1])
    assert last["split"] == "val"
    with pytest.raises(InputError, match=r"documents\.jsonl\.gz: damaged .*delete the folder"):
        lookup(LookupConfig(str(folder), last["start"], last["shard"], "val"))
