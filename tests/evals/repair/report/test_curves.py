"""The figure of a study: its values are those of the sealed rows, its files are pictures."""

import numpy as np

from evals.repair.report.curves import curves
from tests.evals.repair.helpers import mixed, study


def test_values_are_those_of_the_rows_and_the_pictures_are_written(tmp_path):
    result, rows, _ = study(tmp_path, mixed, 4, **{"plan.arms": "resample,tests", "plan.rounds": 2})
    figure = curves(result, "repair-mbpp")
    assert [panel.key for panel in figure.panels] == ["repair-mbpp-programs", "repair-mbpp-tokens"]
    first = [row for row in rows if row["arm"] == "tests" and row["round"] == 0]
    for panel in figure.panels:
        lines = {series.name: series for series in panel.series if series.kind == "line"}
        assert list(lines) == ["resample", "tests"] and lines["resample"].dash
        assert lines["tests"].y[0] == 100 * np.mean([row["solved"] for row in first])
        assert panel.x.range[1] > max(series.x.max() for series in lines.values())
    assert figure.panels[0].series[2].x[0] == 1
    names = ("prompt_tokens", "tokens", "critic_prompt_tokens", "critic_tokens")
    assert figure.panels[1].series[2].x[0] == sum(row[name] for row in first for name in names)
    assert (tmp_path / "figures" / "repair-mbpp.png").read_bytes().startswith(b"\x89PNG")
    assert b"tasks solved" in (tmp_path / "figures" / "repair-mbpp.svg").read_bytes()


def test_without_token_counts_there_is_one_panel(tmp_path):
    result, _, _ = study(tmp_path, mixed, 2, **{"plan.arms": "resample,tests", "plan.rounds": 1})
    result["arms"]["tests"]["curve"][0]["tokens"] = None
    assert [panel.key for panel in curves(result, "k").panels] == ["k-programs"]
