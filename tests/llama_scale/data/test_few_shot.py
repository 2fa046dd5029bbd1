"""Pairs that are shown before others: which, in what order, and what the files may be."""

import json

import pytest

from llama_scale.data.examples import rank_of
from llama_scale.data.few_shot import ShotsConfig, show_pairs
from llama_scale.errors import InputError


class Letters:
    """A tokenizer of one id a letter, with a mark before each text."""

    eos = 0

    def encode(self, text):
        return [ord(letter) for letter in text]

    def context(self, prompt):
        return [0, *self.encode(prompt)]


def pairs(folder, name, count, end="\n"):
    rows = [
        {"id": f"{name}{n}", "prompt": f"{name}{n}?", "completion": "!", "language": "python"} for n in range(count)
    ]
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + end)
    return rows


def test_the_last_pair_counts_with_or_without_a_line_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = pairs(tmp_path, "p", 3, end="")
    held_out = pairs(tmp_path, "t", 2, end="")
    config = ShotsConfig(base="base", pool="p", test="t", out="out", shots=3, draw=1, room=5)
    assert "3.0 of 3 pairs before each of 2 prompts" in show_pairs(config, Letters(), 100)
    order = sorted(pool, key=lambda row: rank_of(row["id"], 1))
    before = "".join(f"{row['prompt']}!\n" for row in order)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert rows == [row | {"prompt": before + row["prompt"], "before": before, "shots": 3} for row in held_out]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t", "", "t: no pairs in it"),
        ("t", '{"id": "a", "prompt": 1, "completion": "c"}\n', "t: line 1: prompt should be text, found 1"),
        ("p", '\n{"id": null, "prompt": "p", "completion": "c"}\n', "p: line 2: id should be text, found null"),
        ("p", r'{"id": "a", "prompt": "\udc00", "completion": "c"}', r"p: line 1: prompt has \\udc00, half of a"),
    ],
)
def test_what_is_no_pair_is_named_and_nothing_is_written(tmp_path, monkeypatch, name, text, words):
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path, "p", 2)
    pairs(tmp_path, "t", 2)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        show_pairs(ShotsConfig(base="base", pool="p", test="t", out="out"), Letters(), 100)
    assert not (tmp_path / "out").exists()
