"""Pairs as examples: what is a target, what is left out, in which order they come."""

import json
import shutil

import numpy as np
import pytest

from llama_scale.data.examples import (
    ExampleSampler,
    Pair,
    by_complexity,
    encode_pairs,
    pair_format,
    read_pairs,
    with_values,
)
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import sha256, write_json
from tests.llama_scale.helpers import write_pairs


@pytest.fixture(scope="module")
def tokenizer(tiny_data):
    return Tokenizer(tiny_data / "tokenizer.model")


@pytest.fixture
def examples(tokenizer, tmp_path):
    return encode_pairs(read_pairs(write_pairs(tmp_path / "pairs.jsonl", 22)), tokenizer, 128)


def test_targets_are_the_completion_and_the_end_by_length(examples, tokenizer, tmp_path):
    """The end is a target although the context begins with the same id, and padding is none."""
    batch = examples.batch([0, 2])
    flat = batch.inputs.flatten()
    targets = batch.targets.tolist()
    expected = []
    for i in (0, 2):
        pair = read_pairs(tmp_path / "pairs.jsonl")[i]
        context = [tokenizer.eos, *tokenizer.encode(pair.prompt)]
        completion = tokenizer.encode(pair.completion)
        whole = [*context, *completion, tokenizer.eos]
        assert examples.tokens[i].tolist() == whole
        expected += [*completion, tokenizer.eos]
    assert targets == expected
    assert targets.count(tokenizer.eos) == 2
    longest = batch.inputs.shape[1]
    for row, target in zip(batch.rows.tolist(), targets, strict=True):
        tokens = examples.tokens[[0, 2][row // longest]]
        place = row % longest
        assert flat[row] == tokens[place] and target == tokens[place + 1]
    assert batch.share == 1.0


def test_prompt_loss_adds_all_but_the_first_token(tokenizer, tmp_path):
    pairs = read_pairs(write_pairs(tmp_path / "pairs.jsonl", 3))
    examples = encode_pairs(pairs, tokenizer, 128, prompt_loss=True)
    assert examples.batch([1]).targets.tolist() == examples.tokens[1][1:].tolist()
    assert examples.targets.tolist() == examples.lengths.tolist()


def test_longer_pairs_are_left_out_and_counted_never_cut(examples, tokenizer, tmp_path):
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    longest = int(np.median(examples.lengths))
    fitting = encode_pairs(pairs, tokenizer, longest)
    assert fitting.dropped == (examples.lengths > longest).sum() > 0
    assert len(fitting) + fitting.dropped == len(pairs)
    assert {tuple(t) for t in fitting.tokens} <= {tuple(t) for t in examples.tokens}
    with pytest.raises(InputError, match=r"every pair is longer than 5 tokens \(the shortest has \d+\)"):
        encode_pairs(pairs, tokenizer, 5)


def test_subsets_of_a_draw_are_nested_and_draws_differ(examples):
    sets = {(n, draw): set(examples.subset(n, draw).ids) for n in (5, 10, 22) for draw in (0, 1)}
    for draw in (0, 1):
        assert sets[5, draw] < sets[10, draw] < sets[22, draw]
    assert sets[10, 0] != sets[10, 1]
    with pytest.raises(InputError, match="examples: 23 asked for and there are 22 that fit"):
        examples.subset(23, 0)


def test_an_epoch_reads_each_example_once_and_its_last_step_what_is_left(examples):
    sampler = ExampleSampler(examples, batch=8, micro_steps=1, seed=3)
    assert sampler.steps_per_epoch == 3
    epochs = [[sampler.step_examples(3 * epoch + step).tolist() for step in range(3)] for epoch in range(2)]
    for epoch in epochs:
        assert [len(step) for step in epoch] == [8, 8, 6]
        assert sorted(i for step in epoch for i in step) == list(range(22))
    assert epochs[0] != epochs[1]
    listed = ExampleSampler(examples, batch=8, micro_steps=1, seed=3, shuffled=False)
    assert listed.step_examples(4).tolist() == list(range(8, 16))


@pytest.mark.parametrize("skipped", [(), (1, 2)])
def test_processes_and_micro_batches_share_a_step(examples, skipped):
    """Two processes of three micro-batches read what one reads at once, each target with its share of the step."""
    whole = ExampleSampler(examples, 8, micro_steps=1, seed=1, start_step=1, skipped=skipped)
    parts = [ExampleSampler(examples, 8, 3, 1, start_step=1, rank=r, world=2, skipped=skipped) for r in (0, 1)]
    iterators = [iter(part) for part in parts]
    for _, (one,) in zip(range(3), whole, strict=False):
        pieces = [next(iterator)[0] for iterator in iterators for _ in range(3)]
        assert [i for piece in pieces for i in piece.examples] == one.examples
        assert {piece.step_targets for piece in pieces} == {int(examples.targets[one.examples].sum())}
        shares = [examples.__getitems__([piece]).share.item() for piece in pieces]
        assert np.mean(shares) == pytest.approx(1.0, abs=1e-6)
    counts = whole.counts(4)
    assert counts[0].tolist() == [0, 0] and (np.diff(counts, axis=0) > 0).all()


def test_an_empty_micro_batch_has_no_target(examples):
    batch = examples.batch([], step_targets=10, parts=4)
    assert batch.inputs.shape == (1, 1) and not len(batch.targets) and batch.share == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no pairs in it"),
        ("[1]\n", "line 1 is list, not an object"),
        ("{\n", "line 1 is not JSON"),
        ('{"id": "a", "prompt": "p"}\n', "line 1: completion should be text, found null"),
        ('{"id": "a", "prompt": "p", "completion": ""}\n', "line 1: the completion is empty"),
        (
            r'{"id": "a", "prompt": "\ud83d", "completion": "c"}' "\n",
            r"line 1: prompt has \\ud83d, half of a character",
        ),
        ('{"id": "a", "prompt": "p", "completion": "c"}\n' * 2, "line 2: the id 'a' is there before"),
    ],
)
def test_bad_files_are_named_by_line(line, message, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=message):
        read_pairs(path)
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "none")


def test_pairs_that_changed_since_they_were_made_are_refused(tmp_path):
    """Wherever a folder of pairs is read; a copy elsewhere, without pairs.json, is one's own."""
    from evals.benchmarks import pairs as suite
    from llama_scale.scaling.study.finetune.split import SplitConfig, split_pairs

    folder = tmp_path / "made"
    folder.mkdir()
    path = write_pairs(folder / "train.jsonl")
    write_pairs(folder / "test.jsonl", first=1000)
    hashes = {name: sha256(folder / f"{name}.jsonl") for name in ("train", "test")}
    write_json(folder / "pairs.json", {"sha256": hashes}, sealed=True)
    split = SplitConfig({"python": str(folder)}, str(tmp_path / "out"), tune=2, test=3)
    assert len(read_pairs(path)) == 20 and split_pairs(split)
    for name, read in (
        ("train", lambda: read_pairs(path)),
        ("train", lambda: split_pairs(split)),
        ("test", lambda: suite.read(suite.PairsConfig(data=str(folder / "test.jsonl")))),
    ):
        before = (folder / f"{name}.jsonl").read_text()
        (folder / f"{name}.jsonl").write_text(before.replace("x += 1", "x += 3", 1))
        with pytest.raises(InputError, match=rf"{name}.jsonl: has changed since it was made .*pairs.json"):
            read()
        shutil.copy(folder / f"{name}.jsonl", tmp_path / "own.jsonl")
        assert read_pairs(tmp_path / "own.jsonl")
        (folder / f"{name}.jsonl").write_text(before)


def test_formats_are_never_mixed(tmp_path):
    rows = [
        {"id": str(i), "prompt": "", "completion": "c", "format": name} for i, name in enumerate(["seed", "signature"])
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="formats seed and signature"):
        read_pairs(path)
    same = read_pairs(write_pairs(path, 2, format="signature"))
    assert pair_format(same, "x") == "signature"


def test_an_order_by_complexity_shuffles_what_is_equal(tmp_path):
    write_pairs(tmp_path / "a.jsonl", 10, complexity=1)
    write_pairs(tmp_path / "b.jsonl", 10, first=10, complexity=3)
    (tmp_path / "c.jsonl").write_text((tmp_path / "b.jsonl").read_text() + (tmp_path / "a.jsonl").read_text())
    pairs = read_pairs(tmp_path / "c.jsonl")
    ids = [pair.id for pair in pairs]
    orders = [[ids[i] for i in by_complexity(pairs, ids, seed, "c.jsonl")] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert {int(name[5:]) < 10 for name in order[:10]} == {True}
        assert sorted(order) == sorted(ids)
    with pytest.raises(InputError, match=r"train: 'pair-0' has no number as its complexity"):
        by_complexity(read_pairs(write_pairs(tmp_path / "d.jsonl", 3)), ["pair-0"], 0, "train")


def test_pairs_with_some_values_alone():
    thirds, packages = ("low", "middle", "high", "low"), ("a", "a", "b", "b")
    pairs = [
        Pair(str(i), "", "x", {"third": t, "package": p}) for i, (t, p) in enumerate(zip(thirds, packages, strict=True))
    ]
    ids = ["3", "1", "0"]
    assert with_values(pairs, ids, {"third": "low"}, "file") == [0, 2]
    assert with_values(pairs, ids, {"third": ["low", "middle"], "package": ["a"]}, "file") == [1, 2]
    with pytest.raises(
        InputError, match=r"only.third: no pair of file has \['hihg'\]; they have low \(2\), middle \(1\)"
    ):
        with_values(pairs, ids, {"third": ["hihg"]}, "file")
    with pytest.raises(InputError, match=r"only.kind: no pair of file has \[None\]|they have None"):
        with_values(pairs, ids, {"kind": "x"}, "file")
