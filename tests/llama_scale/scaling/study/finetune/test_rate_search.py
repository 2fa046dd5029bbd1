"""The search for a rate ends inside of what was tried, or says that it does not."""

import json
import math
from dataclasses import replace

import pytest

from llama_scale.config import FinetuneConfig
from llama_scale.errors import InputError
from llama_scale.scaling.study.finetune.rate_search import read_rate, search_rate, vertex


def search(tmp_path, best, start, most=8, factor=3.0):
    """Search where the loss is a parabola in ln rate with its minimum at ``best``; return the result and the rates."""
    tried = []

    def tune(config):
        lr = config.optim.lr
        tried.append(lr)
        folder = tmp_path / f"{lr:.6g}"
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"val_bits_per_byte": 1 + math.log(lr / best) ** 2}))
        return folder

    config = FinetuneConfig("base", "train", validation="val", run=str(tmp_path / "run"))
    return search_rate(config, start, factor, most, tune), tried


@pytest.mark.parametrize("start", [1e-4, 1e-3, 1e-2])
def test_it_goes_on_until_the_best_is_inside(tmp_path, start):
    found, tried = search(tmp_path, 1.1e-3, start)
    assert found["lr"] == pytest.approx(1.1e-3)
    assert len(tried) == {1e-4: 5, 1e-3: 3, 1e-2: 5}[start]
    assert [row["lr"] for row in found["tried"]] == sorted(tried)


def test_a_best_rate_at_the_end_is_no_result(tmp_path):
    with pytest.raises(InputError, match="is the largest of 4 tried, so the best may lie beyond"):
        search(tmp_path, 1.0, 1e-4, most=4)


def test_a_run_that_diverged_is_the_worst(tmp_path):
    assert vertex(1.0, 0.5, math.inf) == 0.0
    assert vertex(1.0, 0.0, 1.0) == 0.0
    assert vertex(3.0, 0.0, 1.0) == pytest.approx(0.25)  # of 2 x^2 - x


def test_without_held_out_pairs_nothing_decides(tmp_path):
    config = replace(FinetuneConfig("base", "train"), validation=None)
    with pytest.raises(InputError, match="validation: a search needs"):
        search_rate(config, 1e-3, 3.0, 8, lambda config: tmp_path)


def test_a_file_without_a_rate(tmp_path):
    (tmp_path / "rates.json").write_text('{"lr": null}')
    with pytest.raises(InputError, match="no rate"):
        read_rate(tmp_path / "rates.json")
