"""Results on disk: what was not measured is no failure."""

import shutil

import numpy as np
import pytest

from evals.results import aggregate, compare, is_finished, pass_rates, table, write_result
from evals.sandbox.types import NOT_MEASURED
from llama_scale.errors import InputError


def result(folder, name, passes):
    """Write a result of ``{task: [True, False or None for not measured, ...]}``."""
    samples = [
        {"task_id": task, "passed": bool(one), "reason": NOT_MEASURED if one is None else "x"}
        for task, row in passes.items()
        for one in row
    ]
    folder.mkdir(exist_ok=True)
    write_result(folder / f"{name}.json", {"suite": name}, samples)
    return folder / f"{name}.json"


def test_what_was_not_measured_is_left_out(tmp_path):
    first = result(tmp_path / "a", "apps", {"1": [True, None], "2": [None], "3": [True, False]})
    result(tmp_path / "b", "apps", {"1": [True], "2": [True], "3": [True, False]})
    assert pass_rates(first) == {"1": 1.0, "3": 0.5}
    said = compare(str(tmp_path / "b"), first)
    assert "on 2 tasks: +0.0000  [+0.0000, +0.0000]" in said
    other = result(tmp_path / "a", "mbpp", {"1": [False]})
    found = aggregate([first, other])
    assert found["n_tasks"] == {"apps": 2, "mbpp": 1}
    assert found["accuracy"] == {"apps": 0.75, "mbpp": 0.0}
    assert found["macro"] == pytest.approx(0.375) and found["micro"] == pytest.approx(0.5)
    third = result(tmp_path / "c", "apps", {"1": [None]})
    with pytest.raises(InputError, match="no task in common"):
        compare(str(tmp_path / "a"), third)
    with pytest.raises(InputError, match=r"mbpp-samples\.jsonl\.gz is missing"):
        compare(str(tmp_path / "b"), other)


def test_samples_that_changed_since_their_result_was_written_are_not_compared(tmp_path):
    path = result(tmp_path / "a", "apps", {"1": [True], "2": [False]})
    other = result(tmp_path / "b", "apps", {"1": [True], "2": [True]})
    shutil.copy(tmp_path / "b/apps-samples.jsonl.gz", tmp_path / "a/apps-samples.jsonl.gz")
    for read in (pass_rates, lambda path: compare(str(tmp_path / "b"), path), lambda path: aggregate([path, other])):
        with pytest.raises(InputError, match=r"apps-samples.jsonl.gz: has changed since apps.json was written"):
            read(path)


def test_a_table_says_how_many_were_not_measured():
    said = table({"suite": "apps", "pass_at_k": {}, "not_measured": 3})
    assert said == "  3 samples were not measured: no tool for their language here"


def test_accuracy_over_suites(tmp_path):
    passes = {"humaneval": [[1, 0], [1, 1], [0, 0]], "mbpp": [[1], [0], [0], [0], [0]]}
    for name, tasks in passes.items():
        samples = [
            {"task_id": f"{name}/{number}", "passed": bool(passed), "reason": "..."}
            for number, task in enumerate(tasks)
            for passed in task
        ]
        write_result(tmp_path / f"{name}.json", {"suite": name}, samples)
    found = aggregate([tmp_path / "humaneval.json", tmp_path / "mbpp.json"])
    assert found["n_tasks"] == {"humaneval": 3, "mbpp": 5}
    assert found["accuracy"] == {"humaneval": 0.5, "mbpp": 0.2}
    assert found["macro"] == pytest.approx(0.35) and found["micro"] == pytest.approx(2.5 / 8)
    # Independently: all 3^3 x 5^5 resamples weigh the same.
    first = np.array(np.meshgrid(*[[0.5, 1, 0]] * 3)).reshape(3, -1).mean(0)
    second = np.array(np.meshgrid(*[[1, 0, 0, 0, 0]] * 5)).reshape(5, -1).mean(0)
    for name, weights in (("macro", (0.5, 0.5)), ("micro", (3 / 8, 5 / 8))):
        every = np.add.outer(weights[0] * first, weights[1] * second).ravel()
        assert found[f"{name}_interval"] == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.04)


def test_a_result_counts_while_the_content_is_the_same(tmp_path):
    """Another path is not other data; data that was a file and is now fetched is."""
    path, known = tmp_path / "mbpp.json", {"settings": {"data": "a.jsonl", "timeout": 3.0}, "data_sha256": "x"}
    write_result(path, {"suite": "mbpp"} | known, [])
    moved = known | {"settings": {"data": "/b/a.jsonl", "timeout": 3.0}}
    assert is_finished(path, known) and is_finished(path, moved)
    for other in (
        {"settings": {"data": None, "timeout": 3.0}},
        known | {"data_sha256": "y"},
        known | {"settings": {"data": "a.jsonl", "timeout": 2.0}},
        known | {"contamination_sha256": "z"},
    ):
        assert not is_finished(path, other)
    for content in ("[]", "5", "{}"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"mbpp.json: not a result of an evaluation; move it away"):
            is_finished(path, known)
