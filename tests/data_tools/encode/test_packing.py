"""Best-fit packing and fill-in-the-middle, alone and through a build."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from data_tools import prepare
from data_tools.encode.packing import best_fit
from llama_scale.data.shards import load_tokenizer, open_tokens
from tests.data_tools.helpers import SIZE


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


def test_a_packed_build_with_fim(packed, config, site, tmp_path):
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
