"""The list of a build's documents."""

import gzip
import json

import pytest

from llama_scale.data.documents import DOCUMENTS, has_documents, read_documents
from llama_scale.errors import InputError


def test_documents_are_read_in_order(tmp_path):
    rows = [{"path": "a\u2028\r.py", "start": 0}, {"path": "é.py", "start": 7}]
    assert not has_documents(tmp_path)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / DOCUMENTS).write_bytes(gzip.compress(lines.encode()))
    assert has_documents(tmp_path)
    assert list(read_documents(tmp_path)) == rows


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(InputError, match=r"documents\.jsonl\.gz: no such file; run launch/prepare"):
        list(read_documents(tmp_path))


@pytest.mark.parametrize("damage", ["text", "cut", "json", "utf-8"])
def test_a_damaged_list_is_named_after_what_is_whole(tmp_path, damage):
    lines = b"".join(b'{"start": %d}\n' % n for n in range(3))
    packed = gzip.compress(lines)
    changed = {
        "text": b"garbage",
        "cut": packed[:-9],
        "json": gzip.compress(lines + b'{"st'),
        "utf-8": gzip.compress(lines + b'"\xff"\n'),
    }
    (tmp_path / DOCUMENTS).write_bytes(changed[damage])
    seen = []
    with pytest.raises(InputError, match=r"damaged .*delete the folder") as error:
        for row in read_documents(tmp_path):
            seen.append(row["start"])
    assert "\n" not in str(error.value)
    assert seen == [0, 1, 2][: len(seen)]
    assert len(seen) == 3 or damage in ("text", "cut")
