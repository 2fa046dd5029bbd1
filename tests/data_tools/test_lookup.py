"""The file of a token is named, whatever packing and fill-in-the-middle did to it."""

import gzip
import json
import shutil

import numpy as np
import pytest

from data_tools.lookup import LookupConfig, lookup
from llama_scale.data.shards import load_tokenizer, open_tokens
from llama_scale.errors import InputError
from tests.conftest import run_here
from tests.data_tools.helpers import SIZE


def test_lookup_names_the_file_of_a_token(packed, site, tmp_path):
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
    done = run_here("prepare.py", "lookup", f"--data={settings.folder}", "--shard=1",
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
