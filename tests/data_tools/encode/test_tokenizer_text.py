"""The text of the tokenizer is taken evenly or in proportion."""

import numpy as np

from data_tools.corpus.records import Record, Records, format_row, write_sorted
from data_tools.encode.tokenizer_text import sample_tokenizer_text


def test_an_even_sample_takes_small_packages_whole(tmp_path):
    sizes = {"large": [10] * 90, "middle": [10] * 20, "small": [10] * 3}
    rows = [Record(name, "", "MIT", str(i), "", 0, n)
            for name, row in sizes.items() for i, n in enumerate(row)]  # fmt: skip
    np.random.default_rng(0).shuffle(rows)
    (tmp_path / "rows").write_bytes(b"".join(map(format_row, rows)))
    write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
    records = Records.open(tmp_path / "r.jsonl")
    chosen = sample_tokenizer_text(records, 330, even=True)
    counts = {name: sum(r.package == name for r in chosen) for name in sizes}
    assert counts == {"large": 15, "middle": 15, "small": 3}
    assert list(sample_tokenizer_text(records, 330, even=False)) == list(records)[:33]
    assert list(sample_tokenizer_text(records, 10**6, even=True)) == list(records)


def test_an_even_sample_equals_a_plain_count(tmp_path):
    """Taken by how many bytes of the same package come before each file, until the limit."""
    rng = np.random.default_rng(0)
    for case in range(40):
        sizes = rng.integers(1, 50, rng.integers(1, 25)).tolist()
        rows = [Record(f"p{rng.integers(1 + case % 6)}", "", "MIT", str(i), "", 0, size)
                for i, size in enumerate(sizes)]  # fmt: skip
        (tmp_path / "rows").write_bytes(b"".join(map(format_row, rows)))
        records = write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
        records = records.take(rng.permutation(len(records)))
        shuffled, before, seen = list(records), [], {}
        for record in shuffled:
            before.append(seen.get(record.package, 0))
            seen[record.package] = before[-1] + record.size
        limit, total, expected = int(rng.integers(1, 400)), 0, []
        for i in sorted(range(len(shuffled)), key=before.__getitem__):
            if total < limit:
                expected.append(i)
                total += shuffled[i].size
        assert list(sample_tokenizer_text(records, limit, True)) == [shuffled[i] for i in sorted(expected)]
